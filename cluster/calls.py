"""The calls of one `run` on Ray, from the first to the last: which wait, which a worker has, which are tried again.

A `CallRun` lives in the thread that called `run`. `cluster.allocation` says how many workers its pool may have, and
`cluster.retry` what becomes of a call after each attempt.
"""

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cluster.allocation import MANY, SOON_SECONDS, Allocation, Pool, WorkerProcess
from cluster.attempts import POLL_SECONDS, RoomReport, gone, has_started, lost, refused
from cluster.errors import PayloadError
from cluster.executor import AttemptResult, Call, OnDone, OnLoss, Retries, encode
from cluster.retry import REMEMBERED, Tally, limit_seconds


class CallQueue:
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


class CallRun:
    """One `run`: its calls, and the workers of its pool."""

    def __init__(
        self, allocation: Allocation, pool: Pool, refresh: Callable[[], None], calls: CallQueue, on_done: OnDone
    ) -> None:
        self._allocation = allocation
        self._pool = pool
        self._refresh = refresh
        self._calls = calls
        self._on_done = on_done
        self._waiting: deque[tuple[Tally, str]] = deque()
        self._running: dict[Any, _Attempt] = {}
        self._seconds: deque[float] = deque(maxlen=REMEMBERED)
        self._starting: dict[Any, WorkerProcess] = {}
        self._machines = allocation.machines
        self._report = RoomReport(allocation, pool)

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
