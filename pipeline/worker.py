"""What runs inside an executor: one part (`work`), one training (`train`), or the end of a step (`merge`).

A worker is told by words alone: the import path and the JSON of the stage, where its inputs are, the key and the code
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
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from cluster.resources import device
from pipeline.artifact import StoredCheckpoints, StoredInput, StoredOutput
from pipeline.drift import Code
from pipeline.errors import PipelineError, StaleCodeError
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
    read_record,
    receipt_name,
    write_record,
)
from pipeline.store import Store, open_store
from stages.contract import Gang, Part, Stage, Summary
from stages.training.precision import Precision, noted

if TYPE_CHECKING:
    from cluster.executor import GangContext

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
    """What a worker is told. `part` is None for `train` and `merge`."""

    model_config = ConfigDict(frozen=True)

    store: str
    stage: str
    fields: dict[str, Any]
    inputs: dict[str, Ref]
    external: dict[str, str]
    key: str
    code: str
    generation: int
    executor: str
    run: str
    part: Part | None = None


@dataclass(frozen=True)
class _Bench:
    """A task made concrete in this process."""

    task: Task
    stage: Stage
    store: Store
    folder: str
    head: Head
    inputs: dict[str, StoredInput]

    def output(self, parts: Mapping[str, Object] | None = None) -> StoredOutput:
        return StoredOutput(self.store, self.folder, self.stage.bitwise, self.head.owner, parts)


@dataclass(frozen=True)
class _Context:
    """`stages.contract.Context`: the executor's knowledge of the gang, and the store's checkpoints."""

    rank: int
    world: int
    device: str
    checkpoints: StoredCheckpoints
    report: Callable[[int, int, Mapping[str, float]], None]


class _Nowhere:
    """The output of ranks other than 0."""

    def put(self, name: str, data: bytes | Path, check: Callable[[bytes], None] | None = None) -> bytes:
        raise AssertionError(f"only rank 0 writes objects, not this rank ({name})")

    def read(self, name: str) -> bytes:
        raise AssertionError(f"only rank 0 reads what it has put, not this rank ({name})")


def work(payload: dict[str, Any]) -> dict[str, Any]:
    """Does one part and writes its receipt; a part that has one is left alone."""
    bench = _bench(payload)
    part = bench.task.part
    assert part is not None
    receipt = read_receipt(bench.store, bench.folder, part.index)
    if receipt is None:
        started = time.perf_counter()
        state = _state(bench)
        out = bench.output()
        with noted() as precisions:
            summary = _plain(bench.stage.work(part, state, bench.inputs, out))
        receipt = _receive(bench, part.index, out, summary, time.perf_counter() - started, precisions)
    return _told(receipt)


def train(payload: dict[str, Any], context: "GangContext") -> dict[str, Any]:
    """Trains on this rank; rank 0 writes the receipt."""
    bench = _bench(payload)
    assert isinstance(bench.stage, Gang)
    started = time.perf_counter()
    out = bench.output()
    checkpoints = StoredCheckpoints(bench.store, bench.folder)
    given = _Context(context.rank, context.world, context.device, checkpoints, context.report)
    with noted() as precisions:
        summary = _plain(bench.stage.train(given, bench.inputs, out if context.rank == 0 else _Nowhere()))
    if context.rank != 0:
        return {}
    return _told(_receive(bench, 0, out, summary, time.perf_counter() - started, precisions))


def merge(payload: dict[str, Any]) -> dict[str, Any]:
    """Merges the parts and commits: writes the manifest, last.

    Returns `{"digest", "size_bytes", "seconds", "summary"}`, or `{"problems"}` where objects that a receipt lists are
    gone: then nothing was committed.
    """
    bench = _bench(payload)
    started = time.perf_counter()
    receipts = [
        read_record(bench.store, f"{bench.folder}/{receipt_name(index)}", Receipt) for index in range(bench.head.parts)
    ]
    objects: dict[str, Object] = {}
    for receipt in receipts:
        if problems := _disagreements(objects, receipt.objects):
            return {"problems": problems}
        objects |= receipt.objects
    entries = {entry.name[len(bench.folder) + 1 :]: entry for entry in bench.store.entries(bench.folder)}
    if lost := missing(objects, entries):
        return {"problems": list(lost[:10])}
    if isinstance(bench.stage, Gang):
        summary = receipts[0].summary
    else:
        out = bench.output(objects)
        summary = _plain(bench.stage.merge([receipt.summary for receipt in receipts], bench.inputs, out))
        if problems := _disagreements(objects, out.objects):
            return {"problems": problems}
        objects |= out.objects
    manifest = Manifest(
        stage=bench.stage.name,
        key=bench.task.key,
        document=bench.head.document,
        code=bench.task.code,
        inputs=bench.head.inputs,
        parts=bench.head.parts,
        objects=dict(sorted(objects.items())),
        summary=summary,
        seconds=sum(receipt.seconds for receipt in receipts) + time.perf_counter() - started,
        # The process that merges may have loaded less than those that worked.
        versions={name: version for receipt in receipts for name, version in receipt.versions.items()} | _versions(),
        arithmetic=tuple(sorted({precision for receipt in receipts for precision in receipt.arithmetic})),
        owner=Owner.here(bench.task.run),
        executor=bench.task.executor,
        created=time.time(),
    )
    stored, _ = write_record(bench.store, f"{bench.folder}/manifest.json", manifest)
    return {
        "digest": stored.digest,
        "size_bytes": stored.size_bytes,
        "seconds": stored.seconds,
        "summary": stored.summary,
    }


def _disagreements(known: Mapping[str, Object], found: Mapping[str, Object]) -> list[str]:
    """What two tables of contents say differently, as sentences."""
    return [f"two parts disagree about {name}" for name, entry in found.items() if known.get(name, entry) != entry]


def import_path(stage: type[Stage]) -> str:
    """How a worker finds the class of a stage."""
    assert "." not in stage.__qualname__, f"{stage.__qualname__} must stand at the top of its module"
    return f"{stage.__module__}:{stage.__qualname__}"


def _bench(payload: dict[str, Any]) -> _Bench:
    """Rebuilds what the driver means. Raises `StaleCodeError` where this process would do something else."""
    task = Task.model_validate(payload)
    module, _, name = task.stage.partition(":")
    cls: type[Stage] = getattr(importlib.import_module(module), name)
    stage = cls.model_validate(task.fields)
    _same("key", key_of(stage, {name: ref.key for name, ref in task.inputs.items()}, task.external).digest, task.key)
    _same("code", _code_digest(cls), task.code)
    store = open_store(task.store)
    folder = folder_of(stage.name, task.key, task.generation)
    head = read_record(store, f"{folder}/artifact.json", Head)
    inputs = {name: StoredInput(ref) for name, ref in task.inputs.items()}
    return _Bench(task, stage, store, folder, head, inputs)


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


def _state(bench: _Bench) -> Any:
    """What `setup` made, kept for the next part of the same step; one at a time, because it may be a whole network."""
    global _held
    refs = {name: ref.model_dump() for name, ref in bench.task.inputs.items()}
    name = json.dumps([bench.task.key, bench.task.code, refs], sort_keys=True)
    held = _held
    if held is None or held[0] != name:
        _held = held = None
        held = (name, bench.stage.setup(bench.inputs, device() if bench.stage.gpu else "cpu"))
        _held = held
    return held[1]


def _receive(
    bench: _Bench, part: int, out: StoredOutput, summary: Summary, seconds: float, precisions: set[Precision]
) -> Receipt:
    receipt = Receipt(
        part=part,
        objects=out.objects,
        adopted=tuple(out.adopted),
        summary=summary,
        code=bench.task.code,
        seconds=seconds,
        versions=_versions(),
        arithmetic=tuple(sorted(precisions)),
        owner=Owner.here(bench.task.run),
        executor=bench.task.executor,
        created=time.time(),
    )
    stored, _ = write_record(bench.store, f"{bench.folder}/{receipt_name(part)}", receipt)
    return stored


def _told(receipt: Receipt) -> dict[str, Any]:
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
