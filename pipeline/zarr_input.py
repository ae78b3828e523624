"""A committed artifact's folder as a read-only Zarr store, so that stages read arrays by Zarr's own means.

Listings come from the manifest, so opening a store asks the backend for nothing but the objects themselves.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

if TYPE_CHECKING:
    from stages.contract import Input


class InputStore(Store):
    """The objects of an input below a folder, as Zarr's `Store`; whatever would write raises."""

    def __init__(self, source: "Input", folder: str) -> None:
        super().__init__(read_only=True)
        self._source = source
        self._folder = folder
        prefix = f"{folder}/" if folder else ""
        self._sizes = {name[len(prefix) :]: source.size(name) for name in source.names() if name.startswith(prefix)}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, InputStore) and (self._source, self._folder) == (other._source, other._folder)

    def __str__(self) -> str:
        return f"{self._source!r}/{self._folder}"

    @property
    def supports_writes(self) -> bool:
        return False

    @property
    def supports_deletes(self) -> bool:
        return False

    @property
    def supports_listing(self) -> bool:
        return True

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        if key not in self._sizes:
            return None
        return prototype.buffer.from_bytes(await asyncio.to_thread(self._read, key, byte_range))

    def _read(self, key: str, byte_range: ByteRequest | None) -> bytes:
        name = f"{self._folder}/{key}" if self._folder else key
        size = self._sizes[key]
        if byte_range is None:
            return self._source.read(name)
        if isinstance(byte_range, RangeByteRequest):
            start, end = byte_range.start, min(byte_range.end, size)
        elif isinstance(byte_range, OffsetByteRequest):
            start, end = byte_range.offset, size
        else:
            assert isinstance(byte_range, SuffixByteRequest)
            start, end = max(0, size - byte_range.suffix), size
        return self._source.read_range(name, start, max(0, end - start))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return list(await asyncio.gather(*(self.get(key, prototype, request) for key, request in key_ranges)))

    async def exists(self, key: str) -> bool:
        return key in self._sizes

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()

    async def delete(self, key: str) -> None:
        self._check_writable()

    async def list(self) -> AsyncIterator[str]:
        for key in self._sizes:
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        for key in self._sizes:
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        below = f"{prefix.rstrip('/')}/" if prefix else ""
        seen = {key[len(below) :].partition("/")[0] for key in self._sizes if key.startswith(below)}
        for name in sorted(seen):
            yield name
