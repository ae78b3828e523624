"""The records that stand in a generation, and what a generation's records and objects add up to.

    artifacts/<stage>/<key[:16]>/g0000/
        artifact.json      Head: what is to be made, of what, by which code; written first
        train/             a training's checkpoints, its files before they are published, and decision.json (Decision)
        parts/00012.json   Receipt: what a part has written; its presence says the part is done
        manifest.json      Manifest: the table of contents; written last, its presence is the commit
        tombstone.json     Tombstone: closes the generation for good

`survey` reads the state of a key (one listing, one or two reads): which generation counts, and its standing. The
newest generation counts; one that is closed counts for nothing, so that a late writer in it harms nobody.
"""

import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.backends import Entry
from pipeline.errors import LargeError, MissingError, StoreError
from pipeline.key import SHORT, Document, Key
from pipeline.store import LAST_SECOND, RECORD_BYTES, Store, number_in, parse_json

FORMAT = 1
"""Major version of these records. A newer one is refused, an older one is read."""

MANIFEST_BYTES = 64 << 20
"""No manifest is larger: that is half a million objects, which take a gigabyte of memory."""

MOST_PARTS = 1_000_000
"""No step has more parts."""

AT_ONCE = 32
"""How many records of a remote store are read together."""

Standing: TypeAlias = Literal["none", "open", "closed", "committed", "broken"]
"""How the newest generation stands: not there, unfinished, closed by a tombstone, committed, or damaged."""


_LOST = {
    "artifact.json": "what is complete stays, and a generation that is not is begun anew",
    "decision.json": "the training goes on from its last checkpoint",
    "manifest.json": "all parts are complete, so only their merge is done again",
    "plan.json": "it only says what a run was about to do",
    "tombstone.json": "the generation is as it was before it was closed",
}
"""What is lost with a damaged record, by its name; the others are receipts."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)

    format: int = FORMAT


class Owner(BaseModel):
    """Who wrote a record."""

    model_config = ConfigDict(frozen=True)

    host: str
    pid: int
    run: str = ""

    @classmethod
    def here(cls, run: str = "") -> "Owner":
        """This process."""
        return cls(host=socket.gethostname(), pid=os.getpid(), run=run)

    def __str__(self) -> str:
        return f"{self.host} (process {self.pid})"


class Object(BaseModel):
    """An object as a table of contents knows it: bytes and sha256 (hex)."""

    model_config = ConfigDict(frozen=True)

    size: int
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> "Object":
        """The entry of these bytes."""
        return cls(size=len(data), sha256=hashlib.sha256(data).hexdigest())


class Ref(BaseModel):
    """A reference to a committed artifact: its folder, and the digest its manifest must have."""

    model_config = ConfigDict(frozen=True)

    store: str
    stage: str
    key: str
    generation: int
    digest: str

    @property
    def folder(self) -> str:
        """The generation's folder."""
        return folder_of(self.stage, self.key, self.generation)


class InputRecord(BaseModel):
    """Which generation of an input an artifact was made from."""

    model_config = ConfigDict(frozen=True)

    key: str
    generation: int
    digest: str


Seconds: TypeAlias = Annotated[float, Field(ge=0, lt=LAST_SECOND, allow_inf_nan=False)]
Parts: TypeAlias = Annotated[int, Field(ge=0, le=MOST_PARTS)]


class Head(_Record):
    """`artifact.json`: what is to be made. `parts` is how many parts it has, `code` the digest of the stage's code."""

    stage: str
    key: str
    document: Document
    code: str
    inputs: dict[str, InputRecord]
    parts: Parts
    owner: Owner
    created: Seconds


class Receipt(_Record):
    """What one part has put into the store. `adopted` names the objects that were there already.

    `versions` are those of the libraries that its process had loaded, `arithmetic` what networks computed in: that is
    the device's choice where a stage says `bfloat16`. Empty where no network did, and in older records.
    """

    part: int
    objects: dict[str, Object]
    adopted: tuple[str, ...] = ()
    summary: dict[str, Any]
    code: str
    seconds: Seconds
    versions: dict[str, str] = Field(default_factory=dict)
    arithmetic: tuple[str, ...] = ()
    owner: Owner
    executor: str
    created: Seconds


class Decision(_Record):
    """`train/decision.json`: whose files a training's artifact consists of. `receipt` is what they add up to."""

    attempt: str
    receipt: Receipt


