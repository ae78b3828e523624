"""What becomes of a call after each attempt: a pure record that counts, without clocks or processes."""

import random
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from cluster.executor import AttemptResult, Call, Failure, Loss, Outcome, Retries, decode

PAUSE_SECONDS = 0.25
"""Half of how long the attempt after the first transient error waits."""

JITTER = 0.25
"""By which share a pause is shorter or longer."""


@dataclass
class Tally:
    """One call's history. `answered` and `lost` return the outcome, or None where the call is to be tried again."""

    call: Call
    executor: str
    retries: Retries
    attempts: int = 0
    transients: int = 0
    losses: list[Loss] = field(default_factory=list)
    _deaths: list[str] = field(default_factory=list)

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
            self.losses.append(Loss(self.attempts, f"{error.type}: {error.message}", answer.host, answer.pid))
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

    def lost(self, loss: Loss, gone: Collection[str] = ()) -> Outcome | None:
        """An attempt ended without an answer: its worker died, alone or with its machine.

        `gone` are the machines that are known to be lost by now. A worker's death is seen long before its machine's,
        so all deaths are judged anew each time.
        """
        self.losses.append(replace(loss, attempt=self.attempts, reason=" ".join(loss.reason.split())[:600]))
        self._deaths.append(loss.machine)
        machines = sum(machine in gone for machine in self._deaths)
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
