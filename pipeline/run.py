"""The engine: brings the steps of a graph to done, doing only what the store does not hold.

For each step: its key; how its artifact stands (`manifest.survey`); what that means today (`plan.judge`). A hit is left
alone. Otherwise the newest generation is continued where it is open and was begun by this code from these inputs, and
closed and followed by the next where not; what is intact of a damaged one is carried over. Parts without a receipt are
run, then `merge` commits. Whatever stops a run, the same command goes on from what the store holds.

Steps begin as soon as all that they read is there. The main thread walks the graph: it finds hits, readies store
and executor, and gives each step with work a thread of its own, where the executor takes several. A thread does one
step from lease to commit. Of what happens in threads only events, and what they return, is shared.
"""

import json
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from cluster.errors import StoppedError
from cluster.executor import Executor
from pipeline.artifact import StoredInput
from pipeline.drift import Code
from pipeline.errors import (
    AccessError,
    SeveralFailedError,
    StepFailedError,
    StoreError,
    UnansweredError,
    UsageError,
    exit_code,
)
from pipeline.events import EventLog, Listener, new_run_id
from pipeline.fingerprint import Fingerprints
from pipeline.forecast import order
from pipeline.key import Key
from pipeline.lease import Lease, server_time
from pipeline.manifest import Head, InputRecord, Ref, Survey, close_generation, open_generation, survey, surveys
from pipeline.plan import State, files_of_code, fits, guesses, judge, keys_of
from pipeline.salvage import salvage
from pipeline.step import Step
from pipeline.store import Store
from pipeline.studies import latest, point
from pipeline.work import Halt, Work, split
from pipeline.worker import Task
from stages.contract import Stage, Summary
from stages.errors import InputError
from stages.external import code as user_code
from stages.external.files import sha256_of

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
    until: str | None = None,
    accept_drift: bool = False,
    keep_going: bool = False,
    on_busy: Literal["wait", "fail"] = "wait",
    ranks: int | None = 1,
    least_ranks: int | None = None,
    listener: Listener | None = None,
) -> RunResult:
    """Brings every step to done and returns where the artifacts are.

    `executor` is called and entered when the first step has work. `force` names steps that are made anew whatever the
    store holds; `until` the step that is wanted: only it and what it needs are brought to done. `accept_drift`
    continues what other code has begun. `study` is the name under which the artifacts are remembered. Gangs run on
    `ranks` ranks at most; None: each on as many as it usually takes, one per CPU at most. With `least_ranks` they are
    elastic and go on with as few as that. `listener` is called for one event at a time, in whatever thread.

    Once something has failed no further step or part begins, and what has begun ends; with `keep_going` all goes on
    that does not need what failed. Then the error is raised: `StepFailedError`, `BusyError`, `StoreError`,
    `UsageError`, `InputError`, or `SeveralFailedError`, which names all.
    """
    names = {step.name for step in graph}
    for option, given in (("--force", force), ("--until", () if until is None else (until,))):
        if unknown := sorted(set(given) - names):
            raise UsageError(f"{option} to name a step ({', '.join(sorted(names))})", unknown[0], "Correct the name.")
    with ExitStack() as stack:
        halt = Halt(keep_going)
        engine = _Engine(store, executor, stack, listener, accept_drift, halt, on_busy, ranks, least_ranks)
        try:
            return engine.run(graph, study, frozenset(force), until)
        except BaseException as error:
            engine.failed(error)
            raise


@dataclass(frozen=True)
class _Done:
    """A step that is done in this run: its artifact and its result."""

    ref: Ref
    result: StepResult

    @property
    def source(self) -> InputRecord:
        """How it is recorded in what is made from it."""
        return InputRecord(key=self.ref.key, generation=self.ref.generation, digest=self.ref.digest)


@dataclass(frozen=True)
class _Job:
    """A step with all that says what it is today: its key, its inputs, its code."""

    step: Step
    key: Key
    inputs: Mapping[str, _Done]
    code: str
    forced: bool
    order: int = 0

    @property
    def stage(self) -> Stage:
        return self.step.stage

    @property
    def sources(self) -> dict[str, InputRecord]:
        return {name: entry.source for name, entry in self.inputs.items()}

    def fit(self, head: Head, parts: int, accept_drift: bool) -> bool:
        """Whether a generation was begun from the same inputs by the same code."""
        return not fits(head, self.sources) and head.parts == parts and (accept_drift or head.code == self.code)