class Manifest(_Record):
    """The table of contents of a committed artifact.

    `seconds` is the sum over all receipts; `versions` are those of the libraries it was made with, and `arithmetic` all
    that networks computed in.
    """

    stage: str
    key: str
    document: Document
    code: str
    inputs: dict[str, InputRecord]
    parts: Parts
    objects: dict[str, Object]
    summary: dict[str, Any]
    seconds: Seconds
    versions: dict[str, str]
    arithmetic: tuple[str, ...] = ()
    owner: Owner
    executor: str
    created: Seconds

    @property
    def digest(self) -> str:
        """sha256 of what a reader of the artifact can see: its key, objects and summary.

        Who made it and when are left out, so an artifact that is made again with equal bytes leaves what was made from
        it valid.
        """
        objects = {name: [entry.size, entry.sha256] for name, entry in self.objects.items()}
        seen = json.dumps({"key": self.key, "objects": objects, "summary": self.summary}, sort_keys=True)
        return hashlib.sha256(seen.encode()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """Bytes of all objects."""
        return sum(entry.size for entry in self.objects.values())


class Tombstone(_Record):
    """`tombstone.json`: why a generation was closed, and by whom.

    `damaged`: objects were lost or changed, so what is intact is carried over into the next generation.
    """

    reason: str
    damaged: bool = False
    owner: Owner
    created: Seconds


def folder_of(stage: str, key: str, generation: int | None = None) -> str:
    """The folder of an artifact, or of one of its generations."""
    folder = f"artifacts/{stage}/{key[:SHORT]}"
    return folder if generation is None else f"{folder}/g{generation:04d}"


@lru_cache(maxsize=256)
def generation_in(label: str) -> int | None:
    """The number of the generation that a folder of this name is; None where it is none."""
    return number_in(label, "g{:04d}")


def receipt_name(part: int) -> str:
    """The name of a part's receipt inside a generation."""
    return f"parts/{part:05d}.json"


@dataclass(frozen=True)
class Survey:
    """How an artifact stands: its newest generation, and what is in it.

    `entries` are the generation's objects by name inside it, `problems` what makes it broken, `number` -1 where there
    is no generation.
    """

    key: str
    stage: str
    number: int
    standing: Standing
    entries: Mapping[str, Entry] = field(default_factory=dict)
    head: Head | None = None
    manifest: Manifest | None = None
    problems: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """The generation's folder; the artifact's where there is no generation."""
        return folder_of(self.stage, self.key, self.number if self.number >= 0 else None)

    @property
    def received(self) -> set[int]:
        """The parts that have a receipt."""
        found = (number_in(name, "parts/{:05d}.json") for name in self.entries if name[:6] == "parts/")
        return {number for number in found if number is not None}

    def ref(self, store: Store) -> Ref:
        """Its reference, once it is committed."""
        assert self.manifest is not None
        return Ref(store=store.url, stage=self.stage, key=self.key, generation=self.number, digest=self.manifest.digest)

    def source(self) -> InputRecord:
        """How it is recorded in what is made from it, once it is committed."""
        assert self.manifest is not None
        return InputRecord(key=self.key, generation=self.number, digest=self.manifest.digest)


def survey(store: Store, stage: str, key: str) -> Survey:
    """How the artifact stands: one listing, and one or two reads."""
    found = _judge(store, stage, key, _newest(store, stage, key))
    if found.standing == "broken":
        # A listing is no snapshot: what was created while it went on may be in it without what was created before.
        return _judge(store, stage, key, _newest(store, stage, key))
    return found


def surveys(store: Store, artifacts: Iterable[tuple[str, str]]) -> dict[str, Survey]:
    """How artifacts stand, each given as its stage and key, by key; asked for together where the store is far."""
    wanted = dict.fromkeys(artifacts)
    if not store.far:
        return {key: survey(store, stage, key) for stage, key in wanted}
    with ThreadPoolExecutor(AT_ONCE, "survey") as threads:
        found = threads.map(lambda artifact: survey(store, *artifact), wanted)
        return {key: entry for (_, key), entry in zip(wanted, found, strict=True)}


def _newest(store: Store, stage: str, key: str) -> tuple[int, dict[str, Entry]]:
    """Number and objects of the newest generation; -1 where there is none."""
    generations: dict[int, dict[str, Entry]] = {}
    artifact = folder_of(stage, key)
    for entry in store.entries(artifact):
        label, _, name = entry.name[len(artifact) + 1 :].partition("/")
        number = generation_in(label)
        if number is not None and name:
            generations.setdefault(number, {})[name] = entry
    return max(generations.items(), key=lambda entry: entry[0], default=(-1, {}))


def _judge(store: Store, stage: str, key: str, newest: tuple[int, dict[str, Entry]]) -> Survey:
    number, entries = newest
    folder = folder_of(stage, key, number)
    if number < 0:
        return Survey(key, stage, number, "none")
    if "tombstone.json" in entries:
        return Survey(key, stage, number, "closed", entries)
    if "manifest.json" in entries:
        manifest = read_record(store, f"{folder}/manifest.json", Manifest)
        _same_key(folder, manifest.key, key)
        problems = missing(manifest.objects, entries)
        standing: Standing = "broken" if problems else "committed"
        return Survey(key, stage, number, standing, entries, None, manifest, problems)
    if "artifact.json" not in entries:
        return Survey(key, stage, number, "broken", entries, problems=("artifact.json is missing",))
    head = read_record(store, f"{folder}/artifact.json", Head)
    _same_key(folder, head.key, key)
    return Survey(key, stage, number, "open", entries, head)


def missing(objects: Mapping[str, Object], entries: Mapping[str, Entry]) -> tuple[str, ...]:
    """What a listing lacks of a table of contents, as sentences."""
    found = []
    for name, expected in sorted(objects.items()):
        entry = entries.get(name)
        if entry is None:
            found.append(f"{name} is missing")
        elif entry.size != expected.size:
            found.append(f"{name} has {entry.size} bytes, not {expected.size}")
    return tuple(found)


def _same_key(folder: str, found: str, key: str) -> None:
    if found != key:
        raise StoreError(
            f"the artifact with key {key} in {folder}",
            f"one with key {found}",
            "Two keys begin alike or the folder was moved: give the study another store.",
        )


AnyRecord = TypeVar("AnyRecord", bound=_Record)


def read_record(store: Store, name: str, cls: type[AnyRecord]) -> AnyRecord:
    """Reads a record. Raises `StoreError` where it is of a newer format or damaged, `MissingError` where it is gone."""
    return _record(lambda: store.read_json(name, most_bytes(name)), name, cls)


def parse_record(data: bytes, name: str, cls: type[AnyRecord]) -> AnyRecord:
    """A record from its bytes. Raises `StoreError` where it is of a newer format or damaged."""
    return _record(lambda: parse_json(data), name, cls)


def _record(read: Callable[[], Any], name: str, cls: type[AnyRecord]) -> AnyRecord:
    """A record from its JSON. Raises `StoreError` where it is of a newer format or damaged."""
    try:
        document = read()
        newest = document["format"]
        if newest > FORMAT:
            raise StoreError(f"record format {FORMAT} in {name}", f"format {newest}", "Update repscope.")
        return cls.model_validate(document)
    except (ValueError, KeyError, TypeError) as error:
        detail = str(error.errors()[0]["msg"]) if isinstance(error, ValidationError) else str(error)
        label = name.rpartition("/")[2]
        lost = _LOST.get(label, "only that part is done again")
        raise StoreError(
            f"a record in {name}",
            f"a damaged one ({detail})",
            f"Delete that object alone, then run the same command again: {lost}.",
        ) from error


def write_record(store: Store, name: str, record: AnyRecord) -> tuple[AnyRecord, bool]:
    """Creates a record, or reads the one that is there; whether this call is known to have created it.

    Raises `StoreError` for one that is too large to be read back, and as `read_record` does.
    """
    data = record.model_dump_json(indent=1).encode()
    if len(data) > most_bytes(name):
        raise StoreError(
            f"a record of at most {most_bytes(name)} bytes for {name}",
            f"{len(data)} bytes",
            "The step has too many objects: give it fewer and larger parts, as by more `shard_rows`.",
        )
    try:
        stored, created = store.create_or_read(name, data, most_bytes(name))
    except LargeError:
        return read_record(store, name, type(record)), False
    return (record, True) if created else (parse_record(stored, name, type(record)), False)


def most_bytes(name: str) -> int:
    """How large a record of this name may be."""
    return MANIFEST_BYTES if name.endswith("/manifest.json") else RECORD_BYTES


def open_generation(
    store: Store, stage: str, key: Key, number: int, code: str, inputs: Mapping[str, InputRecord], parts: int, run: str
) -> Head:
    """Opens a generation, or joins the one that another run has opened; returns what stands in its `artifact.json`."""
    head = Head(
        stage=stage,
        key=key.digest,
        document=key.document,
        code=code,
        inputs=dict(inputs),
        parts=parts,
        owner=Owner.here(run),
        created=time.time(),
    )
    found, _ = write_record(store, f"{folder_of(stage, key.digest, number)}/artifact.json", head)
    _same_key(folder_of(stage, key.digest, number), found.key, key.digest)
    return found


def close_generation(
    store: Store, stage: str, key: str, number: int, reason: str, run: str = "", damaged: bool = False
) -> None:
    """Closes a generation for good; closing it again changes nothing. `damaged`: see `Tombstone`."""
    tombstone = Tombstone(reason=reason, damaged=damaged, owner=Owner.here(run), created=time.time())
    write_record(store, f"{folder_of(stage, key, number)}/tombstone.json", tombstone)


def read_receipts(store: Store, folder: str, parts: int) -> list[Receipt]:
    """The receipts of all parts, in order; read concurrently from a remote store. Raises `MissingError`."""

    def read(part: int) -> Receipt:
        return read_record(store, f"{folder}/{receipt_name(part)}", Receipt)

    if not store.far:
        return [read(part) for part in range(parts)]
    with ThreadPoolExecutor(AT_ONCE, "receipts") as threads:
        return list(threads.map(read, range(parts)))


def read_receipt(store: Store, folder: str, part: int) -> Receipt | None:
    """The receipt of a part, or None."""
    try:
        return read_record(store, f"{folder}/{receipt_name(part)}", Receipt)
    except MissingError:
        return None
