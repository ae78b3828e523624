"""Sets of images, however they are stored: the tars of `shards` or the Zarr array of `samples`, read part by part."""

import hashlib
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from stages import attributes
from stages.contract import Input
from stages.errors import FormatError, InputError
from stages.images import image_file, pixels
from stages.images.decode_processes import DecodeProcesses, Encoded
from stages.images.framing import Framing, fit

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

Rows = NDArray[np.int64]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Opened:
    """A part that is open for decoding."""

    rows: Rows
    """Rows int64 [B] that hold an image."""
    frame: Callable[[int, int | Framing], Pixels]
    """From the index of an image in `rows` to uint8 [size, size, 3]; may be called by several threads."""
    encoded: Callable[[int], Encoded] | None = None
    """From the same index to the image as it is stored; None where images are stored as pixels."""
    scaled: bool = False
    """Whether JPEGs may be decoded at a part of their size."""


INDEX, ATTRIBUTES = "index.parquet", "attributes.json"
SAMPLES = "samples.parquet"
ARRAY, PIXELS = "images.zarr", "pixels"
"""A group with one array; in format 1 the array alone."""
INDEX_FORMAT = 2
FORMAT = b"format"
"""Key in the metadata of `index.parquet` under which its format stands; an index of format 1 has none."""
NAMES = {"file_name": "name", "bytes": "size"}
"""What columns were called in format 1."""
PART_ROWS = b"part_rows"
"""Key in the metadata of `index.parquet` under which the number of rows of a tar stands."""
DECODE = b"decode"
"""Key in the same metadata under which `SCALED` stands, where JPEGs may be decoded at a part of their size."""
SCALED = b"scaled"

RUN = 16
"""Images that a thread decodes in one go: enough that handing them over costs nothing, few enough to share a batch."""
TIMED = 32
"""Images that are decoded to find how long one takes."""
PAYS = 5.0
"""Seconds of decoding from which processes are worth their start, which takes one."""
BATCH = 2**16
"""Rows of an index that are read at once."""
PNG = b"\x89PNG"
"""How a PNG begins; the other files in tars are JPEGs."""
DIGITS = 16
"""Hexadecimal digits of an image's sha256 that are kept in memory and compared."""


@dataclass(frozen=True)
class Decoding:
    """Who decodes a part that is streamed. Pixels are the same whoever does."""

    threads: int = 0
    """How many besides the caller; with 0 it decodes itself."""
    prefetch: bool = False
    """Whether they decode the next batches while the caller works on one, or only while it waits."""
    processes: DecodeProcesses | None = None
    """Who decodes for the threads, which then only send and receive; None: the threads themselves."""

    def close(self) -> None:
        """Ends the processes."""
        if self.processes is not None:
            self.processes.close()


