"""The engine: brings the steps of a graph to done, in order, doing only what the store does not hold.

For each step: its key; how its artifact stands (`manifest.survey`); what that means today (`plan.judge`). A hit is
left alone. Otherwise the newest generation is continued where it is open and was begun by this code from these
inputs, and closed and followed by the next where not; what is intact of a damaged one is carried over. Parts without
a receipt are run, then `merge` commits. Whatever stops a run, the same command goes on from what the store holds.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal

from cluster.executor import Executor
from pipeline.artifact import StoredInput
from pipeline.drift import Code
from pipeline.errors import StepFailedError, UsageError
from pipeline.events import EventLog, Listener, new_run_id
from pipeline.fingerprint import Fingerprints
from pipeline.key import Key
from pipeline.lease import Lease
from pipeline.manifest import Head, Ref, Source, Survey, close_generation, open_generation, survey, surveys
from pipeline.plan import State, fits, judge, keys_of
from pipeline.salvage import salvage
from pipeline.step import Step
from pipeline.store import Store
from pipeline.studies import point
from pipeline.work import Work, split
from pipeline.worker import Task, import_path
from stages.contract import Stage, Summary

GENERATIONS_TRIED = 5
"""How many generations one run opens for a step before it gives up: more means that runs close each other's."""


@dataclass(frozen=True)
class StepResult:
    """The result of a step: `hit` (nothing was done) or `made`, the URL of its artifact, and its summary.

    `drift`: other code than today's made it.
    """

    name: str
    stage: str
    key: str
    url: str
    outcome: Literal["hit", "made"]
    drift: bool
    parts_run: int
    seconds: float
    summary: Summary


@dataclass(frozen=True)
class RunResult:
    """What a run did. `run_id` is None where nothing had to be done."""

    run_id: str | None
    steps: tuple[StepResult, ...]

    def url(self, step: str) -> str:
        """Where the artifact of a step is."""
        return self._of(step).url

    def summary(self, step: str) -> Summary:
        """What the artifact of a step says about itself."""
        return self._of(step).summary

    def _of(self, step: str) -> StepResult:
        return next(entry for entry in self.steps if entry.name == step)


def run(
    graph: Sequence[Step],
    store: Store,
    executor: Callable[[], Executor],
    *,
    study: str | None = None,
    force: Collection[str] = (),
    accept_drift: bool = False,
    on_busy: Literal["wait", "fail"] = "wait",
    ranks: int | None = 1,
    least_ranks: int | None = None,
    listener: Listener | None = None,
) -> RunResult:
    """Brings every step to done and returns where the artifacts are.

    `executor` is called and entered when the first step has work. `force` names steps that are made anew whatever the
    store holds; `accept_drift` continues what other code has begun. `study` is the name under which the artifacts are
    remembered. Gangs run on `ranks` ranks at most; None: each on as many as it usually takes, one per CPU at most.
    With `least_ranks` they are elastic and go on with as few as that. Raises
    `StepFailedError`, `BusyError`, `StoreError`, `UsageError`, `InputError`.
    """
    names = {step.name for step in graph}
    if unknown := sorted(set(force) - names):
        raise UsageError(f"--force to name steps ({', '.join(sorted(names))})", unknown[0], "Correct the name.")
    with ExitStack() as stack:
        engine = _Engine(store, executor, stack, listener, accept_drift, on_busy, ranks, least_ranks)
        try:
            return engine.run(graph, study, frozenset(force))
        except BaseException as error:
            engine.failed(error)
            raise


@dataclass(frozen=True)
class _Done:
    """A step that is done in this run: its artifact and its result."""

    ref: Ref
    result: StepResult

    @property
    def source(self) -> Source:
        """How it is recorded in what is made from it."""
        return Source(key=self.ref.key, generation=self.ref.generation, digest=self.ref.digest)


@dataclass(frozen=True)
class _Job:
    """A step with all that says what it is today: its key, its inputs, its code."""

    step: Step
    key: Key
    inputs: Mapping[str, _Done]
    code: str

    @property
    def stage(self) -> Stage:
        return self.step.stage

    @property
    def sources(self) -> dict[str, Source]:
        return {name: entry.source for name, entry in self.inputs.items()}

    def fit(self, head: Head, parts: int, accept_drift: bool) -> bool:
        """Whether a generation was begun from the same inputs by the same code."""
        return not fits(head, self.sources) and head.parts == parts and (accept_drift or head.code == self.code)


