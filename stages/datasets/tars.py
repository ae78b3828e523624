"""Tars in webdataset's layout: members that share a name without ending are one sample, one of them its image.

We parse the headers ourselves: nothing is unpacked to a disk, nothing is unpickled, and a link, an absolute path or
`..` is refused. Layout of a header: POSIX.1-2001 (ustar and pax), with GNU's long names.
"""

import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import field_validator, model_validator

from stages.datasets.columns import Declared
from stages.datasets.files import FileReader, Found, Notes, TableSource, Value, Wanted, damaged
from stages.errors import InputError
from stages.external.passed_over import hidden
from stages.external.ranges import FILE_LIMIT_BYTES, Blocks, FileInfo, Spans, Unreadable, readable
from stages.images.image_file import ENDINGS

USUAL = ("bmp", "gif", "jpeg", "jpg", "png", "tif", "tiff", "webp")
"""Endings of images which a sample may have beside one of `IMAGES`, as a mask; then they are the image."""

IMAGES = tuple(ending.removeprefix(".") for ending in ENDINGS)
"""Endings of members that are taken for images."""

TEXTS = ("cls", "txt")
"""Endings of members that are one value each."""

RECORD_LIMIT_BYTES = 2**20
"""Size of a `.json`, `.cls` or `.txt`, and of a header's own extension, above which it is not read."""

ZEROS_BYTES = 2**16
"""How much of what follows an end mark is read at once, to find where another tar begins."""

SAMPLED_BYTES = 2**20
"""How much of a tar is read to estimate how many images it holds."""

UNREAD_LIMIT = 50
"""Endings of members that are not read which are noted."""

BLOCK = 512

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK": "zip"}


@dataclass(frozen=True)
class Member:
    """A file in a tar: its name, and where its bytes stand."""

    name: str
    offset: int
    size: int


@dataclass
class Sample:
    """Members that share a name without ending; by ending, in lower case."""

    key: str
    members: dict[str, Member] = field(default_factory=dict)


class WebdatasetSource(TableSource):
    """Tars in webdataset's layout."""

    kind: Literal["webdataset"] = "webdataset"

    @field_validator("image")
    @classmethod
    def _without_dot(cls, image: str | None) -> str | None:
        return image if image is None else image.removeprefix(".").lower()

    @model_validator(mode="after")
    def _known_columns(self) -> "WebdatasetSource":
        wanted = {} if self.columns is None else dict(self.columns)
        for name in [*wanted, *([self.split.column] if self.split and self.split.column else [])]:
            if name not in TEXTS and not name.startswith("json."):
                raise ValueError(f"expected a column cls, txt or json.<field>; found {name!r}")
        for name, column in wanted.items():
            if name not in TEXTS and column.kind == "auto":
                raise ValueError(f"expected {name} to say what it is: class, scalar or circle; found no kind")
        return self

    def declared(self) -> tuple[Declared, ...]:
        """The attributes of every sample."""
        if self.columns is None:
            return (Declared("cls", "class", "class", asked=False),)
        found = [
            Declared(
                column=name,
                name="class" if name == "cls" else name.removeprefix("json."),
                kind="class" if column.kind == "auto" else column.kind,
                period=column.period,
                mirror=column.mirror,
            )
            for name, column in self.columns.items()
        ]
        return tuple(sorted(found, key=lambda declared: declared.name))

    def reader(self) -> "TarReader":
        return TarReader(self)

    def expected_rows(self) -> int:
        infos = self.files()
        file = self.file_set.open(infos[0])
        bytes_seen = images = 0
        for member in members(file):
            if member.offset > SAMPLED_BYTES:
                break
            bytes_seen = member.offset + member.size
            endings = {_ending_of(member.name)[1], _ending_of(member.name)[1].rpartition(".")[2]}
            images += not endings.isdisjoint(IMAGES if self.image is None else (self.image,))
        return max(1, round(sum(info.size for info in infos) * images / max(bytes_seen, 1)))

    def _endings(self) -> tuple[str, ...]:
        return (".tar",)


