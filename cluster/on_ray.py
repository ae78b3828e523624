"""The executor on Ray: parts on actors, gangs of one rank on one wide actor, larger gangs by Ray Train.

An actor holds one call at a time. So what runs is bounded, a call whose actor dies is known to be the one that was
running, and set-up that a function memoises in its process is done once per actor. Nothing large travels through Ray.

Several threads may call `run` and `gang`. Each `run` has a pool of actors of its own, since an actor that served two
steps in turn would set up at every call; `cluster.allocation` says how many it may have, and where a gang goes.

Ray is imported when the executor is entered.
"""

import os
import socket
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

from cluster.allocation import MANY, SOON_SECONDS, Allocation, Gang, Pool, WorkerProcess
from cluster.connect import Connection, check_ours, connect, nodes
from cluster.errors import ForeignCodeError, PayloadError, StoppedError
from cluster.executor import (
    ALONE,
    AttemptResult,
    Call,
    Claim,
    Loss,
    OnDone,
    OnLoss,
    OnProgress,
    Outcome,
    Progress,
    Retries,
    Room,
    encode,
    failure_of,
    perform,
)
from cluster.mailbox import Location, Post, here, open_mailbox, reader
from cluster.ranks import Rank, run_rank
from cluster.resources import device, layout_for_parts, set_threads
from cluster.retry import REMEMBERED, Reports, Tally, limit_seconds
from cluster.shares import Placement
from cluster.training import GivenUpError, run_train

POLL_SECONDS = 0.5
"""How often a thread that waits polls for progress, for room and for the end."""

ROOM_SECONDS = 1.0
"""A change of room is reported at most this often."""

STEPS_AT_ONCE = 32
"""Bounded because every step at work keeps a lease alive."""


class Worker:
    """A process of ours on Ray, `cpus` threads wide. Becomes an actor class in `OnRay`."""

    def __init__(self, cpus: int) -> None:
        set_threads(cpus)

    def locate(self) -> Location:
        """Reports where the worker is, and whether the code there is ours."""
        problem = None
        try:
            check_ours()
        except ForeignCodeError as error:
            problem = (error.expected, error.found, error.remedy)
        return replace(here(), problem=problem)

    def run(self, function: str, payload: str, pause_seconds: float) -> AttemptResult:
        """One attempt of a call."""
        time.sleep(pause_seconds)
        return perform(function, payload)

    def train(self, function: str, payload: str, attempt: int, mailbox: Any) -> AttemptResult:
        """One attempt of a gang of one."""
        post = Post(mailbox)
        try:
            return run_rank(function, payload, Rank(0, 1, device(), attempt), post.send)
        finally:
            post.flush()


