"""What the page shows of shift: what is lost outside of the train images, by attribute, and walks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from stages.questions.answers import Answer, first, tap_id_of
from stages.questions.drawing import charts
from stages.questions.drawing.charts import Mark
from stages.questions.drawing.markup import anchor, fill
from stages.questions.drawing.numbers import LabelledChart, PageTable, TableRow, interval, plain
from stages.questions.drawing.pictures import Sheet, by_tap, rows
from stages.questions.drawing.section import Section, SectionPart
from stages.questions.drawing.taps import StyledTap
from stages.questions.findings import Finding
from stages.questions.format import Row, joined
from stages.questions.shift.answer import (
    DISTANCE,
    FARTHER,
    GAP,
    HALVES,
    KEPT,
    LEFT_OUT,
    MRR,
    PROBE,
    SEEN,
    UNSEEN,
    WALK,
    WALK_CONTROL,
    WALK_GAP,
)
from stages.questions.shift.ask import ACROSS, BETWEEN
from stages.questions.shift.rules import (
    CANNOT_TELL,
    DECODER,
    DISTANCE_RULE,
    EMBEDDING,
    FAILS,
    HOLDS,
    RULE,
    WALK_RULE,
    outcome,
)

TEMPLATE = Path(__file__).with_suffix(".html")
CLAIM = "What samples show of an image, they show of combinations that neither encoder nor decoder has met."
PROBE_STYLE = "control control-1"
VERDICTS = (DECODER, EMBEDDING, FAILS, HOLDS, CANNOT_TELL)
"""In the order in which attributes are shown."""
MEASURES = (
    (
        "Seen and unseen combinations",
        "kept of held-out images, and of images with a combination that no encoder and no decoder was trained on. Both "
        "are scored beside samples of seen combinations, so they have one scale. A linear probe is fitted to train "
        "images and scored as R2 of both groups. Differences are unpaired: each group is resampled by itself, since "
        "its images are others. Readers have learned from images of unseen combinations too, but from none that is "
        f"asked about. {RULE}",
    ),
    ("Distance of unseen combinations", DISTANCE_RULE),
    ("Walks", WALK_RULE),
)


@dataclass(frozen=True)
class ShiftedTap:
    """One tap: what is lost of each attribute."""

    anchor: str
    tap: StyledTap
    summary: str
    plots: tuple[LabelledChart, ...]
    axis: Markup
    table: PageTable
    unjudged: tuple[str, ...]
    """Why there is no verdict, by attribute."""


@dataclass(frozen=True)
class ShiftContent:
    """What the template shows of the answer."""

    notes: tuple[str, ...]
    taps: tuple[ShiftedTap, ...]
    key: tuple[tuple[Markup, str], ...]
    distances: PageTable
    ranks: PageTable
    grids: tuple[Sheet, ...]
    walks: PageTable
    walked: tuple[Sheet, ...]


def section(answer: Answer, answers: Mapping[str, Answer], taps: Sequence[StyledTap]) -> Section:
    """The section of shift."""
    gaps = {tap.id: [row for row in answer.where(KEPT + GAP) if tap_id_of(row) == tap.id] for tap in taps}
    asked = [tap for tap in taps if gaps[tap.id]]
    axis = _axis([row for found in gaps.values() for row in found], answer.where(PROBE + GAP))
    content = ShiftContent(
        notes=tuple(row.why for row in answer.where(LEFT_OUT)),
        taps=tuple(_tap(answer, tap, gaps[tap.id], axis) for tap in asked),
        key=(
            (charts.symbol("v v-none", "circle"), "kept of seen − kept of unseen combinations, with 95 % interval"),
            (charts.stroke(PROBE_STYLE), "the same of a linear probe"),
        ),
        distances=_distances(answer, taps),
        ranks=_ranks(answer, taps),
        grids=tuple(rows(figure) for _, figure in by_tap(answer.kind("grid"), taps)),
        walks=_walks(answer, taps),
        walked=tuple(rows(figure) for _, figure in by_tap(answer.kind("walk"), taps)),
    )
    part = SectionPart("shift", "Outside of the train images", fill(TEMPLATE, "shift", content=content))
    found = tuple(_finding(tap.id, gaps[tap.id]) for tap in asked if tap.studied)
    lines = [f"shift  {finding.encoder}  {finding.outcome}: {finding.why}" for finding in found]
    lines += [f"shift  {tap_id_of(row)}  walk {row.verdict}: {row.why}" for row in answer.where(WALK_GAP)]
    return Section(parts=(part,), measures=MEASURES, findings=found, headlines=tuple(lines))


def _finding(tap_id: str, gaps: Sequence[Row]) -> Finding:
    return Finding("shift", tap_id, CLAIM, outcome([row.verdict for row in gaps]), _summary(gaps))


def _summary(gaps: Sequence[Row]) -> str:
    """How many attributes got each verdict, and which of them fail."""
    clauses = []
    for verdict in VERDICTS:
        names = [plain(row.subject) for row in gaps if row.verdict == verdict]
        if names and verdict == CANNOT_TELL:
            clauses.append(f"no verdict on {len(names)} of {len(gaps)} attributes")
        elif names:
            clauses.append(f"{verdict.lower()}: {joined(names)}")
    text = "; ".join(clauses)
    return f"{text[:1].upper()}{text[1:]}."


def _axis(gaps: Sequence[Row], probes: Sequence[Row]) -> charts.Axis:
    ends = [bound for row in gaps for bound in (row.low, row.high)] + [row.value for row in probes]
    return charts.around(charts.nice_axis(min(1.2, max(-0.6, end)) for end in ends))


def _tap(answer: Answer, tap: StyledTap, gaps: Sequence[Row], axis: charts.Axis) -> ShiftedTap:
    probes = {row.subject: row for row in answer.where(PROBE + GAP) if tap_id_of(row) == tap.id}
    ordered = sorted(gaps, key=lambda row: (VERDICTS.index(row.verdict), -row.value))
    return ShiftedTap(
        anchor=anchor("shift", tap.id),
        tap=tap,
        summary=_summary(gaps),
        plots=tuple(_plot(row, probes.get(row.subject), tap, axis) for row in ordered),
        axis=charts.scale(axis),
        table=_table(answer, tap, ordered),
        unjudged=tuple(f"{plain(row.subject)}: {row.why}" for row in ordered if row.verdict == CANNOT_TELL),
    )


def _plot(row: Row, probe: Row | None, tap: StyledTap, axis: charts.Axis) -> LabelledChart:
    """What is lost of an attribute; in the colour of the tap where there is a verdict."""
    name, verdict = plain(row.subject), row.verdict.lower()
    style, shape = ("v v-none", "circle") if row.verdict == CANNOT_TELL else (tap.style, tap.shape)
    mark = Mark(row.value, row.low, row.high, style, shape, f"{name}: {interval(row)}, {verdict}")
    ticks = [] if probe is None else [(probe.value, PROBE_STYLE, f"linear probe: {interval(probe)}")]
    chart = charts.dots([[mark]], axis, height=22, ticks=ticks)
    return LabelledChart(name, verdict, chart, None, anchor("shift", tap.id, row.subject))


def _table(answer: Answer, tap: StyledTap, gaps: Sequence[Row]) -> PageTable:
    lines = []
    for row in gaps:
        metrics = (KEPT + SEEN, KEPT + UNSEEN, KEPT + GAP, KEPT + HALVES, PROBE + SEEN, PROBE + UNSEEN, PROBE + GAP)
        cells = (first(answer.where(metric), tap.id, row.subject) for metric in metrics)
        written = ["" if cell is None else interval(cell) for cell in cells]
        lines.append(TableRow(None, plain(row.subject), tuple(written)))
    head = (
        "attribute",
        "kept, seen",
        "kept, unseen",
        "difference",
        "two halves of seen",
        "probe, seen",
        "probe, unseen",
        "difference",
    )
    return PageTable("", head, tuple(lines))


def _distances(answer: Answer, taps: Sequence[StyledTap]) -> PageTable:
    head = ("tap", "seen", "unseen", "unseen − seen", "two halves of seen", "verdict")
    return _of_taps(answer, taps, head, DISTANCE, (SEEN, UNSEEN, FARTHER, HALVES), FARTHER)


def _ranks(answer: Answer, taps: Sequence[StyledTap]) -> PageTable:
    head = ("tap", "seen", "unseen", "seen − unseen", "two halves of seen")
    return _of_taps(answer, taps, head, MRR, (SEEN, UNSEEN, GAP, HALVES))


def _of_taps(
    answer: Answer,
    taps: Sequence[StyledTap],
    head: tuple[str, ...],
    metric: str,
    columns: Sequence[str],
    judged: str | None = None,
) -> PageTable:
    """A line for each tap that has the numbers; `judged` is the column whose verdict stands last."""
    lines = []
    for tap in taps:
        cells = {column: first(answer.where(metric + column), tap.id, "") for column in columns}
        known = {column: cell for column, cell in cells.items() if cell is not None}
        if len(known) == len(columns):
            verdict = () if judged is None else (known[judged].verdict.lower(),)
            lines.append(TableRow(tap, tap.id, (*(interval(cell, 3) for cell in known.values()), *verdict)))
    return PageTable("", head, tuple(lines))


def _walks(answer: Answer, taps: Sequence[StyledTap]) -> PageTable:
    lines = []
    for tap in taps:
        judged = first(answer.where(WALK_GAP), tap.id, "")
        if judged is None:
            continue
        cells = [first(answer.where(WALK), tap.id, name) for name in ("images", BETWEEN, ACROSS)]
        cells += [judged, first(answer.where(WALK_CONTROL), tap.id, "")]
        written = ["" if cell is None else interval(cell, 3) for cell in cells]
        lines.append(TableRow(tap, tap.id, (*written, judged.verdict.lower())))
    head = (
        "tap",
        "images",
        "between neighbours",
        "across walks",
        "neighbours − images",
        "across − neighbours",
        "verdict",
    )
    return PageTable("", head, tuple(lines))
