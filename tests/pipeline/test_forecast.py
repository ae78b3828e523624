"""The critical path of a graph, and its end on machines of so many CPUs."""

import pytest

from pipeline.forecast import forecast, order
from pipeline.step import Step
from tests.faults.arithmetic import Counting, Numbers, Squares

GRAPH = [
    Step("numbers", Numbers()),
    Step("squares", Squares(), {"numbers": "numbers"}),
    Step("cubes", Squares(power=3), {"numbers": "numbers"}),
    Step("counting", Counting(), {"squares": "squares"}),
    Step("other", Counting(steps=3), {"squares": "cubes"}),
]


@pytest.mark.parametrize(
    ("seconds", "cpus", "end"),
    [
        # On one machine everything takes its turn.
        ({"numbers": 20, "squares": 40, "cubes": 40, "counting": 60, "other": 20}, [2], 90),
        # A training has a machine, and the parts beside it the other.
        ({"cubes": 40, "counting": 60}, [2, 2], 30),
        ({"counting": 60, "other": 20}, [2, 2], 30),
        ({"counting": 60, "other": 20}, [2], 40),
        # Parts that wait keep the only machine until they are done.
        ({"cubes": 40, "counting": 60}, [2], 50),
        ({"numbers": 40}, [1, 3], 10),
        ({}, [2], 0),
    ],
)
def test_all_is_done_when_the_last_step_has_had_its_cpus(
    seconds: dict[str, float], cpus: list[int], end: float
) -> None:
    assert forecast(GRAPH, seconds, cpus).seconds == pytest.approx(end)


def test_the_critical_path_is_the_chain_that_takes_the_longest_by_itself() -> None:
    seconds = {"numbers": 20.0, "squares": 10.0, "cubes": 20.0, "counting": 100.0, "other": 70.0}
    found = forecast(GRAPH, seconds, [2, 2])
    assert found.critical == ("numbers", "squares", "counting")
    assert found.critical_seconds == pytest.approx(20 / 4 + 10 / 4 + 100 / 2)
    assert order(GRAPH, seconds) == {"numbers": 0, "squares": 1, "counting": 2, "cubes": 3, "other": 4}


def test_a_chain_begins_with_what_is_still_to_do() -> None:
    assert forecast(GRAPH, {"counting": 10, "other": 4}, [1]).critical == ("counting",)