class OnRay:
    """Runs calls on Ray; see the module's docstring.

    `address` of a cluster, or None for the Ray of this process or an embedded one with `cpus` and `gpus` of this
    machine. `workers` bounds how many calls run at once. An elastic gang is resized to the room there is every
    `resize_seconds`.
    """

    def __init__(
        self,
        address: str | None = None,
        cpus: int | None = None,
        gpus: int | None = None,
        workers: int | None = None,
        retries: Retries | None = None,
        dashboard_port: int | None = None,
        resize_seconds: float = 60.0,
    ) -> None:
        self._address = address
        self._cpus = cpus
        self._gpus = gpus
        self._workers = workers
        self._retries = retries or Retries()
        self._dashboard_port = dashboard_port
        self._resize_seconds = resize_seconds
        self._connection: Connection | None = None
        self._entered: Allocation | None = None
        self._stopped = threading.Event()

    @property
    def name(self) -> str:
        """`ray`."""
        return "ray"

    @property
    def steps_at_once(self) -> int:
        """See `Executor.steps_at_once`."""
        return STEPS_AT_ONCE

    def slots(self, gpu: bool = False) -> int:
        """See `Executor.slots`."""
        working = [machine for machine in self._allocation.rooms().values() if machine.cpus]
        return layout_for_parts(working, self._workers, gpu).workers if working else 0

    def __enter__(self) -> Self:
        """Connects. Raises `ConnectError`."""
        self._connection = connect(self._address, self._cpus, self._gpus, self._dashboard_port)
        try:
            self._entered = Allocation(self._connection, Worker, self._workers)
        except BaseException:
            self._connection.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Ends the workers, and the embedded Ray where we started it."""
        self._allocation.close()
        assert self._connection is not None
        self._connection.close()
        self._connection = self._entered = None

    @property
    def _allocation(self) -> Allocation:
        assert self._entered is not None, "the executor is not entered"
        return self._entered

    def stop(self) -> None:
        """See `Executor.stop`."""
        self._stopped.set()
        with self._allocation.changed:
            self._allocation.changed.notify_all()

    def run(self, calls: Iterable[Call], on_done: OnDone, gpu: bool = False, claim: Claim = ALONE) -> None:
        """Runs calls on actors; see `Executor.run`. Raises `ConnectError` where no worker starts."""
        allocation = self._allocation
        pool = allocation.open_pool(claim, gpu)
        try:
            tallies = Tallies(self.name, self._retries, iter(calls), claim.on_loss)
            _Run(allocation, pool, self._refresh, tallies, on_done).go()
        finally:
            allocation.close_pool(pool)

    def gang(
        self,
        call: Call,
        ranks: int,
        on_progress: OnProgress | None = None,
        least: int | None = None,
        claim: Claim = ALONE,
    ) -> Outcome:
        """Runs a gang; see `Executor.gang`. Raises `ResourceError` for more ranks than CPUs or GPUs."""
        gang = self._allocation.open_gang(claim, ranks, least)
        try:
            tally = Tally(call, self.name, self._retries, claim.on_loss)
            try:
                payload = encode(call.payload, f"the payload of call {call.id}")
            except PayloadError as error:
                return refused(tally, error)
            report = _Report(self._allocation, gang)
            reports = Reports(self._retries)

            def on_report(progress: Progress) -> None:
                reports.heard(progress, time.monotonic())
                if on_progress is not None:
                    on_progress(progress)

            while True:
                time.sleep(tally.pause_seconds)
                if ranks == 1:
                    outcome = self._alone(gang, tally, payload, on_report, reports, report)
                else:
                    outcome = self._together(gang, tally, payload, on_report, reports, report)
                if outcome is not None:
                    return outcome
                self._allocation.leave(gang, tally.avoid)
        finally:
            self._allocation.close_gang(gang)

    def _refresh(self) -> None:
        """To be called again and again while something is awaited. Raises `StoppedError`."""
        if self._stopped.is_set():
            raise StoppedError
        self._allocation.refresh()

    def _wait_for_placement(self, gang: Gang, report: "_Report") -> Placement:
        """Waits until a gang has its room and it is drained. Raises `StoppedError` where it is to begin no more."""
        while True:
            self._refresh()
            if gang.claim.halted():
                raise StoppedError
            with self._allocation.changed:
                placement = self._allocation.begin(gang)
                if placement is None:
                    self._allocation.changed.wait(SOON_SECONDS)
            report.changes()
            if placement is not None:
                return placement

    def _alone(
        self, gang: Gang, tally: Tally, payload: str, on_report: OnProgress, reports: Reports, report: "_Report"
    ) -> Outcome | None:
        """One attempt of a gang of one, on an actor of its own."""
        import ray

        placement = self._wait_for_placement(gang, report)
        with open_mailbox() as mailbox:
            while (worker := self._start_alone(gang, placement)) is None:
                placement = self._wait_for_placement(gang, report)
            try:
                read = reader(mailbox, on_report)
                ref = worker.handle.train.remote(tally.call.function, payload, tally.begin(), mailbox)
                reports.begin(time.monotonic())
                while not ray.wait([ref], timeout=POLL_SECONDS)[0]:
                    self._refresh()
                    report.changes()
                    reports.fetched(read(), time.monotonic())
                    if self._allocation.gone(worker):
                        return tally.lost(lost(tally, worker, "its machine has left the cluster"), gone())
                    if (silent := reports.silent_seconds(time.monotonic())) is not None:
                        tally.hung(lost(tally, worker, silence(silent)))
                        return None
                try:
                    answer: AttemptResult = ray.get(ref)
                except ray.exceptions.RayError as error:
                    return tally.lost(lost(tally, worker, str(error)), gone())
                read()
                return tally.answered(answer)
            finally:
                ray.kill(worker.handle)

    def _start_alone(self, gang: Gang, placement: Placement) -> WorkerProcess | None:
        """A worker that has started where a gang of one is placed; None where it must be placed anew."""
        import ray

        worker = self._allocation.start(next(iter(placement.ranks)), placement.layout)
        try:
            ref = worker.handle.locate.remote()
            while not ray.wait([ref], timeout=POLL_SECONDS)[0]:
                self._refresh()
                if self._allocation.gone(worker):
                    break
            else:
                if has_started(self._allocation, worker, ref):
                    return worker
        except BaseException:
            ray.kill(worker.handle)
            raise
        ray.kill(worker.handle)
        self._allocation.leave(gang)
        return None

    def _together(
        self, gang: Gang, tally: Tally, payload: str, on_report: OnProgress, reports: Reports, report: "_Report"
    ) -> Outcome | None:
        """One attempt of a gang of several ranks, by Ray Train."""
        placement = self._wait_for_placement(gang, report)
        # Otherwise Ray Train chooses the machines.
        elsewhere = tuple(placement.ranks) if gang.avoid else ()
        attempt = tally.begin()
        reports.begin(time.monotonic())
        assert self._connection is not None
        with open_mailbox() as mailbox:
            read = reader(mailbox, on_report)

            def look() -> None:
                self._refresh()
                report.changes()
                reports.fetched(read(), time.monotonic())
                if (silent := reports.silent_seconds(time.monotonic())) is not None:
                    raise GivenUpError(silence(silent))
                if left := set(elsewhere) - self._allocation.machines.keys():
                    raise GivenUpError("a machine of its ranks has left the cluster", tuple(left))

            try:
                ended = run_train(
                    tally.call,
                    payload,
                    replace(placement.layout, workers=gang.ranks),
                    attempt,
                    self._connection.folder,
                    mailbox,
                    look,
                    None if gang.least == gang.ranks else gang.least,
                    self._resize_seconds,
                    elsewhere,
                )
            except GivenUpError as error:
                if error.left:
                    return tally.lost(Loss(attempt, str(error), socket.gethostname(), 0, error.left), gone())
                tally.hung(loss_of_all(attempt, str(error), mailbox))
                return None
        return tally.lost(ended, gone()) if isinstance(ended, Loss) else tally.answered(ended)


class _Report:
    """Reports the room of a pool or gang where it has changed."""

    def __init__(self, allocation: Allocation, claimant: Pool | Gang) -> None:
        self._allocation = allocation
        self._claimant = claimant
        self._last = Room()
        self._next = time.monotonic() + ROOM_SECONDS

    def changes(self) -> None:
        """Reports a change, rarely."""
        on_room, now = self._claimant.claim.on_room, time.monotonic()
        if on_room is None or now < self._next:
            return
        self._next = now + ROOM_SECONDS
        room = self._allocation.room_of(self._claimant)
        if room != self._last:
            self._last = room
            on_room(room)


class Tallies:
    """The calls of a `run`, drawn one by one, each with its history and its payload as text."""

    def __init__(self, executor: str, retries: Retries, calls: Iterator[Call], on_loss: OnLoss | None) -> None:
        self._executor = executor
        self._retries = retries
        self._calls = calls
        self._on_loss = on_loss
        self.exhausted = False

    def end(self) -> None:
        """Draws no more."""
        self.exhausted = True

    def next(self, on_done: OnDone) -> tuple[Tally, str] | None:
        """The next call, or None after the last; what is no small JSON ends here."""
        while not self.exhausted:
            call = next(self._calls, None)
            if call is None:
                self.exhausted = True
                break
            tally = Tally(call, self._executor, self._retries, self._on_loss)
            try:
                return tally, encode(call.payload, f"the payload of call {call.id}")
            except PayloadError as error:
                on_done(refused(tally, error))
        return None


@dataclass(frozen=True)
class _Attempt:
    """A call on a worker, since a time of `time.monotonic`."""

    worker: WorkerProcess
    tally: Tally
    payload: str
    since: float


class _Run:
    """One `run`: its calls, and the workers of its pool."""

    def __init__(
        self, allocation: Allocation, pool: Pool, look: Callable[[], None], calls: Tallies, on_done: OnDone
    ) -> None:
        self._allocation = allocation
        self._pool = pool
        self._refresh = look
        self._calls = calls
        self._on_done = on_done
        self._waiting: deque[tuple[Tally, str]] = deque()
        self._running: dict[Any, _Attempt] = {}
        self._seconds: deque[float] = deque(maxlen=REMEMBERED)
        self._starting: dict[Any, WorkerProcess] = {}
        self._machines = allocation.machines
        self._report = _Report(allocation, pool)

    def go(self) -> None:
        """Runs all calls."""
        import ray

        claim = self._pool.claim
        while True:
            self._refresh()
            if claim.halted():
                self._calls.end()
                self._waiting.clear()
            self._draw()
            if not self._running and not self._waiting and self._calls.exhausted:
                return
            if self._allocation.machines is not self._machines:
                self._machines = self._allocation.machines
                self._forget_lost()
            self._end_hung()
            self._cancel_starts()
            with self._allocation.changed:
                # Room may be granted while another run's part still uses it. The lock is held, so that none gets free
                # between these two.
                self._grow()
                refs = [*self._running, *self._starting]
                if not refs:
                    self._allocation.changed.wait(SOON_SECONDS)
            self._report.changes()
            if not refs:
                continue
            ready, _ = ray.wait(refs, num_returns=1, timeout=POLL_SECONDS)
            for ref in ready:
                if ref in self._starting:
                    self._started(ref)
                else:
                    self._finish(ref)

    def _draw(self) -> None:
        """Takes as many calls as there may be workers, and says how many are wanted."""
        pool = self._pool
        while len(self._waiting) + len(self._running) < max(1, pool.grant):
            drawn = self._calls.next(self._on_done)
            if drawn is None:
                break
            self._waiting.append(drawn)
        exhausted = self._calls.exhausted
        wants = len(self._waiting) + len(self._running) if exhausted else MANY
        self._allocation.want(pool, wants, bool(self._waiting) or not exhausted)

    def _grow(self) -> None:
        """Starts as many workers as calls wait for one, within what the pool may have."""
        while len(self._starting) < len(self._waiting):
            avoid = self._waiting[len(self._starting)][0].avoid
            worker = self._allocation.grow(self._pool, avoid)
            if worker is None:
                return
            if worker.where is None:
                self._starting[worker.handle.locate.remote()] = worker
            else:
                self._begin(worker)

    def _begin(self, worker: WorkerProcess) -> None:
        """Gives an idle worker the next call; one that has none, or may not go on, is released."""
        if not self._waiting or not self._allocation.keeps(self._pool, worker):
            self._allocation.release(self._pool, worker)
            return
        elsewhere = (n for n, (tally, _) in enumerate(self._waiting) if worker.machine not in tally.avoid)
        number = next(elsewhere, 0)
        tally, payload = self._waiting[number]
        del self._waiting[number]
        tally.begin()
        ref = worker.handle.run.remote(tally.call.function, payload, tally.pause_seconds)
        self._running[ref] = _Attempt(worker, tally, payload, time.monotonic())

    def _started(self, ref: Any) -> None:
        """A worker has started, or has failed to."""
        worker = self._starting.pop(ref)
        if has_started(self._allocation, worker, ref):
            self._begin(worker)
        else:
            self._allocation.drop(self._pool, worker)

    def _finish(self, ref: Any) -> None:
        """An attempt has ended; its worker is given the next call."""
        import ray

        attempt = self._running.pop(ref)
        worker, tally = attempt.worker, attempt.tally
        try:
            answer: AttemptResult = ray.get(ref)
        except ray.exceptions.RayError as error:
            self._lost(attempt, str(error))
            return
        outcome = tally.answered(answer)
        if outcome is None:
            self._waiting.appendleft((tally, attempt.payload))
        else:
            self._seconds.append(outcome.seconds)
            try:
                self._on_done(outcome)
            except BaseException:
                self._allocation.release(self._pool, worker)
                raise
        if self._pool.claim.halted():
            self._allocation.release(self._pool, worker)
        else:
            self._draw()
            self._begin(worker)

    def _lost(self, attempt: _Attempt, reason: str) -> None:
        """A worker has died under its call. Where Ray only lost sight of it, it may come back: so it is ended."""
        tally = attempt.tally
        self._allocation.drop(self._pool, attempt.worker)
        outcome = tally.lost(lost(tally, attempt.worker, reason), gone())
        if outcome is None:
            self._waiting.appendleft((tally, attempt.payload))
        else:
            self._on_done(outcome)

    def _end_hung(self) -> None:
        """Ends what takes far longer than others did, once for each call, and lets it be tried again."""
        import ray

        now, limit = time.monotonic(), None
        for ref, attempt in list(self._running.items()):
            tally, seconds = attempt.tally, now - attempt.since
            if tally.hangs or seconds < tally.retries.hung_seconds:
                continue
            limit = limit_seconds(self._seconds, tally.retries) if limit is None else limit
            # Its answer may be there, where we were kept from looking for as long.
            if seconds > limit and not ray.wait([ref], timeout=0)[0]:
                del self._running[ref]
                usual = statistics.median(self._seconds)
                tally.hung(
                    lost(tally, attempt.worker, f"no answer for {seconds:.0f} s, where the median is {usual:.1f} s")
                )
                self._allocation.drop(self._pool, attempt.worker)
                self._waiting.appendleft((tally, attempt.payload))

    def _forget_lost(self) -> None:
        """Ray may see minutes after the loss of a machine what it means for a call there."""
        for ref, attempt in list(self._running.items()):
            if attempt.worker.machine not in self._machines:
                del self._running[ref]
                self._lost(attempt, "its machine has left the cluster")

    def _cancel_starts(self) -> None:
        """Ends starting workers that may not be there any more, and those whose machine is lost."""
        for ref, worker in list(self._starting.items()):
            if self._allocation.gone(worker) or not self._allocation.keeps(self._pool, worker):
                del self._starting[ref]
                self._allocation.drop(self._pool, worker)


def has_started(allocation: Allocation, worker: WorkerProcess, ref: Any) -> bool:
    """Whether a worker has started. Raises `ForeignCodeError`, and `ConnectError` where none will."""
    import ray

    try:
        where: Location = ray.get(ref)
    except ray.exceptions.RayError as error:
        allocation.not_started(worker, error)
        return False
    if where.problem is not None:
        raise ForeignCodeError(*where.problem)
    allocation.started(worker, where)
    return True


def lost(tally: Tally, worker: WorkerProcess, reason: str) -> Loss:
    """The loss of a worker that has started."""
    assert worker.where is not None
    return Loss(tally.attempts, reason, worker.where.host, worker.where.pid, (worker.machine,))


def loss_of_all(attempt: int, reason: str, mailbox: Any) -> Loss:
    """The loss of a gang that was given up, wherever its ranks are."""
    import ray

    try:
        ranks: list[Location] = list(ray.get(mailbox.ranks.remote(), timeout=30).values())
    except ray.exceptions.RayError:
        ranks = []
    hosts = ", ".join(sorted({rank.host for rank in ranks})) or socket.gethostname()
    return Loss(attempt, reason, hosts, 0, tuple(sorted({rank.machine for rank in ranks})))


def silence(seconds: float) -> str:
    """Why an attempt at a gang was ended."""
    return f"no report for {seconds:.0f} s"


def refused(tally: Tally, error: PayloadError) -> Outcome:
    """The outcome of a call whose payload is no small JSON."""
    tally.begin()
    outcome = tally.answered(AttemptResult(None, failure_of(error), socket.gethostname(), os.getpid(), 0.0))
    assert outcome is not None
    return outcome


def gone() -> set[str]:
    """Machines that Ray knows to be lost."""
    return {node["NodeID"] for node in nodes() if not node["Alive"]}
