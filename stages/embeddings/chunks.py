"""Stored vectors by ranges of bytes: the rows that are asked for and no more, each chunk checked, without Zarr.

Zarr takes 60 ms and more for 100 random rows of a table, most of it its own work. An array of embeddings has one layout
(`stages.embeddings.format`), so its shards are read here directly: the index at the end of a shard, then the chunks.
"""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.contract import Input
from stages.embeddings.format import STORE
from stages.errors import FormatError

THREADS = 16
"""Shards that are read at the same time from far: a bucket answers many requests as soon as one. Files are read one
after the other, since threads took longer than the reading."""
CHECKSUM_BYTES = 4
ENTRY_BYTES = 16
"""Of a chunk in the index of a shard: offset and length, uint64."""
CHECKED = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
"""The codecs of chunks and of indexes: plain little-endian values, then their checksum."""

INFINITY = 0x7C00
"""The bits of infinity in float16. Those of NaN are above it."""

Rows = NDArray[np.int64]
Bytes = NDArray[np.uint8]


def documents(inp: Input) -> dict[str, Any]:
    """The root's `zarr.json`, which repeats those of all arrays."""
    found: dict[str, Any] = json.loads(inp.read(f"{STORE}/zarr.json"))
    return found


class Chunks:
    """The array of one tap in one view. `count`, `width` and `dtype` are those of the stored vectors."""

    def __init__(self, inp: Input, name: str, document: Mapping[str, Any]) -> None:
        """`document` is the array's `zarr.json`. FormatError where its layout is another."""
        self._input = inp
        self._folder = f"{STORE}/{name}"
        self.count, self.width = document["shape"]
        self.dtype = np.dtype(document["data_type"]).newbyteorder("<")
        self._part_rows: int = document["chunk_grid"]["configuration"]["chunk_shape"][0]
        codec = document["codecs"][0]
        inner = codec["configuration"] if codec["name"] == "sharding_indexed" else {}
        found = (inner.get("codecs"), inner.get("index_codecs"), inner.get("index_location"))
        if found != (CHECKED, CHECKED, "end"):
            raise FormatError(
                f"{self._folder} in shards of plain chunks with crc32c and an index at their end",
                json.dumps(document["codecs"]),
                "Read it with the version of Repscope that wrote it, or embed again.",
            )
        self._chunk_rows: int = inner["chunk_shape"][0]
        self._indexes: dict[int, NDArray[np.uint64]] = {}

    def read(self, rows: Rows) -> tuple[NDArray[Any], bool]:
        """Vectors [N, D] of `rows`, in their order and as they are stored, and whether there is a NaN among them.

        FormatError where bytes are damaged.
        """
        rising = bool((rows[1:] >= rows[:-1]).all())
        order = np.arange(0) if rising else np.argsort(rows, kind="stable")
        wanted = rows if rising else rows[order]
        vectors = np.empty((len(rows), self.width), dtype=self.dtype)
        parts = wanted // self._part_rows

        def fill(first: int, end: int) -> bool:
            part = int(parts[first])
            return self._read_part(part, wanted[first:end] - part * self._part_rows, vectors[first:end])

        firsts, ends = _runs(parts)
        if self._input.far and len(firsts) > 1:
            with ThreadPoolExecutor(min(THREADS, len(firsts)), "chunks") as pool:
                missing = any(list(pool.map(fill, firsts, ends)))
        else:
            missing = any(list(map(fill, firsts, ends)))
        return (vectors if rising else vectors[np.argsort(order)]), missing

    def _read_part(self, part: int, rows: Rows, out: NDArray[Any]) -> bool:
        """Fills `out` with `rows` of a shard, counted from its first and rising; whether a NaN is among them.

        Chunks that are adjacent in the file are one request. Nothing is copied before its checksum is compared, and
        what was copied is searched for NaN while it is in the processor's cache.
        """
        numbers = rows // self._chunk_rows
        firsts, ends = _runs(numbers)
        index = self._index(part)[numbers[firsts]]
        size = self._chunk_rows * self.width * self.dtype.itemsize + CHECKSUM_BYTES
        if not (index[:, 1] == size).all():
            raise self._damaged(part, f"an index with chunks of other sizes than {size} bytes")
        offsets = index[:, 0].astype(np.int64)
        missing = False
        for start, stop in zip(*_runs(offsets - size * np.arange(len(offsets))), strict=True):
            data = self._input.read_range(self._shard(part), int(offsets[start]), size * (stop - start))
            if len(data) != size * (stop - start):
                raise self._damaged(part, f"{len(data)} bytes where {size * (stop - start)} should stand")
            stored = np.frombuffer(data, np.uint8).reshape(-1, size)
            for chunk in stored:
                self._check(part, chunk)
            shape = (len(stored), self._chunk_rows, self.width)
            vectors = stored[:, :-CHECKSUM_BYTES].view(self.dtype).reshape(shape)
            first, end = firsts[start], ends[stop - 1]
            mine, target = rows[first:end], out[first:end]
            if len(mine) == shape[0] * shape[1] and (mine[1:] > mine[:-1]).all():
                # All rows of these chunks, which is much faster than row by row.
                target.reshape(shape)[:] = vectors
            else:
                chunk_of = np.repeat(np.arange(stop - start), np.subtract(ends, firsts)[start:stop])
                target[:] = vectors[chunk_of, mine % self._chunk_rows]
            missing |= any_nan(target)
        return missing

    def _index(self, part: int) -> NDArray[np.uint64]:
        """Offset and length of each chunk of a shard, uint64 [chunks, 2]."""
        if part not in self._indexes:
            size = ENTRY_BYTES * (self._part_rows // self._chunk_rows) + CHECKSUM_BYTES
            name = self._shard(part)
            data = self._input.read_range(name, self._input.size(name) - size, size)
            stored = np.frombuffer(data, np.uint8)
            self._check(part, stored)
            self._indexes[part] = stored[:-CHECKSUM_BYTES].view("<u8").reshape(-1, 2)
        return self._indexes[part]

    def _shard(self, part: int) -> str:
        return f"{self._folder}/c/{part}/0"

    def _check(self, part: int, data: Bytes) -> None:
        """FormatError where the checksum at the end of `data` is another than that of the bytes before it."""
        import google_crc32c

        # An array is taken as it is; of `bytes` the part before the checksum would be a copy.
        if google_crc32c.value(data[:-CHECKSUM_BYTES]) != int.from_bytes(data[-CHECKSUM_BYTES:].tobytes(), "little"):
            raise self._damaged(part, "bytes that do not fit their checksum")

    def _damaged(self, part: int, found: str) -> FormatError:
        return FormatError(
            f"{self._shard(part)} as it was written",
            found,
            "Its bytes have changed since: run again with --force for that embeddings step.",
        )


def _runs(numbers: NDArray[np.integer[Any]]) -> tuple[list[int], list[int]]:
    """Firsts and ends of the runs of equal numbers."""
    breaks = (np.flatnonzero(numbers[1:] != numbers[:-1]) + 1).tolist()
    return ([0, *breaks], [*breaks, len(numbers)]) if len(numbers) else ([], [])


def widened(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """float16 or float32 as float32, the same numbers. numpy converts float16 one by one; this takes half the time."""
    if vectors.dtype != np.float16 or _above(vectors, INFINITY - 1):
        return vectors.astype(np.float32, copy=False)
    # Sign, exponent and fraction move to where float32 has them. Its exponent counts from 127 and not from 15, so the
    # number is then too small by 2**112.
    bits = vectors.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= np.int32(-0x70002000)
    wide = bits.view(np.float32)
    wide *= np.float32(2.0**112)
    return wide


def any_nan(vectors: NDArray[Any]) -> bool:
    """Whether there is a NaN among float16 or float32."""
    if vectors.dtype != np.float16:
        return bool(np.isnan(vectors.max(initial=0)))
    return _above(vectors, INFINITY)


def _above(halves: NDArray[np.float16], bits: int) -> bool:
    """Whether a float16 without its sign, taken as a whole number, is above `bits`: a quick comparison."""
    signed, unsigned = halves.view(np.int16).max(initial=0), halves.view(np.uint16).max(initial=0)
    return bool(signed > bits or unsigned > 0x8000 + bits)
