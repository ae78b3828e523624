"""The memory of studies: which artifacts a study's steps were, each time that changed.

    studies/<name>/000012.json     step -> folder of a committed generation; the highest number is the newest pointer

A run takes the next number by creating it, so no clock says which run was last. Folders are relative to the store: a
store that is copied elsewhere is a store. Until format 2 pointers were named by time, as `<time>-<run>.json`; these are
older than all numbers.
"""

import re
import time
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import StoreError
from pipeline.key import SHORT
from pipeline.manifest import Ref
from pipeline.store import Store, number_in

FORMAT = 2
"""Major version of pointers. A newer one is refused, an older one is read."""

_FOLDER = re.compile(rf"artifacts/([^/]+)/([0-9a-f]{{{SHORT}}})/g([0-9]{{4,}})")


class Pointer(BaseModel):
    """Where the artifacts of a study's steps were when a run of it was done. `number` is 0 before format 2."""

    model_config = ConfigDict(frozen=True)

    number: int
    study: str
    run: str
    created: float
    steps: dict[str, Ref]


class _Generation(BaseModel):
    """A committed generation: its folder in the store, its full key, and the digest of its manifest."""

    folder: str
    key: str
    digest: str


class _Record(BaseModel):
    """A pointer as it stands in the store."""

    format: int = FORMAT
    study: str
    run: str
    created: float
    steps: dict[str, _Generation]


class _OldRecord(BaseModel):
    """A pointer of format 1."""

    study: str
    run: str
    created: float
    steps: dict[str, Ref]


def point(store: Store, study: str, run_id: str, steps: Mapping[str, Ref]) -> None:
    """Remembers where a study's artifacts are, unless the newest pointer says just that."""
    while (newest := latest(store, study)) is None or newest.steps != dict(steps):
        number = 1 if newest is None else newest.number + 1
        generations = {
            name: _Generation(folder=ref.folder, key=ref.key, digest=ref.digest) for name, ref in steps.items()
        }
        record = _Record(study=study, run=run_id, created=time.time(), steps=generations)
        data = record.model_dump_json(indent=1).encode()
        stored, _ = store.create_or_read(f"studies/{study}/{number:06d}.json", data)
        if stored == data:
            return


def history(store: Store, study: str) -> list[str]:
    """Object names of a study's pointers, oldest first."""
    return sorted((entry.name for entry in store.entries(f"studies/{study}")), key=lambda name: (_number(name), name))


def latest(store: Store, study: str) -> Pointer | None:
    """The newest pointer of a study, or None. Raises `StoreError` where it is damaged, or of a newer format."""
    names = history(store, study)
    return read_pointer(store, names[-1]) if names else None


def read_pointer(store: Store, name: str) -> Pointer:
    """The pointer in an object of the store. Raises `StoreError` where it is damaged, or of a newer format."""
    try:
        document = store.read_json(name)
        if document["format"] > FORMAT:
            raise StoreError(
                f"a pointer of format {FORMAT} in {name}", f"format {document['format']}", "Update repscope."
            )
        if document["format"] == 1:
            old = _OldRecord.model_validate(document)
            steps = {step: ref.model_copy(update={"store": store.url}) for step, ref in old.steps.items()}
            return Pointer(number=0, study=old.study, run=old.run, created=old.created, steps=steps)
        record = _Record.model_validate(document)
        steps = {step: _ref(store, generation) for step, generation in record.steps.items()}
        return Pointer(number=_number(name), study=record.study, run=record.run, created=record.created, steps=steps)
    except (ValueError, KeyError, TypeError) as error:
        detail = str(error.errors()[0]["msg"]) if isinstance(error, ValidationError) else str(error)
        raise StoreError(
            f"a pointer of a study in {name}",
            f"a damaged one ({detail})",
            f"Delete {store.address(name)} and run the study again: no artifact is lost with it, and nothing that is "
            "done is done again.",
        ) from error


def _number(name: str) -> int:
    """The number that a pointer is named by; 0 for one that is named by its time."""
    return number_in(name.rpartition("/")[2], "{:06d}.json") or 0


def _ref(store: Store, generation: _Generation) -> Ref:
    found = _FOLDER.fullmatch(generation.folder)
    if found is None or not generation.key.startswith(found[2]):
        raise ValueError(f"{generation.folder!r} is no generation of key {generation.key[:SHORT]!r}")
    return Ref(store=store.url, stage=found[1], key=generation.key, generation=int(found[3]), digest=generation.digest)
