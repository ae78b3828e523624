"""What becomes of a call after each attempt, and when an attempt hangs: pure, without clocks or processes."""

import math
import random
import statistics
from collections import deque
from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace

from cluster.executor import AttemptResult, Call, Failure, Loss, OnLoss, Outcome, Progress, Retries, decode

PAUSE_SECONDS = 0.25
"""Half of how long the attempt after the first transient error waits."""

REMEMBERED = 1000
"""So many durations at most, the newest, are what is usual."""

JITTER = 0.25
"""By which share a pause is shorter or longer."""


@dataclass
class Tally:
    """One call's history. `answered` and `lost` return the outcome, or None where the call is to be tried again.

    `on_loss` is called with each loss. `hangs` counts the attempts that hung, and `avoid` are the machines on which the
    last attempt that died or hung did so: the next is elsewhere, where others have room.
    """

    call: Call
    executor: str
    retries: Retries
    on_loss: OnLoss | None = None
    attempts: int = 0
    transients: int = 0
    hangs: int = 0
    avoid: frozenset[str] = frozenset()
    losses: list[Loss] = field(default_factory=list)
    _deaths: list[tuple[str, ...]] = field(default_factory=list)

    def begin(self) -> int:
        """Counts a new attempt and returns its number, 1 first."""
        self.attempts += 1
        return self.attempts

    @property
    def pause_seconds(self) -> float:
        """How long the next attempt waits: longer after each transient error, not at all after a lost worker.

        With jitter, so that calls that failed together do not come back together.
        """
        if not self.transients:
            return 0.0
        return PAUSE_SECONDS * 2.0**self.transients * random.uniform(1 - JITTER, 1 + JITTER)

    def answered(self, answer: AttemptResult) -> Outcome | None:
        """An attempt came back."""
        error = answer.error
        if error is not None and error.transient and self.transients < self.retries.transients:
            self.transients += 1
            self._note(Loss(self.attempts, f"{error.type}: {error.message}", answer.host, answer.pid))
            return None
        return Outcome(
            call=self.call,
            value=None if answer.text is None else decode(answer.text),
            error=error,
            host=answer.host,
            pid=answer.pid,
            executor=self.executor,
            seconds=answer.seconds,
            attempts=self.attempts,
            losses=tuple(self.losses),
        )

    def lost(self, loss: Loss, gone: Set[str] = frozenset()) -> Outcome | None:
        """An attempt ended without an answer: its worker died, alone or with its machine.

        `gone` are the machines that are known to be lost by now. A worker's death is seen long before its machine's,
        so all deaths are judged anew each time.
        """
        self._note(replace(loss, attempt=self.attempts, reason=" ".join(loss.reason.split())[:600]))
        self._deaths.append(loss.machines)
        self.avoid = frozenset(loss.machines)
        machines = sum(not gone.isdisjoint(death) for death in self._deaths)
        kills = len(self._deaths) - machines
        history = "; ".join(f"attempt {loss.attempt} on {loss.host}: {loss.reason}" for loss in self.losses)
        if kills >= self.retries.kills:
            failure = Failure(
                "quarantined",
                "cluster.errors.QuarantinedError",
                f"expected call {self.call.id} to leave its worker alive; found {kills} workers dead under it "
                f"({history}). Look for memory use or crashing native code in this call.",
            )
        elif machines >= self.retries.losses:
            failure = Failure(
                "lost",
                "cluster.errors.WorkerLostError",
                f"expected call {self.call.id} to keep its machine; found {machines} machines lost under it "
                f"({history}). Run again on machines that stay.",
            )
        else:
            return None
        return Outcome(
            call=self.call,
            value=None,
            error=failure,
            host=loss.host,
            pid=loss.pid,
            executor=self.executor,
            seconds=0.0,
            attempts=self.attempts,
            losses=tuple(self.losses),
        )

    def hung(self, loss: Loss) -> None:
        """An attempt was ended because it hung: no death that speaks against the call. It is to be tried again."""
        self.hangs += 1
        self.avoid = frozenset(loss.machines)
        self._note(replace(loss, attempt=self.attempts))

    def _note(self, loss: Loss) -> None:
        self.losses.append(loss)
        if self.on_loss is not None:
            self.on_loss(self.call, loss)


def limit_seconds(usual: Sequence[float], retries: Retries) -> float:
    """After how many seconds an attempt hangs, by those that others took: infinite where nothing is known of them."""
    if not usual:
        return math.inf
    return max(retries.hung_seconds, retries.hung_times * statistics.median(usual))


class Reports:
    """When an attempt at a gang hangs: between its first report and its last it reports nothing for too long.

    What is usual are the seconds between its reports. Only an attempt that has come further than those before it is
    ended, so that a gang that always stops at one point is tried again once. `now` is the time in seconds of any
    clock that does not run backwards.
    """

    def __init__(self, retries: Retries) -> None:
        self._retries = retries
        self._since: float | None = None
        self._gaps: deque[float] = deque(maxlen=REMEMBERED)
        self._last: Progress | None = None
        self._furthest = -1
        self._further = False

    def begin(self, now: float) -> None:
        """A new attempt begins."""
        if self._last is not None:
            self._furthest = max(self._furthest, self._last.done)
        self._since, self._last, self._further = now, None, False
        self._gaps.clear()

    def heard(self, progress: Progress, now: float) -> None:
        """A report has come."""
        if self._since is not None:
            self._gaps.append(now - self._since)
        self._since, self._last = now, progress
        self._further = self._further or progress.done > self._furthest

    def fetched(self, answered: bool, now: float) -> None:
        """Reports were asked for. Time in which nobody answered is no silence of the attempt."""
        if not answered:
            self._since = None
        elif self._since is None:
            self._since = now

    def silent_seconds(self, now: float) -> float | None:
        """For how long there was no report, where that means that the attempt hangs; else None."""
        if self._since is None or self._last is None or not self._further or self._last.done >= self._last.total:
            return None
        silent = now - self._since
        return silent if silent > limit_seconds(self._gaps, self._retries) else None
