"""What the page shows of layers: kept and the linear probe over depth, and their trends."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from stages.questions.answers import Answer, first, tap_id_of
from stages.questions.drawing import charts
from stages.questions.drawing.charts import Axis, Line
from stages.questions.drawing.markup import anchor, fill
from stages.questions.drawing.numbers import LabelledChart, PageTable, TableRow, interval, plain
from stages.questions.drawing.section import Section, SectionPart
from stages.questions.drawing.taps import StyledTap
from stages.questions.layers.answer import FLOOR, KEPT, PROBE, TREND
from stages.questions.layers.trend import RULE

TEMPLATE = Path(__file__).with_suffix(".html")
PROBE_STYLE = "control control-1"
LOWEST, HIGHEST = -0.1, 1.05
"""Ends of the charts."""


@dataclass(frozen=True)
class EncoderLayers:
    """One encoder: a small chart for each attribute, and all trends."""

    name: str
    order: str
    plots: tuple[LabelledChart, ...]
    trends: PageTable


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
        f"a ridge, fitted to train images and scored as R2. {RULE}",
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
                tuple(_plot(answer, ids, row.subject, shown) for row in own),
                _trends(answer, encoder, [row.subject for row in own]),
            )
        )
    key = (
        (charts.symbol("v v-none", "circle"), "kept, with 95 % interval"),
        (charts.stroke(PROBE_STYLE), "linear probe"),
    )
    notes = tuple(row.why for row in answer.where(KEPT) if row.why)
    return LayersContent(tuple(encoders), key, notes)


def _plot(answer: Answer, tap_ids: Sequence[str], subject: str, tap: StyledTap) -> LabelledChart:
    """Both numbers of an attribute at each tap, in the colour of one of them."""
    across = Axis(-0.35, len(tap_ids) - 0.65, tuple((float(i), str(i + 1)) for i in range(len(tap_ids))))
    up = Axis(LOWEST, HIGHEST, ((0.0, "0"), (0.5, "0.5"), (1.0, "1")))
    curves = []
    for metric, style, shape in ((KEPT, tap.style, tap.shape), (PROBE, PROBE_STYLE, "")):
        rows = [first(answer.where(metric), tap_id, subject) for tap_id in tap_ids]
        known = [(float(i), row) for i, row in enumerate(rows) if row is not None]
        points = tuple((i, _inside(row.value)) for i, row in known)
        bounds = tuple((_inside(row.low), _inside(row.high)) for _, row in known) if shape else ()
        curves.append(Line(metric, points, style, shape, bounds))
    chart = charts.lines([curve for curve in curves if curve.points], across, up, 130, f"{plain(subject)} over depth")
    return LabelledChart(plain(subject), "", chart, anchor=anchor("layers", tap.encoder, subject))


def _inside(value: float) -> float:
    """The value on the chart; what lies far outside stands at its edge."""
    return value if math.isnan(value) else min(HIGHEST, max(LOWEST, value))


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
