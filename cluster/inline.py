"""The reference executor: calls run one after another in this very process, with all its cores.

What every other executor does must be what this one does. A gang of one rank runs here too; more ranks are child
processes on this machine, because torch.distributed knows one rank per process. A call that kills its process kills
the run: the store holds what was finished, and the same command goes on.
"""

import os
import socket
import threading
import time
from collections.abc import Iterable
from typing import Self

from cluster.children import run_children
from cluster.errors import PayloadError, StoppedError
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
    failure_of,
    perform,
)
from cluster.ranks import Rank, run_rank
from cluster.resources import device, layout_for_gang, this_machine
from cluster.retry import Tally


class Inline:
    """Runs everything in this process; see the module's docstring. Calls of several threads take turns."""

    def __init__(self, retries: Retries | None = None) -> None:
        self._retries = retries or Retries()
        self._stopped = threading.Event()
        self._turn = threading.Lock()

    @property
    def name(self) -> str:
        """`inline`."""
        return "inline"

    @property
    def steps_at_once(self) -> int:
        """One: more threads of this process would only share its cores."""
        return 1

    def slots(self, gpu: bool = False) -> int:
        """One call at a time."""
        return 1

    def __enter__(self) -> Self:
        """Nothing to start."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Nothing to stop."""

    def stop(self) -> None:
        """See `Executor.stop`: here before the next call, and at the next report of a gang."""
        self._stopped.set()

    def run(self, calls: Iterable[Call], on_done: OnDone, gpu: bool = False, claim: Claim = ALONE) -> None:
        """Runs calls in their order; see `Executor.run`. This process has all GPUs, whatever `gpu` says."""
        source = iter(calls)
        while not claim.halted() and (call := next(source, None)) is not None:
            tally = Tally(call, self.name, self._retries, claim.on_loss)
            outcome = None
            while outcome is None:
                time.sleep(tally.pause_seconds)
                with self._turn:
                    self._check()
                    tally.begin()
                    outcome = tally.answered(_attempt(call))
            on_done(outcome)

    def gang(
        self,
        call: Call,
        ranks: int,
        on_progress: OnProgress | None = None,
        least: int | None = None,
        claim: Claim = ALONE,
    ) -> Outcome:
        """Runs a gang; see `Executor.gang`. Raises `ResourceError` for more ranks than CPUs or GPUs."""
        with self._turn:
            if claim.halted():
                raise StoppedError
            return self._gang(call, ranks, on_progress, least, claim)

    def _check(self) -> None:
        if self._stopped.is_set():
            raise StoppedError

    def _gang(self, call: Call, ranks: int, on_progress: OnProgress | None, least: int | None, claim: Claim) -> Outcome:
        layout = layout_for_gang([this_machine()], ranks, least)
        tally = Tally(call, self.name, self._retries, claim.on_loss)
        try:
            payload = encode(call.payload, f"the payload of call {call.id}")
        except PayloadError as error:
            tally.begin()
            outcome = tally.answered(_refused(error))
            assert outcome is not None
            return outcome

        def send(progress: Progress) -> None:
            self._check()
            if on_progress is not None:
                on_progress(progress)

        while True:
            time.sleep(tally.pause_seconds)
            self._check()
            attempt = tally.begin()
            if layout.workers == 1:
                answer = run_rank(call.function, payload, Rank(0, 1, device(), attempt), send)
                outcome = tally.answered(answer)
            else:
                ended = run_children(call.function, payload, layout, attempt, send)
                outcome = tally.lost(ended) if isinstance(ended, Loss) else tally.answered(ended)
            if outcome is not None:
                if outcome.error is not None:
                    # What `send` has raised came back as an error of the function.
                    self._check()
                return outcome


def _attempt(call: Call) -> AttemptResult:
    try:
        payload = encode(call.payload, f"the payload of call {call.id}")
    except PayloadError as error:
        return _refused(error)
    return perform(call.function, payload)


def _refused(error: PayloadError) -> AttemptResult:
    return AttemptResult(None, failure_of(error), socket.gethostname(), os.getpid(), 0.0)
