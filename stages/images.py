"""Sets of images, however they are stored: the tars of `shards` or the Zarr array of `samples`, read part by part."""

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stages import pixels
from stages.contract import Input
from stages.errors import FormatError
from stages.pixels import Framing

if TYPE_CHECKING:
    import pyarrow as pa

Rows = NDArray[np.int64]
Pixels = NDArray[np.uint8]

INDEX = "index.parquet"
SAMPLES = "samples.parquet"
ARRAY = "images.zarr"
PART_ROWS = b"part_rows"
"""Key in the metadata of `index.parquet` under which the number of rows of a tar stands."""


class Images(ABC):
    """A set of images in rows 0 … count - 1, stored in parts of `part_rows` rows (the last may be shorter)."""

    count: int
    part_rows: int

    @property
    def parts(self) -> int:
        """Number of parts."""
        return -(-self.count // self.part_rows)

    @abstractmethod
    def table(self) -> "pa.Table":
        """One record per row: `index.parquet` or `samples.parquet`."""

    @abstractmethod
    def read_part(self, part: int) -> tuple[Rows, list[bytes] | Pixels]:
        """Rows int64 [B] of a part that hold an image, and the images: encoded, or uint8 [B, H, W, 3]."""

    def decode_part(self, part: int, size: int | Framing) -> tuple[Rows, Pixels]:
        """Rows int64 [B] of a part that hold an image, and uint8 [B, size, size, 3]: framed as `pixels.fit` does."""
        rows, images = self.read_part(part)
        return rows, _stack(images, size)

    @abstractmethod
    def decode(self, rows: Sequence[int] | Rows, size: int | Framing) -> Pixels:
        """Single rows as uint8 [B, size, size, 3]; FormatError where a row holds no image."""


def open_images(artifact: Input) -> Images:
    """The images of an artifact of `shards` or `samples`; FormatError for any other."""
    names = artifact.names()
    if INDEX in names:
        return _Tars(artifact)
    if any(name.startswith(ARRAY + "/") for name in names):
        return _Array(artifact)
    raise FormatError(
        f"images: an object {INDEX} or {ARRAY}",
        f"an artifact of {', '.join(names[:5]) or 'no objects'}",
        "Name the output of `shards` or `samples` as its input.",
    )


class _Tars(Images):
    def __init__(self, artifact: Input) -> None:
        self._artifact = artifact
        self._table = _parquet(artifact, INDEX)
        metadata = self._table.schema.metadata or {}
        if PART_ROWS not in metadata:
            raise FormatError(f"{INDEX} with its rows per tar", "none in its metadata", "Make the shards again.")
        self.part_rows = int(metadata[PART_ROWS])
        self.count = self._table.num_rows
        self._shard = self._table.column("shard")
        self._offset: Rows = self._table.column("offset").to_numpy()
        self._size: Rows = self._table.column("size").to_numpy()

    def table(self) -> "pa.Table":
        return self._table

    def read_part(self, part: int) -> tuple[Rows, list[bytes] | Pixels]:
        rows = np.arange(part * self.part_rows, min((part + 1) * self.part_rows, self.count))
        rows = rows[self._offset[rows] >= 0]
        if not len(rows):
            return rows, []
        tar = self._artifact.read(self._shard[int(rows[0])].as_py())
        return rows, [tar[self._offset[row] : self._offset[row] + self._size[row]] for row in rows]

    def decode(self, rows: Sequence[int] | Rows, size: int | Framing) -> Pixels:
        images = []
        for row in rows:
            if not 0 <= row < self.count or self._offset[row] < 0:
                raise FormatError("a row that holds an image", f"row {row}", "Choose among rows of status ok.")
            images.append(
                self._artifact.read_range(self._shard[int(row)].as_py(), int(self._offset[row]), int(self._size[row])),
            )
        return _stack(images, size)


class _Array(Images):
    def __init__(self, artifact: Input) -> None:
        import zarr

        self._table = _parquet(artifact, SAMPLES)
        self._array: Any = zarr.open_array(store=artifact.zarr(ARRAY), mode="r", zarr_format=3)
        if self._array.ndim != 4 or self._array.shape[3] != 3 or self._array.dtype != np.uint8:
            raise FormatError(
                f"{ARRAY} uint8 [M, H, W, 3]",
                f"{self._array.dtype} {list(self._array.shape)}",
                "Make the samples again.",
            )
        self.count = int(self._array.shape[0])
        self.part_rows = int((self._array.shards or self._array.chunks)[0])

    def table(self) -> "pa.Table":
        return self._table

    def read_part(self, part: int) -> tuple[Rows, list[bytes] | Pixels]:
        rows = np.arange(part * self.part_rows, min((part + 1) * self.part_rows, self.count))
        if not len(rows):
            return rows, []
        return rows, np.asarray(self._array[rows[0] : rows[-1] + 1])

    def decode(self, rows: Sequence[int] | Rows, size: int | Framing) -> Pixels:
        return _stack(np.asarray(self._array.oindex[np.asarray(rows, dtype=np.int64)]), size)


def _stack(images: list[bytes] | Pixels, size: int | Framing) -> Pixels:
    """Encoded or decoded images as uint8 [B, size, size, 3]."""
    if not len(images):
        side = size if isinstance(size, int) else size.size
        return np.empty((0, side, side, 3), dtype=np.uint8)
    # The pixel limit was applied when the image was accepted.
    decoded = (pixels.decode(i, pixel_limit=2**62) if isinstance(i, bytes) else i for i in images)
    return np.stack([pixels.fit(image, size) for image in decoded])


def _parquet(artifact: Input, name: str) -> "pa.Table":
    import pyarrow.parquet as pq

    return pq.read_table(io.BytesIO(artifact.read(name)))
