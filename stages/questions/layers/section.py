"""What the page shows of layers: kept and the linear probe over depth, and their trends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from stages.questions.answers import Answer, first, tap_id_of
from stages.questions.drawing import charts
from stages.questions.drawing.markup import anchor, fill
from stages.questions.drawing.numbers import LabelledChart, PageTable, TableRow, interval, plain
from stages.questions.drawing.section import Section, SectionPart
from stages.questions.drawing.series import CONTROL, SCORES, Curve, chart, distances, transforms
from stages.questions.drawing.taps import StyledTap
from stages.questions.layers.answer import KEPT, PROBE, R
from stages.questions.series import FLOOR, OTHERS, TREND
from stages.questions.trend import RULE

TEMPLATE = Path(__file__).with_suffix(".html")


@dataclass(frozen=True)
class EncoderLayers:
    """One encoder: a small chart for each attribute and for r, and all trends."""

    name: str
    order: str
    plots: tuple[LabelledChart, ...]
    trends: PageTable
    moves: PageTable
    """Trends of r; empty where *invariance* was not asked."""


@dataclass(frozen=True)
class LayersContent:
    """What the template shows of the answer."""

    encoders: tuple[EncoderLayers, ...]
    key: tuple[tuple[Markup, str], ...]
    notes: tuple[str, ...]


MEASURES = (
    (
        "Trend over depth",
        "Change from the first tap to the last along the least-squares line through all taps of an encoder, over the "
        "same resampled sources at every tap. The floor is the trend of samples of other sources. The linear probe is "
        "a ridge, fitted to train images and scored as R2. r is that of invariance. Other transforms: the mean over "
        f"those that the encoder was not trained with. {RULE}",
    ),
)


def section(answer: Answer, answers: Mapping[str, Answer], taps: Sequence[StyledTap]) -> Section:
    """The section of layers."""
    parts: tuple[SectionPart, ...] = ()
    if answer.rows:
        parts = (SectionPart("layers", "Layers", fill(TEMPLATE, "layers", content=_content(answer, taps))),)
    return Section(parts=parts, measures=MEASURES)


def _content(answer: Answer, taps: Sequence[StyledTap]) -> LayersContent:
    trends = answer.where(KEPT + TREND)
    encoders = []
    for encoder in dict.fromkeys(row.encoder for row in trends):
        own = [row for row in trends if row.encoder == encoder]
        ids = list(dict.fromkeys(tap_id_of(row) for row in answer.where(KEPT) if row.encoder == encoder and row.tap))
        shown = next(tap for tap in taps if tap.encoder == encoder)
        encoders.append(
            EncoderLayers(
                encoder,
                " → ".join(tap_id.partition(":")[2] for tap_id in ids),
                (*(_plot(answer, ids, row.subject, shown) for row in own), *_moved(answer, ids, shown)),
                _trends(answer, encoder, [row.subject for row in own]),
                _moves(answer, encoder),
            )
        )
    key = (
        (charts.symbol("v v-none", "circle"), f"kept{' or r' if answer.where(R) else ''}, with 95 % interval"),
        (charts.stroke(CONTROL), f"linear probe{f'; of r, {OTHERS}' if answer.where(R) else ''}"),
    )
    notes = tuple(row.why for row in answer.where(KEPT) if row.why)
    return LayersContent(tuple(encoders), key, notes)


def _plot(answer: Answer, tap_ids: Sequence[str], subject: str, tap: StyledTap) -> LabelledChart:
    """kept and the linear probe of an attribute at each tap, kept in the colour of one of them."""
    curves = (
        Curve(KEPT, [first(answer.where(KEPT), tap_id, subject) for tap_id in tap_ids], tap.style, tap.shape),
        Curve(PROBE, [first(answer.where(PROBE), tap_id, subject) for tap_id in tap_ids], CONTROL),
    )
    drawn = chart(curves, _numbered(tap_ids), SCORES, f"{plain(subject)} over depth")
    return LabelledChart(plain(subject), "", drawn, anchor=anchor("layers", tap.encoder, subject))


def _moved(answer: Answer, tap_ids: Sequence[str], tap: StyledTap) -> list[LabelledChart]:
    """r at each tap of what was drawn for the encoder, beside that of other transforms; none where it was not asked."""
    subjects = list(dict.fromkeys(row.subject for row in answer.where(R) if row.encoder == tap.encoder))
    curves = [
        Curve(
            f"r of {subject}",
            [first(answer.where(R), tap_id, subject) for tap_id in tap_ids],
            *((CONTROL, "") if subject == OTHERS else (tap.style, tap.shape)),
        )
        for subject in subjects
    ]
    if not curves:
        return []
    drawn = chart(curves, _numbered(tap_ids), distances(curves), f"r of {tap.encoder} over depth")
    return [LabelledChart("r", "how far an image moves", drawn, anchor=anchor("layers", tap.encoder, "r"))]


def _numbered(tap_ids: Sequence[str]) -> list[str]:
    return [str(number) for number in range(1, len(tap_ids) + 1)]


def _trends(answer: Answer, encoder: str, subjects: Sequence[str]) -> PageTable:
    lines = []
    for subject in subjects:
        found = [
            first(answer.where(metric), encoder, subject) for metric in (KEPT + TREND, KEPT + FLOOR, PROBE + TREND)
        ]
        kept, floor, probe = ("" if row is None else interval(row) for row in found)
        verdicts = ["" if row is None else row.verdict for row in found]
        lines.append(TableRow(None, plain(subject), (kept, floor, verdicts[0], probe, verdicts[2])))
    head = ("attribute", "trend of kept", "its floor", "verdict", "trend of the linear probe", "verdict")
    return PageTable("", head, tuple(lines))


def _moves(answer: Answer, encoder: str) -> PageTable:
    rows = [row for row in answer.where(R + TREND) if row.encoder == encoder]
    lines = tuple(TableRow(None, transforms(row.subject), (interval(row), row.verdict)) for row in rows)
    return PageTable("", ("transforms", "trend of r", "verdict"), lines)