class TarReader(FileReader):
    """Reads the tars of a source."""

    def __init__(self, source: WebdatasetSource) -> None:
        super().__init__(source)
        self._source = source
        self._declared = source.declared()
        columns = [declared.column for declared in self._declared]
        if source.split is not None and source.split.column is not None:
            columns.append(source.split.column)
        self._read_members = {name.partition(".")[0] for name in columns}
        self._open: Blocks | None = None

    def declared(self, info: FileInfo) -> tuple[Declared, ...]:
        return self._declared

    def read(self, info: FileInfo, notes: Notes) -> Iterator[Found]:
        file = self._source.file_set.open(info)
        for sample in self._whole_samples(samples(members(file), notes, info.name), info.name):
            image = self._image(sample, info.name)
            if image is not None:
                if self._source.columns is None and len(notes.unread) < UNREAD_LIMIT:
                    others = sample.members.keys() - self._read_members - set(IMAGES)
                    notes.unread |= {f".{readable(ending)}" for ending in others}
                yield self._found(file, info, sample, image, notes)
                continue
            if apart := sorted(self._read_members & sample.members.keys()):
                raise InputError(
                    f"the members of a sample beside each other in {info.name}",
                    f"{sample.key}.{apart[0]} apart from any image",
                    "Pack the tar in the order of its names, for example with `tar --sort=name`.",
                )
            for ending, member in sample.members.items():
                notes.passed_over.add(f".{ending}", f"{info.name}/{readable(member.name)}")

    def fetch(self, wanted: Sequence[Wanted]) -> Iterator[bytes | Unreadable]:
        for entry in wanted:
            if self._open is None or self._open.name != entry.file:
                self._open = self._source.file_set.open(self.info(entry.file))
            yield self._open.span(entry.position, entry.size)

    def _whole_samples(self, found: Iterator[Sample], where: str) -> Iterator[Sample]:
        """Samples of webdataset's rule; those that have no image by it with the name up to the last dot instead.

        By that rule a name ends at its first dot, so `a.5.jpg` has the ending `5.jpg`. Where no member of a sample has
        the ending of an image, this one is the image of a sample `a.5`, or of `a` where it is the only one.
        """
        wanted = IMAGES if self._source.image is None else (self._source.image,)
        for sample in found:
            if any(ending in wanted for ending in sample.members):
                yield sample
                continue
            groups: dict[str, Sample] = {}
            for ending, member in sample.members.items():
                stem, _, last = ending.rpartition(".")
                key = f"{sample.key}.{stem}" if stem else sample.key
                groups.setdefault(stem, Sample(key)).members[last] = member
            images = [group for group in groups.values() if any(ending in wanted for ending in group.members)]
            if not images:
                yield sample
            elif len(images) == 1:
                yield self._joined(sample, images[0], groups.values())
            elif apart := sorted(
                f"{group.key}.{ending}"
                for group in groups.values()
                for ending in self._read_members & group.members.keys()
                if group not in images
            ):
                named = next(ending for ending in sample.members if ending.rpartition(".")[2] in wanted)
                raise InputError(
                    f"one image in each sample of {where}",
                    f"{len(images)} in {readable(sample.key)}, and {readable(apart[0])}, of no single one",
                    f"Say which one is meant, for example `image: {named}`.",
                )
            else:
                yield from groups.values()

    def _joined(self, sample: Sample, image: Sample, groups: Iterable[Sample]) -> Sample:
        """A sample with one image: its members by their last ending; those of the image's own name before others."""
        members = {ending: member for group in groups for ending, member in group.members.items()}
        return Sample(image.key if len(image.members) > 1 else sample.key, members | image.members)

    def _image(self, sample: Sample, where: str) -> Member | None:
        if self._source.image is not None:
            return sample.members.get(self._source.image)
        endings = [ending for ending in sample.members if ending in USUAL]
        endings = endings or [ending for ending in sample.members if ending in IMAGES]
        if len(endings) > 1:
            raise InputError(
                f"one image in each sample of {where}",
                f"{', '.join(endings)} in {readable(sample.key)}",
                f"Say which one is meant, for example `image: {endings[0]}`.",
            )
        return sample.members[endings[0]] if endings else None

    def _found(self, file: Blocks, info: FileInfo, sample: Sample, image: Member, notes: Notes) -> Found:
        name = f"{info.name}/{readable(image.name)}"
        if image.size > FILE_LIMIT_BYTES:
            reason = f"a file of {image.size} bytes, more than {FILE_LIMIT_BYTES}"
            return Found(image.offset, name, Unreadable(reason), split=self._without_column(info))
        data: bytes | Unreadable = file.span(image.offset, image.size)
        values: dict[str, Value] = {}
        split = self._without_column(info)
        try:
            columns = self._columns(file, sample, notes)
            for declared in self._declared:
                values[declared.name] = declared.value(columns.get(declared.column))
        except ValueError as error:
            return Found(image.offset, name, Unreadable(str(error)), split=split)
        if self._source.split is not None and self._source.split.column is not None:
            value = columns.get(self._source.split.column)
            split = self._source.split.of(None if value is None else str(value), name)
        return Found(image.offset, name, data, values, split)

    def _without_column(self, info: FileInfo) -> Literal["train", "heldout"] | None:
        split = self._source.split
        return None if split is None or split.column is not None else split.of(info.name, info.name)

    def _columns(self, file: Blocks, sample: Sample, notes: Notes) -> dict[str, Any]:
        """Values of the columns that are asked for. ValueError where a member is not what its ending says."""
        found: dict[str, Any] = {}
        for ending in sorted(self._read_members & sample.members.keys()):
            member = sample.members[ending]
            if member.size > RECORD_LIMIT_BYTES:
                raise ValueError(f"a .{ending} of {member.size} bytes, more than {RECORD_LIMIT_BYTES}")
            try:
                text = file.span(member.offset, member.size).decode("utf-8-sig").strip()
            except UnicodeDecodeError:
                raise ValueError(f"a .{ending} that is no UTF-8") from None
            if ending != "json":
                found[ending] = text or None
                continue
            try:
                record = json.loads(text)
                fields = dict(_flat(record, "json")) if isinstance(record, dict) else {}
            except (ValueError, RecursionError):
                raise ValueError("a .json that is no JSON") from None
            found |= fields
            if len(notes.columns) < 50:
                notes.columns |= {name.encode("utf-8", "backslashreplace").decode() for name in fields}
        return found


