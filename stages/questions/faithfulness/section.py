"""What the page shows of faithfulness: ranks on a logarithmic scale, their spread, all numbers with controls."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from stages.questions.answers import Answer, tap_id_of
from stages.questions.drawing import charts
from stages.questions.drawing.charts import Axis, Line, Mark, Point, log_axis
from stages.questions.drawing.markup import anchor, fill
from stages.questions.drawing.numbers import LabelledChart, PageTable, TableRow, count, interval, plain
from stages.questions.drawing.section import Section, SectionPart
from stages.questions.drawing.taps import StyledTap
from stages.questions.format import Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TEMPLATE = Path(__file__).with_suffix(".html")
SAMPLES = "samples"
MRR, MEDIAN = "mrr", "median rank"
NAMES = {"samples": "samples", "crop": "a light crop of the source", "nearest": "its nearest other image",
         "random": "a random image", "shuffled": "samples of another source",
         "downsized": "the source at the decoder's resolution"}  # fmt: skip


@dataclass(frozen=True)
class RankCharts:
    """One number of every tap, on a logarithmic scale."""

    title: str
    note: str
    plots: tuple[LabelledChart, ...]
    axis: Markup


@dataclass(frozen=True)
class FaithfulnessContent:
    """What the template shows of the answer."""

    among: str
    ranks: tuple[RankCharts, ...]
    histograms: tuple[LabelledChart, ...]
    key: tuple[tuple[Markup, str], ...]
    table: PageTable
    controls: PageTable


MEASURES = (
    (
        "Rank and MRR",
        "Each sample is embedded again and all held-out images are sorted by their distance to it; the rank is where "
        "its source comes, the source counted in. MRR is the mean of 1 / rank.",
    ),
    (
        "Controls of the rank",
        "A light crop of the source (as good as it gets), the nearest other real image, a random image, and the "
        "samples of another source (as bad as it gets). Where the encoder sees larger images than the decoder paints: "
        "the source at the decoder's resolution, which no sample can surpass, and all of it again among images at that "
        "resolution.",
    ),
    (
        "Distance",
        "Euclidean, between vectors standardised as the decoder sees them: (x − mean) / max(std, 0.05 × RMS of std), "
        "from training images. The unit is the mean distance of two random images.",
    ),
    (
        "Nearness",
        "Distance of the samples to their source over that of the nearest other real image, both at the decoder's "
        "resolution: the median over sources. Below 1 the samples are faithful.",
    ),
)


def section(answer: Answer, answers: Mapping[str, Answer], taps: Sequence[StyledTap]) -> Section:
    """The section of faithfulness. Nearness is taken from the rows of any answer that has it."""
    parts: tuple[SectionPart, ...] = ()
    if answer.where(MRR):
        nearness = [row for other in answers.values() for row in other.where("nearness")]
        html = fill(TEMPLATE, "faithfulness", content=_content(answer, nearness, taps))
        parts = (SectionPart("faithfulness", "Faithfulness", html),)
    headlines = (
        f"MRR  {tap_id_of(row)}  {row.value:.2f} [{row.low:.2f}, {row.high:.2f}]  {row.unit}"
        for row in answer.where(MRR)
        if row.subject == SAMPLES
    )
    return Section(parts=parts, measures=MEASURES, headlines=tuple(headlines))


def _content(answer: Answer, nearness: Sequence[Row], taps: Sequence[StyledTap]) -> FaithfulnessContent:
    ranked = answer.where(MRR)
    # Those of the other gallery are in the table of all numbers.
    controls = [name for name in dict.fromkeys(row.subject for row in answer.rows) if name in NAMES and name != SAMPLES]
    ranks = (
        _ranks(answer, taps, MRR, "Mean reciprocal rank", "1: the source always comes first", controls),
        _ranks(answer, taps, MEDIAN, "Median rank", "1 is best", controls),
    )
    key = [(charts.symbol("v v-none", "circle"), "samples, with 95 % interval")]
    key += [
        (charts.stroke(f"control control-{index}"), NAMES.get(name, plain(name))) for index, name in enumerate(controls)
    ]
    metrics = list(dict.fromkeys(row.metric for row in answer.rows))
    by = {(tap_id_of(row), row.metric, row.subject): row for row in [*answer.rows, *nearness]}
    lines = []
    for tap in taps:
        found = [by.get((tap.id, metric, SAMPLES)) for metric in metrics]
        if any(found):
            near = by.get((tap.id, "nearness", ""))
            lines.append(TableRow(tap, tap.id, tuple("" if row is None else written(row) for row in [*found, near])))
    head = ("tap", *(plain(metric) if metric != MRR else "MRR" for metric in metrics), "nearness")
    return FaithfulnessContent(
        among=re.sub(r"\d+", lambda found: count(int(found[0])), ranked[0].unit.rpartition(" among ")[2]),
        ranks=tuple(entry for entry in ranks if entry.plots),
        histograms=tuple(_histograms(answer, taps, controls)),
        key=tuple(key),
        table=PageTable("", head, tuple(lines)),
        controls=_controls(answer, taps, metrics),
    )


def written(row: Row) -> str:
    """A row's value and interval, with the digits of its metric."""
    if row.metric.endswith(" rank"):
        bounds = f" [{count(row.low)}, {count(row.high)}]" if math.isfinite(row.low) else ""
        return f"{count(row.value)}{bounds}"
    return interval(row, 3 if row.metric == MRR else 2)


