"""What the page shows of invariance: r of the encoder's own augmentations, r of single transforms, painted examples."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from markupsafe import Markup

from stages.questions.answers import Answer, tap_id_of
from stages.questions.asks.transforms import TRANSFORMS
from stages.questions.drawing import charts
from stages.questions.drawing.charts import Axis, Line, Mark, nice_axis
from stages.questions.drawing.markup import anchor, fill
from stages.questions.drawing.numbers import (
    Crossed,
    CrossedCell,
    CrossedLine,
    LabelledChart,
    PageTable,
    TableRow,
    interval,
    number,
    plain,
    span,
)
from stages.questions.drawing.pictures import Sheet, Strip, by_tap, strip
from stages.questions.drawing.section import Remark, Section, SectionPart
from stages.questions.drawing.taps import StyledTap, by_family
from stages.questions.findings import ATTRIBUTES_MIN, EFFECT_MIN, INVARIANT_MAX, PROJECTOR_SHARE, SPECIFIC_MIN
from stages.questions.format import BOTH, Figure, Row, joined
from stages.questions.invariance.recovery import CANNOT_TELL, INVARIANT, LOST, PARTLY, RE_ENCODED, RULE

TEMPLATE = Path(__file__).with_suffix(".html")
OWN = "own"
"""Subject of the rows on the encoder's own training augmentations."""
VERDICTS = {
    RE_ENCODED: ("v-kept", "v-kept", "re-encoded"),
    PARTLY: ("v-partly", "v-partly", "partly"),
    LOST: ("v-lost", "v-lost", "lost"),
    INVARIANT: ("v-none", "f-not-shown", "invariant: it hardly moves"),
    CANNOT_TELL: ("v-cannot", "v-cannot", "cannot tell"),
}
"""Class of the colour, symbol and word of each verdict on what has moved."""


@dataclass(frozen=True)
class InvarianceContent:
    """What the template shows of the answer."""

    own: tuple[LabelledChart, ...]
    axis: Markup
    key: tuple[tuple[Markup, str], ...]
    strengths: tuple[LabelledChart, ...]
    taps: tuple[tuple[Markup, str], ...]
    differences: PageTable
    recovered: PageTable
    crossed: Crossed
    verdicts: tuple[tuple[str, str, str], ...]
    read: PageTable
    painted: tuple[Sheet, ...]


MEASURES = (
    (
        "r",
        "Mean distance between the vectors of an image and of the transformed image, over the mean distance between "
        "two random images.",
    ),
    (
        "Findings",
        "i is shown where the interval of r at the backbone, over the encoder's own training augmentations, lies above "
        f"{INVARIANT_MAX:g} and r(backbone) − r(projector) is larger than in the same network untrained by "
        f"{EFFECT_MIN:g} or more. ii is shown where the interval of r(projector) / r(backbone) lies below "
        f"{PROJECTOR_SHARE:g}; its logarithm is lower than for transforms that the encoder was not trained with by "
        f"{SPECIFIC_MIN:g} or more, counted from the same network untrained; and the backbone keeps more than the "
        f"projector of {ATTRIBUTES_MIN} or more attributes that its augmentations change and less of none, by "
        f"{EFFECT_MIN:g} or more. The opposite is reported as the opposite.",
    ),
)
RECOVERED = (
    "Lost or re-encoded",
    "R2 of a linear map (ridge) from the vector of the transformed image to that of the image, fitted to train images "
    f"and scored on the sources. {RULE} What a linear map does not find, another may.",
)


def section(answer: Answer, answers: Mapping[str, Answer], taps: Sequence[StyledTap]) -> Section:
    """The section of invariance."""
    parts: tuple[SectionPart, ...] = ()
    if answer.where("r"):
        html = fill(TEMPLATE, "invariance", content=_content(answer, taps))
        parts = (SectionPart("invariance", "Invariance", html),)
    measures = (*MEASURES, RECOVERED) if answer.where("recovered") else MEASURES
    return Section(parts=parts, measures=measures, remarks=tuple(_remarks(answer, taps)))


