"""What runs inside an executor: one part (`work`), one training (`train`), or the end of a step (`merge`).

A worker is sent text only: the import path and the JSON of the stage, the URLs of its inputs, and the key and code
digest that the driver has computed. It computes both again and refuses where they differ, because then its node has
other code than the driver.
"""

import importlib
import importlib.metadata
import json
import platform
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from cluster.resources import device
from pipeline.artifact import StoredCheckpoints, StoredInput, StoredOutput, TornPartError, TrainingOutput
from pipeline.drift import Code, combined_code
from pipeline.errors import MissingError, PipelineError, RootError, StaleCodeError
from pipeline.key import key_of
from pipeline.manifest import (
    Head,
    Manifest,
    Object,
    Owner,
    Receipt,
    Ref,
    folder_of,
    missing,
    read_receipt,
    read_receipts,
    read_record,
    receipt_name,
    write_record,
)
from pipeline.store import Store, open_store
from pipeline.worker_log import kept, unheard
from stages.contract import Gang, Part, Stage, Summary
from stages.external import code as user_code
from stages.training.precision import Precision, noted

if TYPE_CHECKING:
    from cluster.executor import GangContext

LOOK_SECONDS = (0.2, 0.4, 0.8, 1.6, 3.2, 0.0)
"""How long a worker waits, from try to try, for what the driver has just created: a shared folder may be late."""

VERSIONED = {
    "lightly": "lightly",
    "numpy": "numpy",
    "pandas": "pandas",
    "pillow": "PIL",
    "pyarrow": "pyarrow",
    "ray": "ray",
    "scikit-learn": "sklearn",
    "timm": "timm",
    "torch": "torch",
    "torchvision": "torchvision",
    "transformers": "transformers",
    "webdataset": "webdataset",
    "zarr": "zarr",
}
"""Distributions whose versions stand in a manifest, and the modules that show that they were used."""


class Task(BaseModel):
    """What a worker is sent. `part` is None for `train` and `merge`.

    `former`: see `pipeline.key.Key`. `code_files` are the user's files of code, path -> sha256: any step may read an
    encoder that one of them builds. `opened_by` and `opened_code` say who has opened the generation, and by which code:
    they stand in its `artifact.json`, and so no part has to read that. `accept_drift`: this code may go on with it.
    """

    model_config = ConfigDict(frozen=True)

    store: str
    stage: str
    fields: dict[str, Any]
    inputs: dict[str, Ref]
    external: dict[str, str]
    key: str
    former: bool = False
    code: str
    code_files: dict[str, str] = {}
    generation: int
    opened_by: Owner
    opened_code: str
    accept_drift: bool = False
    executor: str
    run: str
    step: str
    part: Part | None = None


@dataclass(frozen=True)
class _Assignment:
    """A task with its stage, store and inputs opened in this process."""

    task: Task
    stage: Stage
    store: Store
    folder: str
    inputs: dict[str, StoredInput]

    def kept(self, work: str) -> AbstractContextManager[None]:
        """Keeps what is printed meanwhile."""
        return kept(self.store, self.task.run, self.task.step, work)

    def output(self, parts: Mapping[str, Object] | None = None) -> StoredOutput:
        task = self.task
        return StoredOutput(self.store, self.folder, self.stage.bitwise, task.opened_by, parts, task.accept_drift)


@dataclass(frozen=True)
class _Context:
    """`stages.contract.Context`: the executor's knowledge of the gang, and the store's checkpoints."""

    rank: int
    world: int
    device: str
    checkpoints: StoredCheckpoints
    report: Callable[[int, int, Mapping[str, float]], None]


class _NoOutput:
    """The output of ranks other than 0."""

    def put(self, name: str, data: bytes | Path, check: Callable[[bytes], None] | None = None) -> bytes:
        raise AssertionError(f"only rank 0 writes objects, not this rank ({name})")

    def read(self, name: str) -> bytes:
        raise AssertionError(f"only rank 0 reads what it has put, not this rank ({name})")


def work(payload: dict[str, Any]) -> dict[str, Any]:
    """Does one part and writes its receipt; a part that has one is left alone.

    A part whose objects would be of two attempts gets no receipt. `merge` misses it then, and the part is made again.
    """
    assignment = _assignment(payload)
    part = assignment.task.part
    assert part is not None
    receipt = read_receipt(assignment.store, assignment.folder, part.index)
    if receipt is None:
        started = time.perf_counter()
        out = assignment.output()
        try:
            with assignment.kept(f"part{part.index:05d}"), noted() as precisions:
                state = _state(assignment)
                summary = _plain(assignment.stage.work(part, state, assignment.inputs, out))
        except TornPartError:
            seconds = time.perf_counter() - started
            return {"part": part.index, "seconds": seconds, "adopted": len(out.adopted), "size_bytes": 0}
        seconds = time.perf_counter() - started
        ours = _receipt(assignment, part.index, out.objects, tuple(out.adopted), summary, seconds, precisions)
        receipt, _ = write_record(assignment.store, f"{assignment.folder}/{receipt_name(part.index)}", ours)
    return _report(receipt)


