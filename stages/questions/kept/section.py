"""What the page shows of kept: twins, a sentence on each tap, the matrix, differences, samples and maps."""

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from stages.questions.answers import Answer, first, tap_id_of
from stages.questions.drawing import charts
from stages.questions.drawing.markup import fill
from stages.questions.drawing.numbers import LabelledChart, PageTable, TableRow, count, interval, number, plain
from stages.questions.drawing.pictures import Picture, Sheet, Strip, by_tap, picture, strip
from stages.questions.drawing.section import Example, Section, SectionPart, TrainedBlock
from stages.questions.drawing.taps import StyledTap
from stages.questions.findings import augmented
from stages.questions.format import BOTH, Figure, Row
from stages.questions.kept import matrix, verdicts

TEMPLATE = Path(__file__).with_suffix(".html")
SLOPES = ("kept slope", "probe slope", "r slope")
TWINS = 4
"""Twins of a tap that are shown at once; the others open on demand."""
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

    label: str
    images: tuple[Picture, Picture, Picture]


@dataclass(frozen=True)
class SourceCard:
    """One source and its samples at every tap."""

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
class Differences:
    """Paired differences between the two ends of an encoder."""

    title: str
    plots: tuple[LabelledChart, ...]
    axis: Markup


def section(answer: Answer, answers: Mapping[str, Answer], taps: Sequence[StyledTap]) -> Section:
    """The section of kept. What the answer has no rows or figures for is left out."""
    own = [tap for tap in taps if tap.studied] or list(taps)
    grids, scores = answer.kind("grid"), answer.where("kept")
    rules = next((row.why for row in answer.where("rules")), verdicts.THRESHOLDS)
    return Section(
        first=tuple(_first(answer, own, taps)),
        parts=tuple(_parts(answer, [row for other in answers.values() for row in other.rows], taps)),
        measures=(*MEASURES, ("Verdicts", rules)),
        headlines=tuple(_headlines(answer)),
        facts=(("measured on", _sources(max(row.n for row in scores))),) if scores else (),
        example=_example(grids, own),
        trained=tuple(_readers(answer)),
    )


def _first(answer: Answer, own: Sequence[StyledTap], taps: Sequence[StyledTap]) -> Iterable[SectionPart]:
    if twins := _twins(answer, own):
        yield SectionPart("twins", "Twins", fill(TEMPLATE, "twins", title=_twins_title(twins), groups=twins))
    if sentences := matrix.sentences(answer, taps):
        yield SectionPart("verdicts", "In one sentence", fill(TEMPLATE, "sentences", sentences=sentences))


def _parts(answer: Answer, asked: Sequence[Row], taps: Sequence[StyledTap]) -> Iterable[SectionPart]:
    if scores := answer.where("kept"):
        axis = charts.unit_axis(min([0.0, *(row.low for row in scores if math.isfinite(row.low))]))
        html = fill(
            TEMPLATE,
            "matrix",
            taps=taps,
            verdicts=list(matrix.VERDICTS.values()),
            groups=matrix.matrix(answer, taps),
            overlay=matrix.overlay(scores, taps, axis) if len(taps) > 1 else [],
            axis=charts.scale(axis),
        )
        yield SectionPart("kept", "What is kept", html)
    if differences := _differences(answer, asked, taps):
        yield SectionPart("differences", "Backbone to projector", fill(TEMPLATE, "differences", blocks=differences))
    if (slopes := _slopes(asked)).rows:
        yield SectionPart("slopes", "Dose and response", fill(TEMPLATE, "slopes", content=slopes))
    if cards := source_cards(answer.kind("grid"), taps):
        yield SectionPart("samples", "Samples", fill(TEMPLATE, "samples", cards=cards))
    if (maps := _maps(answer.kind("maps"), taps)) is not None:
        yield SectionPart("maps", "Where samples differ", fill(TEMPLATE, "maps", content=maps))


def _headlines(answer: Answer) -> Iterable[str]:
    for metric, title in (("kept", "kept"), ("kept difference", "kept, backbone - projector")):
        by_tap_id: dict[str, list[Row]] = {}
        for row in answer.where(metric):
            by_tap_id.setdefault(tap_id_of(row), []).append(row)
        for at, rows in by_tap_id.items():
            values = "  ".join(f"{row.subject} {row.value:.2f}" for row in rows[:HEADLINE_ATTRIBUTES])
            yield f"{title}  {at.removesuffix(f':{BOTH}')}  {values}"


def _sources(number: int) -> str:
    return f"{count(number)} held-out source{'' if number == 1 else 's'}"


