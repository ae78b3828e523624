"""What is printed of a step at work where there is no terminal."""

import pytest

from pipeline.events import Event
from pipeline.progress import ProgressDisplay
from tests.faults.arithmetic import graph


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, in the only element."""
    now = [1000.0]
    monkeypatch.setattr("pipeline.progress.time.monotonic", lambda: now[0])
    return now


def test_the_time_left_of_a_resumed_step_counts_only_the_parts_of_this_attempt(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = ProgressDisplay(graph(), quiet=False)
    shown.on_event(Event("step_started", "numbers", 0.0, {"parts": 100, "todo": 10}))
    clock[0] += 20
    shown.on_event(Event("part_done", "numbers", 0.0, {"done": 92, "parts": 100}))
    assert "92/100  1 min 20 s left" in capsys.readouterr().err


def test_the_time_left_of_a_resumed_training_counts_from_its_checkpoint(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = ProgressDisplay(graph(), quiet=False)
    shown.on_event(Event("step_started", "counting", 0.0, {"parts": 1, "todo": 1}))
    for attempt, first in ((1, 600), (2, 700)):
        for seconds, done in ((20, first), (20, first + 50)):
            clock[0] += seconds
            fields = {"done": done, "total": 1000, "metrics": {}, "attempt": attempt}
            shown.on_event(Event("progress", "counting", 0.0, fields))
    lines = [line for line in capsys.readouterr().err.splitlines() if "left" in line]
    assert ["650/1000  2 min 20 s left" in lines[0], "750/1000  1 min 40 s left" in lines[1]] == [True, True]
    assert len(lines) == 2


def test_steps_at_work_beside_each_other_each_have_their_own_progress(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = ProgressDisplay(graph(), quiet=False)
    for step in ("numbers", "squares"):
        shown.on_event(Event("step_started", step, 0.0, {"parts": 10, "todo": 10}))
    clock[0] += 20
    shown.on_event(Event("part_done", "numbers", 0.0, {"done": 2, "parts": 10}))
    shown.on_event(Event("part_done", "squares", 0.0, {"done": 5, "parts": 10}))
    shown.on_event(Event("step_room", "numbers", 0.0, {"hosts": {}, "waits": "room that is taken by squares"}))
    clock[0] += 1000
    shown.on_event(Event("step_room", "numbers", 0.0, {"hosts": {"a": 2, "b": 1}, "waits": ""}))
    clock[0] += 20
    shown.on_event(Event("part_done", "numbers", 0.0, {"done": 4, "parts": 10}))
    shown.on_event(Event("step_left", "numbers", 0.0, {"reason": "it failed"}))
    shown.on_event(Event("step_skipped", "counting", 0.0, {"because": "squares"}))
    lines = [line.partition("  ")[2] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "numbers   started",
        "squares   started",
        "numbers   2/10  1 min 20 s left",
        "squares   5/10  20 s left",
        "numbers   waits for room that is taken by squares",
        # It waited until now, so that its speed is that of the last 20 seconds.
        "numbers   4/10  1 min 00 s left  2 on a, 1 on b",
        "numbers   left unfinished",
        "counting  not begun: squares is not finished",
    ]
