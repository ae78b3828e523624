"""Rows of equal shape in a file on a local disk, read in any order: what training reads from, instead of from memory.

Tars and Zarr shards are read once, in their order, and written as decoded rows. Training then reads these in the order
of its shuffle. Files are read by `pread` and not mapped, so that the memory of a process is what it holds, and a
failing disk is an error and not a signal.
"""

import os
import shutil
import socket
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from stages.errors import InputError
from stages.training.ranks import of_all, wait_for_all

Numbers: TypeAlias = NDArray[np.int64]


class RowFile:
    """`count` rows of one shape and dtype. Several processes may write different rows, and all may read."""

    def __init__(self, path: Path, count: int, shape: Sequence[int], dtype: DTypeLike) -> None:
        self.count, self.shape, self.dtype = count, tuple(shape), np.dtype(dtype)
        self._row_bytes = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        # Closed with this object, and gone with that: the file has no name any more when training starts.
        self._file = os.open(path, os.O_RDWR)
        weakref.finalize(self, os.close, self._file)

    @property
    def size_bytes(self) -> int:
        """Bytes on disk when all rows are written."""
        return self.count * self._row_bytes

    def write(self, first: int, rows: NDArray[Any]) -> None:
        """Writes rows [B, *shape] from row `first` on."""
        left = np.ascontiguousarray(rows, dtype=self.dtype).data.cast("B")
        offset = first * self._row_bytes
        while left:
            done = os.pwrite(self._file, left, offset)
            left, offset = left[done:], offset + done

    def read(self, rows: Numbers) -> NDArray[Any]:
        """Rows in the order asked for: [len(rows), *shape]."""
        found = np.empty((len(rows), *self.shape), dtype=self.dtype)
        if not len(rows):
            return found
        whole, size, number = found.data.cast("B"), self._row_bytes, self._file
        for index, row in enumerate(rows.tolist()):
            read = os.preadv(number, [whole[index * size : (index + 1) * size]], row * size)
            assert read == size, f"row {row} was never written"
        return found


@dataclass(frozen=True)
class Share:
    """This rank among those of its machine: number `index` of `count`."""

    index: int = 0
    count: int = 1


def open_rows(
    layouts: Sequence[tuple[int, Sequence[int], DTypeLike]], rank: int = 0, world: int = 1
) -> tuple[list[RowFile], Share]:
    """Empty files for rows, each of (count, shape, dtype), one set for all ranks of a machine, and who shares it.

    They stand in the system's folder for temporary files, which TMPDIR names, and lose their names before a row is
    written, so that nothing stays behind, however the processes end. All ranks call this together. Raises InputError
    where the disk is too small.
    """
    folder = Path(tempfile.gettempdir())
    seen = folder.stat()
    mine = [socket.gethostname(), seen.st_dev, seen.st_ino]
    folders = of_all(mine, world)
    peers = [other for other, found in enumerate(folders) if found == mine]
    own = tempfile.mkdtemp(prefix="repscope-", dir=folder) if peers[0] == rank else None
    if own is not None:
        for number in range(len(layouts)):
            (Path(own) / str(number)).touch()
    try:
        shared = of_all(own, world)[peers[0]]
        assert shared is not None
        files = [RowFile(Path(shared) / str(number), *layout) for number, layout in enumerate(layouts)]
        wait_for_all(world)
    finally:
        if own is not None:
            shutil.rmtree(own)
    needed, free = sum(file.size_bytes for file in files), shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            expected=f"{needed / 1e9:.1f} GB on the disk of {folder}, for decoded images and embeddings",
            found=f"{free / 1e9:.1f} GB",
            remedy="Set TMPDIR to a folder on a larger disk.",
        )
    return files, Share(peers.index(rank), len(peers))