def _twins(kept: Answer, own: Sequence[StyledTap]) -> list[TapTwins]:
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
                found.append(TapTwins(tap, faithful, note, pairs[:TWINS], pairs[TWINS:], figure.caption))
    return found


def _twins_title(twins: Sequence[TapTwins]) -> str:
    faithful = {group.tap.encoder for group in twins if group.faithful}
    if not faithful:
        return "Two samples of one vector, not near enough to be twins"
    return "This encoder cannot tell these apart" if len(faithful) == 1 else "These encoders cannot tell these apart"


def _example(grids: Sequence[Figure], own: Sequence[StyledTap]) -> Example | None:
    tap = own[0] if own else None
    figure = next((figure for figure in grids if tap and tap_id_of(figure) == tap.id), None)
    if tap is None or figure is None or figure.tiles.shape[1] < 3:
        return None
    named = zip(figure.columns, figure.tiles[0], strict=True)
    tiles = [picture(tile, f"{name} of {figure.rows[0]}") for name, tile in named]
    # The bar code stands for a vector; its levels mean nothing, so they come from the tap's name.
    levels = tuple(f"{0.15 + 0.85 * byte / 255:.2f}" for byte in hashlib.sha256(tap.id.encode()).digest()[:21])
    return Example(tap, tiles[0], levels, tuple(tiles[1:5]))


def _differences(kept: Answer, asked: Sequence[Row], taps: Sequence[StyledTap]) -> list[Differences]:
    """Kept at the backbone minus kept at the projector, the largest difference first; `asked`: rows of all answers."""
    rows = [row for row in kept.where("kept difference") if row.tap == BOTH]
    style = {tap.encoder: tap.style for tap in reversed(taps)}
    found = []
    for encoder in dict.fromkeys(row.encoder for row in rows):
        own = [row for row in rows if row.encoder == encoder and math.isfinite(row.value)]
        own.sort(key=lambda row: (-row.value, row.subject))
        axis = charts.around(charts.nice_axis([-0.1, 0.1, *(end for row in own for end in (row.low, row.high))]))
        changed = augmented(asked, encoder)
        plots = tuple(_difference(row, axis, style.get(encoder, ""), changed) for row in own)
        found.append(Differences(encoder, plots, charts.scale(axis)))
    return found


def _slopes(asked: Sequence[Row]) -> PageTable:
    """Slopes over the strength of an augmentation: of kept and of the probe, and of r from the answer to invariance."""
    found = [row for row in asked if row.metric in SLOPES]
    lines = [
        TableRow(None, plain(row.subject), (row.tap, row.metric.removesuffix(" slope"), interval(row), row.unit))
        for row in sorted(found, key=lambda row: (row.subject.rpartition(" by ")[2], row.tap, SLOPES.index(row.metric)))
    ]
    return PageTable("", ("of what, by which augmentation", "tap", "number", "slope", "unit"), tuple(lines))


def _difference(row: Row, axis: charts.Axis, style: str, changed: Collection[str]) -> LabelledChart:
    # A hollow mark where the interval holds 0: no difference is shown.
    sure = row.low > 0 or row.high < 0
    mark = charts.Mark(row.value, row.low, row.high, style, "circle" if sure else "circle-open", interval(row))
    dagger = " †" if row.subject in changed else ""
    return LabelledChart(
        plain(row.subject) + dagger, "", charts.dots([[mark]], axis, height=16, ticks=[(0.0, "zero", "0")])
    )


def _pairs(figure: Figure) -> list[TwinPair]:
    """The rows of a figure of kind `twins`: source, first and second sample."""
    found = []
    for index, label in enumerate(figure.rows):
        source, one, other = (
            picture(figure.tiles[index, column], f"{name} of {label}")
            for column, name in enumerate(("source", "first twin", "second twin"))
        )
        found.append(TwinPair(label, (source, one, other)))
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
        found.append(SourceCard(label, picture(head.tiles[index, 0], f"source: {label}"), tuple(strips)))
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
    return Sheet("", head.caption, tuple("" for _ in head.rows), tuple(strips))


def _readers(kept: Answer) -> list[TrainedBlock]:
    """Score of the reader on held-out real images."""
    scored = [row for row in kept.where("reader") if row.unit != verdicts.NOISY]
    if not scored:
        return []
    rows = tuple(TableRow(None, plain(row.subject), (row.unit, number(row.value, 3))) for row in scored)
    text = f"One network, scored on {count(max(row.n for row in scored))} held-out real images."
    return [TrainedBlock("Reader", text, table=PageTable("", ("attribute", "measure", "score"), rows))]