def _remarks(answer: Answer, taps: Sequence[StyledTap]) -> Iterator[Remark]:
    """How far the encoders of a family are moved by their own training augmentations."""
    own = {tap_id_of(row): row.value for row in answer.where("r") if row.subject == OWN}
    for family, members in by_family(taps).items():
        moved: dict[str, list[float]] = {}
        for tap in (tap for encoder in members.values() for tap in encoder if tap.id in own):
            moved.setdefault(tap.tap, []).append(own[tap.id])
        if moved:
            clauses = joined([f"the {tap} by {span(values)}" for tap, values in moved.items()])
            text = f"Its own augmentations move {clauses} of the distance of two random images."
            yield Remark(family, text, "invariance")


def _content(answer: Answer, taps: Sequence[StyledTap]) -> InvarianceContent:
    rows = answer.where("r")
    references = answer.where("reference")
    named = list(dict.fromkeys(row.subject for row in references))
    owned = [row for row in rows if row.subject == OWN]
    axis = charts.around(charts.nice_axis([1.0, *(row.value for row in [*owned, *references])]))
    own = []
    for tap in taps:
        marks = [
            Mark(row.value, row.low, row.high, tap.style, tap.shape, f"{tap.id}: {interval(row)}")
            for row in owned
            if tap_id_of(row) == tap.id
        ]
        ticks = [
            (row.value, f"control control-{named.index(row.subject)}", f"{row.subject}: {interval(row)}")
            for row in references
            if tap_id_of(row) == tap.id
        ]
        if marks:
            own.append(
                LabelledChart(
                    tap.id,
                    "",
                    charts.dots([marks], axis, height=22, ticks=ticks),
                    tap,
                    anchor("invariance", tap.id, OWN),
                )
            )
    return InvarianceContent(
        own=tuple(own),
        axis=charts.scale(axis),
        key=tuple((charts.stroke(f"control control-{index}"), plain(name)) for index, name in enumerate(named)),
        strengths=tuple(_strengths([row for row in rows if row.subject != OWN], taps)),
        taps=tuple((tap.key, tap.id) for tap in taps if any(tap_id_of(row) == tap.id for row in rows)),
        differences=_differences(answer),
        recovered=_recovered(answer, taps),
        crossed=_crossed(answer, taps),
        verdicts=tuple(VERDICTS.values()),
        read=_read(answer, taps),
        painted=tuple(transformed_sheets(answer.figures, taps)),
    )


def _differences(answer: Answer) -> PageTable:
    """r at both ends of an encoder against each other."""
    both = [row for row in answer.rows if row.tap == BOTH]
    by = {(row.encoder, row.subject, row.metric): row for row in both}
    metrics = ("r difference", "r ratio")
    lines = []
    for encoder, subject in dict.fromkeys((row.encoder, row.subject) for row in both):
        found = [by.get((encoder, subject, metric)) for metric in metrics]
        lines.append(
            TableRow(None, encoder, (_named(subject), *("" if row is None else interval(row) for row in found)))
        )
    return PageTable(
        "", ("encoder", "transform", "r(backbone) − r(projector)", "r(projector) / r(backbone)"), tuple(lines)
    )


def _recovered(answer: Answer, taps: Sequence[StyledTap]) -> PageTable:
    """Whether what has moved can be mapped back, tap by tap."""
    by = {(tap_id_of(row), row.metric, row.subject): row for row in answer.rows}
    lines = []
    for tap in taps:
        for row in (row for row in answer.where("recovered") if tap_id_of(row) == tap.id):
            found = (by.get((tap.id, metric, row.subject)) for metric in ("r", "recovered", "recovered control"))
            cells = ("" if entry is None else interval(entry) for entry in found)
            lines.append(TableRow(tap, tap.id, (_named(row.subject), *cells, row.verdict)))
    return PageTable("", ("tap", "transform", "r", "R2 back", "R2 of the control", "verdict"), tuple(lines))


