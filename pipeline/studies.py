"""The memory of studies: which artifacts a study's steps were, each time that changed.

studies/<name>/<time>-<run>.json     study -> step -> artifact; the newest counts, the others are its history
"""

import json
import time
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from pipeline.events import stamp
from pipeline.manifest import Ref
from pipeline.store import Store

FORMAT = 1


class Pointer(BaseModel):
    """Where the artifacts of a study's steps were when a run of it was done."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    study: str
    run: str
    created: float
    steps: dict[str, Ref]


def point(store: Store, study: str, run_id: str, steps: Mapping[str, Ref]) -> None:
    """Remembers where a study's artifacts are, unless the newest pointer says just that."""
    newest = latest(store, study)
    if newest is not None and newest.steps == dict(steps):
        return
    pointer = Pointer(study=study, run=run_id, created=time.time(), steps=dict(steps))
    name = f"studies/{study}/{stamp()}-{run_id}.json"
    store.create_or_read(name, pointer.model_dump_json(indent=1).encode())


def history(store: Store, study: str) -> list[str]:
    """Object names of a study's pointers, oldest first."""
    return [entry.name for entry in store.entries(f"studies/{study}")]


def latest(store: Store, study: str) -> Pointer | None:
    """The newest pointer of a study, or None."""
    names = history(store, study)
    return Pointer.model_validate(json.loads(store.read(names[-1]))) if names else None
