"""Charts: where marks stand, which ticks an axis has, what is left out."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.questions.drawing import charts
from stages.questions.drawing.charts import Axis, Line, Mark

AXIS = Axis(0.0, 2.0, ((0.0, "0"), (1.0, "1"), (2.0, "2")))


def test_a_mark_stands_at_its_value_and_its_whisker_spans_the_interval() -> None:
    drawn = charts.dots([[Mark(1.0, 0.5, 1.5, "tap-0", "circle", "one")]], AXIS)
    assert '<line class="whisker tap-0" x1="25.00%" x2="75.00%"' in drawn
    assert '<svg class="mark tap-0 solid" x="50.00%"' in drawn


def test_a_value_beyond_the_axis_stands_at_its_end() -> None:
    assert AXIS.fraction(3.0) == 1.0
    assert AXIS.fraction(-1.0) == 0.0


def test_lanes_stand_under_each_other() -> None:
    lanes = [[Mark(1.0, math.nan, math.nan, f"tap-{number}", "circle", "") for _ in range(1)] for number in range(3)]
    heights = re.findall(r'class="mark tap-\d solid" x="50.00%" y="([\d.]+)"', charts.dots(lanes, AXIS, height=30))
    assert heights == ["5.0", "15.0", "25.0"]


def test_what_is_not_a_number_is_not_drawn() -> None:
    drawn = charts.dots([[Mark(math.nan, math.nan, math.nan, "tap-0", "circle", "none")]], AXIS)
    assert "mark" not in drawn
    assert "nan" not in drawn
    curve = Line("a", ((0.0, 1.0), (1.0, math.nan), (2.0, 2.0)), "tap-0", "circle", ((0.9, 1.1),) * 3)
    drawn = charts.lines([curve], AXIS, AXIS, 100, "name")
    assert "nan" not in drawn
    assert drawn.count('class="mark') == 2


def test_labels_are_escaped() -> None:
    drawn = charts.dots([[Mark(1.0, 0.5, 1.5, "tap-0", "circle", "<b>&\"'")]], AXIS)
    assert "<b>" not in drawn
    assert "&lt;b&gt;&amp;&#34;&#39;" in drawn


@pytest.mark.parametrize(("shape", "kind"), [("circle", "solid"), ("square-open", "hollow"), ("diamond-dot", "hollow")])
def test_a_hollow_shape_is_hollow(shape: str, kind: str) -> None:
    drawn = charts.symbol("tap-0", shape)
    assert f"tap-0 {kind}" in drawn
    assert ('class="dot"' in drawn) == shape.endswith("-dot")


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_a_nice_axis_holds_every_value_and_has_few_ticks(values: list[float]) -> None:
    axis = charts.nice_axis(values)
    tolerance = 1e-8 * (axis.stop - axis.start)
    assert axis.start <= min(values) + tolerance
    assert axis.stop >= max(values) - tolerance
    assert 2 <= len(axis.ticks) <= 12


def test_a_nice_axis_has_round_ticks() -> None:
    assert [label for _, label in charts.nice_axis([0.0, 1.0]).ticks] == ["0", "0.5", "1"]
    assert [label for _, label in charts.nice_axis([-0.13, 0.62]).ticks] == ["−0.2", "0", "0.2", "0.4", "0.6", "0.8"]


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20))
def test_a_logarithmic_axis_has_a_tick_at_each_power_of_ten(values: list[float]) -> None:
    axis = charts.log_axis(values)
    assert axis.start <= math.log10(min(values)) + 1e-8
    assert axis.stop >= math.log10(max(values)) - 1e-8
    assert [value for value, _ in axis.ticks] == [10.0**n for n in range(int(axis.start), int(axis.stop) + 1)]
    assert [axis.fraction(value) for value in (0.0, 10.0**axis.start, 10.0**axis.stop)] == [0.0, 0.0, 1.0]


def test_an_axis_of_nothing_is_still_an_axis() -> None:
    assert charts.nice_axis([]).stop > charts.nice_axis([]).start
    assert charts.log_axis([]).stop > charts.log_axis([]).start
