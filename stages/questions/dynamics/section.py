"""What the page shows of dynamics: kept, the linear probe and r over a training, their trends, and since when."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from stages.questions.answers import Answer, first, tap_id_of
from stages.questions.drawing import charts
from stages.questions.drawing.markup import anchor, fill
from stages.questions.drawing.numbers import LabelledChart, PageTable, TableRow, count, interval, plain
from stages.questions.drawing.section import Section, SectionPart
from stages.questions.drawing.series import SCORES, Curve, chart, distances, transforms
from stages.questions.drawing.taps import StyledTap
from stages.questions.dynamics.answer import FIRST, KEPT, POSITION, PROBE, SINCE, R
from stages.questions.dynamics.rules import RULE as SINCE_RULE
from stages.questions.format import Row, joined
from stages.questions.series import FLOOR, OTHERS, TREND
from stages.questions.trend import BENDS, FALLS, RISES, RULE

TEMPLATE = Path(__file__).with_suffix(".html")
DASHED = "control-1"
"""Beside the style of a tap: the curve that is compared."""


@dataclass(frozen=True)
class TapCourse:
    """A tap of a training: its style is that of the last checkpoint. `text` says what rises and falls."""

    tap: StyledTap
    text: str
    trends: PageTable
    """Of kept and of the linear probe."""


@dataclass(frozen=True)
class RunCourse:
    """One training: a small chart of r, where *invariance* was asked, and of each attribute, and all trends."""

    name: str
    order: str
    taps: tuple[TapCourse, ...]
    plots: tuple[LabelledChart, ...]
    key: tuple[tuple[Markup, str], ...]
    moves: PageTable
    """Trends of r, of all taps."""


@dataclass(frozen=True)
class DynamicsContent:
    """What the template shows of the answer."""

    runs: tuple[RunCourse, ...]
    unit: str
    notes: tuple[str, ...]


MEASURES = (
    (
        "Trend over a training",
        "Change from the first checkpoint to the last along the least-squares line through all checkpoints of a tap, "
        "over the same resampled sources at every checkpoint. Checkpoints stand at equal distances, whatever their "
        "positions. The floor is the trend of samples of other sources. The linear probe is a ridge, fitted to train "
        "images and scored as R2. r is that of invariance: it falls where invariance appears. Other transforms: the "
        f"mean over those that the encoder was not trained with. {RULE}",
    ),
    ("Changed from", SINCE_RULE),
)


def section(answer: Answer, answers: Mapping[str, Answer], taps: Sequence[StyledTap]) -> Section:
    """The section of dynamics."""
    parts: tuple[SectionPart, ...] = ()
    if answer.rows:
        content = fill(TEMPLATE, "dynamics", content=_content(answer, taps))
        parts = (SectionPart("dynamics", "Dynamics", content),)
    return Section(parts=parts, measures=MEASURES)


def _content(answer: Answer, taps: Sequence[StyledTap]) -> DynamicsContent:
    notes = [row.why for row in answer.rows if row.metric in (FIRST, "left out", R) and row.why]
    positions = answer.where(POSITION)
    runs = []
    for run in dict.fromkeys(row.subject for row in positions):
        ends = {tap_id_of(row) for row in answer.where(PROBE + TREND) if row.encoder == run}
        shown = [tap for tap in taps if tap.id in ends]
        if shown:
            runs.append(_run(answer, run, shown))
    return DynamicsContent(tuple(runs), positions[0].unit if positions else "", tuple(notes))


def _run(answer: Answer, run: str, taps: Sequence[StyledTap]) -> RunCourse:
    course = _Course(answer, run)
    subjects = list(dict.fromkeys(row.subject for row in answer.where(PROBE) if row.encoder == run))
    r = course.curves(R, OTHERS, taps)
    plots = []
    if r:
        drawn = chart(r, course.points, distances(r), f"r over the training of {run}")
        plots.append(LabelledChart("r", "how far an image moves", drawn, anchor=anchor("dynamics", run, "r")))
    for subject in subjects:
        curves = [
            Curve(f"{metric} at {tap.id}", course.rows(metric, tap, subject), style, shape)
            for tap in taps
            for metric, style, shape in ((KEPT, tap.style, tap.shape), (PROBE, f"{tap.style} {DASHED}", ""))
        ]
        drawn = chart(curves, course.points, SCORES, f"{plain(subject)} over the training of {run}")
        plots.append(LabelledChart(plain(subject), "", drawn, anchor=anchor("dynamics", run, subject)))
    solid = [(tap.key, f"{tap.tap}, with 95 % interval") for tap in taps]
    dashed = charts.stroke("control control-1")
    return RunCourse(
        name=run,
        order=" → ".join(course.points),
        taps=tuple(TapCourse(tap, course.text(tap), course.attributes(tap)) for tap in taps),
        plots=tuple(plots),
        key=(*solid, (dashed, f"linear probe{f'; of r, {OTHERS}' if r else ''}")),
        moves=course.moves(taps),
    )


class _Course:
    """The rows of one training."""

    def __init__(self, answer: Answer, run: str) -> None:
        self.answer, self.run = answer, run
        at = {row.encoder: row.value for row in answer.where(POSITION) if row.subject == run}
        self.positions = dict(sorted(at.items(), key=lambda entry: entry[1]))
        self.points = [_short(position) for position in self.positions.values()]

    def rows(self, metric: str, tap: StyledTap, subject: str) -> list[Row | None]:
        """Of a number at a tap, checkpoint by checkpoint."""
        found = self.answer.where(metric)
        return [first(found, f"{encoder}:{tap.tap}", subject) for encoder in self.positions]

    def curves(self, metric: str, dashed: str, taps: Sequence[StyledTap]) -> list[Curve]:
        """Every subject of a number at every tap; that of the name `dashed` is compared with."""
        return [
            Curve(
                f"{metric}, {transforms(subject)}, at {tap.id}",
                self.rows(metric, tap, subject),
                *((f"{tap.style} {DASHED}", "") if subject == dashed else (tap.style, tap.shape)),
            )
            for tap in taps
            for subject in self._subjects(metric, tap)
        ]

    def text(self, tap: StyledTap) -> str:
        """What rises, falls and bends at a tap, in words."""
        said = []
        for metric, what in ((KEPT, "kept"), (R, "r")):
            for verdict, verb in ((RISES, "rises"), (FALLS, "falls"), (BENDS, "bends")):
                named = [
                    self._named(metric, tap, subject)
                    for subject in self._subjects(metric, tap)
                    if self._judged(metric + TREND, tap, subject).verdict == verdict
                ]
                said += [f"{what} {verb} for {joined(named)}"] if named else []
        return "; ".join(said).capitalize() + "." if said else "Nothing that is judged rises, falls or bends."

    def attributes(self, tap: StyledTap) -> PageTable:
        """The trends of kept and of the linear probe at a tap, attribute by attribute."""
        columns = {**self._columns(KEPT), **self._columns(PROBE)}
        lines = [
            TableRow(None, plain(subject), tuple(self._cell(column, tap, subject) for column in columns))
            for subject in self._subjects(PROBE, tap)
        ]
        return PageTable("", ("attribute", *columns.values()), tuple(lines))

    def moves(self, taps: Sequence[StyledTap]) -> PageTable:
        """The trends of r at every tap."""
        columns = self._columns(R)
        lines = [
            TableRow(tap, tap.id, (transforms(subject), *(self._cell(column, tap, subject) for column in columns)))
            for tap in taps
            for subject in self._subjects(R, tap)
        ]
        return PageTable("", ("tap", "transforms", *columns.values()), tuple(lines))

    def _columns(self, metric: str) -> dict[tuple[str, str], str]:
        """The columns of a number, as the metric of their rows and what is shown of these, with their heads."""
        found = {(metric + TREND, "value"): f"trend of {metric.removesuffix(' by position')}"}
        if self.answer.where(metric + FLOOR):
            found[metric + FLOOR, "value"] = "its floor"
        return found | {(metric + TREND, "verdict"): "verdict", (metric + SINCE, "position"): "changed from"}

    def _cell(self, column: tuple[str, str], tap: StyledTap, subject: str) -> str:
        metric, shown = column
        found = first(self.answer.where(metric), tap.id, subject)
        if found is None or shown == "verdict":
            return "" if found is None else found.verdict
        return count(found.value) if shown == "position" else interval(found)

    def _judged(self, metric: str, tap: StyledTap, subject: str) -> Row:
        found = first(self.answer.where(metric), tap.id, subject)
        assert found is not None
        return found

    def _named(self, metric: str, tap: StyledTap, subject: str) -> str:
        since = self._judged(metric + SINCE, tap, subject).value
        named = transforms(subject) if metric == R else plain(subject)
        return f"{named} (from {count(since)} on)" if math.isfinite(since) else named

    def _subjects(self, metric: str, tap: StyledTap) -> list[str]:
        return [row.subject for row in self.answer.where(metric + TREND) if tap_id_of(row) == tap.id]


def _short(position: float) -> str:
    """A position as a label of an axis: 16000 is 16k."""
    if position >= 1e6:
        return f"{position / 1e6:.3g}M"
    return f"{position / 1e3:.3g}k" if position >= 1e4 else f"{position:g}"