def members(file: Spans) -> Iterator[Member]:
    """The files in a tar, in order. Raises InputError where it is damaged, cut, or holds what is refused."""
    start = file.span(0, BLOCK)
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic) and start[257:262] != b"ustar":
            raise InputError(
                f"a plain tar in {file.name}",
                f"{name}",
                "Unpack it to a plain .tar: a compressed one cannot be read from the middle.",
            )
    offset = 0
    extended: dict[str, str] = {}
    while True:
        block = file.span(offset, BLOCK)
        if len(block) < BLOCK:
            raise damaged(file.name, "a whole tar", f"its end at byte {file.size}, without an end mark")
        if not any(block):
            if extended:
                raise damaged(file.name, "a member after its extended header", f"an end mark at byte {offset}")
            # `cat a.tar b.tar` gives tars behind each other, each with its end mark.
            following = _after_zeros(file, offset)
            if following is None:
                return
            offset = following
            continue
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as error:
            raise damaged(file.name, f"the header of a member at byte {offset}", str(error)) from error
        size = _number(extended["size"], file, offset) if "size" in extended else header.size
        name = extended.get("path", header.name)
        data = offset + BLOCK
        if header.type in (tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE):
            size = 0
        if size < 0 or data + size > file.size:
            raise damaged(
                file.name, "a whole tar", f"its end at byte {file.size}, within {readable(name)} of {size} bytes"
            )
        offset = data + -(-size // BLOCK) * BLOCK
        if header.type == tarfile.XHDTYPE:
            extended |= _records(file, data, size)
            continue
        if header.type == tarfile.XGLTYPE:
            if _records(file, data, size).keys() & {"path", "size", "linkpath"}:
                raise damaged(file.name, "no names for all members at once", "a global header with such")
            continue
        if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            if header.type == tarfile.GNUTYPE_LONGNAME:
                text = _extension(file, data, size).partition(b"\0")[0]
                extended["path"] = text.decode("utf-8", "surrogateescape")
            continue
        sparse = header.type == tarfile.GNUTYPE_SPARSE or any(entry.startswith("GNU.sparse") for entry in extended)
        extended = {}
        if header.type == tarfile.DIRTYPE:
            continue
        if sparse or header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
            raise _refused(file, name, "a sparse file" if sparse else _TYPES.get(header.type, "no plain file"))
        yield Member(_checked(file, name), data, size)


def _after_zeros(file: Spans, offset: int) -> int | None:
    """Where the block begins that is not all zeros, from `offset` on; None where there is none."""
    while offset < file.size:
        data = file.span(offset, ZEROS_BYTES)
        rest = data.lstrip(b"\0")
        if rest:
            return offset + (len(data) - len(rest)) // BLOCK * BLOCK
        offset += len(data)
    return None


def samples(found: Iterator[Member], notes: Notes, where: str) -> Iterator[Sample]:
    """Neighbouring members of one name as samples; hidden files and files without ending are passed over."""
    sample: Sample | None = None
    for member in found:
        if kind := hidden(member.name):
            notes.passed_over.add(kind, f"{where}/{readable(member.name)}")
            continue
        key, ending = _ending_of(member.name)
        if not ending:
            notes.passed_over.add("no ending", f"{where}/{readable(member.name)}")
            continue
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = Sample(key)
        if ending in sample.members:
            raise InputError(
                f"one member of each name in {where}",
                f"{readable(member.name)} twice",
                "Pack the tar anew.",
            )
        sample.members[ending] = member
    if sample is not None:
        yield sample


def _ending_of(name: str) -> tuple[str, str]:
    """A name up to the first dot of its last piece, and what follows, in lower case."""
    folder, name = os.path.split(name)
    stem, _, ending = name.partition(".")
    return (f"{folder}/{stem}" if folder else stem), ending.lower()


def _flat(record: Mapping[str, Any], above: str) -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}.{name}")
        else:
            yield f"{above}.{name}", value


