"""What the page shows of health: a line for each tap, heat maps of the pairs, everything beside its floor."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.questions.answers import Answer, first, tap_id_of
from stages.questions.drawing.markup import fill
from stages.questions.drawing.numbers import PageTable, TableRow, count, interval, number
from stages.questions.drawing.section import Section, SectionPart
from stages.questions.drawing.taps import StyledTap
from stages.questions.format import Row
from stages.questions.health.answer import (
    ALIGNMENT,
    CKA,
    CONSTANT,
    FLOOR,
    MUTUAL,
    NORM,
    RANK,
    RANK_ME,
    UNIFORMITY,
    VARIATION,
    ZERO,
)
from stages.questions.health.verdicts import THRESHOLDS

TEMPLATE = Path(__file__).with_suffix(".html")
NAMES = {RANK: "effective rank", RANK_ME: "RankMe", ALIGNMENT: "alignment", UNIFORMITY: "uniformity",
         CONSTANT: "constant", ZERO: "zero", NORM: "norm", VARIATION: "variation of the norm"}  # fmt: skip
HEAD = ("tap", "verdict", "effective rank", "RankMe", "alignment", "uniformity", "constant", "zero", "norm")
PAIRS = {CKA: "CKA", MUTUAL: "mutual neighbours"}
TINT = 60
"""Per cent of colour at 1: letters stay readable."""


@dataclass(frozen=True)
class HeatCell:
    """A pair of taps: its number, how much of the colour it has, and all of it in words."""

    tap: StyledTap
    text: str
    tint: int
    note: str


@dataclass(frozen=True)
class HeatLine:
    """A tap against all taps."""

    tap: StyledTap
    cells: tuple[HeatCell, ...]


@dataclass(frozen=True)
class HealthContent:
    """What the template shows of the answer."""

    images: str
    taps: PageTable
    floors: PageTable
    notes: tuple[str, ...]
    columns: tuple[StyledTap, ...]
    cka: tuple[HeatLine, ...]
    mutual: tuple[HeatLine, ...]
    pairs: PageTable


MEASURES = (
    (
        "Effective rank",
        "exp of the entropy of the shares of variance along the principal directions. RankMe: the same of the singular "
        "values of vectors that are not centred. Neither has an interval: a resample repeats images, which lowers it.",
    ),
    (
        "Alignment and uniformity",
        "Mean squared distance between the directions of an image's vector and of its mirror image's, and ln of the "
        "mean of exp(−2 squared distance) over pairs of images.",
    ),
    (
        "Dead features",
        "Features that are the same number for all images, and those of them that are 0.",
    ),
    (
        "CKA and mutual neighbours",
        "Images are matched by key. CKA is linear and debiased, over random blocks of images; mutual neighbours are "
        "nearest by cosine. The floor is the network untrained, where the study has one (of two encoders each beside "
        "the other untrained, and the more alike of these), else rows that do not belong together.",
    ),
    ("Verdicts of health", THRESHOLDS),
)


def section(answer: Answer, answers: Mapping[str, Answer], taps: Sequence[StyledTap]) -> Section:
    """The section of health."""
    ranks = answer.where(RANK)
    parts: tuple[SectionPart, ...] = ()
    if ranks:
        html = fill(TEMPLATE, "health", content=_content(answer, taps))
        parts = (SectionPart("health", "Health", html),)
    headlines = (f"effective rank  {tap_id_of(row)}  {count(row.value)} {row.unit}  {row.verdict}" for row in ranks)
    return Section(parts=parts, measures=MEASURES, headlines=tuple(headlines))


def _content(answer: Answer, taps: Sequence[StyledTap]) -> HealthContent:
    measured = [tap for tap in taps if first(answer.where(RANK), tap.id, "") is not None]
    single: dict[tuple[str, ...], Row] = {(tap_id_of(row), row.metric): row for row in answer.rows if not row.subject}
    pairs: dict[tuple[str, ...], Row] = {
        (tap_id_of(row), row.subject, row.metric): row for row in answer.rows if row.subject
    }
    lines = [TableRow(tap, tap.id, tuple(_cells(single, tap))) for tap in measured]
    return HealthContent(
        images=count(answer.where(RANK)[0].n),
        taps=PageTable("", HEAD, tuple(lines)),
        floors=PageTable(
            "",
            ("tap", "measure", "value", "floor", "difference", "floor is"),
            tuple(
                TableRow(tap, tap.id, (NAMES[metric], *_beside(single, (tap.id, metric))))
                for tap in measured
                for metric in NAMES
                if (tap.id, metric) in single and single[tap.id, metric].unit
            ),
        ),
        notes=tuple(dict.fromkeys(row.why for row in answer.rows if row.why and not row.unit and tap_id_of(row))),
        columns=tuple(measured),
        cka=_heat(pairs, measured, CKA),
        mutual=_heat(pairs, measured, MUTUAL),
        pairs=PageTable(
            "",
            ("tap", "other tap", "measure", "value", "floor", "difference", "floor is", "verdict"),
            tuple(
                TableRow(tap, tap.id, (other.id, PAIRS[metric], *_beside(pairs, key), pairs[key].verdict))
                for tap in measured
                for other in measured
                for metric in PAIRS
                if (key := (tap.id, other.id, metric)) in pairs and pairs[key].unit
            ),
        ),
    )


def _cells(rows: Mapping[tuple[str, ...], Row], tap: StyledTap) -> list[str]:
    """The verdict on a tap and its numbers."""

    def share(metric: str) -> str:
        return f"{number(100 * rows[tap.id, metric].value, 0)} %"

    ranks = (
        f"{count(row.value)} {row.unit.removeprefix('directions ')}"
        for row in (rows[tap.id, RANK], rows[tap.id, RANK_ME])
    )
    return [
        rows[tap.id, RANK].verdict,
        *ranks,
        *(interval(rows[tap.id, metric]) for metric in (ALIGNMENT, UNIFORMITY)),
        share(CONSTANT),
        share(ZERO),
        f"{number(rows[tap.id, NORM].value)} ± {share(VARIATION)}",
    ]


def _beside(rows: Mapping[tuple[str, ...], Row], key: tuple[str, ...]) -> list[str]:
    """A number, its floor, the paired difference and what the floor is; empty where there is none."""
    *at, metric = key
    floor, gap = rows.get((*at, metric + FLOOR)), rows.get((*at, f"{metric} -{FLOOR}"))
    cells = ("" if row is None else interval(row, 3) for row in (rows[key], floor, gap))
    return [*cells, "" if floor is None else floor.why]


def _heat(rows: Mapping[tuple[str, ...], Row], taps: Sequence[StyledTap], metric: str) -> tuple[HeatLine, ...]:
    """Every tap against every tap; the diagonal is empty."""
    if len(taps) < 2:
        return ()
    lines = []
    for tap in taps:
        cells = []
        for other in taps:
            row = rows.get((tap.id, other.id, metric)) or rows.get((other.id, tap.id, metric))
            if row is None:
                cells.append(HeatCell(other, "", 0, ""))
                continue
            share = min(1.0, max(0.0, row.value)) if math.isfinite(row.value) else 0.0
            note = f"{tap.id}, {other.id}: {interval(row)}" + (f", {row.verdict}" if row.verdict else "")
            cells.append(HeatCell(other, number(row.value), round(TINT * share), note))
        lines.append(HeatLine(tap, tuple(cells)))
    return tuple(lines)
