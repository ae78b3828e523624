"""Vectors that are adopted for a study: a step of their own beside the study's graph, remembered by a record.

    adopted/<study>/<name>/000001.json     the table that `<name>:<tap>` is read from; the highest number counts

Runs of the study know nothing of it and leave it as it is. It is read for as long as the study has the images that it
was adopted for.
"""

import re
from typing import TYPE_CHECKING

from pydantic import BaseModel

from pipeline.errors import StoreError, UsageError
from pipeline.manifest import Ref, survey
from pipeline.store import Store, number_in

if TYPE_CHECKING:
    from pipeline.study import Study
    from stages.embeddings.adopted import Adopted

FORMAT = 1
FOLDER = "adopted"
_RECORD = "{:06d}.json"


class Record(BaseModel):
    """One adopted table."""

    format: int = FORMAT
    stage: str
    key: str
    generation: int
    digest: str


def adopt(study: "Study", store: Store, name: str, stage: "Adopted") -> Ref:
    """Makes the table, unless the store has it, and remembers it as encoder `name`.

    Raises `UsageError` where the study is not finished or has an encoder of that name, `InputError` where the vectors
    do not fit its images.
    """
    from cluster.inline import Inline
    from pipeline.graph import graph_of
    from pipeline.run import run
    from pipeline.step import Step
    from pipeline.studies import latest

    pointer = latest(store, study.study)
    if pointer is None:
        raise UsageError(f"a finished run of {study.study} in {store.url}", "none", "Run it first.")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or f"embeddings.{name}" in pointer.steps:
        raise UsageError(
            "a name of letters, digits, `_` and `-` that no encoder of the study has", repr(name), "Choose another."
        )
    images = [step for step in graph_of(study) if step.name in ("listing", "shards")]
    adopted = Step(f"embeddings.{name}", stage, {"images": "shards"})
    result = run([*images, adopted], store, Inline)
    made = {step.name: step for step in result.steps}
    if made["shards"].key != pointer.steps["shards"].key:
        raise UsageError("the images of the newest finished run", "others in the study's file", "Run the study first.")
    ref = survey(store, stage.name, made[adopted.name].key).ref(store)
    record = Record(stage=ref.stage, key=ref.key, generation=ref.generation, digest=ref.digest)
    number, before = _newest(store, study.study).get(name, (0, ""))
    if not number or _read(store, before) != record:
        following = f"{FOLDER}/{study.study}/{name}/{_RECORD.format(number + 1)}"
        store.create(following, record.model_dump_json(indent=1).encode())
    return ref


def adopted(store: Store, study: str) -> dict[str, Ref]:
    """The tables that were adopted for a study, by step."""
    found = {}
    for name, (_, path) in _newest(store, study).items():
        found[f"embeddings.{name}"] = Ref(store=store.url, **_read(store, path).model_dump(exclude={"format"}))
    return found


def _newest(store: Store, study: str) -> dict[str, tuple[int, str]]:
    """The newest record of each name, as its number and where it is."""
    newest: dict[str, tuple[int, str]] = {}
    for entry in store.entries(f"{FOLDER}/{study}"):
        _, _, name, label = [*entry.name.split("/", 3), ""][:4]
        number = number_in(label, _RECORD)
        if number is not None:
            newest[name] = max(newest.get(name, (0, "")), (number, entry.name))
    return newest


def _read(store: Store, path: str) -> Record:
    """A record of an adopted table. Raises `StoreError` where it is damaged, `UsageError` for one of a newer format."""
    try:
        record = Record.model_validate(store.read_json(path))
    except ValueError as error:
        raise StoreError(
            f"the record of an adopted table in {path}",
            f"a damaged one ({error})",
            "Delete that object alone, then adopt the vectors again: they are still in the store.",
        ) from error
    if record.format > FORMAT:
        raise UsageError(f"a record of format {FORMAT} in {path}", f"format {record.format}", "Update repscope.")
    return record