def _checked(file: Spans, name: str) -> str:
    pieces = [piece for piece in name.split("/") if piece != "."]
    if not name or name.startswith("/") or ".." in pieces or "\0" in name:
        raise _refused(file, name, "a path that leads out of its folder" if name else "no name")
    return "/".join(pieces)


def _refused(file: Spans, name: str, what: str) -> InputError:
    return InputError(
        f"plain files below one folder in {file.name}",
        f"{readable(name)!r}, {what}",
        "Pack the files themselves, for example with `tar --dereference --hard-dereference`.",
    )


_TYPES = {
    tarfile.LNKTYPE: "a link",
    tarfile.SYMTYPE: "a link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}


def _extension(file: Spans, start: int, size: int) -> bytes:
    if size > RECORD_LIMIT_BYTES:
        raise damaged(file.name, "headers of ordinary size", f"one of {size} bytes at byte {start}")
    return file.span(start, size)


def _records(file: Spans, start: int, size: int) -> dict[str, str]:
    """A pax header: records `length name=value\\n`, where length counts the whole record."""
    data = _extension(file, start, size)
    found: dict[str, str] = {}
    at = 0
    while at < len(data) and data[at]:
        digits, space, _ = data[at : at + 8].partition(b" ")
        length = int(digits) if space and digits.isdigit() else 0
        record = data[at + len(digits) + 1 : at + length]
        name, equals, value = record.partition(b"=")
        if length <= len(digits) + 1 or not equals or not record.endswith(b"\n"):
            raise damaged(file.name, f"a header at byte {start}", "an extension that cannot be read")
        found[name.decode("utf-8", "replace")] = value[:-1].decode("utf-8", "surrogateescape")
        at += length
    return found


def _number(text: str, file: Spans, offset: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise damaged(file.name, f"the size of the member at byte {offset}", repr(text[:40]))
    return int(text)