def _ranks(
    answer: Answer, taps: Sequence[StyledTap], metric: str, title: str, note: str, controls: Sequence[str]
) -> RankCharts:
    rows = [row for row in answer.where(metric) if row.value > 0]
    axis = charts.around(log_axis([row.value for row in rows]))
    plots = []
    for tap in taps:
        own = [row for row in rows if tap_id_of(row) == tap.id]
        marks = [_mark(row, tap) for row in own if row.subject == SAMPLES]
        ticks = [
            (row.value, f"control control-{controls.index(row.subject)}", f"{row.subject}: {written(row)}")
            for row in own
            if row.subject in controls
        ]
        if marks:
            chart = charts.dots([marks], axis, height=22, ticks=ticks)
            plots.append(LabelledChart(tap.id, "", chart, tap, anchor("faithfulness", metric, tap.id)))
    return RankCharts(title, note, tuple(plots), charts.scale(axis))


def _histograms(answer: Answer, taps: Sequence[StyledTap], controls: Sequence[str]) -> list[LabelledChart]:
    """How the ranks of each tap are spread, in bins that double: samples filled, controls as outlines."""
    bins = _bin(max((found.gallery for found in answer.ranks), default=1)) + 1
    # Room for the labels of the upward axis is left before the first bin.
    labels = tuple((number + 0.5, count(2**number)) for number in range(0, bins, 3))
    across = Axis(-1.2, float(bins), labels)
    up = Axis(0.0, 1.0, ((0.0, ""), (0.5, "50 %"), (1.0, "100 %")))
    plots = []
    for tap in taps:
        own = {found.subject: found.ranks for found in answer.ranks if found.tap_id == tap.id}
        if SAMPLES not in own:
            continue
        styles = {name: f"control control-{number}" for number, name in enumerate(controls)}
        curves = [
            Line(NAMES.get(name, plain(name)), _steps(ranks, bins), styles[name])
            for name, ranks in own.items()
            if name in styles
        ]
        steps = _steps(own[SAMPLES], bins)
        curves.append(Line("samples", steps, f"{tap.style} filled", bounds=tuple((0.0, share) for _, share in steps)))
        first, ten = ((own[SAMPLES] <= most).mean() for most in (1, 10))
        summary = f"source first {100 * first:.0f} %, among the first ten {100 * ten:.0f} %"
        chart = charts.lines(curves, across, up, 150, f"ranks at {tap.id}: {summary}")
        plots.append(LabelledChart(tap.id, summary, chart, tap, anchor("faithfulness", tap.id)))
    return plots


def _bin(rank: float) -> int:
    """The bin of a rank: 1, 2 to 3, 4 to 7, and so on."""
    return int(math.log2(rank))


def _steps(ranks: "NDArray[np.float64]", bins: int) -> tuple[Point, ...]:
    """The share of ranks in each bin, as the corners of a staircase."""
    counted = Counter(_bin(rank) for rank in ranks.reshape(-1).tolist())
    shares = [counted[number] / ranks.size for number in range(bins)]
    return tuple((float(edge), share) for number, share in enumerate(shares) for edge in (number, number + 1))


def _mark(row: Row, tap: StyledTap) -> Mark:
    low, high = (value if value > 0 else math.nan for value in (row.low, row.high))
    return Mark(row.value, low, high, tap.style, tap.shape, f"{tap.id}: {written(row)}")


def _controls(answer: Answer, taps: Sequence[StyledTap], metrics: Sequence[str]) -> PageTable:
    """Every number: one line per tap and kind of query."""
    by = {(tap_id_of(row), row.subject, row.metric): row for row in answer.rows}
    lines = []
    for tap in taps:
        for subject in dict.fromkeys(row.subject for row in answer.rows if tap_id_of(row) == tap.id):
            found = [by.get((tap.id, subject, metric)) for metric in metrics]
            cells = (NAMES.get(subject, plain(subject)), *("" if row is None else written(row) for row in found))
            lines.append(TableRow(tap, tap.id, cells))
    return PageTable("", ("tap", "ranked", *(plain(m) if m != MRR else "MRR" for m in metrics)), tuple(lines))