class _Engine:
    """One run. Its state is only a memo; all that must survive is in the store."""

    def __init__(
        self,
        store: Store,
        executor: Callable[[], Executor],
        stack: ExitStack,
        listener: Listener | None,
        accept_drift: bool,
        on_busy: Literal["wait", "fail"],
        ranks: int | None,
        least_ranks: int | None,
    ) -> None:
        self._store = store
        self._make_executor = executor
        self._stack = stack
        self._accept_drift = accept_drift
        self._on_busy = on_busy
        self._ranks, self._least_ranks = ranks, least_ranks
        self._executor: Executor | None = None
        self._working = False
        self._run_id = new_run_id()
        self._events = EventLog(store, self._run_id, listener)
        self._code = Code()
        self._plan: dict[str, Any] = {}
        self._surveyed: dict[str, Survey] = {}

    def run(self, graph: Sequence[Step], study: str | None, force: frozenset[str]) -> RunResult:
        """See the function of this name."""
        started = time.time()
        self._store.recognise()
        self._events.emit("run_started", study=study, host=socket.gethostname(), pid=os.getpid())
        fingerprints = Fingerprints(refresh=True)
        keys = keys_of(graph, fingerprints)
        fingerprints.save()
        self._plan = _plan(self._run_id, study, graph, keys)
        forced = {keys[name].digest for name in force}
        if self._store.far:
            self._surveyed = surveys(self._store, [(step.stage.name, keys[step.name].digest) for step in graph])
        # All before the first step: code that is edited during the run counts for none of them.
        codes = {step.name: self._code.digest(type(step.stage)) for step in graph}
        self._code.save()
        done: dict[str, _Done] = {}
        by_key: dict[str, _Done] = {}
        for step in graph:
            key = keys[step.name]
            if key.digest not in by_key:
                inputs = {name: done[source] for name, source in step.inputs.items()}
                job = _Job(step, key, inputs, codes[step.name])
                by_key[key.digest] = self._step(job, key.digest in forced)
            done[step.name] = by_key[key.digest]
        if study is not None:
            point(self._store, study, self._run_id, {name: entry.ref for name, entry in done.items()})
        self._events.emit("run_done", seconds=time.time() - started)
        self._events.flush()
        results = tuple(replace(done[step.name].result, name=step.name) for step in graph)
        return RunResult(self._run_id if self._working else None, results)

    def failed(self, error: BaseException) -> None:
        """Records that the run ended with an error."""
        self._events.emit("run_failed", message=str(error) or type(error).__name__)
        self._events.flush()

    def _step(self, job: _Job, forced: bool) -> _Done:
        """A hit where the store holds the step; otherwise its work, under the lease."""
        # The surveys taken at the start count until something is done; after that they may be hours old.
        known = None if self._working else self._surveyed.get(job.key.digest)
        found, state, reason = self._survey(job, known)
        if not forced and state in ("done", "DRIFT"):
            return self._hit(job, found, state)
        self._ready_store()
        lease = Lease(self._store, f"{job.stage.name}/{job.key.short}", self._run_id)
        lease.acquire(self._on_busy, lambda owner: self._events.emit("step_waiting", job.step.name, owner=owner))
        with lease:
            found, state, reason = self._survey(job)
            if not forced and state in ("done", "DRIFT"):
                return self._hit(job, found, state)
            return self._do(job, found, "forced" if forced else reason, forced, lease)

    def _survey(self, job: _Job, known: Survey | None = None) -> tuple[Survey, State, str]:
        found = known or survey(self._store, job.stage.name, job.key.digest)
        return (found, *judge(found, job.sources, job.code, self._accept_drift))

    def _hit(self, job: _Job, found: Survey, state: State) -> _Done:
        drift = state == "DRIFT"
        self._events.emit("step_hit", job.step.name, key=found.key, generation=found.number, drift=drift)
        ref = found.ref(self._store)
        assert found.manifest is not None
        summary = found.manifest.summary
        result = StepResult(job.step.name, ref.stage, ref.key, self._url(ref), "hit", drift, 0, 0.0, summary)
        return _Done(ref, result)

    def _url(self, ref: Ref) -> str:
        return self._store.address(ref.folder)

    def _ready_store(self) -> None:
        """Once, before the first work: the store is readied for writing and the run recorded."""
        if not self._working:
            self._store.prepare()
            self._store.create_or_read(f"runs/{self._run_id}/plan.json", json.dumps(self._plan, indent=1).encode())
            self._events.keep()
            self._working = True

    def _ready_executor(self) -> Executor:
        """Once, before the first part: the executor is made and entered."""
        if self._executor is None:
            executor = self._make_executor()
            if self._store.url.startswith("memory://") and executor.name != "inline":
                raise UsageError(
                    "a store that other processes reach",
                    f"{self._store.url} with the executor {executor.name}",
                    "Use a folder or a bucket, or --executor inline.",
                )
            self._executor = self._stack.enter_context(executor)
        return self._executor

    def _do(self, job: _Job, found: Survey, reason: str, forced: bool, lease: Lease) -> _Done:
        """Runs what a generation lacks and commits it; begins another where that one turns out closed or damaged."""
        started = time.perf_counter()
        parts = split(job.step, {name: StoredInput(done.ref, self._store) for name, done in job.inputs.items()})
        parts_run = 0
        for _ in range(GENERATIONS_TRIED):
            number = self._generation(job, found, reason, forced, len(parts))
            forced = False
            head = open_generation(
                self._store, job.stage.name, job.key, number, job.code, job.sources, len(parts), self._run_id
            )
            salvage(self._store, head, number, self._accept_drift)
            found, state, why = self._survey(job)
            if state in ("done", "DRIFT"):
                return self._hit(job, found, state)
            if found.number != number or not job.fit(head, len(parts), self._accept_drift):
                reason = why
                continue
            received = found.received
            todo = [part for part in parts if part.index not in received]
            self._events.emit(
                "step_started",
                job.step.name,
                key=job.key.digest,
                generation=number,
                reason=reason,
                parts=len(parts),
                todo=len(todo),
            )
            executor = self._ready_executor()
            work = Work(job.step, self._task(job, number, executor), executor, self._events)
            work.run(todo, len(parts), lease, self._ranks, self._least_ranks)
            parts_run += len(todo)
            lease.check()
            merged = work.merge()
            if "problems" not in merged:
                seconds = time.perf_counter() - started
                self._events.emit(
                    "step_done",
                    job.step.name,
                    key=job.key.digest,
                    generation=number,
                    seconds=seconds,
                    size_bytes=merged["size_bytes"],
                    summary=merged["summary"],
                )
                self._events.flush()
                ref = Ref(
                    store=self._store.url,
                    stage=job.stage.name,
                    key=job.key.digest,
                    generation=number,
                    digest=merged["digest"],
                )
                result = StepResult(
                    job.step.name,
                    ref.stage,
                    ref.key,
                    self._url(ref),
                    "made",
                    merged["drift"],
                    parts_run,
                    seconds,
                    merged["summary"],
                )
                return _Done(ref, result)
            reason = f"generation {number} was damaged: {merged['problems'][0]}"
            close_generation(self._store, job.stage.name, job.key.digest, number, reason, self._run_id, damaged=True)
            found, _, _ = self._survey(job)
        raise StepFailedError(
            f"to commit a generation of {job.step.name}",
            f"{GENERATIONS_TRIED} generations that were closed or damaged meanwhile",
            "Make sure that only one run forces this step, and that nothing deletes from the store.",
            step=job.step.name,
        )

    def _generation(self, job: _Job, found: Survey, reason: str, forced: bool, parts: int) -> int:
        """The generation to work in; closes the newest one where it cannot be gone on with."""
        if found.standing in ("none", "closed"):
            return found.number + 1
        if not forced and found.standing == "open":
            assert found.head is not None
            if job.fit(found.head, parts, self._accept_drift):
                return found.number
        damaged = found.standing == "broken" and not forced
        close_generation(self._store, job.stage.name, job.key.digest, found.number, reason, self._run_id, damaged)
        return found.number + 1

    def _task(self, job: _Job, number: int, executor: Executor) -> Task:
        return Task(
            store=self._store.url,
            stage=import_path(type(job.stage)),
            fields=job.stage.model_dump(mode="json"),
            inputs={name: entry.ref for name, entry in job.inputs.items()},
            external=job.key.document["external"],
            key=job.key.digest,
            code=job.code,
            generation=number,
            executor=executor.name,
            run=self._run_id,
        )


def _plan(run_id: str, study: str | None, graph: Sequence[Step], keys: Mapping[str, Key]) -> dict[str, Any]:
    """`plan.json`: what a run is about to bring to done; a root for whoever collects garbage."""
    steps = {
        step.name: {"stage": step.stage.name, "key": keys[step.name].digest, "inputs": dict(step.inputs)}
        for step in graph
    }
    return {"format": 1, "run": run_id, "study": study, "created": time.time(), "steps": steps}
