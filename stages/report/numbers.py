"""Numbers of the page: rows of answers arranged as the matrix, the charts and the tables of each section."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from stages.questions import verdicts
from stages.questions.format import Row
from stages.report import charts
from stages.report.charts import Axis, Line, Mark, nice_axis, unit_axis
from stages.report.results import Answer, first, place
from stages.report.taps import Tap


@dataclass(frozen=True)
class Word:
    """A verdict as it stands on the page: its class and symbol, its word, and what it means in plain words."""

    style: str
    word: str
    meaning: str


VERDICTS: Mapping[str, Word] = {
    "KEPT": Word("v-kept", "kept", "the samples show it"),
    "PARTLY": Word("v-partly", "partly", "between kept and lost"),
    "LOST": Word("v-lost", "lost", "neither the samples nor a probe show it"),
    "DECODER LIMIT": Word("v-limit", "decoder limit", "a probe reads it, the samples do not show it"),
    "CANNOT TELL": Word("v-cannot", "cannot tell", "the instrument is not good enough here"),
}
UNJUDGED = Word("v-none", "not judged", "no rule was asked")

SCORES = unit_axis()

BESIDE = ("kept / ceiling", "probe", "floor", "fixed", "kept halfway", "probe floor")
"""Metrics that stand beside kept when a cell is opened."""
BY_DEFINITION = "by definition"
"""Unit of the reader's row for a function of the pixels."""


@dataclass(frozen=True)
class Cell:
    """One tap and one attribute: what was measured, the verdict and why, drawn small."""

    tap: Tap
    subject: str
    word: Word
    why: str
    facts: tuple[tuple[str, str], ...]
    value: str
    foot: str
    chart: Markup


@dataclass(frozen=True)
class Attribute:
    """One attribute of the matrix: its name, what the instrument reaches on it, one cell per tap."""

    subject: str
    about: tuple[str, ...]
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class Group:
    """Attributes of one kind."""

    title: str
    lines: tuple[Attribute, ...]


@dataclass(frozen=True)
class Plot:
    """A chart with its label: a name, or a tap."""

    label: str
    note: str
    chart: Markup
    tap: Tap | None = None


@dataclass(frozen=True)
class Sentence:
    """What is said of a tap, and how many attributes got each verdict."""

    tap: Tap
    text: str
    tally: tuple[tuple[Word, int], ...]