def train(payload: dict[str, Any], context: "GangContext") -> dict[str, Any]:
    """Trains on this rank; rank 0 writes the receipt.

    Of several attempts at one generation only one's files count (`TrainingOutput`).
    """
    assignment = _assignment(payload)
    assert isinstance(assignment.stage, Gang)
    started = time.perf_counter()
    checkpoints = StoredCheckpoints(assignment.store, assignment.folder)
    out = TrainingOutput(assignment.store, assignment.folder, checkpoints.attempt)
    # Several ranks might read different answers to this, so they train on from the last checkpoint.
    decision = out.decided() if context.world == 1 else None
    if decision is None:
        given = _Context(context.rank, context.world, context.device, checkpoints, unheard()(context.report))
        with assignment.kept(f"rank{context.rank}"), noted() as precisions:
            output = out if context.rank == 0 else _NoOutput()
            summary = _plain(assignment.stage.train(given, assignment.inputs, output))
        if context.rank != 0:
            return {}
        seconds = time.perf_counter() - started
        decision = out.decide(_receipt(assignment, 0, out.objects, (), summary, seconds, precisions))
    out.publish(decision)
    receipt, _ = write_record(assignment.store, f"{assignment.folder}/{receipt_name(0)}", decision.receipt)
    out.clean()
    return _report(receipt)


def merge(payload: dict[str, Any]) -> dict[str, Any]:
    """Merges the parts and commits: writes the manifest, last.

    Returns `{"digest", "size_bytes", "seconds", "summary", "drift"}`, or `{"problems"}` where objects that a receipt
    lists, or receipts themselves, are gone: then nothing was committed.
    """
    assignment = _assignment(payload)
    started = time.perf_counter()
    head = read_record(assignment.store, f"{assignment.folder}/artifact.json", Head)
    try:
        receipts = read_receipts(assignment.store, assignment.folder, head.parts)
    except MissingError as error:
        return {"problems": [f"a part has no receipt that is its own ({error.expected})"]}
    objects: dict[str, Object] = {}
    for receipt in receipts:
        if problems := _disagreements(objects, receipt.objects):
            return {"problems": problems}
        objects |= receipt.objects
    entries = {entry.name[len(assignment.folder) + 1 :]: entry for entry in assignment.store.entries(assignment.folder)}
    if lost := missing(objects, entries):
        return {"problems": list(lost[:10])}
    if isinstance(assignment.stage, Gang):
        summary = receipts[0].summary
    else:
        out = assignment.output(objects)
        try:
            with assignment.kept("merge"):
                summaries = [receipt.summary for receipt in receipts]
                summary = _plain(assignment.stage.merge(summaries, assignment.inputs, out))
        except TornPartError as error:
            return {"problems": [f"another merge has ended in between ({error.expected})"]}
        if problems := _disagreements(objects, out.objects):
            return {"problems": problems}
        objects |= out.objects
    manifest = Manifest(
        stage=assignment.stage.name,
        key=assignment.task.key,
        document=head.document,
        code=combined_code([receipt.code for receipt in receipts] + [assignment.task.code]),
        inputs=head.inputs,
        parts=head.parts,
        objects=dict(sorted(objects.items())),
        summary=summary,
        seconds=sum(receipt.seconds for receipt in receipts) + time.perf_counter() - started,
        # The process that merges may have loaded less than those that worked.
        versions={name: version for receipt in receipts for name, version in receipt.versions.items()} | _versions(),
        arithmetic=tuple(sorted({precision for receipt in receipts for precision in receipt.arithmetic})),
        owner=Owner.here(assignment.task.run),
        executor=assignment.task.executor,
        created=time.time(),
    )
    stored, _ = write_record(assignment.store, f"{assignment.folder}/manifest.json", manifest)
    return {
        "digest": stored.digest,
        "size_bytes": stored.size_bytes,
        "seconds": stored.seconds,
        "summary": stored.summary,
        "drift": stored.code != assignment.task.code,
    }


def _disagreements(known: Mapping[str, Object], found: Mapping[str, Object]) -> list[str]:
    """What two tables of contents say differently, as sentences."""
    return [f"two parts disagree about {name}" for name, entry in found.items() if known.get(name, entry) != entry]


