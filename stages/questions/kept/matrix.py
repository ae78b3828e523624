"""The matrix of kept: taps x attributes, and the sentence on each tap."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from stages.questions.answers import Answer, first, tap_id_of
from stages.questions.drawing import charts
from stages.questions.drawing.charts import Axis, Mark, unit_axis
from stages.questions.drawing.markup import anchor
from stages.questions.drawing.numbers import LabelledChart, interval, number, plain
from stages.questions.drawing.taps import StyledTap
from stages.questions.format import Row
from stages.questions.kept import verdicts


@dataclass(frozen=True)
class VerdictLabel:
    """A verdict as it stands on the page: its class and symbol, its word, and what it means in plain words."""

    style: str
    word: str
    meaning: str


VERDICTS: Mapping[str, VerdictLabel] = {
    "KEPT": VerdictLabel("v-kept", "kept", "the samples show it"),
    "PARTLY": VerdictLabel("v-partly", "partly", "between kept and lost"),
    "LOST": VerdictLabel("v-lost", "lost", "neither the samples nor a probe show it"),
    "DECODER LIMIT": VerdictLabel("v-limit", "decoder limit", "a probe reads it, the samples do not show it"),
    "CANNOT TELL": VerdictLabel("v-cannot", "cannot tell", "the instrument is not good enough here"),
}
UNJUDGED = VerdictLabel("v-none", "not judged", "no rule was asked")

SCORES = unit_axis()

BESIDE = ("kept / ceiling", "probe", "floor", "fixed", "fixed - kept", "odd one out", "kept halfway", "probe floor")
"""Metrics that stand beside kept when a cell is opened."""
WIDE = 6
"""Taps from which on a row is a tap and a cell is small, so that a dozen encoders fit a window."""


@dataclass(frozen=True)
class MatrixCell:
    """One tap and one attribute: what was measured, the verdict and why, drawn small."""

    anchor: str
    """Its id on the page: `kept/<tap>/<attribute>`."""
    tap: StyledTap
    subject: str
    word: VerdictLabel
    why: str
    facts: tuple[tuple[str, str], ...]
    value: str
    foot: str
    chart: Markup


@dataclass(frozen=True)
class MatrixRow:
    """One attribute of the matrix: its name, what the instrument reaches on it, one cell per tap."""

    subject: str
    about: tuple[str, ...]
    cells: tuple[MatrixCell | None, ...]


@dataclass(frozen=True)
class MatrixGroup:
    """Attributes of one kind."""

    title: str
    lines: tuple[MatrixRow, ...]


@dataclass(frozen=True)
class MatrixLine:
    """The same turned around: a tap and its cells over all attributes. `leads`: it is the first of its encoder."""

    tap: StyledTap
    leads: bool
    cells: tuple[MatrixCell | None, ...]


@dataclass(frozen=True)
class TapSentence:
    """The sentence on a tap, and how many attributes got each verdict."""

    tap: StyledTap
    text: str
    tally: tuple[tuple[VerdictLabel, int], ...]


def matrix(kept: Answer, taps: Sequence[StyledTap]) -> list[MatrixGroup]:
    """Taps x attributes: first what is known of each image, then functions of its pixels.

    In both the attribute comes first of which studied taps keep the most different shares, and last what is not judged.
    """
    scores, readers = kept.where("kept"), {row.subject: row for row in kept.where("reader")}
    beside = {metric: kept.where(metric) for metric in BESIDE}
    named = list(dict.fromkeys(row.subject for row in scores))
    ceilings = {row.subject: row.value for row in kept.where("ceiling")}
    spread = {subject: _spread([row for row in scores if row.subject == subject], taps) for subject in named}
    own: list[MatrixRow] = []
    closed: list[MatrixRow] = []
    for subject in sorted(named, key=lambda subject: -spread[subject]):
        reader = readers.get(subject)
        closed_form = reader is not None and reader.unit == verdicts.NOISY
        limits = {} if reader is None else {f"reader, {reader.unit}": reader.value}
        if subject in ceilings:
            limits["ceiling"] = ceilings[subject]
        cells = []
        for tap in taps:
            score = first(scores, tap.id, subject)
            here = {metric: first(rows, tap.id, subject) for metric, rows in beside.items()}
            cells.append(None if score is None else cell(tap, score, here, limits))
        about = tuple(f"{name.partition(',')[0]} {number(value)}" for name, value in limits.items())
        (closed if closed_form else own).append(MatrixRow(plain(subject), about, tuple(cells)))
    if not closed:
        return [MatrixGroup("", tuple(own))]
    groups = (
        ("Known of each image", own),
        ("Functions of the pixels, and readings of other encoders", closed),
    )
    return [MatrixGroup(title, tuple(lines)) for title, lines in groups if lines]


def _spread(rows: Sequence[Row], taps: Sequence[StyledTap]) -> float:
    """Largest minus smallest kept of the studied taps with a verdict on it; -1 where none has one."""
    studied = {tap.id for tap in taps if tap.studied} or {tap.id for tap in taps}
    values = [r.value for r in rows if tap_id_of(r) in studied and r.verdict not in ("", "CANNOT TELL")]
    return max(values) - min(values) if values else -1.0


def turned(groups: Sequence[MatrixGroup], taps: Sequence[StyledTap]) -> list[MatrixLine]:
    """A line for each tap. Taps without any cell are left out."""
    found: list[MatrixLine] = []
    for column, tap in enumerate(taps):
        cells = tuple(line.cells[column] for group in groups for line in group.lines)
        if any(cells):
            leads = not found or found[-1].tap.encoder != tap.encoder
            found.append(MatrixLine(tap, leads, cells))
    return found


def cell(tap: StyledTap, score: Row, beside: Mapping[str, Row | None], limits: Mapping[str, float]) -> MatrixCell:
    """One cell of the matrix: the number, its drawing, and all that the verdict rests on."""
    word = VERDICTS.get(score.verdict, UNJUDGED)
    facts = [("kept", interval(score))]
    facts += [(metric, interval(row)) for metric, row in beside.items() if row is not None]
    facts += [(name, number(value)) for name, value in limits.items()]
    facts.append(("sources", str(score.n)))
    probe, floor = beside.get("probe"), beside.get("floor")
    found = (
        ("floor", None if floor is None else floor.value),
        ("ceiling", limits.get("ceiling")),
        ("probe", None if probe is None else probe.value),
    )
    mark = Mark(score.value, score.low, score.high, f"v {word.style}", "circle", f"kept {interval(score)}")
    ticks = [(value, name, f"{name} {number(value)}") for name, value in found if value is not None]
    return MatrixCell(
        anchor=anchor("kept", tap.id, score.subject),
        tap=tap,
        subject=plain(score.subject),
        word=word,
        why=score.why,
        facts=tuple(facts),
        value=number(score.value),
        foot="" if probe is None else f"probe {number(probe.value)}",
        chart=charts.dots([[mark]], SCORES, height=16, ticks=ticks),
    )


def sentences(kept: Answer, taps: Sequence[StyledTap]) -> list[TapSentence]:
    """The sentence on each tap, by the rules."""
    rows = [row for row in kept.where("kept") if row.verdict]
    found = []
    for tap in taps:
        own = [row for row in rows if tap_id_of(row) == tap.id]
        if own:
            sentence = verdicts.sentence(tap.id, [(plain(row.subject), row.verdict) for row in own])
            text = sentence.removeprefix(tap.id).strip()
            tally = ((word, sum(row.verdict == verdict for row in own)) for verdict, word in VERDICTS.items())
            found.append(TapSentence(tap, text[:1].upper() + text[1:], tuple(entry for entry in tally if entry[1])))
    return found


def overlay(rows: Sequence[Row], taps: Sequence[StyledTap], axis: Axis) -> list[LabelledChart]:
    """The same number of every tap on one line per subject: a lane for each studied tap, one for all references."""
    plots = []
    for subject in dict.fromkeys(row.subject for row in rows):
        studied: list[list[Mark]] = []
        references: list[Mark] = []
        for tap in taps:
            row = first(rows, tap.id, subject)
            if row is not None:
                mark = Mark(row.value, row.low, row.high, tap.style, tap.shape, f"{tap.id}: {interval(row)}")
                studied.append([mark]) if tap.studied else references.append(mark)
        lanes = [*studied, references] if studied and references else studied or [[mark] for mark in references]
        plots.append(LabelledChart(plain(subject), "", charts.dots(lanes, axis, height=12 * len(lanes) + 4)))
    return plots
