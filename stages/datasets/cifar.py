"""CIFAR-10's binary version: batches of 3 073-byte records, in a folder or still in the archive as published.

A record is the number of its class and 32 x 32 red, green and blue bytes (Krizhevsky 2009, cs.toronto.edu/~kriz/cifar).
"""

import gzip
import os
import tempfile
import weakref
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import IO, Annotated, Literal

from pydantic import Field, field_validator

from stages.contract import External, Unkeyed
from stages.datasets.columns import Declared
from stages.datasets.files import FileReader, FilesSource, Found, Notes, Wanted, damaged
from stages.datasets.tars import members
from stages.errors import InputError
from stages.external.files import absolute
from stages.external.ranges import Blocks, FileInfo, FileSet, Spans, Unreadable
from stages.images.pixels import encode_png

TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
HELD_OUT = "test_batch.bin"
NAMES = "batches.meta.txt"
ARCHIVES = (".tar.gz", ".tgz")

SIDE = 32
RECORD_BYTES = 1 + 3 * SIDE * SIDE

PUBLISHED_ROWS = 60_000

ARCHIVE_LIMIT_BYTES = 2**30
"""Unpacked, the published archive has 0.18 GiB."""

UNPACKED_AT_ONCE_BYTES = 2**20


class Cifar10Source(FilesSource):
    """CIFAR-10 as published for C programs."""

    kind: Literal["cifar10"] = "cifar10"
    url: Annotated[str, Field(min_length=1), Unkeyed("what stands there is known by its digest")]
    """`cifar-10-binary.tar.gz`, or the folder `cifar-10-batches-bin` that is in it, by path or fsspec URL."""
    split: Literal["published", "content"] = "published"
    """`published`: the test batch is held out. `content`: an image's own bytes decide, by `holdout`."""

    _absolute_url = field_validator("url")(absolute)

    @cached_property
    def file_set(self) -> FileSet:
        """The archive, or the files in the folder."""
        folder = self.url.rstrip("/")
        urls = [self.url] if self._packed else [f"{folder}/{name}" for name in (*TRAIN, HELD_OUT, NAMES)]
        return FileSet(urls, ARCHIVES)

    def external(self) -> Mapping[str, External]:
        return {"files": self.file_set.external(self.fingerprint)}

    def files(self) -> list[FileInfo]:
        try:
            found = {info.name: info for info in self.file_set.find()}
        except InputError as error:
            raise InputError(
                "CIFAR-10's binary version: cifar-10-binary.tar.gz, or the folder cifar-10-batches-bin with its six "
                f"batches and {NAMES}, at {self.url}",
                error.found,
                "Correct `url`.",
            ) from error
        if self._packed:
            (archive,) = found.values()
            return [FileInfo(name, archive.size) for name in (*TRAIN, HELD_OUT)]
        infos = [found[name] for name in (*TRAIN, HELD_OUT)]
        for info in infos:
            _whole(info.name, info.size)
        return infos

    def reader(self) -> "CifarReader":
        return CifarReader(self)

    def expected_rows(self) -> int:
        return PUBLISHED_ROWS if self._packed else sum(info.size for info in self.files()) // RECORD_BYTES

    @property
    def _packed(self) -> bool:
        return self.url.endswith(ARCHIVES)


