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
"""Shards that are read at the same time: a bucket answers many requests as soon as one."""
CHECKSUM_BYTES = 4
ENTRY_BYTES = 16
"""Of a chunk in the index of a shard: offset and length, uint64."""
CHECKED = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
"""The codecs of chunks and of indexes: plain little-endian values, then their checksum."""

INFINITY = 0x7C00
"""The bits of infinity in float16. Those of NaN are above it."""

Rows = NDArray[np.int64]


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

    def read(self, rows: Rows) -> NDArray[Any]:
        """Vectors [N, D] of `rows`, in their order and as they are stored. FormatError where bytes are damaged."""
        rising = bool((np.diff(rows) >= 0).all())
        order = np.arange(0) if rising else np.argsort(rows, kind="stable")
        wanted = rows if rising else rows[order]
        vectors = np.empty((len(rows), self.width), dtype=self.dtype)
        parts, firsts = np.unique(wanted // self._part_rows, return_index=True)

        def fill(part: int, first: int, end: int) -> None:
            self._read_part(part, wanted[first:end] - part * self._part_rows, vectors[first:end])

        pieces = (parts.tolist(), firsts.tolist(), [*firsts[1:].tolist(), len(rows)][: len(parts)])
        if len(parts) > 1:
            with ThreadPoolExecutor(min(THREADS, len(parts)), "chunks") as pool:
                list(pool.map(fill, *pieces))
        else:
            list(map(fill, *pieces))
        return vectors if rising else vectors[np.argsort(order)]

    def _read_part(self, part: int, rows: Rows, out: NDArray[Any]) -> None:
        """Fills `out` with `rows` of a shard, counted from its first and rising; adjacent chunks are one request."""
        chunks, firsts = np.unique(rows // self._chunk_rows, return_index=True)
        ends = np.append(firsts[1:], len(rows))
        index = self._index(part)
        size = self._chunk_rows * self.width * self.dtype.itemsize + CHECKSUM_BYTES
        offsets = index[chunks, 0].astype(np.int64)
        if not (index[chunks, 1] == size).all():
            raise self._damaged(part, f"an index with chunks of other sizes than {size} bytes")
        for run in np.split(np.arange(len(chunks)), np.flatnonzero(np.diff(offsets) != size) + 1):
            data = self._input.read_range(self._shard(part), int(offsets[run[0]]), size * len(run))
            for position, number in enumerate(run):
                chunk = self._checked(part, data[position * size : (position + 1) * size])
                vectors = np.frombuffer(chunk, self.dtype).reshape(self._chunk_rows, self.width)
                mine = rows[firsts[number] : ends[number]] % self._chunk_rows
                # A slice is copied much faster than rows one by one.
                adjacent = bool((np.diff(mine) == 1).all())
                out[firsts[number] : ends[number]] = vectors[mine[0] : mine[-1] + 1] if adjacent else vectors[mine]

    def _index(self, part: int) -> NDArray[np.uint64]:
        """Offset and length of each chunk of a shard, uint64 [chunks, 2]."""
        if part not in self._indexes:
            size = ENTRY_BYTES * (self._part_rows // self._chunk_rows) + CHECKSUM_BYTES
            name = self._shard(part)
            data = self._input.read_range(name, self._input.size(name) - size, size)
            self._indexes[part] = np.frombuffer(self._checked(part, data), "<u8").reshape(-1, 2)
        return self._indexes[part]

    def _shard(self, part: int) -> str:
        return f"{self._folder}/c/{part}/0"

    def _checked(self, part: int, data: bytes) -> bytes:
        """Bytes without the checksum at their end. FormatError where it is another."""
        import google_crc32c

        content = data[:-CHECKSUM_BYTES]
        if google_crc32c.value(content) != int.from_bytes(data[-CHECKSUM_BYTES:], "little"):
            raise self._damaged(part, "bytes that do not fit their checksum")
        return content

    def _damaged(self, part: int, found: str) -> FormatError:
        return FormatError(
            f"{self._shard(part)} as it was written",
            found,
            "Its bytes have changed since: run again with --force for that embeddings step.",
        )


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