class _LeftError(Exception):
    """A step ends unfinished, because something else has failed or all is to end."""


@dataclass
class _Walk:
    """How far the main thread has come with the graph: steps by name, artifacts by key.

    `left` are steps that wait for others, `ready` those with work that wait for a thread. What has ended without an
    artifact is in `failed`, with the name of the step by whose key it was at work.
    """

    left: list[Step]
    ready: list[_Job] = field(default_factory=list)
    at_work: dict[str, threading.Thread] = field(default_factory=dict)
    done: dict[str, _Done] = field(default_factory=dict)
    by_key: dict[str, _Done] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    errors: list[Exception] = field(default_factory=list)
    ended: "queue.SimpleQueue[tuple[_Job, _Done | BaseException]]" = field(default_factory=queue.SimpleQueue)


class _Engine:
    """One run. Its state is only a memo; all that must survive is in the store."""

    def __init__(
        self,
        store: Store,
        executor: Callable[[], Executor],
        stack: ExitStack,
        listener: Listener | None,
        accept_drift: bool,
        halt: Halt,
        on_busy: Literal["wait", "fail"],
        ranks: int | None,
        least_ranks: int | None,
    ) -> None:
        self._store = store
        self._make_executor = executor
        self._stack = stack
        self._accept_drift = accept_drift
        self._halt = halt
        self._on_busy = on_busy
        self._ranks, self._least_ranks = ranks, least_ranks
        self._executor: Executor | None = None
        self._working = False
        self._run_id = new_run_id(time.time())
        self._events = EventLog(store, listener)
        self._code = Code()
        self._plan: dict[str, Any] = {}
        """`plan.json` but for the run's id."""
        self._surveyed: dict[str, Survey] = {}
        self._code_files: dict[str, str] = {}

    def run(
        self, graph: Sequence[Step], study: str | None, force: frozenset[str], until: str | None = None
    ) -> RunResult:
        """See the function of this name."""
        started = time.time()
        self._store.recognise()
        self._events.emit("run_started", study=study, host=socket.gethostname(), pid=os.getpid())
        fingerprints = Fingerprints(refresh=True)
        wanted = list(graph) if until is None else _needed(graph, until)
        if unneeded := sorted(force - {step.name for step in wanted}):
            raise UsageError(f"--force of steps that {until} needs", unneeded[0], "Leave it out, or leave out --until.")
        keys = keys_of(wanted, fingerprints, self._store)
        self._code_files = {path: sha256_of(user_code.here(path)) for path in files_of_code(wanted)}
        fingerprints.save()
        self._plan = _plan(study, wanted, keys)
        forced = {keys[name].digest for name in force}
        if self._store.far:
            self._surveyed = self._all_surveyed(wanted, keys)
        # All before the first step: code that is edited during the run counts for none of them.
        codes = {step.name: self._code.digest(type(step.stage)) for step in wanted}
        self._code.save()
        done = self._walk(wanted, keys, codes, forced)
        if study is not None:
            refs = {name: entry.ref for name, entry in done.items()}
            point(self._store, study, self._run_id, self._others(graph, study, refs) | refs)
        self._events.emit("run_done", seconds=time.time() - started)
        self._events.flush()
        results = tuple(replace(done[step.name].result, name=step.name) for step in wanted)
        return RunResult(self._run_id if self._working else None, results)

    def _all_surveyed(self, graph: Sequence[Step], keys: Mapping[str, Key]) -> dict[str, Survey]:
        """How all artifacts stand, asked for together."""
        try:
            return surveys(self._store, [(step.stage.name, keys[step.name].digest) for step in graph])
        except (AccessError, UnansweredError):
            raise
        except StoreError:
            # A damaged record is the failure of its own step, which is surveyed when its turn comes.
            return {}

    def _others(self, graph: Sequence[Step], study: str, done: Mapping[str, Ref]) -> dict[str, Ref]:
        """The artifacts that a study's other steps had and, by their keys, still have, where only some were wanted."""
        if len(done) == len(graph):
            return {}
        newest = latest(self._store, study)
        before = newest.steps if newest is not None else {}
        try:
            keys = keys_of(graph, Fingerprints(refresh=False), self._store)
        except InputError:
            # A source of theirs is not there today, so nothing says whether they still are what they were.
            return {}
        return {name: ref for name, ref in before.items() if name in keys and keys[name].digest == ref.key}

    def _walk(
        self, graph: Sequence[Step], keys: Mapping[str, Key], codes: Mapping[str, str], forced: set[str]
    ) -> dict[str, _Done]:
        """Brings all steps to done, each when what it reads is there."""
        walk = _Walk(list(graph))
        try:
            while True:
                while self._judge_ready(walk, keys, codes, forced):
                    pass
                self._begin(walk, graph)
                if not walk.at_work and walk.ended.empty():
                    break
                job, ended = walk.ended.get()
                if (thread := walk.at_work.pop(job.key.digest, None)) is not None:
                    thread.join()
                self._ended(walk, job, ended)
        except BaseException:
            self._give_up(walk)
            raise
        if walk.errors:
            for step in [*(job.step for job in walk.ready), *walk.left]:
                lacking = [name for name in step.inputs.values() if name not in walk.done]
                because = [*lacking, *walk.failed.values()][0]
                self._events.emit("step_skipped", step.name, because=because)
            raise walk.errors[0] if len(walk.errors) == 1 else SeveralFailedError(walk.errors)
        return {step.name: walk.done[step.name] for step in graph}

    def _judge_ready(self, walk: _Walk, keys: Mapping[str, Key], codes: Mapping[str, str], forced: set[str]) -> bool:
        """Judges the steps whose inputs are there: hits are done, others have work. Returns whether there were any."""
        before = len(walk.left)
        waiting = {job.key.digest for job in walk.ready}
        for step in list(walk.left):
            key = keys[step.name]
            if self._halt() or not all(name in walk.done for name in step.inputs.values()):
                continue
            if key.digest in walk.by_key:
                walk.done[step.name] = walk.by_key[key.digest]
            elif key.digest in waiting or key.digest in walk.at_work or key.digest in walk.failed:
                # Another step of that key is at work, and this one has then what that has.
                continue
            else:
                inputs = {name: walk.done[source] for name, source in step.inputs.items()}
                job = _Job(step, key, inputs, codes[step.name], key.digest in forced)
                # The surveys taken at the start count until something is done; after that they may be hours old.
                known = None if self._working else self._surveyed.get(key.digest)
                try:
                    found, state, _ = self._survey(job, known)
                except Exception as error:
                    # As where its work fails: others are at work, and go on.
                    self._ended(walk, job, self._failed(job, error))
                else:
                    if job.forced or state not in ("done", "DRIFT"):
                        walk.ready.append(job)
                        waiting.add(key.digest)
                    else:
                        walk.done[step.name] = walk.by_key[key.digest] = self._hit(job, found, state)
            walk.left.remove(step)
        return len(walk.left) < before

    def _begin(self, walk: _Walk, graph: Sequence[Step]) -> None:
        """Begins steps that have work: in threads as many as the executor takes, else one, in this thread."""
        if not walk.ready or self._halt():
            return
        self._ready_store()
        executor = self._ready_executor()
        orders = self._orders(graph, walk.done, executor.steps_at_once)
        walk.ready.sort(key=lambda job: orders[job.step.name])
        if executor.steps_at_once == 1:
            job = walk.ready.pop(0)
            walk.ended.put((job, self._attempt(job)))
            return
        while walk.ready and len(walk.at_work) < executor.steps_at_once:
            job = walk.ready.pop(0)
            job = replace(job, order=orders[job.step.name])
            thread = threading.Thread(
                target=lambda job=job: walk.ended.put((job, self._attempt(job, everything=True))),
                name=f"step {job.step.name}",
            )
            walk.at_work[job.key.digest] = thread
            thread.start()

    def _orders(self, graph: Sequence[Step], done: Mapping[str, _Done], at_once: int) -> dict[str, int]:
        """Who goes first where not all have room; one at a time, the order of the graph."""
        in_graph = {step.name: number for number, step in enumerate(graph)}
        if at_once == 1:
            return in_graph
        try:
            known = guesses(graph, {name: entry.result.summary for name, entry in done.items()})
        except Exception:
            # Estimates are for speed alone, and `plan` shows what is wrong with one.
            return in_graph
        return order(graph, {name: guess.cpu_seconds for name, guess in known.items()})

    def _attempt(self, job: _Job, everything: bool = False) -> "_Done | BaseException":
        """A step's result, or the error that it ends with; `everything`: also what is no `Exception`."""
        try:
            return self._step(job)
        except (StoppedError, _LeftError) as error:
            self._events.emit("step_left", job.step.name, reason="no further part was to begin")
            return _LeftError(error)
        except Exception as error:
            return self._failed(job, error)
        except BaseException as error:
            if not everything:
                raise
            return error

    def _failed(self, job: _Job, error: Exception) -> Exception:
        """Records that a step ends with an error, and returns that."""
        self._halt.failed()
        self._events.emit("step_left", job.step.name, reason=str(error) or type(error).__name__)
        return error

    def _ended(self, walk: _Walk, job: _Job, ended: "_Done | BaseException") -> None:
        """Takes note of how a step has ended. Raises what is nobody's failure but ours."""
        if isinstance(ended, _Done):
            walk.done[job.step.name] = walk.by_key[job.key.digest] = ended
            return
        walk.failed[job.key.digest] = job.step.name
        if isinstance(ended, _LeftError):
            return
        if not isinstance(ended, Exception) or exit_code(ended) == 1:
            raise ended
        walk.errors += ended.errors if isinstance(ended, SeveralFailedError) else [ended]

    def _give_up(self, walk: _Walk) -> None:
        """Ends all steps at work, and waits until their leases are released and their workers gone."""
        self._halt.now()
        if self._executor is not None:
            self._executor.stop()
        for thread in walk.at_work.values():
            thread.join()

    def failed(self, error: BaseException) -> None:
        """Records that the run ended with an error."""
        self._events.emit("run_failed", message=str(error) or type(error).__name__)
        self._events.flush()

    def _step(self, job: _Job) -> _Done:
        """The work of a step, under the lease; a hit where another run has done it meanwhile."""
        reported = False

        def on_wait(owner: str) -> None:
            nonlocal reported
            if self._halt():
                raise _LeftError
            if not reported:
                self._events.emit("step_waiting", job.step.name, owner=owner)
                reported = True

        lease = Lease(self._store, f"{job.stage.name}/{job.key.short}", self._run_id)
        lease.acquire(self._on_busy, on_wait)
        with lease:
            found, state, reason = self._survey(job)
            if not job.forced and state in ("done", "DRIFT"):
                return self._hit(job, found, state)
            return self._do(job, found, "forced" if job.forced else reason, job.forced, lease)

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
            # Runs sort by the clock of the store: that of a machine may be hours off.
            self._run_id = new_run_id(server_time(self._store))
            plan = {"format": 1, "run": self._run_id} | self._plan
            self._store.create_or_read(f"runs/{self._run_id}/plan.json", json.dumps(plan, indent=1).encode())
            self._events.keep(self._run_id)
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
            task = self._task(job, number, head, executor)
            work = Work(job.step, task, executor, self._events, self._halt, job.order)
            if not work.run(todo, len(parts), lease, self._ranks, self._least_ranks):
                raise _LeftError
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

    def _task(self, job: _Job, number: int, head: Head, executor: Executor) -> Task:
        return Task(
            store=self._store.url,
            stage=job.stage.import_path(),
            fields=job.stage.model_dump(mode="json"),
            inputs={name: entry.ref for name, entry in job.inputs.items()},
            external=job.key.document["external"],
            key=job.key.digest,
            former=job.key.former,
            code=job.code,
            code_files=self._code_files,
            generation=number,
            opened_by=head.owner,
            opened_code=head.code,
            accept_drift=self._accept_drift,
            executor=executor.name,
            run=self._run_id,
            step=job.step.name,
        )


def _needed(graph: Sequence[Step], until: str) -> list[Step]:
    """A step and all that it needs, in the order of the graph."""
    needed = {until}
    for step in reversed(graph):
        if step.name in needed:
            needed |= set(step.inputs.values())
    return [step for step in graph if step.name in needed]


def _plan(study: str | None, graph: Sequence[Step], keys: Mapping[str, Key]) -> dict[str, Any]:
    """`plan.json`: what a run is about to bring to done; a root for whoever collects garbage."""
    steps = {
        step.name: {"stage": step.stage.name, "key": keys[step.name].digest, "inputs": dict(step.inputs)}
        for step in graph
    }
    return {"study": study, "created": time.time(), "steps": steps}
