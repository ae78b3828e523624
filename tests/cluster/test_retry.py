"""What becomes of a call after each attempt."""

import pytest

from cluster.errors import CallFailedError, QuarantinedError, WorkerLostError
from cluster.executor import AttemptResult, Call, Failure, Loss, Outcome, Retries
from cluster.retry import Tally

GOOD = AttemptResult('{"n": 1}', None, "host", 7, 0.5)
BAD = AttemptResult(None, Failure("error", "ValueError", "bad", "Traceback"), "host", 7, 0.5)
BUSY = AttemptResult(None, Failure("error", "BusyError", "busy", transient=True), "host", 7, 0.5)


def history(events: list[str], retries: Retries) -> Outcome | None:
    """Plays attempts: `good`, `bad`, `busy`, `kill` (the worker dies), `gone` (its machine does)."""
    tally = Tally(Call("c", "m:f", {}), "test", retries)
    outcome = None
    for number, event in enumerate(events):
        assert outcome is None
        tally.begin()
        if event in {"kill", "gone"}:
            gone = {f"machine {i}" for i, earlier in enumerate(events[: number + 1]) if earlier == "gone"}
            outcome = tally.lost(Loss(0, "it\nwent", "host", 7, f"machine {number}"), gone)
        else:
            outcome = tally.answered({"good": GOOD, "bad": BAD, "busy": BUSY}[event])
    return outcome


@pytest.mark.parametrize(
    ("events", "kind"),
    [
        (["good"], None),
        (["bad"], "error"),
        (["kill", "good"], None),
        (["kill", "bad"], "error"),
        (["kill", "kill"], "quarantined"),
        (["gone", "gone", "kill", "good"], None),
        (["gone", "gone", "gone"], "lost"),
        (["busy", "good"], None),
        (["busy", "busy"], "error"),
        (["kill", "busy", "gone", "good"], None),
    ],
)
def test_a_call_ends_after_exactly_these_attempts(events: list[str], kind: str | None) -> None:
    outcome = history(events, Retries(kills=2, losses=3, transients=1))
    assert outcome is not None
    assert (outcome.error.kind if outcome.error else None) == kind
    assert outcome.attempts == len(events)
    failed_before = len(events) - (kind not in {"quarantined", "lost"})
    assert [loss.attempt for loss in outcome.losses] == list(range(1, failed_before + 1))


@pytest.mark.parametrize(
    ("events", "error"),
    [
        (["bad"], CallFailedError),
        (["kill", "kill"], QuarantinedError),
        (["gone", "gone", "gone"], WorkerLostError),
    ],
)
def test_an_outcome_without_value_raises_its_own_error(events: list[str], error: type[CallFailedError]) -> None:
    outcome = history(events, Retries(kills=2, losses=3))
    assert outcome is not None
    with pytest.raises(error) as caught:
        outcome.result()
    assert caught.value.call_id == "c"
    assert type(caught.value) is error


def test_only_transient_errors_make_the_next_attempt_wait() -> None:
    tally = Tally(Call("c", "m:f", {}), "test", Retries())
    tally.begin()
    tally.lost(Loss(0, "went", "host", 7))
    assert tally.pause_seconds == 0
    tally.answered(BUSY)
    first = tally.pause_seconds
    tally.answered(BUSY)
    assert 0 < first < tally.pause_seconds


def test_a_death_is_forgiven_when_its_machine_turns_out_to_be_lost() -> None:
    tally = Tally(Call("c", "m:f", {}), "test", Retries(kills=2))
    tally.begin()
    assert tally.lost(Loss(0, "went", "host", 7, "a"), gone=()) is None
    tally.begin()
    assert tally.lost(Loss(0, "went", "host", 8, "b"), gone={"a"}) is None
    tally.begin()
    outcome = tally.lost(Loss(0, "went", "host", 9, "c"), gone={"a"})
    assert outcome is not None
    assert outcome.error is not None
    assert outcome.error.kind == "quarantined"
    assert [loss.attempt for loss in outcome.losses] == [1, 2, 3]
