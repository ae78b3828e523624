"""Small charts of numbers along a series of taps, whose points stand at equal distances."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from stages.questions.asks.work import OWN
from stages.questions.drawing import charts
from stages.questions.drawing.charts import Axis, Line, nice_axis
from stages.questions.drawing.numbers import plain
from stages.questions.format import Row

CONTROL = "control control-1"
"""Style of curves that are no tap's."""
SCORES = Axis(-0.1, 1.05, ((0.0, "0"), (0.5, "0.5"), (1.0, "1")))
"""Of kept and of the linear probe."""
HEIGHT = 130


@dataclass(frozen=True)
class Curve:
    """A number at each point of the series; None where it has none. With a shape it has marks and its interval."""

    label: str
    rows: Sequence[Row | None]
    style: str
    shape: str = ""


def chart(curves: Sequence[Curve], points: Sequence[str], up: Axis, title: str) -> Markup:
    """The curves over the points; what lies outside of `up` stands at its edge."""
    across = Axis(-0.35, len(points) - 0.65, tuple((float(i), name) for i, name in enumerate(points)))
    drawn = []
    for curve in curves:
        known = [(float(i), row) for i, row in enumerate(curve.rows) if row is not None]
        line = tuple((i, _inside(row.value, up)) for i, row in known)
        bounds = tuple((_inside(row.low, up), _inside(row.high, up)) for _, row in known) if curve.shape else ()
        drawn.append(Line(curve.label, line, curve.style, curve.shape, bounds))
    return charts.lines([line for line in drawn if line.points], across, up, HEIGHT, title)


def transforms(subject: str) -> str:
    """What r is of, as it is read."""
    return "its own augmentations" if subject == OWN else plain(subject)


def distances(curves: Sequence[Curve]) -> Axis:
    """The axis of r: from 0 to 1, or further where a number is."""
    rows = [row for curve in curves for row in curve.rows if row is not None]
    return nice_axis([1.0, *(row.value for row in rows), *(row.high for row in rows)], count=2)


def _inside(value: float, up: Axis) -> float:
    return value if math.isnan(value) else min(up.stop, max(up.start, value))
