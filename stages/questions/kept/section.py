"""What the page shows of kept: contrasts and a line on each tap, the matrix, differences, twins, samples and maps."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from stages.questions.answers import Answer, first, tap_id_of
from stages.questions.drawing import charts
from stages.questions.drawing.markup import anchor, fill
from stages.questions.drawing.numbers import LabelledChart, PageTable, TableRow, count, interval, number, plain
from stages.questions.drawing.pictures import Picture, Sheet, Strip, by_tap, picture, strip
from stages.questions.drawing.section import Example, Painted, Section, SectionPart, TrainedBlock
from stages.questions.drawing.taps import StyledTap
from stages.questions.findings import augmented
from stages.questions.format import BOTH, Figure, Row
from stages.questions.kept import matrix, opening, verdicts
from stages.questions.kept.opening import Contrast, Scores

TEMPLATE = Path(__file__).with_suffix(".html")
SLOPES = ("kept slope", "probe slope", "r slope")
TWINS, TWINS_OF_MANY = 4, 2
"""Twins of a tap that are shown at once; the others open on demand. The second where there are many taps."""
VARIES = {
    "LOST": Markup("varies</strong>: it is lost."),
    "PARTLY": Markup("varies</strong>: it is kept only in part."),
    "KEPT": Markup("varies more</strong>: less of it is kept."),
}
"""What samples show of the attribute of a contrast at the tap that keeps less of it, by the verdict there."""
FEW = 3
"""Encoders side by side up to which an axis has room for more than three ticks."""
HEADLINE_ATTRIBUTES = 9
"""Attributes in one line for a terminal: those known of each image come first."""

MEASURES = (
    (
        "Source, sample",
        "A source is a held-out image; neither encoder, decoder, reader nor probe was trained on it. A sample is an "
        "image that the decoder painted from the source's vector at a tap, without guidance.",
    ),
    (
        "Kept",
        "1 − d(samples, their source) / d(samples, other sources), where d compares an attribute as it is read from "
        "the sample with the source's true one: squared error for numbers, 1 − cos for angles and hues, 0 or 1 "
        "for classes. 0: no better than another source's samples. 1: a match.",
    ),
    ("Fixed", "The same between the samples of one source: 1 where all show the same value, right or wrong."),
    (
        "Calibration",
        "An exact sampler draws images that the source could have been, so samples differ from each other as much as "
        "from their source: fixed − kept is 0, and the source is the odd one out among itself and its samples as often "
        "as chance would have it (1 times). Samples that crowd together make kept too high, so nothing is called lost "
        "by them, and kept only where the probe confirms it.",
    ),
    (
        "Contrast",
        "An attribute that one tap keeps and another keeps less of or has lost. Inside an encoder its gap is the lower "
        "end of the paired difference between its first tap and its last. Between encoders, of which no paired "
        "difference is asked, it is the distance from one interval to the other, at their first taps. It counts above "
        f"{verdicts.EFFECT_MIN:g}.",
    ),
    (
        "Reader",
        "Reads an attribute from pixels: a function of the pixels, or a small network trained on real images only. Its "
        f"score on held-out real images stands beside each attribute; below {verdicts.READER_MIN:g} nothing is said.",
    ),
    (
        "Probe",
        "The better of a linear map and a small network that read the attribute from the whitened vector. It gives a "
        "distribution of the value; values drawn from it are scored on held-out images by the formula of kept. So the "
        "probe says what an exact sampler would keep. What a probe reads and the samples do not show is the decoder's "
        "failure, not the encoder's; what the samples show and a probe does not read is the probe's.",
    ),
    (
        "Ceiling",
        "Kept where the decoder is given the true attributes (oracle:attributes): the most that this decoder can show. "
        "It exists only where the truth is known.",
    ),
    ("Floor", "Kept with the samples handed to other sources: what chance gives."),
    (
        "Twins",
        "Of the samples of a source, the nearer half by the distance of their vectors to the source's; of those, the "
        "two that differ most in pixels.",
    ),
)


@dataclass(frozen=True)
class TwinPair:
    """A source and two samples that the encoder takes for the same."""

    anchor: str
    label: str
    images: tuple[Picture, Picture, Picture]


@dataclass(frozen=True)
class SourceCard:
    """One source and its samples at every tap."""

    anchor: str
    label: str
    source: Picture
    strips: tuple[Strip, ...]


@dataclass(frozen=True)
class TapTwins:
    """The twins of one tap; they are called so only where the samples are faithful, which `note` reports."""

    tap: StyledTap
    faithful: bool
    note: str
    shown: tuple[TwinPair, ...]
    more: tuple[TwinPair, ...]
    caption: str


@dataclass(frozen=True)
class DifferenceRow:
    """Paired differences of one attribute between the two ends of each encoder."""

    label: str
    cells: tuple[LabelledChart | None, ...]


@dataclass(frozen=True)
class Differences:
    """Paired differences between the two ends of encoders: attributes below each other, encoders side by side."""

    taps: tuple[StyledTap, ...]
    """The first tap of each encoder, for its heading."""
    rows: tuple[DifferenceRow, ...]
    axis: Markup


def section(answer: Answer, answers: Mapping[str, Answer], taps: Sequence[StyledTap]) -> Section:
    """The section of kept. What the answer has no rows or figures for is left out."""
    own = [tap for tap in taps if tap.studied] or list(taps)
    scored = answer.where("kept")
    scores = Scores(answer, taps)
    strongest = scores.strongest()
    rules = next((row.why for row in answer.where("rules")), verdicts.THRESHOLDS)
    return Section(
        parts=tuple(_parts(answer, [row for other in answers.values() for row in other.rows], own, taps)),
        measures=(*MEASURES, ("Verdicts", rules)),
        headlines=tuple(_headlines(answer, strongest)),
        remarks=tuple(opening.remarks(scores)),
        verdicts=tuple(opening.tap_verdicts(answer, taps)),
        facts=(("measured on", _sources(max(row.n for row in scored))),) if scored else (),
        example=_example(answer.kind("grid"), own, strongest),
        trained=tuple(_readers(answer)),
    )


def _parts(
    answer: Answer, asked: Sequence[Row], own: Sequence[StyledTap], taps: Sequence[StyledTap]
) -> Iterable[SectionPart]:
    many = len(taps) > matrix.WIDE
    if scores := answer.where("kept"):
        axis = charts.unit_axis(min([0.0, *(row.low for row in scores if math.isfinite(row.low))]))
        groups = matrix.matrix(answer, taps)
        html = fill(
            TEMPLATE,
            "matrix",
            taps=taps,
            verdicts=list(matrix.VERDICTS.values()),
            groups=groups,
            turned=matrix.turned(groups, taps) if many else [],
            overlay=matrix.overlay(scores, taps, axis) if len(taps) > 1 else [],
            many=many,
            axis=charts.scale(axis),
        )
        yield SectionPart("kept", "What is kept", html)
    if (differences := _differences(answer, asked, taps)) is not None:
        yield SectionPart("differences", "Backbone to projector", fill(TEMPLATE, "differences", content=differences))
    if (slopes := _slopes(asked)).rows:
        yield SectionPart("slopes", "Dose and response", fill(TEMPLATE, "slopes", content=slopes))
    if twins := _twins(answer, own, TWINS_OF_MANY if many else TWINS):
        yield SectionPart("twins", "Twins", fill(TEMPLATE, "twins", title=_twins_title(twins), groups=twins, many=many))
    if cards := source_cards(answer.kind("grid"), taps):
        yield SectionPart("samples", "Samples", fill(TEMPLATE, "samples", cards=cards, many=many))
    if (maps := _maps(answer.kind("maps"), taps)) is not None:
        yield SectionPart("maps", "Where samples differ", fill(TEMPLATE, "maps", content=maps))


def _headlines(answer: Answer, strongest: Contrast | None) -> Iterable[str]:
    if strongest is not None:
        yield f"strongest contrast  {strongest.words.striptags()}"
    for metric, title in (("kept", "kept"), ("kept difference", "kept, backbone - projector")):
        by_tap_id: dict[str, list[Row]] = {}
        for row in answer.where(metric):
            by_tap_id.setdefault(tap_id_of(row), []).append(row)
        for at, rows in by_tap_id.items():
            values = "  ".join(f"{row.subject} {row.value:.2f}" for row in rows[:HEADLINE_ATTRIBUTES])
            yield f"{title}  {at.removesuffix(f':{BOTH}')}  {values}"


def _sources(number: int) -> str:
    return f"{count(number)} held-out source{'' if number == 1 else 's'}"


def _twins(kept: Answer, own: Sequence[StyledTap], shown: int) -> list[TapTwins]:
    found = []
    for tap in own:
        near = first(kept.where("nearness"), tap.id, "")
        faithful = near is not None and near.value < 1.0
        note = "how near the samples are to their source was not measured"
        if near is not None:
            note = f"samples are {interval(near)} times as far from their source as its nearest other image"
        for figure in kept.kind("twins"):
            if tap_id_of(figure) == tap.id:
                pairs = tuple(_pairs(figure))
                found.append(TapTwins(tap, faithful, note, pairs[:shown], pairs[shown:], figure.caption))
    return found


def _twins_title(twins: Sequence[TapTwins]) -> str:
    faithful = {group.tap.encoder for group in twins if group.faithful}
    if not faithful:
        return "Two samples of one vector, not near enough to be twins"
    return "This encoder cannot tell these apart" if len(faithful) == 1 else "These encoders cannot tell these apart"


def _example(grids: Sequence[Figure], own: Sequence[StyledTap], strongest: Contrast | None) -> Example | None:
    """One source at the two taps of the strongest contrast; at the first tap where there is none."""
    by_tap_id = {figure_tap.id: figure for figure_tap, figure in by_tap(grids, own) if figure.tiles.shape[1] >= 3}
    ends: list[tuple[str, Markup | str]] = [(own[0].id, "")] if own else []
    if strongest is not None:
        what = plain(strongest.attribute)
        wanted: list[tuple[str, Markup | str]] = [
            (tap_id_of(strongest.more), Markup("<strong>{} stays</strong>: it is kept.").format(what)),
            (tap_id_of(strongest.less), Markup("<strong>{} ").format(what) + VARIES[strongest.less.verdict]),
        ]
        if all(at in by_tap_id for at, _ in wanted):
            ends = wanted
    shared = [at for at, _ in ends if at in by_tap_id]
    if not shared:
        return None
    taps = {tap.id: tap for tap in own}
    figures = [by_tap_id[at] for at in shared]
    label = next((label for label in figures[0].rows if all(label in figure.rows for figure in figures)), None)
    if label is None:
        return None
    painted = tuple(_painted(taps[at], by_tap_id[at], label, verdict) for at, verdict in ends)
    source = picture(figures[0].tiles[figures[0].rows.index(label), 0], f"source of {label}")
    return Example(source, painted, opening.claim(strongest) if strongest is not None and len(ends) > 1 else "")


def _painted(tap: StyledTap, figure: Figure, label: str, verdict: Markup | str) -> Painted:
    tiles = figure.tiles[figure.rows.index(label), 1:5]
    samples = tuple(
        picture(tile, f"{name} of {label} at {tap.id}") for name, tile in zip(figure.columns[1:5], tiles, strict=True)
    )
    # The bar code stands for a vector; its levels mean nothing, so they come from the tap's name.
    levels = tuple(f"{0.15 + 0.85 * byte / 255:.2f}" for byte in hashlib.sha256(tap.id.encode()).digest()[:15])
    return Painted(tap, levels, samples, verdict)


def _differences(kept: Answer, asked: Sequence[Row], taps: Sequence[StyledTap]) -> Differences | None:
    """Kept at the backbone minus kept at the projector, the largest difference first; `asked`: rows of all answers."""
    rows = [row for row in kept.where("kept difference") if row.tap == BOTH and math.isfinite(row.value)]
    heads = {tap.encoder: tap for tap in reversed(taps)}
    encoders = [encoder for encoder in dict.fromkeys(row.encoder for row in rows) if encoder in heads]
    if not encoders:
        return None
    by = {(row.encoder, row.subject): row for row in rows}
    ends = [end for row in rows for end in (row.low, row.high)]
    axis = charts.around(charts.nice_axis([-0.1, 0.1, *ends], count=2 if len(encoders) > FEW else 4))
    changed = {encoder: augmented(asked, encoder) for encoder in encoders}

    def largest(subject: str) -> float:
        return max(by[encoder, subject].value for encoder in encoders if (encoder, subject) in by)

    lines = []
    for subject in sorted(dict.fromkeys(row.subject for row in rows), key=lambda name: (-largest(name), name)):
        found = [(encoder, by.get((encoder, subject))) for encoder in encoders]
        cells = tuple(
            None if row is None else _difference(row, axis, heads[encoder].style, encoder) for encoder, row in found
        )
        dagger = " †" if any(subject in own for own in changed.values()) else ""
        lines.append(DifferenceRow(plain(subject) + dagger, cells))
    return Differences(tuple(heads[encoder] for encoder in encoders), tuple(lines), charts.scale(axis))


def _slopes(asked: Sequence[Row]) -> PageTable:
    """Slopes over the strength of an augmentation: of kept and of the probe, and of r from the answer to invariance."""
    found = [row for row in asked if row.metric in SLOPES]
    lines = [
        TableRow(None, plain(row.subject), (row.tap, row.metric.removesuffix(" slope"), interval(row), row.unit))
        for row in sorted(found, key=lambda row: (row.subject.rpartition(" by ")[2], row.tap, SLOPES.index(row.metric)))
    ]
    return PageTable("", ("of what, by which augmentation", "tap", "number", "slope", "unit"), tuple(lines))


def _difference(row: Row, axis: charts.Axis, style: str, encoder: str) -> LabelledChart:
    # A hollow mark where the interval holds 0: no difference is shown.
    sure = row.low > 0 or row.high < 0
    label = f"{plain(row.subject)} of {encoder}: {interval(row)}"
    mark = charts.Mark(row.value, row.low, row.high, style, "circle" if sure else "circle-open", label)
    chart = charts.dots([[mark]], axis, height=18, ticks=[(0.0, "zero", "0")])
    return LabelledChart("", interval(row), chart, anchor=anchor("differences", encoder, row.subject))


def _pairs(figure: Figure) -> list[TwinPair]:
    """The rows of a figure of kind `twins`: source, first and second sample."""
    found = []
    for index, label in enumerate(figure.rows):
        source, one, other = (
            picture(figure.tiles[index, column], f"{name} of {label} at {tap_id_of(figure)}")
            for column, name in enumerate(("source", "first twin", "second twin"))
        )
        found.append(TwinPair(anchor("twins", tap_id_of(figure), label), label, (source, one, other)))
    return found


def source_cards(figures: Sequence[Figure], taps: Sequence[StyledTap]) -> list[SourceCard]:
    """Grids of several taps over the same sources, turned around: per source, the samples of every tap."""
    shown = by_tap(figures, taps)
    if not shown:
        return []
    head = shown[0][1]
    found = []
    for index, label in enumerate(head.rows):
        strips = [
            strip(tap, "", figure.tiles[figure.rows.index(label), 1:], f"samples of {label} at {tap.id}")
            for tap, figure in shown
            if label in figure.rows
        ]
        found.append(
            SourceCard(
                anchor("samples", label), label, picture(head.tiles[index, 0], f"source: {label}"), tuple(strips)
            )
        )
    return found


def _maps(figures: Sequence[Figure], taps: Sequence[StyledTap]) -> Sheet | None:
    """Maps of several taps over the same sources: the sources in one row, the maps of each tap in a row of its own."""
    shown = by_tap(figures, taps)
    if not shown:
        return None
    head = shown[0][1]
    strips = [strip(None, "sources", head.tiles[:, 0], f"the sources {', '.join(head.rows)}")]
    strips += [
        strip(tap, "", figure.tiles[:, 1], f"where the samples at {tap.id} differ, for {', '.join(figure.rows)}")
        for tap, figure in shown
        if figure.rows == head.rows
    ]
    return Sheet("", head.caption, head.rows, tuple(strips), anchor("maps", "all"))


def _readers(kept: Answer) -> list[TrainedBlock]:
    """Score of the reader on held-out real images."""
    scored = [row for row in kept.where("reader") if row.unit != verdicts.NOISY]
    if not scored:
        return []
    rows = tuple(TableRow(None, plain(row.subject), (row.unit, number(row.value, 3))) for row in scored)
    text = f"One network, scored on {count(max(row.n for row in scored))} held-out real images."
    return [TrainedBlock("Reader", text, table=PageTable("", ("attribute", "measure", "score"), rows))]
