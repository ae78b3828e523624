"""The section on faithfulness: reciprocal ranks on a logarithmic scale with their controls, and a table of ranks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from stages.questions.format import Row
from stages.report import charts
from stages.report.charts import Mark, log_axis
from stages.report.numbers import Entry, Plot, Table, count, interval, number, plain
from stages.report.results import Answer, place
from stages.report.taps import Tap

SAMPLES = "samples"


@dataclass(frozen=True)
class Faithfulness:
    """What the template shows of the answer."""

    lead: str
    plots: tuple[Plot, ...]
    axis: Markup
    key: tuple[tuple[Markup, str], ...]
    tables: tuple[Table, ...]


def faithfulness(answer: Answer, taps: Sequence[Tap]) -> Faithfulness | None:
    """The section, or None where there are no rows."""
    ranked = answer.where("mrr")
    if not ranked:
        return None
    controls = list(dict.fromkeys(row.subject for row in ranked if row.subject != SAMPLES))
    axis = log_axis([row.value for row in ranked])
    plots = []
    for tap in taps:
        own = [row for row in ranked if place(row) == tap.place]
        marks = [_mark(row, tap) for row in own if row.subject == SAMPLES]
        ticks = [
            (math.log10(row.value), f"control control-{controls.index(row.subject)}", f"{plain(row.subject)} {interval(row, 3)}")
            for row in own
            if row.subject != SAMPLES and row.value > 0
        ]
        if own:
            plots.append(Plot(tap.place, "", charts.dots(marks, axis, height=26, ticks=ticks)))
    sizes = sorted({row.n for row in ranked})
    lead = (
        "Each sample is embedded again: among all held-out images, how near the top of the list does its source come? "
        "Samples that are not faithful say nothing about the tap."
    )
    key = [(charts.symbol("v", "circle"), "samples")]
    key += [(_stroke(f"control-{index}"), plain(name)) for index, name in enumerate(controls)]
    return Faithfulness(lead, tuple(plots), charts.scale(axis), tuple(key), (_table(answer, taps),) if sizes else ())


def _mark(row: Row, tap: Tap) -> Mark:
    low, high = (math.log10(value) if value > 0 else math.nan for value in (row.low, row.high))
    return Mark(math.log10(row.value), low, high, tap.style, tap.shape, f"{tap.place}: {interval(row, 3)}")


def _stroke(style: str) -> Markup:
    return Markup('<svg width="8" height="12" aria-hidden="true"><line class="ref control {}" x1="4" x2="4" y1="0" y2="12"/></svg>').format(style)


def _table(answer: Answer, taps: Sequence[Tap]) -> Table:
    rows = [row for row in answer.rows if row.encoder]
    columns = list(dict.fromkeys((row.metric, row.subject) for row in rows))
    found = {(place(row), row.metric, row.subject): row for row in rows}
    lines = []
    for tap in taps:
        here = [found.get((tap.place, *column)) for column in columns]
        if any(here):
            lines.append(Entry(tap, tap.place, tuple("" if row is None else _written(row) for row in here)))
    head = ("tap", *(f"{plain(metric)}, {plain(subject)}" if subject else plain(metric) for metric, subject in columns))
    return Table("Ranks", head, tuple(lines))


def _written(row: Row) -> str:
    return count(row.value) if "rank" in row.metric and row.metric != "mrr" else number(row.value, 3)
