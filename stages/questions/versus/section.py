"""What the page shows of versus: for each pair what the one knows more, which images it confuses, and its twins."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.questions.answers import Answer, first, tap_id_of
from stages.questions.drawing import charts
from stages.questions.drawing.charts import Mark
from stages.questions.drawing.markup import anchor, fill
from stages.questions.drawing.numbers import LabelledChart, PageTable, TableRow, interval, number, plain
from stages.questions.drawing.pictures import Sheet, rows
from stages.questions.drawing.section import Section, SectionPart
from stages.questions.drawing.taps import StyledTap
from stages.questions.findings import Finding
from stages.questions.format import Row, joined
from stages.questions.versus.answer import (
    CHANCE,
    CONTROL,
    FINER,
    GAP,
    IMBALANCE,
    KEPT,
    PAINTED,
    PROBE,
    REAL,
    SHUFFLED,
    SPREAD,
    TWINS,
)
from stages.questions.versus.rules import CANNOT_TELL, FINER_RULE, LESS, MORE, RULE, TWINS_RULE, outcome

TEMPLATE = Path(__file__).with_suffix(".html")
CLAIM = "One encoder knows something of the image that another does not."
PROBE_STYLE = "control control-1"


@dataclass(frozen=True)
class PairContent:
    """All of one pair of taps, A and B."""

    anchor: str
    a: StyledTap
    b: StyledTap
    summary: str
    """What A knows more and what B knows more, in words."""
    plots: tuple[LabelledChart, ...]
    """B - A of every attribute."""
    axis: object
    table: PageTable
    unjudged: tuple[str, ...]
    """Why there is no verdict, by attribute."""
    neighbours: PageTable
    real: tuple[Sheet, ...]
    twins: PageTable
    painted: tuple[Sheet, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class VersusContent:
    """What the template shows of the answer."""

    pairs: tuple[PairContent, ...]
    notes: tuple[str, ...]


MEASURES = (
    (
        "A and B",
        "kept and the R2 of a linear probe at two taps, over the same sources, noise and resamples, as the difference "
        "B − A. Its intervals hold for all attributes at once (Westfall and Young 1993), since the largest are picked "
        f"out. {RULE}",
    ),
    ("Neighbours of A and B", FINER_RULE),
    ("Twins of A at B", TWINS_RULE),
)


def section(answer: Answer, answers: Mapping[str, Answer], taps: Sequence[StyledTap]) -> Section:
    """The section of versus."""
    by_id = {tap.id: tap for tap in taps}
    pairs = list(dict.fromkeys((tap_id_of(row), _other(row)) for row in answer.where(KEPT + GAP)))
    notes = tuple(row.why for row in answer.where("left out"))
    parts: tuple[SectionPart, ...] = ()
    if pairs or notes:
        content = VersusContent(tuple(_pair(answer, by_id[a], by_id[b]) for a, b in pairs), notes)
        parts = (SectionPart("versus", "A not B", fill(TEMPLATE, "versus", content=content)),)
    found = tuple(finding for a, b in pairs for finding in _findings(answer, a, b))
    headlines = (f"versus  {finding.encoder}  {finding.outcome}: {finding.why}" for finding in found)
    return Section(parts=parts, measures=MEASURES, findings=found, headlines=tuple(headlines))


def _other(row: Row) -> str:
    """B of a row whose tap is A."""
    return row.subject.partition(" ")[0]


def _attribute(row: Row) -> str:
    return row.subject.partition(" ")[2]


def _of_pair(answer: Answer, metric: str, a: str, b: str) -> list[Row]:
    return [row for row in answer.where(metric) if tap_id_of(row) == a and _other(row) == b]


def _findings(answer: Answer, a: str, b: str) -> Iterator[Finding]:
    """Whether B knows more than A of any attribute, and A more than B."""
    gaps = _of_pair(answer, KEPT + GAP, a, b)
    for knowing, other, wanted in ((b, a, MORE), (a, b, LESS)):
        more = [f"{_attribute(row)} ({interval(row)})" for row in gaps if row.verdict == wanted]
        judged = sum(row.verdict != CANNOT_TELL for row in gaps)
        why = f"Of {judged} attributes that can be judged, more of {joined(more) if more else 'none'}."
        if more:
            why += f" In brackets kept({b}) − kept({a})."
        yield Finding("versus", f"{knowing}, not {other}", CLAIM, outcome([row.verdict for row in gaps], wanted), why)


def _pair(answer: Answer, a: StyledTap, b: StyledTap) -> PairContent:
    gaps = sorted(_of_pair(answer, KEPT + GAP, a.id, b.id), key=lambda row: -abs(row.value))
    probes = {_attribute(row): row for row in _of_pair(answer, PROBE + GAP, a.id, b.id)}
    ends = [bound for row in gaps for bound in (row.low, row.high)] + [row.value for row in probes.values()]
    axis = charts.around(charts.nice_axis(ends))
    figures = {
        kind: tuple(
            rows(figure)
            for here, there in ((a, b), (b, a))
            for figure in answer.kind(kind)
            if figure.name == f"{kind}-{here.id}-{there.id}".replace(":", "-")
        )
        for kind in (REAL, PAINTED)
    }
    return PairContent(
        anchor=anchor("versus", a.id, b.id),
        a=a,
        b=b,
        summary=_summary(gaps, a, b),
        plots=tuple(_plot(row, probes.get(_attribute(row)), a, b, axis) for row in gaps),
        axis=charts.scale(axis),
        table=_table(answer, gaps, probes, a, b),
        unjudged=tuple(f"{plain(_attribute(row))}: {row.why}" for row in gaps if row.verdict == CANNOT_TELL),
        neighbours=_neighbours(answer, a, b),
        real=figures[REAL],
        twins=_twins(answer, a, b),
        painted=figures[PAINTED],
        notes=tuple(
            row.why
            for metric in ("no pairs", TWINS)
            for here, there in ((a, b), (b, a))
            for row in _of_pair(answer, metric, here.id, there.id)
            if not row.unit
        ),
    )


def _summary(gaps: Sequence[Row], a: StyledTap, b: StyledTap) -> str:
    clauses = []
    for tap, wanted in ((b, MORE), (a, LESS)):
        if names := [plain(_attribute(row)) for row in gaps if row.verdict == wanted]:
            clauses.append(f"{tap.id} knows more of {joined(names)}.")
    unknown = sum(row.verdict == CANNOT_TELL for row in gaps)
    if not clauses:
        clauses.append("Neither is shown to know more of any attribute.")
    return " ".join(
        [*clauses, *([f"On {unknown} of {len(gaps)} attributes no verdict is possible."] if unknown else [])]
    )


def _words(verdict: str, a: StyledTap, b: StyledTap) -> str:
    """A verdict with the names of the taps."""
    return {MORE: f"{b.id} knows more", LESS: f"{a.id} knows more"}.get(verdict, verdict.lower())


def _plot(row: Row, probe: Row | None, a: StyledTap, b: StyledTap, axis: charts.Axis) -> LabelledChart:
    """B - A of an attribute, in the colour of the tap that knows more."""
    name, verdict = plain(_attribute(row)), _words(row.verdict, a, b)
    style, shape = {MORE: (b.style, b.shape), LESS: (a.style, a.shape)}.get(row.verdict, ("v v-none", "circle"))
    marks = [Mark(row.value, row.low, row.high, style, shape, f"{name}: {interval(row)}, {verdict}")]
    ticks = [] if probe is None else [(probe.value, PROBE_STYLE, f"linear probe: {interval(probe)}")]
    chart = charts.dots([marks], axis, height=22, ticks=ticks)
    return LabelledChart(name, verdict, chart, None, anchor("versus", a.id, b.id, _attribute(row)))


def _table(answer: Answer, gaps: Sequence[Row], probes: Mapping[str, Row], a: StyledTap, b: StyledTap) -> PageTable:
    shuffled = {_attribute(row): row for row in _of_pair(answer, KEPT + GAP + SHUFFLED, a.id, b.id)}
    lines = []
    for row in gaps:
        name = _attribute(row)
        kept = (first(answer.where(KEPT), tap.id, name) for tap in (a, b))
        cells = [*kept, row, shuffled.get(name), probes.get(name)]
        written = ["" if cell is None else interval(cell) for cell in cells]
        lines.append(TableRow(None, plain(name), (*written, _words(row.verdict, a, b))))
    head = (
        "attribute",
        f"kept at {a.id}",
        f"kept at {b.id}",
        "difference",
        "of other sources",
        "linear probe",
        "verdict",
    )
    return PageTable("", head, tuple(lines))


def _neighbours(answer: Answer, a: StyledTap, b: StyledTap) -> PageTable:
    found = [
        (f"{here.id} → {there.id}", row, "")
        for here, there in ((a, b), (b, a))
        for row in _of_pair(answer, IMBALANCE, here.id, there.id)
    ]
    verdicts = {"B FINER": f"{b.id} is finer", "A FINER": f"{a.id} is finer"}
    for metric, label in ((FINER, "difference"), (CHANCE, "images that do not belong together")):
        for row in _of_pair(answer, metric, a.id, b.id):
            found.append((label, row, verdicts.get(row.verdict, row.verdict.lower())))
    lines = tuple(TableRow(None, label, (interval(row, 3), verdict)) for label, row, verdict in found)
    return PageTable("", ("how well neighbours predict neighbours", "imbalance", "verdict"), lines)


def _twins(answer: Answer, a: StyledTap, b: StyledTap) -> PageTable:
    lines = []
    for here, there in ((a, b), (b, a)):
        own, across = (first(answer.where(SPREAD), here.id, at.id) for at in (here, there))
        gap, control = (first(answer.where(metric), here.id, there.id) for metric in (TWINS, CONTROL))
        if own is None or across is None or gap is None or control is None:
            continue
        cells = (
            there.id,
            number(own.value),
            number(across.value),
            interval(gap),
            interval(control),
            gap.verdict.lower(),
        )
        lines.append(TableRow(here, here.id, cells))
    head = ("samples of", "seen by", "spread at home", "spread there", "there − home", "there − of its own", "verdict")
    return PageTable("", head, tuple(lines))
