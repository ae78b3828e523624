"""What becomes of a call after each attempt, and when an attempt hangs."""

import math

import pytest

from cluster.errors import CallFailedError, QuarantinedError, WorkerLostError
from cluster.executor import AttemptResult, Call, Failure, Loss, Outcome, Progress, Retries
from cluster.retry import Reports, Tally, limit_seconds

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
            outcome = tally.lost(Loss(0, "it\nwent", "host", 7, (f"machine {number}",)), gone)
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
    assert tally.lost(Loss(0, "went", "host", 7, ("a",)), gone=set()) is None
    tally.begin()
    assert tally.lost(Loss(0, "went", "host", 8, ("b",)), gone={"a"}) is None
    tally.begin()
    outcome = tally.lost(Loss(0, "went", "host", 9, ("c",)), gone={"a"})
    assert outcome is not None
    assert outcome.error is not None
    assert outcome.error.kind == "quarantined"
    assert [loss.attempt for loss in outcome.losses] == [1, 2, 3]


def test_every_loss_is_reported_when_it_happens() -> None:
    heard: list[tuple[str, int, str]] = []
    tally = Tally(
        Call("c", "m:f", {}), "test", Retries(), lambda call, loss: heard.append((call.id, loss.attempt, loss.reason))
    )
    tally.begin()
    tally.lost(Loss(0, "went", "host", 7, ("machine 1",)))
    assert tally.avoid == {"machine 1"}
    tally.begin()
    tally.hung(Loss(0, "slow", "host", 7, ("machine 2", "machine 3")))
    tally.begin()
    tally.answered(BUSY)
    assert heard == [("c", 1, "went"), ("c", 2, "slow"), ("c", 3, "BusyError: busy")]
    assert tally.avoid == {"machine 2", "machine 3"}


def test_an_attempt_that_hung_does_not_count_as_a_death() -> None:
    tally = Tally(Call("c", "m:f", {}), "test", Retries(kills=1))
    tally.begin()
    tally.hung(Loss(0, "slow", "host", 7, ("machine 1",)))
    tally.begin()
    outcome = tally.answered(GOOD)
    assert outcome is not None
    assert outcome.result() == {"n": 1}
    assert (outcome.attempts, len(outcome.losses)) == (2, 1)


@pytest.mark.parametrize(
    ("usual", "expected"),
    [
        ([], math.inf),
        ([1.0], 600.0),
        ([1.0, 100.0, 5000.0], 1000.0),
        ([90.0] * 50 + [1e6], 900.0),
    ],
)
def test_a_part_hangs_after_ten_times_the_median_and_ten_minutes_at_least(usual: list[float], expected: float) -> None:
    assert limit_seconds(usual, Retries()) == expected
    assert limit_seconds(usual, Retries(hung_seconds=math.inf)) == math.inf


def reported(reports: Reports, *reported_at: tuple[int, float], attempt: int = 1) -> None:
    """Reports of how much of 100 was done, and when."""
    for done, now in reported_at:
        reports.heard(Progress(done, 100, {}, attempt), now)


def test_a_training_hangs_when_its_reports_stop_before_the_last() -> None:
    reports = Reports(Retries())
    reports.begin(0.0)
    # Until the first report it may be set up for hours.
    assert reports.silent_seconds(9000.0) is None
    reported(reports, (1, 1000.0), (2, 1002.0), (3, 1004.0))
    assert reports.silent_seconds(1600.0) is None
    assert reports.silent_seconds(1605.0) == 601.0
    reported(reports, (100, 1606.0))
    # What comes after the last report, such as writing its files, may take as long as it likes.
    assert reports.silent_seconds(99999.0) is None


def test_a_training_with_rare_reports_hangs_after_ten_of_them() -> None:
    reports = Reports(Retries())
    reports.begin(0.0)
    reported(reports, (1, 100.0), (2, 200.0), (3, 300.0))
    assert reports.silent_seconds(1300.0) is None
    assert reports.silent_seconds(1301.0) == 1001.0


def test_a_training_that_stops_again_where_it_stopped_before_is_waited_for() -> None:
    reports = Reports(Retries())
    reports.begin(0.0)
    reported(reports, (10, 1.0), (20, 2.0))
    assert reports.silent_seconds(700.0) == 698.0
    reports.begin(700.0)
    reported(reports, (15, 701.0), (20, 702.0), attempt=2)
    assert reports.silent_seconds(9000.0) is None
    reported(reports, (25, 9001.0), attempt=2)
    assert reports.silent_seconds(99999.0) is not None


def test_reports_that_cannot_be_fetched_end_no_training() -> None:
    reports = Reports(Retries())
    reports.begin(0.0)
    reported(reports, (1, 1.0), (2, 2.0))
    reports.fetched(False, 500.0)
    assert reports.silent_seconds(9000.0) is None
    # What was not heard meanwhile says nothing; from now on silence counts.
    reports.fetched(True, 9000.0)
    assert reports.silent_seconds(9600.0) is None
    reports.fetched(True, 9600.5)
    assert reports.silent_seconds(9600.5) == 600.5
