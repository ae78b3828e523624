"""The section on invariance: r of the encoder's own augmentations, r of single transforms, painted examples."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from stages.questions.verdicts import BOTH
from stages.report import charts, numbers, pictures
from stages.report.charts import Mark
from stages.report.numbers import Entry, Plot, Table, interval, plain
from stages.report.pictures import Rows
from stages.report.results import Answer, place
from stages.report.taps import Tap

OWN = "own"
"""Subject of the rows on the encoder's own training augmentations."""


@dataclass(frozen=True)
class Invariance:
    """What the template shows of the answer."""

    own: tuple[Plot, ...]
    axis: Markup
    key: tuple[tuple[Markup, str], ...]
    strengths: tuple[Plot, ...]
    differences: Table
    painted: tuple[Rows, ...]


def invariance(answer: Answer, taps: Sequence[Tap]) -> Invariance | None:
    """The section, or None where there are no rows."""
    rows = answer.where("r")
    if not rows:
        return None
    references = answer.where("reference")
    named = list(dict.fromkeys(row.subject for row in references))
    owned = [row for row in rows if row.subject == OWN]
    axis = charts.around(charts.nice_axis([1.0, *(row.value for row in [*owned, *references])]))
    own = []
    for tap in taps:
        marks = [
            Mark(row.value, row.low, row.high, tap.style, tap.shape, f"{tap.place}: {interval(row)}")
            for row in owned
            if place(row) == tap.place
        ]
        ticks = [
            (row.value, f"control control-{named.index(row.subject)}", f"{row.subject}: {interval(row)}")
            for row in references
            if place(row) == tap.place
        ]
        if marks:
            own.append(Plot(tap.place, "", charts.dots([marks], axis, height=22, ticks=ticks), tap))
    return Invariance(
        own=tuple(own),
        axis=charts.scale(axis),
        key=tuple((charts.stroke(f"control control-{index}"), plain(name)) for index, name in enumerate(named)),
        strengths=tuple(numbers.strengths([row for row in rows if row.subject != OWN], taps)),
        differences=_differences(answer),
        painted=tuple(pictures.transformed(answer.figures, taps)),
    )


def _differences(answer: Answer) -> Table:
    """r at both ends of an encoder against each other."""
    both = [row for row in answer.rows if row.tap == BOTH]
    by = {(row.encoder, row.subject, row.metric): row for row in both}
    metrics = ("r difference", "r ratio")
    lines = []
    for encoder, subject in dict.fromkeys((row.encoder, row.subject) for row in both):
        found = [by.get((encoder, subject, metric)) for metric in metrics]
        name = "its own augmentations" if subject == OWN else plain(subject)
        lines.append(Entry(None, encoder, (name, *("" if row is None else interval(row) for row in found))))
    return Table("", ("encoder", "transform", "r(backbone) − r(projector)", "r(projector) / r(backbone)"), tuple(lines))