class Images(ABC):
    """A set of images in rows 0 … count - 1, stored in parts of `part_rows` rows (the last may be shorter)."""

    encoded: ClassVar[bool]
    """Whether images are stored as files of images, which have to be decoded, and not as pixels."""
    count: int
    part_rows: int
    scaled: bool = False
    """Whether JPEGs are decoded at a part of their size."""

    @property
    def parts(self) -> int:
        """Number of parts."""
        return -(-self.count // self.part_rows)

    @abstractmethod
    def table(self, columns: Sequence[str] | None = None) -> "pa.Table":
        """One record per row: `index.parquet` or `samples.parquet`, or those of `columns` that it has.

        Columns are called as in the newest format, whatever the format is.
        """

    @abstractmethod
    def values(self, names: Sequence[str] | None = None) -> "dict[str, NDArray[np.float64]]":
        """The dataset's attributes of all rows, or those of `names`, float64 [N] by name; NaN where undefined."""

    @abstractmethod
    def read_part(self, part: int) -> tuple[Rows, list[bytes] | Pixels]:
        """Rows int64 [B] of a part that hold an image, and the images: encoded, or uint8 [B, H, W, 3]."""

    def decode_part(
        self, part: int, size: int | Framing, processes: DecodeProcesses | None = None
    ) -> tuple[Rows, Pixels]:
        """Rows int64 [B] of a part that hold an image, and uint8 [B, size, size, 3]: framed as `fit` does."""
        opened = self._open(part)
        images = _empty(len(opened.rows), size)
        for first in range(0, len(images), RUN):
            _fill(images[first : first + RUN], opened, first, size, processes)
        return opened.rows, images

    def stream(
        self, part: int, size: int | Framing, batch: int, decoding: Decoding = Decoding()
    ) -> Generator[tuple[Rows, Pixels], None, None]:
        """The images of a part as batches, in order: rows int64 [B] and uint8 [B, size, size, 3], B <= `batch`.

        Memory holds the part as it is stored and a few batches. FormatError names a row whose bytes are not those that
        were listed.
        """
        opened = self._open(part)
        rows = opened.rows
        batches = [rows[first : first + batch] for first in range(0, len(rows), batch)]
        if decoding.threads == 0:
            for number, own in enumerate(batches):
                yield own, _filled(opened, number * batch, len(own), size)
            return
        pool = ThreadPoolExecutor(decoding.threads, "decode")
        # Beyond the one that the caller waits for: enough that no thread has nothing to do.
        depth = 1 + -(-decoding.threads * RUN // batch) if decoding.prefetch else 0
        begun: deque[tuple[Pixels, list[Future[None]]]] = deque()
        try:
            for number, own in enumerate(batches):
                for later in range(number + len(begun), min(number + 1 + depth, len(batches))):
                    images = _empty(len(batches[later]), size)
                    runs = range(0, len(images), RUN)
                    futures = [
                        pool.submit(_fill, images[r : r + RUN], opened, later * batch + r, size, decoding.processes)
                        for r in runs
                    ]
                    begun.append((images, futures))
                images, futures = begun.popleft()
                for future in futures:
                    future.result()
                yield own, images
        finally:
            pool.shutdown(cancel_futures=True)

    @abstractmethod
    def files(self, rows: Sequence[int] | Rows) -> Iterator[tuple[str, bytes]]:
        """Single rows as files: format (`png`, `jpg`) and bytes. FormatError as `decode`."""

    @abstractmethod
    def _open(self, part: int) -> Opened:
        """The rows of a part that hold an image, and what frames each of them."""

    @abstractmethod
    def decode(self, rows: Sequence[int] | Rows, size: int | Framing) -> Pixels:
        """Single rows as uint8 [B, size, size, 3].

        FormatError where a row holds no image or bytes that are not those that were listed.
        """


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
    encoded = True

    def __init__(self, artifact: Input) -> None:
        import pyarrow.compute as pc

        self._artifact = artifact
        index = _file(artifact, INDEX)
        metadata = index.schema_arrow.metadata or {}
        if PART_ROWS not in metadata:
            raise FormatError(
                f"{INDEX} with its rows per tar", "none in its metadata", "Run again with --force shards."
            )
        self.part_rows = int(metadata[PART_ROWS])
        self.scaled = DECODE in metadata
        if int(metadata.get(FORMAT, b"1")) > INDEX_FORMAT:
            raise FormatError(
                f"{INDEX} of format {INDEX_FORMAT} or older",
                f"format {metadata[FORMAT].decode()}",
                "Read it with the version of Repscope that wrote it.",
            )
        if metadata.get(DECODE, SCALED) != SCALED:
            raise FormatError(
                f"{INDEX} that says {SCALED.decode()} or nothing of how images are decoded",
                metadata[DECODE].decode(),
                "Read it with the version of Repscope that wrote it.",
            )
        self.count = index.metadata.num_rows
        # There may be millions of rows: no more is kept of each than is needed, and no column is ever held as text.
        self._offset: Rows = np.empty(self.count, dtype=np.int64)
        self._size: Rows = np.empty(self.count, dtype=np.int64)
        self._sha256 = np.empty(self.count, dtype=f"S{DIGITS}")
        self._shard: list[str] = []
        start, size = 0, _stored("bytes", index.schema_arrow.names)
        for batch in index.iter_batches(BATCH, columns=["shard", "offset", size, "sha256"]):
            own = slice(start, start + batch.num_rows)
            self._offset[own], self._size[own] = batch["offset"].to_numpy(), batch[size].to_numpy()
            self._sha256[own] = pc.utf8_slice_codeunits(batch["sha256"], 0, DIGITS).to_numpy(zero_copy_only=False)
            firsts = np.arange(-start % self.part_rows, batch.num_rows, self.part_rows)
            self._shard += batch["shard"].take(firsts).to_pylist()
            start += batch.num_rows

    def table(self, columns: Sequence[str] | None = None) -> "pa.Table":
        return _parquet(self._artifact, INDEX, columns)

    def values(self, names: Sequence[str] | None = None) -> "dict[str, NDArray[np.float64]]":
        known = attributes.load(self._artifact.read(ATTRIBUTES))
        file = _file(self._artifact, INDEX)
        columns = attributes.label_columns(known, file.schema_arrow.names)
        wanted = list(columns) if names is None else names
        return attributes.values(known, file.read(columns=[columns[name] for name in wanted]))

    def read_part(self, part: int) -> tuple[Rows, list[bytes] | Pixels]:
        rows, tar = self._tar(part)
        return rows, [self._bytes(tar, row) for row in rows]

    def decode(self, rows: Sequence[int] | Rows, size: int | Framing) -> Pixels:
        images = _empty(len(rows), size)
        for index, row in enumerate(map(int, rows)):
            images[index] = self._decode(row, self._one(row), size)
        return images

    def files(self, rows: Sequence[int] | Rows) -> Iterator[tuple[str, bytes]]:
        for row in map(int, rows):
            data = self._one(row)
            self._compare(row, data)
            yield ("png" if data.startswith(PNG) else "jpg"), data

    def _one(self, row: int) -> bytes:
        if not 0 <= row < self.count or self._offset[row] < 0:
            raise FormatError("a row that holds an image", f"row {row}", "Choose among rows of status ok.")
        return self._artifact.read_range(
            self._shard[row // self.part_rows], int(self._offset[row]), int(self._size[row])
        )

    def _open(self, part: int) -> Opened:
        rows, tar = self._tar(part)

        def frame(index: int, size: int | Framing) -> Pixels:
            row = int(rows[index])
            return self._decode(row, self._bytes(tar, row), size)

        def encoded(index: int) -> Encoded:
            row = int(rows[index])
            return Encoded(self._bytes(tar, row), bytes(self._sha256[row]))

        return Opened(rows, frame, encoded, self.scaled)

    def _tar(self, part: int) -> tuple[Rows, bytes]:
        rows = np.arange(part * self.part_rows, min((part + 1) * self.part_rows, self.count))
        rows = rows[self._offset[rows] >= 0]
        return rows, self._artifact.read(self._shard[part]) if len(rows) else b""

    def _bytes(self, tar: bytes, row: int) -> bytes:
        return tar[self._offset[row] : self._offset[row] + self._size[row]]

    def _compare(self, row: int, data: bytes) -> None:
        # A JPEG has no checksum of its own: most changed bytes decode to other pixels without a word.
        if hashlib.sha256(data).hexdigest()[:DIGITS].encode() != self._sha256[row]:
            raise FormatError(
                f"the bytes that were listed in {self._named(row)}",
                f"{len(data)} other bytes",
                "The tar is damaged: run again with --force shards.",
            )

    def _decode(self, row: int, data: bytes, size: int | Framing) -> Pixels:
        self._compare(row, data)
        try:
            # The pixel limit was applied when the image was accepted.
            return image_file.decode_fit(data, size, pixel_limit=2**62, scaled=self.scaled)
        except InputError as error:
            raise FormatError(
                f"an image in {self._named(row)}, as when it was listed",
                error.found,
                "Its bytes are the same, so Pillow is not: use one version on all machines, or list the images anew.",
            ) from error

    def _named(self, row: int) -> str:
        name = self.table(("file_name",)).column("file_name")[row].as_py()
        return f"row {row} ({name}) of {self._shard[row // self.part_rows]}"


class _Array(Images):
    encoded = False

    def __init__(self, artifact: Input) -> None:
        import zarr

        self._artifact = artifact
        found: Any = zarr.open(store=artifact.zarr(ARRAY), mode="r", zarr_format=3)
        self._array: Any = found if isinstance(found, zarr.Array) else found[PIXELS]
        if self._array.ndim != 4 or self._array.shape[3] != 3 or self._array.dtype != np.uint8:
            raise FormatError(
                f"{ARRAY} uint8 [M, H, W, 3]",
                f"{self._array.dtype} {list(self._array.shape)}",
                "Make the samples again.",
            )
        self.count = int(self._array.shape[0])
        self.part_rows = int((self._array.shards or self._array.chunks)[0])

    def table(self, columns: Sequence[str] | None = None) -> "pa.Table":
        return _parquet(self._artifact, SAMPLES, columns)

    def values(self, names: Sequence[str] | None = None) -> "dict[str, NDArray[np.float64]]":
        return {}

    def read_part(self, part: int) -> tuple[Rows, list[bytes] | Pixels]:
        rows = np.arange(part * self.part_rows, min((part + 1) * self.part_rows, self.count))
        if not len(rows):
            return rows, []
        return rows, np.asarray(self._array[rows[0] : rows[-1] + 1])

    def files(self, rows: Sequence[int] | Rows) -> Iterator[tuple[str, bytes]]:
        for row in map(int, rows):
            yield "png", pixels.encode_png(np.asarray(self._array[row]))

    def decode(self, rows: Sequence[int] | Rows, size: int | Framing) -> Pixels:
        images = np.asarray(self._array.oindex[np.asarray(rows, dtype=np.int64)])
        opened = Opened(np.asarray(rows), lambda index, size: fit(images[index], size))
        return _filled(opened, 0, len(rows), size)

    def _open(self, part: int) -> Opened:
        rows, images = self.read_part(part)
        return Opened(rows, lambda index, size: fit(np.asarray(images[index]), size))


def _empty(count: int, size: int | Framing) -> Pixels:
    side = size if isinstance(size, int) else size.size
    return np.empty((count, side, side, 3), dtype=np.uint8)


def _filled(opened: Opened, first: int, count: int, size: int | Framing) -> Pixels:
    """`count` images from index `first` as uint8 [count, size, size, 3]."""
    images = _empty(count, size)
    _fill(images, opened, first, size)
    return images


def _fill(
    images: Pixels, opened: Opened, first: int, size: int | Framing, processes: DecodeProcesses | None = None
) -> None:
    indices: Sequence[int] = range(len(images))
    if processes is not None and opened.encoded is not None:
        # What a process could not decode is decoded here, where the error knows the row.
        indices = processes.fill(images, [opened.encoded(first + index) for index in indices], size, opened.scaled)
    for index in indices:
        images[index] = opened.frame(first + index, size)


def decoding_for(images: Images, size: int | Framing, cpus: int) -> Decoding:
    """How to decode all of `images` with `cpus` CPUs while a GPU, or nothing, computes. The caller closes it.

    One thread, which waits for no other; where it would take longer than `PAYS` seconds for all, by the first few
    images, a process for each CPU.
    """
    if not images.encoded or cpus < 2 or seconds_to_decode(images, size) < PAYS:
        return Decoding(1, prefetch=True)
    return Decoding(cpus, prefetch=True, processes=DecodeProcesses(cpus))


def seconds_to_decode(images: Images, size: int | Framing) -> float:
    """Seconds that one thread would take for all, by the first few."""
    for part in range(images.parts):
        opened = images._open(part)
        if count := min(TIMED, len(opened.rows)):
            _filled(opened, 0, 1, size)
            began = time.perf_counter()
            _filled(opened, 0, count, size)
            return images.count * (time.perf_counter() - began) / count
    return 0.0


def _parquet(artifact: Input, name: str, columns: Sequence[str] | None) -> "pa.Table":
    file = _file(artifact, name)
    there = file.schema_arrow.names
    if columns is None:
        table = file.read()
    else:
        table = file.read(columns=[_stored(column, there) for column in columns if _stored(column, there) in there])
    if name == INDEX and FORMAT not in (file.schema_arrow.metadata or {}):
        renamed = {old: new for new, old in NAMES.items()}
        table = table.rename_columns([renamed.get(column, column) for column in table.column_names])
    return table


def _stored(column: str, there: Sequence[str]) -> str:
    """What a column is called in a file with these columns."""
    return column if column in there else NAMES.get(column, column)


def _file(artifact: Input, name: str) -> "pq.ParquetFile":
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pq.ParquetFile(pa.BufferReader(artifact.read(name)))
