"""What the page shows of edits: samples for each attribute, effects by strength, differences, paths, undo."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from stages.questions.answers import Answer, first, tap_id_of
from stages.questions.drawing import charts
from stages.questions.drawing.charts import Axis, Line, nice_axis
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
)
from stages.questions.drawing.pictures import Sheet, by_tap, strip
from stages.questions.drawing.section import Remark, Section, SectionPart
from stages.questions.drawing.taps import StyledTap, by_family
from stages.questions.edits.format import DIMENSIONS, LINEAR, MEANS, ON, PCA, PIXELS, PROBE, RANDOM, SPHERICAL
from stages.questions.findings import CANNOT_TELL, EDITS, EFFECT_MIN, NO_EDIT, SELECTIVITY
from stages.questions.format import Row, joined

TEMPLATE = Path(__file__).with_suffix(".html")
NAMES = {MEANS: "difference of means", PROBE: "probe", PCA: "principal component", RANDOM: "random"}
VERDICTS = {EDITS: "changes it alone", NO_EDIT: "not shown", CANNOT_TELL: "cannot tell"}

MEASURES = (
    (
        "Effect of an edit",
        "Mean change of the attribute in the wanted direction, read from samples of the edited and of the unedited "
        "embedding with the same noise. That on another attribute counts in any direction, as the root mean square of "
        "the mean change. Both are in units of the distance of two random images in that attribute.",
    ),
    (
        "Directions of edits",
        "The difference between the mean train embeddings of two values of the attribute; the direction of a linear "
        "probe between the two; and the principal component that separates them most. All have the length of the "
        "first, as has the control: the way from one random train image to another.",
    ),
    (
        "Finding iv",
        "An edit changes its attribute alone where the interval of its effect on it − the largest effect on another "
        f"attribute, and that of its effect − the random control's, both simultaneous over attributes, lie above "
        f"{EFFECT_MIN:g}, and a longer step does not have less effect. It is judged for attributes that the readers "
        "read and that the samples of the unedited embedding keep.",
    ),
    (
        "Paths",
        "Share of the way from one source's attributes to another's, along a straight line and an arc between their "
        "embeddings and along the blend of their pixels. The largest step is 1 where all happens at once.",
    ),
)


@dataclass(frozen=True)
class EditsContent:
    """What the template shows of the answer."""

    edited: tuple[Sheet, ...]
    effects: tuple[LabelledChart, ...]
    key: tuple[tuple[Markup, str], ...]
    crossed: Crossed | None
    verdicts: PageTable
    directions: PageTable
    others: PageTable
    paths: tuple[LabelledChart, ...]
    jumps: PageTable
    walked: tuple[Sheet, ...]
    dimensions: PageTable
    undone: PageTable
    unjudged: tuple[str, ...]
    notes: tuple[str, ...]


def section(answer: Answer, answers: Mapping[str, Answer], taps: Sequence[StyledTap]) -> Section:
    """The section of edits."""
    parts: tuple[SectionPart, ...] = ()
    if answer.where("held"):
        html = fill(TEMPLATE, "edits", content=_content(answer, taps))
        parts = (SectionPart("edits", "Edits", html),)
    return Section(parts=parts, measures=MEASURES, remarks=tuple(_remarks(answer, taps)))


def _remarks(answer: Answer, taps: Sequence[StyledTap]) -> Iterator[Remark]:
    """The attributes that an edit changes alone, at the first tap of every encoder of a family."""
    judged = {(tap_id_of(row), row.subject.partition(" ")[2]): row.verdict for row in _judged(answer)}
    for family, members in by_family(taps).items():
        first = [own[0] for own in members.values()]
        known = {name: [judged.get((tap.id, name)) for tap in first] for _, name in judged}
        works = [plain(name) for name, found in known.items() if all(verdict == EDITS for verdict in found)]
        fails = [plain(name) for name, found in known.items() if all(verdict == NO_EDIT for verdict in found)]
        clauses = [f"change {joined(works)} and nothing else"] if works else []
        clauses += [f"are not shown to change {joined(fails)} alone"] if fails else []
        if clauses:
            yield Remark(family, f"Edits of the {first[0].tap} {'; they '.join(clauses)}.", "edits")


def _judged(answer: Answer) -> list[Row]:
    """The rows that hold the verdict on an edit by means."""
    return [row for row in answer.where(SELECTIVITY) if row.subject.partition(" ")[0] == MEANS]


def _content(answer: Answer, taps: Sequence[StyledTap]) -> EditsContent:
    return EditsContent(
        edited=tuple(_sheets(answer, "edits", taps)),
        effects=tuple(_effects(answer, taps)),
        key=tuple((tap.key, tap.id) for tap in taps if answer.where("effect") and _has(answer, "effect", tap)),
        crossed=_crossed_verdicts(answer, taps),
        verdicts=_verdicts(answer, taps),
        directions=_directions(answer, taps),
        others=_others(answer, taps),
        paths=tuple(_paths(answer, taps)),
        jumps=_crossed("", answer.where("largest step"), taps),
        walked=tuple(_sheets(answer, "paths", taps)),
        dimensions=_prefixed(answer, DIMENSIONS, taps),
        undone=_crossed("", answer.where("undone"), taps),
        unjudged=tuple(_unjudged(answer, taps)),
        notes=tuple(dict.fromkeys(row.why for row in answer.where("undone") if row.why)),
    )


def _has(answer: Answer, metric: str, tap: StyledTap) -> bool:
    return any(tap_id_of(row) == tap.id for row in answer.where(metric))


def _split(row: Row) -> tuple[str, float, str]:
    """Edit, strength and attribute of a row on an effect."""
    method, strength, attribute = row.subject.split(" ", 2)
    return method, float(strength), attribute


def _effects(answer: Answer, taps: Sequence[StyledTap]) -> Iterator[LabelledChart]:
    """Effect over strength, a small chart for each attribute, all on one scale; edits by means."""
    rows = [(row, *_split(row)) for row in answer.where("effect")]
    lines = [entry for entry in rows if entry[1] == MEANS]
    levels = [0.0, *sorted({strength for _, _, strength, _ in lines})]
    ends = [bound for row, *_ in lines for bound in (row.low, row.high) if math.isfinite(bound)]
    scale = nice_axis([0.0, 1.0, *ends], count=3)
    room = 0.04 * (scale.stop - scale.start)
    up = Axis(scale.start - room, scale.stop + room, scale.ticks)
    across = Axis(-0.35, len(levels) - 0.65, tuple((float(i), f"{level:g}") for i, level in enumerate(levels)))
    for attribute in dict.fromkeys(entry[3] for entry in lines):
        curves = []
        for tap in taps:
            own = [(s, row) for row, _, s, a in lines if a == attribute and tap_id_of(row) == tap.id]
            if own:
                points = ((0.0, 0.0), *((float(levels.index(s)), row.value) for s, row in own))
                bounds = ((0.0, 0.0), *((row.low, row.high) for _, row in own))
                curves.append(Line(tap.id, points, tap.style, tap.shape, bounds))
        chart = charts.lines(curves, across, up, 150, f"effect of edits of {plain(attribute)}")
        yield LabelledChart(plain(attribute), "", chart, anchor=anchor("edits", "effect", attribute))


def _verdicts(answer: Answer, taps: Sequence[StyledTap]) -> PageTable:
    """What finding iv is judged by, an attribute at a tap a line."""
    effects, over = answer.where("effect"), answer.where("over random")
    lines = []
    for tap in taps:
        for row in answer.where(SELECTIVITY):
            method, _, attribute = row.subject.partition(" ")
            if method != MEANS or tap_id_of(row) != tap.id:
                continue
            control = next((r for r in effects if tap_id_of(r) == tap.id and _is(r, RANDOM, attribute)), None)
            assert control is not None, f"no control for {row.subject}"
            strength = _split(control)[1]
            own = first(effects, tap.id, f"{MEANS} {strength:g} {attribute}")
            excess = first(over, tap.id, row.subject)
            assert own is not None, f"no effect of {row.subject}"
            assert excess is not None, f"no difference to the control for {row.subject}"
            other = _largest(answer, tap, row.subject)
            numbers = (interval(own), other, interval(row), interval(excess))
            cells = (plain(attribute), VERDICTS[row.verdict], *numbers)
            lines.append(TableRow(tap, tap.id, cells))
    head = ("tap", "attribute", "verdict", "effect on it", "largest on another", "difference", "more than random")
    return PageTable("", head, tuple(lines))


def _crossed_verdicts(answer: Answer, taps: Sequence[StyledTap]) -> Crossed | None:
    """The verdicts on edits by means, taps x attributes; the number is the difference that decides."""
    by = {(tap_id_of(row), row.subject.partition(" ")[2]): row for row in _judged(answer)}
    attributes = list(dict.fromkeys(name for _, name in by))
    lines: list[CrossedLine] = []
    for tap in taps:
        cells = tuple(
            None if (row := by.get((tap.id, name))) is None else _verdict_cell(row, tap, name) for name in attributes
        )
        if any(cells):
            leads = not lines or lines[-1].tap is None or lines[-1].tap.encoder != tap.encoder
            lines.append(CrossedLine(tap.id, tap, leads, cells))
    return (
        Crossed("Edits that change their attribute alone", tuple(map(plain, attributes)), tuple(lines))
        if lines
        else None
    )


def _verdict_cell(row: Row, tap: StyledTap, name: str) -> CrossedCell:
    style = {EDITS: "shown", NO_EDIT: "not-shown", CANNOT_TELL: "cannot-tell"}[row.verdict]
    title = f"{plain(name)} at {tap.id}: {interval(row)}, {VERDICTS[row.verdict]}; {row.why}"
    at = anchor("edits", tap.id, name)
    return CrossedCell(at, number(row.value), f"state {style}", f"f-{style}", VERDICTS[row.verdict], title)


def _unjudged(answer: Answer, taps: Sequence[StyledTap]) -> Iterator[str]:
    """Why there is no verdict on an attribute, a sentence for each."""
    for tap in taps:
        for row in answer.where(SELECTIVITY):
            method, _, attribute = row.subject.partition(" ")
            if (method, tap_id_of(row), row.verdict) == (MEANS, tap.id, CANNOT_TELL):
                yield f"{plain(attribute)} at {tap.id}: {row.why}"


def _is(row: Row, method: str, attribute: str) -> bool:
    found, _, name = _split(row)
    return (found, name) == (method, attribute)


def _largest(answer: Answer, tap: StyledTap, subject: str) -> str:
    """The other attribute on which an edit has most effect."""
    found = [
        (row.value, row.metric.removeprefix(ON))
        for row in answer.rows
        if row.metric.startswith(ON) and tap_id_of(row) == tap.id and row.subject == subject
    ]
    if not found:
        return "–"
    value, name = max(found)
    return f"{number(value)}, {plain(name)}"


def _directions(answer: Answer, taps: Sequence[StyledTap]) -> PageTable:
    """Effect of every direction at one length."""
    rows = [(row, *_split(row)) for row in answer.where("effect")]
    compared = {strength for _, method, strength, _ in rows if method == RANDOM}
    lines = []
    for tap in taps:
        at = [entry for entry in rows if tap_id_of(entry[0]) == tap.id and entry[2] in compared]
        for attribute in dict.fromkeys(entry[3] for entry in at):
            by = {method: row for row, method, _, name in at if name == attribute}
            lines.append(TableRow(tap, tap.id, (plain(attribute), *(interval(by[method]) for method in NAMES))))
    return PageTable("", ("tap", "attribute", *NAMES.values()), tuple(lines))


def _others(answer: Answer, taps: Sequence[StyledTap]) -> PageTable:
    """Effect of each edit by means on every other attribute."""
    columns = list(dict.fromkeys(r.metric.removeprefix(ON) for r in answer.rows if r.metric.startswith(ON)))
    lines = []
    for tap in taps:
        own = [r for r in answer.rows if r.metric.startswith(ON) and tap_id_of(r) == tap.id]
        for subject in dict.fromkeys(r.subject for r in own):
            method, _, attribute = subject.partition(" ")
            if method == MEANS:
                by = {r.metric.removeprefix(ON): number(r.value) for r in own if r.subject == subject}
                lines.append(TableRow(tap, tap.id, (plain(attribute), *(by.get(name, "") for name in columns))))
    return PageTable("", ("tap", "edit of", *(f"on {plain(name)}" for name in columns)), tuple(lines))


def _prefixed(answer: Answer, prefix: str, taps: Sequence[StyledTap]) -> PageTable:
    """Rows whose attribute stands in the metric: a line for each tap and subject, a column for each attribute."""
    rows = [row for row in answer.rows if row.metric.startswith(prefix)]
    columns = list(dict.fromkeys(row.metric for row in rows))
    lines = []
    for tap in taps:
        own = [row for row in rows if tap_id_of(row) == tap.id]
        for subject in dict.fromkeys(row.subject for row in own):
            by = {row.metric: number(row.value) for row in own if row.subject == subject}
            lines.append(TableRow(tap, tap.id, (subject, *(by.get(metric, "") for metric in columns))))
    heads = (plain(metric.removeprefix(prefix)) for metric in columns)
    return PageTable("", ("tap", "dimensions", *heads), tuple(lines))


def _crossed(title: str, rows: Sequence[Row], taps: Sequence[StyledTap]) -> PageTable:
    """A line for each tap, a column for each subject."""
    columns = list(dict.fromkeys(row.subject for row in rows if row.subject))
    lines = []
    for tap in taps:
        by = {row.subject: interval(row) for row in rows if tap_id_of(row) == tap.id and row.subject}
        if by:
            lines.append(TableRow(tap, tap.id, tuple(by.get(column, "") for column in columns)))
    return PageTable(title, ("tap", *(plain(column) for column in columns)), tuple(lines))


def _paths(answer: Answer, taps: Sequence[StyledTap]) -> Iterator[LabelledChart]:
    """Share of the way, a small chart for each kind of path."""
    rows = [(row, *row.subject.rpartition(" ")) for row in answer.where("path")]
    ratios = sorted({float(ratio) for *_, ratio in rows})
    ends = [bound for row, *_ in rows for bound in (row.low, row.high) if math.isfinite(bound)]
    scale = nice_axis([0.0, 1.0, *ends], count=3)
    room = 0.04 * (scale.stop - scale.start)
    up = Axis(scale.start - room, scale.stop + room, scale.ticks)
    across = Axis(-0.08, 1.08, tuple((ratio, f"{ratio:g}") for ratio in ratios))
    titles = {LINEAR: "straight line", SPHERICAL: "arc", PIXELS: "blended pixels, the control"}
    for kind, title in titles.items():
        curves = []
        for tap in taps:
            own = [(float(ratio), row) for row, name, _, ratio in rows if name == kind and tap_id_of(row) == tap.id]
            if own:
                points = tuple((ratio, row.value) for ratio, row in own)
                bounds = tuple((row.low, row.high) for _, row in own)
                curves.append(Line(tap.id, points, tap.style, tap.shape, bounds))
        if curves:
            chart = charts.lines(curves, across, up, 150, f"share of the way, {title}")
            yield LabelledChart(title, "", chart, anchor=anchor("edits", "path", kind))


def _sheets(answer: Answer, kind: str, taps: Sequence[StyledTap]) -> Iterator[Sheet]:
    """Per attribute or path and source the samples at each tap."""
    shown = by_tap(answer.kind(kind), taps)
    for label in dict.fromkeys(label for _, figure in shown for label in figure.rows):
        strips = tuple(
            strip(tap, "", figure.tiles[figure.rows.index(label)], f"{label}: {', '.join(figure.columns)} at {tap.id}")
            for tap, figure in shown
            if label in figure.rows
        )
        yield Sheet(plain(label), "", shown[0][1].columns, strips, anchor("edits", kind, label))