def _class_of(task: Task) -> type[Stage]:
    """The class of the stage. Raises InputError where it is in a file of code that is not here as the driver has it."""
    location, _, name = task.stage.rpartition(":")
    found: type[Stage]
    if location.endswith(".py"):
        found = user_code.member(task.stage, task.code_files[location])
    else:
        found = getattr(importlib.import_module(location), name)
    return found


def _assignment(payload: dict[str, Any]) -> _Assignment:
    """Opens what a task names. Raises `StaleCodeError` where this process has another key or other code."""
    task = Task.model_validate(payload)
    user_code.named(task.code_files)
    cls = _class_of(task)
    stage = cls.model_validate(task.fields)
    inputs_keys = {name: ref.key for name, ref in task.inputs.items()}
    _same("key", key_of(stage, inputs_keys, task.external, task.former).digest, task.key)
    _same("code", _code_digest(cls), task.code)
    store = open_store(task.store)
    folder = folder_of(stage.name, task.key, task.generation)
    if store.url.startswith("file://"):
        _require_same_folder(store, f"{folder}/artifact.json", task.opened_by)
    inputs = {name: StoredInput(ref) for name, ref in task.inputs.items()}
    return _Assignment(task, stage, store, folder, inputs)


def _require_same_folder(store: Store, name: str, opened_by: Owner) -> None:
    """Raises `RootError` where the driver's folder is not here: what is written here nobody would find."""
    for pause in LOOK_SECONDS:
        try:
            store.head(name)
            return
        except MissingError:
            time.sleep(pause)
    raise RootError(
        f"the store {store.url} of {opened_by} on {Owner.here()}",
        f"another folder, without {name}",
        "Name one that every machine reaches with --store: a bucket, or a folder on NFS.",
    )


def _same(what: str, ours: str, theirs: str) -> None:
    if ours != theirs:
        raise StaleCodeError(
            f"the {what} {theirs[:16]} that the driver computed",
            f"{ours[:16]} by {Owner.here()}",
            "Install the same version of the project on every machine, and restart the cluster if it was changed.",
        )


@cache
def _code_digest(cls: type[Stage]) -> str:
    code = Code()
    digest = code.digest(cls)
    code.save()
    return digest


_held: tuple[str, Any] | None = None


def _state(assignment: _Assignment) -> Any:
    """The result of `setup`, kept for the next part of the same step. Only one is kept: it may be a whole network."""
    global _held
    refs = {name: ref.model_dump() for name, ref in assignment.task.inputs.items()}
    name = json.dumps([assignment.task.key, assignment.task.code, refs], sort_keys=True)
    held = _held
    if held is None or held[0] != name:
        _held = held = None
        held = (name, assignment.stage.setup(assignment.inputs, device() if assignment.stage.gpu else "cpu"))
        _held = held
    return held[1]


def _receipt(
    assignment: _Assignment,
    part: int,
    objects: Mapping[str, Object],
    adopted: tuple[str, ...],
    summary: Summary,
    seconds: float,
    precisions: set[Precision],
) -> Receipt:
    code = assignment.task.code
    # Checkpoints and adopted objects may be of the code that began the generation; equal bytes are anybody's.
    if isinstance(assignment.stage, Gang) or (adopted and not assignment.stage.bitwise):
        code = combined_code([assignment.task.opened_code, code])
    return Receipt(
        part=part,
        objects=dict(objects),
        adopted=adopted,
        summary=summary,
        code=code,
        seconds=seconds,
        versions=_versions(),
        arithmetic=tuple(sorted(precisions)),
        owner=Owner.here(assignment.task.run),
        executor=assignment.task.executor,
        created=time.time(),
    )


def _report(receipt: Receipt) -> dict[str, Any]:
    return {
        "part": receipt.part,
        "seconds": receipt.seconds,
        "adopted": len(receipt.adopted),
        "size_bytes": sum(entry.size for entry in receipt.objects.values()),
    }


def _plain(summary: Summary) -> Summary:
    """A summary as it will be read back. Raises `PipelineError` where it is not plain JSON."""
    try:
        plain: Summary = json.loads(json.dumps(summary, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise PipelineError(
            "a summary of plain JSON: str, int, finite float, bool, None, list, dict",
            str(error),
            "Change what the stage returns.",
        ) from error
    return plain


def _versions() -> dict[str, str]:
    """Versions of Python and of the libraries that this process has loaded."""
    loaded = [name for name, module in VERSIONED.items() if module in sys.modules]
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in loaded}}
