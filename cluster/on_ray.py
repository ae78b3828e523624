"""The executor on Ray: parts on actors, gangs of one rank on one wide actor, larger gangs by Ray Train.

An actor holds one call at a time. So what runs is bounded, a call whose actor dies is known to be the one that was
running, and set-up that a function memoises in its process is done once per actor. Nothing large travels through Ray.

Several threads may call `run` and `gang`. Each `run` has a pool of actors of its own, since an actor that served two
steps in turn would set up at every call; `cluster.allocation` says how many it may have, and where a gang goes.

Ray is imported when the executor is entered.
"""

import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Self

from cluster.allocation import SOON_SECONDS, Allocation, Gang, WorkerProcess
from cluster.attempts import POLL_SECONDS, RoomReport, gone, has_started, lost, refused
from cluster.calls import CallQueue, CallRun
from cluster.connect import Connection, check_ours, connect
from cluster.errors import ForeignCodeError, PayloadError, StoppedError
from cluster.executor import (
    ALONE,
    AttemptResult,
    Call,
    Claim,
    Loss,
    OnDone,
    OnProgress,
    Outcome,
    Progress,
    Retries,
    encode,
    perform,
)
from cluster.mailbox import Location, Post, here, open_mailbox, reader
from cluster.ranks import Rank, run_rank
from cluster.resources import device, layout_for_parts, set_threads
from cluster.retry import Reports, Tally
from cluster.shares import Placement
from cluster.training import GivenUpError, run_train

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
            tallies = CallQueue(self.name, self._retries, iter(calls), claim.on_loss)
            CallRun(allocation, pool, self._refresh, tallies, on_done).go()
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
            report = RoomReport(self._allocation, gang)
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

    def _wait_for_placement(self, gang: Gang, report: RoomReport) -> Placement:
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
        self, gang: Gang, tally: Tally, payload: str, on_report: OnProgress, reports: Reports, report: RoomReport
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
        self, gang: Gang, tally: Tally, payload: str, on_report: OnProgress, reports: Reports, report: RoomReport
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

            def poll() -> None:
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
                    poll,
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