def _crossed(answer: Answer, taps: Sequence[StyledTap]) -> Crossed:
    """R2 of the map back with its verdict, taps against transforms."""
    rows = {(tap_id_of(row), row.subject): row for row in answer.where("recovered")}
    subjects = list(dict.fromkeys(subject for _, subject in rows))
    lines: list[CrossedLine] = []
    for tap in (tap for tap in taps if any(at == tap.id for at, _ in rows)):
        cells = tuple(_verdict_cell(rows[tap.id, name], tap) if (tap.id, name) in rows else None for name in subjects)
        leads = not lines or lines[-1].tap is None or lines[-1].tap.family != tap.family
        lines.append(CrossedLine(tap.id, tap, leads, cells))
    return Crossed("Lost or re-encoded", tuple(map(_named, subjects)), tuple(lines))


def _verdict_cell(row: Row, tap: StyledTap) -> CrossedCell:
    style, glyph, word = VERDICTS[row.verdict]
    title = f"{_named(row.subject)} at {tap.id}: R2 {interval(row)}, {word}; {row.why}"
    return CrossedCell(
        anchor("invariance", "recovered", tap.id, row.subject), number(row.value), style, glyph, word, title
    )


def _read(answer: Answer, taps: Sequence[StyledTap]) -> PageTable:
    """Attributes that a linear map reads, from the vector of the image and from that of the transformed image."""
    read = {(tap_id_of(row), row.subject): row for row in answer.where("read")}
    transforms = list(dict.fromkeys(row.subject for row in answer.where("recovered")))
    lines = []
    for tap in taps:
        for attribute in (name for at, name in read if at == tap.id and " after " not in name):
            found = (read.get((tap.id, name)) for name in (attribute, *(f"{attribute} after {t}" for t in transforms)))
            cells = ("" if entry is None else number(entry.value) for entry in found)
            lines.append(TableRow(tap, tap.id, (plain(attribute), *cells)))
    return PageTable("", ("tap", "attribute", "as it is", *map(_named, transforms)), tuple(lines))


def _named(subject: str) -> str:
    """A transform as it is read."""
    return "its own augmentations" if subject == OWN else plain(subject)


def _strengths(rows: Sequence[Row], taps: Sequence[StyledTap]) -> list[LabelledChart]:
    """r over the strength of each transform, one small chart a transform."""
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
            own = sorted(((s, row) for row, s in found if tap_id_of(row) == tap.id), key=lambda entry: entry[0])
            if own:
                points = tuple((float(levels.index(strength)), row.value) for strength, row in own)
                bounds = tuple((row.low, row.high) for _, row in own)
                curves.append(Line(tap.id, points, tap.style, tap.shape, bounds))
        transformation = TRANSFORMS.get(name)
        chart = charts.lines(curves, across, top, 150, f"r of {plain(name)} by strength")
        unit = transformation.unit if transformation else ""
        plots.append(LabelledChart(plain(name), unit, chart, anchor=anchor("invariance", name)))
    return plots


def transform(subject: str) -> tuple[str, float]:
    """Name and strength of a transform from the subject of its row, `<name> <strength>`."""
    name, _, strength = subject.rpartition(" ")
    try:
        return name, float(strength)
    except ValueError:
        return subject, 1.0


def transformed_sheets(figures: Sequence[Figure], taps: Sequence[StyledTap]) -> list[Sheet]:
    """Per source, the transformed images that each encoder saw and a sample of each of their embeddings per tap."""
    inputs = [figure for figure in figures if not figure.tap]
    shown = by_tap([figure for figure in figures if figure.tap], taps)
    found = []
    for label in dict.fromkeys(label for figure in inputs for label in figure.rows):
        strips: list[Strip] = []
        for figure in inputs:
            if label not in figure.rows:
                continue
            seen = figure.tiles[figure.rows.index(label)]
            seen_strip = strip(None, f"what {figure.encoder} sees", seen, f"{label}, transformed")
            strips += [seen_strip] if all(seen_strip.picture.uri != other.picture.uri for other in strips) else []
        if len(strips) == 1 and len(inputs) > 1:
            strips[0] = replace(strips[0], label="what the encoders see")
        strips += [
            strip(tap, "", figure.tiles[figure.rows.index(label)], f"samples of {label}, transformed, at {tap.id}")
            for tap, figure in shown
            if label in figure.rows
        ]
        found.append(Sheet(label, "", inputs[0].columns, tuple(strips), anchor("invariance", "painted", label)))
    return found
