"""The executor on Ray: parts on actors, gangs of one rank on one wide actor, larger gangs by Ray Train.

An actor holds one call at a time. So what runs is bounded, a call whose actor dies is known to be the one that was
running, and set-up that a function memoises in its process is done once per actor. Nothing large travels through Ray.

Ray is imported when the executor is entered.
"""

import os
import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

from cluster.connect import Connection, check_ours, connect, nodes
from cluster.errors import ClusterError, ConnectError, ForeignCodeError, PayloadError
from cluster.executor import (
    AttemptResult,
    Call,
    Loss,
    OnDone,
    OnProgress,
    Outcome,
    Retries,
    encode,
    failure_of,
    perform,
)
from cluster.mailbox import Location, Post, here, open_mailbox, reader
from cluster.ranks import Rank, run_rank
from cluster.resources import Layout, device, layout_for_gang, layout_for_parts, layout_for_retry, set_threads
from cluster.retry import Tally
from cluster.training import run_train

START_FAILURES = 3
"""So many workers in a row that die before their first call mean that none will start."""

POLL_SECONDS = 0.5
"""How often the driver polls a gang's progress."""


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


@dataclass
class _Started:
    """A worker that has started: its actor, and where it is."""

    handle: Any
    where: Location


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
        self._layouts: dict[bool, Layout] = {}
        self._layout = Layout(1, 1, 0)
        self._idle: list[_Started] = []
        self._starting: dict[Any, Any] = {}
        self._failed_starts = 0

    @property
    def name(self) -> str:
        """`ray`."""
        return "ray"

    @property
    def slots(self) -> int:
        """See `Executor.slots`."""
        return self._layout.workers

    def __enter__(self) -> Self:
        """Connects. Raises `ConnectError`."""
        self._connection = connect(self._address, self._cpus, self._gpus, self._dashboard_port)
        try:
            machines = self._connection.machines()
            self._layouts = {gpu: layout_for_parts(machines, self._workers, gpu) for gpu in (False, True)}
            self._layout = self._layouts[False]
        except ClusterError:
            self._connection.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Ends the workers, and the embedded Ray where we started it."""
        self._stop_idle()
        assert self._connection is not None
        self._connection.close()
        self._connection = None

    def run(self, calls: Iterable[Call], on_done: OnDone, gpu: bool = False) -> None:
        """Runs calls on actors; see `Executor.run`. Raises `ConnectError` where no worker starts."""
        import ray

        if self._layouts[gpu] != self._layout:
            # Idle workers of the other kind hold the CPUs that these need.
            self._stop_idle()
            self._layout = self._layouts[gpu]
        source = iter(calls)
        waiting: deque[tuple[Tally, str]] = deque()
        running: dict[Any, tuple[_Started, Tally, str]] = {}
        try:
            while True:
                self._draw(source, waiting, len(running), on_done)
                while self._idle and waiting:
                    worker = self._idle.pop()
                    tally, payload = waiting.popleft()
                    tally.begin()
                    running[worker.handle.run.remote(tally.call.function, payload, tally.pause_seconds)] = (
                        worker,
                        tally,
                        payload,
                    )
                if not running and not waiting:
                    return
                while len(self._starting) < min(len(waiting), self.slots - len(running)):
                    self._start_worker(self._layout)
                ready, _ = ray.wait([*running, *self._starting], num_returns=1)
                if ready[0] in self._starting:
                    self._worker_started(ready[0])
                    continue
                worker, tally, payload = running.pop(ready[0])
                outcome = self._finish(ready[0], worker, tally)
                if outcome is None:
                    waiting.appendleft((tally, payload))
                else:
                    on_done(outcome)
        except BaseException:
            for worker, _, _ in running.values():
                ray.kill(worker.handle)
            self._stop_idle()
            raise

    def gang(self, call: Call, ranks: int, on_progress: OnProgress | None = None, least: int | None = None) -> Outcome:
        """Runs a gang; see `Executor.gang`. Raises `ResourceError` for more ranks than CPUs or GPUs."""
        assert self._connection is not None
        # Idle workers hold the CPUs that the ranks need.
        self._stop_idle()
        layout = layout_for_gang(self._connection.machines(), ranks, least)
        tally = Tally(call, self.name, self._retries)
        try:
            payload = encode(call.payload, f"the payload of call {call.id}")
        except PayloadError as error:
            tally.begin()
            return _refused(tally, error)
        while True:
            time.sleep(tally.pause_seconds)
            attempt = tally.begin()
            if ranks == 1:
                outcome = self._alone(tally, payload, layout, on_progress)
            else:
                with open_mailbox() as mailbox:
                    ended = run_train(
                        call,
                        payload,
                        replace(layout, workers=ranks),
                        attempt,
                        self._connection.folder,
                        mailbox,
                        reader(mailbox, on_progress),
                        least,
                        self._resize_seconds,
                    )
                outcome = tally.lost(ended, _gone()) if isinstance(ended, Loss) else tally.answered(ended)
            if outcome is not None:
                return outcome
            layout = layout_for_retry(self._connection.machines(), ranks, least, layout)

    def _draw(self, source: Iterator[Call], waiting: deque[tuple[Tally, str]], running: int, on_done: OnDone) -> None:
        """Takes calls until every slot has one; what is no small JSON ends here."""
        while len(waiting) + running < self.slots and (call := next(source, None)) is not None:
            tally = Tally(call, self.name, self._retries)
            try:
                waiting.append((tally, encode(call.payload, f"the payload of call {call.id}")))
            except PayloadError as error:
                tally.begin()
                on_done(_refused(tally, error))

    def _start_worker(self, layout: Layout) -> None:
        """Starts a worker; it counts once it has said locate."""
        handle = _actor(layout).remote(layout.cpus)
        self._starting[handle.locate.remote()] = handle

    def _worker_started(self, ref: Any) -> None:
        """A worker has started, or has failed to."""
        import ray

        handle = self._starting.pop(ref)
        try:
            where: Location = ray.get(ref)
        except ray.exceptions.RayError as error:
            self._failed_starts += 1
            if self._failed_starts < START_FAILURES:
                return
            raise ConnectError(
                "a worker to start",
                f"{START_FAILURES} in a row that did not: {' '.join(str(error).split())[:600]}",
                "Install the same version of the project on every machine of the cluster, and look at its memory.",
            ) from error
        if where.problem is not None:
            raise ForeignCodeError(*where.problem)
        self._failed_starts = 0
        self._idle.append(_Started(handle, where))

    def _finish(self, ref: Any, worker: _Started, tally: Tally) -> Outcome | None:
        """What an attempt came to; its worker is idle again, or gone."""
        import ray

        try:
            answer: AttemptResult = ray.get(ref)
        except ray.exceptions.RayError as error:
            # Where Ray only lost sight of the worker, it may come back; two of one call help nobody.
            ray.kill(worker.handle)
            where = worker.where
            return tally.lost(Loss(tally.attempts, str(error), where.host, where.pid, where.machine), _gone())
        self._idle.append(worker)
        return tally.answered(answer)

    def _alone(self, tally: Tally, payload: str, layout: Layout, on_progress: OnProgress | None) -> Outcome | None:
        """One attempt of a gang of one, on an actor of its own."""
        import ray

        with open_mailbox() as mailbox:
            read = reader(mailbox, on_progress)
            self._start_worker(layout)
            try:
                while not self._idle:
                    self._worker_started(ray.wait([*self._starting], num_returns=1)[0][0])
                    if not self._idle and not self._starting:
                        self._start_worker(layout)
                worker = self._idle.pop()
                try:
                    ref = worker.handle.train.remote(tally.call.function, payload, tally.attempts, mailbox)
                    while not ray.wait([ref], timeout=POLL_SECONDS)[0]:
                        read()
                    outcome = self._finish(ref, worker, tally)
                    read()
                    return outcome
                finally:
                    ray.kill(worker.handle)
            finally:
                self._stop_idle()

    def _stop_idle(self) -> None:
        """Ends all workers that hold no call."""
        import ray

        for handle in [*(worker.handle for worker in self._idle), *self._starting.values()]:
            ray.kill(handle)
        self._idle.clear()
        self._starting.clear()


def _actor(layout: Layout) -> Any:
    import ray

    return ray.remote(num_cpus=layout.cpus, num_gpus=layout.gpus, max_restarts=0, max_task_retries=0)(Worker)


def _refused(tally: Tally, error: PayloadError) -> Outcome:
    outcome = tally.answered(AttemptResult(None, failure_of(error), socket.gethostname(), os.getpid(), 0.0))
    assert outcome is not None
    return outcome


def _gone() -> set[str]:
    """Machines that Ray knows to be lost."""
    return {node["NodeID"] for node in nodes() if not node["Alive"]}