class CifarReader(FileReader):
    """Reads the batches; an archive is unpacked once, into a file that has no name."""

    def __init__(self, source: Cifar10Source) -> None:
        super().__init__(source)
        self._source = source
        self._batches: dict[str, Spans]
        if source.url.endswith(ARCHIVES):
            (archive,) = source.file_set.find()
            file = tempfile.TemporaryFile(prefix="cifar10-")  # noqa: SIM115 closed when this reader is gone
            weakref.finalize(self, file.close)
            self._batches = _unpack(source.file_set.open(archive), file)
        else:
            self._batches = {info.name: source.file_set.open(info) for info in source.file_set.find()}
        text = self._batches[NAMES].span(0, 4096).decode("ascii", "replace")
        self._classes = tuple(line.strip() for line in text.splitlines() if line.strip())
        if len(set(self._classes)) != len(self._classes) or not self._classes:
            raise damaged(NAMES, "the name of a class in each line", f"{len(self._classes)} names, not all different")

    def declared(self, info: FileInfo) -> tuple[Declared, ...]:
        return (Declared("label", "class", "class", classes=self._classes, asked=False),)

    def read(self, info: FileInfo, notes: Notes) -> Iterator[Found]:
        batch = self._batches[info.name]
        published = self._source.split == "published"
        for number in range(batch.size // RECORD_BYTES):
            name = f"{info.name}/{number}"
            label = batch.span(number * RECORD_BYTES, 1)[0]
            data = self._picture(info.name, number)
            if label >= len(self._classes):
                data = Unreadable(f"class {label}, of {len(self._classes)}")
            values = {} if isinstance(data, Unreadable) else {"class": self._classes[label]}
            side: Literal["train", "heldout"] = "heldout" if info.name == HELD_OUT else "train"
            yield Found(number, name, data, values, side if published else None)

    def fetch(self, wanted: Sequence[Wanted]) -> Iterator[bytes | Unreadable]:
        for entry in wanted:
            yield self._picture(self.info(entry.file).name, entry.position)

    def _picture(self, batch: str, number: int) -> bytes | Unreadable:
        import numpy as np

        record = self._batches[batch].span(number * RECORD_BYTES, RECORD_BYTES)
        if len(record) < RECORD_BYTES:
            return Unreadable("a batch that has become shorter")
        planes = np.frombuffer(record, dtype=np.uint8, offset=1).reshape(3, SIDE, SIDE)
        return encode_png(np.ascontiguousarray(planes.transpose(1, 2, 0)))


class _Unpacked:
    """A member of an unpacked archive."""

    def __init__(self, file: IO[bytes], name: str, start: int, size: int) -> None:
        self.name = name
        self.size = size
        self._file = file
        self._start = start

    def span(self, start: int, length: int) -> bytes:
        stop = min(start + length, self.size)
        return os.pread(self._file.fileno(), max(0, stop - start), self._start + start)


def _unpack(archive: Blocks, file: IO[bytes]) -> dict[str, Spans]:
    """The batches and the names in an archive, unpacked into `file`."""
    size = 0
    try:
        with gzip.GzipFile(fileobj=archive) as unpacked:
            while data := unpacked.read(UNPACKED_AT_ONCE_BYTES):
                size += len(data)
                if size > ARCHIVE_LIMIT_BYTES:
                    break
                file.write(data)
    except (OSError, EOFError, zlib.error) as error:
        if archive.failure is not None:
            raise archive.failure from error
        raise damaged(archive.name, "a whole archive", f"{type(error).__name__}: {error}") from error
    if size > ARCHIVE_LIMIT_BYTES:
        raise damaged(archive.name, f"at most {ARCHIVE_LIMIT_BYTES} bytes", "more")
    file.flush()
    inside = {
        member.name.rpartition("/")[2]: _Unpacked(file, member.name.rpartition("/")[2], member.offset, member.size)
        for member in members(_Unpacked(file, archive.name, 0, size))
    }
    if missing := [name for name in (*TRAIN, HELD_OUT, NAMES) if name not in inside]:
        raise InputError(
            f"CIFAR-10's binary version in {archive.name}",
            f"no {missing[0]} among {', '.join(sorted(inside)[:8]) or 'no files'}",
            "Take cifar-10-binary.tar.gz, the version for C programs; the one for Python is made of pickles.",
        )
    for name in (*TRAIN, HELD_OUT):
        _whole(name, inside[name].size)
    return dict(inside)


def _whole(name: str, size: int) -> None:
    if size == 0 or size % RECORD_BYTES:
        raise damaged(
            name,
            f"records of {RECORD_BYTES} bytes (the published files have 10 000)",
            f"{size} bytes, which are {size / RECORD_BYTES:.2f} records",
        )