@dataclass(frozen=True)
class Entry:
    """A row of a table, of a tap or under a label."""

    tap: Tap | None
    label: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table; the first column is the tap or the label."""

    title: str
    head: tuple[str, ...]
    rows: tuple[Entry, ...]


def number(value: float, digits: int = 2) -> str:
    """A score for people: a real minus sign, no negative zero, a dash where there is none."""
    if not math.isfinite(value):
        return "–"
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−")


def count(value: float) -> str:
    """A rank or a number of things: no decimals from 10 on, narrow spaces between thousands."""
    if not math.isfinite(value):
        return "–"
    whole = abs(value) >= 10 or value == round(value)
    return f"{value:,.0f}".replace(",", "\u202f") if whole else f"{value:.1f}"


def interval(row: Row, digits: int = 2) -> str:
    """Value and interval."""
    if not (math.isfinite(row.low) and math.isfinite(row.high)):
        return number(row.value, digits)
    return f"{number(row.value, digits)} [{number(row.low, digits)}, {number(row.high, digits)}]"


def plain(subject: str) -> str:
    """The name of an attribute or transform as it is read: `background_hue` is background hue."""
    return subject.replace("_", " ")


def matrix(kept: Answer, taps: Sequence[Tap]) -> list[Group]:
    """Taps x attributes: first what is known of each image, then functions of its pixels."""
    scores, readers = kept.where("kept"), {row.subject: row for row in kept.where("reader")}
    beside = {metric: kept.where(metric) for metric in BESIDE}
    ceilings = {row.subject: row.value for row in kept.where("ceiling")}
    own: list[Attribute] = []
    closed: list[Attribute] = []
    for subject in dict.fromkeys(row.subject for row in scores):
        reader = readers.get(subject)
        exact = reader is not None and reader.unit == BY_DEFINITION
        limits = {} if reader is None or exact else {f"reader, {reader.unit}": reader.value}
        if subject in ceilings:
            limits["ceiling"] = ceilings[subject]
        cells = []
        for tap in taps:
            score = first(scores, tap.place, subject)
            here = {metric: first(rows, tap.place, subject) for metric, rows in beside.items()}
            cells.append(None if score is None else cell(tap, score, here, limits))
        about = tuple(f"{name.partition(',')[0]} {number(value)}" for name, value in limits.items())
        (closed if exact else own).append(Attribute(plain(subject), about, tuple(cells)))
    if not closed:
        return [Group("", tuple(own))]
    groups = (("Known of each image", own), ("Functions of the pixels; their reader is exact", closed))
    return [Group(title, tuple(lines)) for title, lines in groups if lines]


def cell(tap: Tap, score: Row, beside: Mapping[str, Row | None], limits: Mapping[str, float]) -> Cell:
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
    return Cell(
        tap=tap,
        subject=plain(score.subject),
        word=word,
        why=score.why,
        facts=tuple(facts),
        value=number(score.value),
        foot="" if probe is None else f"probe {number(probe.value)}",
        chart=charts.dots([[mark]], SCORES, height=16, ticks=ticks),
    )


def sentences(kept: Answer, taps: Sequence[Tap]) -> list[Sentence]:
    """What the rules say of each tap."""
    rows = [row for row in kept.where("kept") if row.verdict]
    found = []
    for tap in taps:
        own = [row for row in rows if place(row) == tap.place]
        if own:
            said = verdicts.sentence(tap.place, [(plain(row.subject), row.verdict) for row in own])
            text = said.removeprefix(tap.place).strip()
            tally = ((word, sum(row.verdict == verdict for row in own)) for verdict, word in VERDICTS.items())
            found.append(Sentence(tap, text[:1].upper() + text[1:], tuple(entry for entry in tally if entry[1])))
    return found


def overlay(rows: Sequence[Row], taps: Sequence[Tap], axis: Axis) -> list[Plot]:
    """The same number of every tap on one line per subject: a lane for each studied tap, one for all references."""
    plots = []
    for subject in dict.fromkeys(row.subject for row in rows):
        studied: list[list[Mark]] = []
        references: list[Mark] = []
        for tap in taps:
            row = first(rows, tap.place, subject)
            if row is not None:
                mark = Mark(row.value, row.low, row.high, tap.style, tap.shape, f"{tap.place}: {interval(row)}")
                studied.append([mark]) if tap.studied else references.append(mark)
        lanes = [*studied, references] if studied and references else studied or [[mark] for mark in references]
        plots.append(Plot(plain(subject), "", charts.dots(lanes, axis, height=12 * len(lanes) + 4)))
    return plots


def strengths(rows: Sequence[Row], taps: Sequence[Tap]) -> list[Plot]:
    """r over the strength of each transform, one small chart a transform."""
    from stages.questions.asks.transforms import TRANSFORMS

    split = [(row, *transform(row.subject)) for row in rows]
    highest = max(1.0, *(row.high for row in rows if math.isfinite(row.high)), *(row.value for row in rows))
    top = Axis(0.0, 1.04 * highest, nice_axis([0.0, math.floor(2 * highest) / 2], count=3).ticks)
    plots = []
    for name in dict.fromkeys(name for _, name, _ in split):
        found = [(row, strength) for row, other, strength in split if other == name]
        levels = sorted({strength for _, strength in found})
        # Strengths of a transform are steps of its own scale, so they stand at equal distances.
        across = Axis(-0.35, len(levels) - 0.65, tuple((float(i), f"{level:g}") for i, level in enumerate(levels)))
        curves = []
        for tap in taps:
            own = sorted(((s, row) for row, s in found if place(row) == tap.place), key=lambda entry: entry[0])
            if own:
                points = tuple((float(levels.index(strength)), row.value) for strength, row in own)
                bounds = tuple((row.low, row.high) for _, row in own)
                curves.append(Line(tap.place, points, tap.style, tap.shape, bounds))
        known = TRANSFORMS.get(name)
        chart = charts.lines(curves, across, top, 150, f"r of {plain(name)} by strength")
        plots.append(Plot(plain(name), known.unit if known else "", chart))
    return plots


def transform(subject: str) -> tuple[str, float]:
    """Name and strength of a transform from the subject of its row, `<name> <strength>`."""
    name, _, strength = subject.rpartition(" ")
    try:
        return name, float(strength)
    except ValueError:
        return subject, 1.0
