"""What the page shows of robustness: movement by eps, differences of encoders, the probe's accuracy, the checks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.questions.answers import Answer, tap_id_of
from stages.questions.drawing import charts
from stages.questions.drawing.charts import Axis, Line, nice_axis
from stages.questions.drawing.markup import fill
from stages.questions.drawing.numbers import LabelledChart, PageTable, TableRow, interval
from stages.questions.drawing.pictures import Sheet, by_tap, strip
from stages.questions.drawing.section import Section, SectionPart
from stages.questions.drawing.taps import StyledTap
from stages.questions.findings import GAP, ROBUST_MIN, SEEDS_MIN
from stages.questions.format import Row

TEMPLATE = Path(__file__).with_suffix(".html")
ATTACKS = {"pgd": "PGD", "fgsm": "FGSM", "signs": "random signs, the control"}
"""Those that have every eps, by the names of their subjects."""


@dataclass(frozen=True)
class RobustnessContent:
    """What the template shows of the answer."""

    movement: tuple[LabelledChart, ...]
    gaps: PageTable
    notes: tuple[str, ...]
    transfers: PageTable
    accuracy: PageTable
    failed: tuple[str, ...]
    checks: PageTable
    painted: tuple[Sheet, ...]


MEASURES = (
    (
        "Movement",
        "Mean distance between the vectors of an image and of the attacked image, over the mean distance between two "
        "random images. eps is the largest change of a pixel, in 255ths, on the square that the encoder is given. PGD "
        "and FGSM maximise the distance, without a label, from random starts.",
    ),
    (
        "Accuracy under attack",
        "Share of images of which a linear probe on the vector, fitted to train images, reads the attribute rightly, "
        "under PGD against that probe.",
    ),
    (
        "Finding iii",
        "It is shown where the interval of movement(supervised) − movement(self-supervised) at the backbone, paired by "
        f"image and at the middle eps, lies above {ROBUST_MIN:g} in every pair of encoders, and the opposite where it "
        f"lies below −{ROBUST_MIN:g} in every pair. With fewer than {SEEDS_MIN} pretraining seeds of each method "
        "there is no outcome.",
    ),
)


def section(answer: Answer, answers: Mapping[str, Answer], taps: Sequence[StyledTap]) -> Section:
    """The section of robustness."""
    parts: tuple[SectionPart, ...] = ()
    if answer.where("movement"):
        html = fill(TEMPLATE, "robustness", content=_content(answer, taps))
        parts = (SectionPart("robustness", "Robustness", html),)
    return Section(parts=parts, measures=MEASURES)


def _content(answer: Answer, taps: Sequence[StyledTap]) -> RobustnessContent:
    moved = answer.where("movement")
    checks = answer.where("check")
    columns = list(dict.fromkeys(row.subject for row in answer.where("accuracy") if row.subject))
    return RobustnessContent(
        movement=tuple(_movement(moved, taps)),
        gaps=_gaps(answer.rows),
        notes=tuple(dict.fromkeys(row.why for row in answer.rows if row.why)),
        transfers=_listed("movement", [row for row in moved if _attack(row)[0] not in ATTACKS], taps),
        accuracy=PageTable(
            "",
            ("tap", *columns),
            tuple(
                TableRow(tap, tap.id, tuple(interval(by[column]) if column in by else "" for column in columns))
                for tap in taps
                if (by := {row.subject: row for row in answer.where("accuracy") if tap_id_of(row) == tap.id})
                and columns
            ),
        ),
        failed=tuple(f"{tap_id_of(row)}: {row.subject} is {interval(row, 3)}" for row in checks if not row.value >= 0),
        checks=_listed("must not be below 0", checks, taps),
        painted=tuple(_sheets(answer, taps)),
    )


def _listed(value: str, rows: Sequence[Row], taps: Sequence[StyledTap]) -> PageTable:
    """Rows as they are, tap by tap."""
    lines = (TableRow(tap, tap.id, (r.subject, interval(r, 3))) for tap in taps for r in rows if tap_id_of(r) == tap.id)
    return PageTable("", ("tap", "attack", value), tuple(lines))


def _attack(row: Row) -> tuple[str, float]:
    """Attack and eps of a row on movement."""
    name, _, eps = row.subject.rpartition(" ")
    return name, float(eps)


def _movement(rows: Sequence[Row], taps: Sequence[StyledTap]) -> list[LabelledChart]:
    """Movement over eps, a small chart for each attack, all on one scale."""
    split = [(row, *_attack(row)) for row in rows]
    levels = sorted({eps for _, name, eps in split if name in ATTACKS})
    highest = max(1.0, *(row.high for row in rows if math.isfinite(row.high)), *(row.value for row in rows))
    up = Axis(0.0, 1.04 * highest, nice_axis([0.0, math.floor(2 * highest) / 2], count=3).ticks)
    # Strengths double, more or less, so they stand at equal distances.
    across = Axis(-0.35, len(levels) - 0.65, tuple((float(i), f"{eps:g}") for i, eps in enumerate(levels)))
    plots = []
    for attack, label in ATTACKS.items():
        curves = []
        for tap in taps:
            own = sorted(
                ((eps, row) for row, name, eps in split if name == attack and tap_id_of(row) == tap.id),
                key=lambda entry: entry[0],
            )
            if own:
                points = tuple((float(levels.index(eps)), row.value) for eps, row in own)
                curves.append(Line(tap.id, points, tap.style, tap.shape, tuple((row.low, row.high) for _, row in own)))
        chart = charts.lines(curves, across, up, 150, f"movement under {label}")
        plots.append(LabelledChart(label, "eps in 255ths", chart))
    return plots


def _gaps(rows: Sequence[Row]) -> PageTable:
    """Supervised against self-supervised encoders."""
    lines = []
    for row in rows:
        if row.metric.startswith(GAP):
            other, _, eps = row.subject.rpartition(" ")
            lines.append(TableRow(None, f"{row.encoder} − {other}", (row.metric.removeprefix(GAP), eps, interval(row))))
    return PageTable("", ("encoders", "tap", "eps, 255ths", "difference of movement"), tuple(lines))


def _sheets(answer: Answer, taps: Sequence[StyledTap]) -> list[Sheet]:
    """Per source a sample of the embedding under each attack, at each tap."""
    shown = by_tap(answer.kind("grid"), taps)
    found = []
    for label in dict.fromkeys(label for _, figure in shown for label in figure.rows):
        strips = tuple(
            strip(tap, "", figure.tiles[figure.rows.index(label)], f"samples of {label}, attacked, at {tap.id}")
            for tap, figure in shown
            if label in figure.rows
        )
        found.append(Sheet(label, "", shown[0][1].columns, strips))
    return found
