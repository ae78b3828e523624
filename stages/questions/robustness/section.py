"""What the page shows of robustness: movement by eps, differences of encoders, the probe's accuracy, the checks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from stages.questions.answers import Answer, tap_id_of
from stages.questions.drawing import charts
from stages.questions.drawing.charts import Axis, Line, log_axis
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
from stages.questions.drawing.pictures import Sheet, by_tap, strip
from stages.questions.drawing.section import Remark, Section, SectionPart
from stages.questions.drawing.taps import StyledTap, by_family
from stages.questions.findings import GAP, ROBUST_MIN, SEEDS_MIN, TRAINED
from stages.questions.format import Row
from stages.questions.robustness.stage import RIGHTLY

TEMPLATE = Path(__file__).with_suffix(".html")
ATTACKS = {"pgd": "PGD", "fgsm": "FGSM", "signs": "random signs, the control"}
"""Those that have every eps, by the names of their subjects."""


@dataclass(frozen=True)
class RobustnessContent:
    """What the template shows of the answer."""

    movement: tuple[LabelledChart, ...]
    key: tuple[tuple[Markup, str], ...]
    crossed: tuple[Crossed, ...]
    gaps: PageTable
    notes: tuple[str, ...]
    transfers: PageTable
    read: str
    """What the numbers of the probes are, in words, with the attribute that they read."""
    trained_on_it: tuple[str, ...]
    """Encoders that were trained with this attribute as their label."""
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
    return Section(parts=parts, measures=MEASURES, remarks=tuple(_remarks(answer, taps)))


def _remarks(answer: Answer, taps: Sequence[StyledTap]) -> Iterator[Remark]:
    """How far the middle eps moves the first tap of each encoder of a family."""
    under = {(tap_id_of(row), *_attack(row)): row.value for row in answer.where("movement")}
    levels = sorted({eps for _, attack, eps in under if attack == "pgd"})[:-1]
    for family, members in by_family(taps).items():
        middle = levels[len(levels) // 2] if levels else 0.0
        first = [own[0] for own in members.values()]
        moved = [under[tap.id, "pgd", middle] for tap in first if (tap.id, "pgd", middle) in under]
        if moved:
            attack = f"An attack that changes no pixel by more than {middle:g} / 255"
            text = f"{attack} moves the {first[0].tap} by {span(moved)}."
            yield Remark(family, text, "robustness")


def _content(answer: Answer, taps: Sequence[StyledTap]) -> RobustnessContent:
    moved = answer.where("movement")
    checks = answer.where("check")
    accuracy = [row for row in answer.where("accuracy") if row.subject]
    columns = list(dict.fromkeys(row.subject for row in accuracy))
    unit = accuracy[0].unit if accuracy else ""
    return RobustnessContent(
        movement=tuple(_movement(moved, taps)),
        key=tuple((tap.key, tap.id) for tap in taps if any(tap_id_of(row) == tap.id for row in moved)),
        crossed=tuple(_crossed(answer.rows, taps)),
        gaps=_gaps(answer.rows),
        notes=tuple(dict.fromkeys(row.why for row in answer.rows if row.why)),
        transfers=_listed("movement", [row for row in moved if _attack(row)[0] not in ATTACKS], taps),
        read=plain(unit),
        trained_on_it=tuple(row.encoder for row in answer.where(TRAINED) if RIGHTLY.format(_label(row)) == unit),
        accuracy=PageTable(
            "",
            ("tap", *columns),
            tuple(
                TableRow(tap, tap.id, tuple(interval(by[column]) if column in by else "" for column in columns))
                for tap in taps
                if (by := {row.subject: row for row in accuracy if tap_id_of(row) == tap.id}) and columns
            ),
        ),
        failed=tuple(f"{tap_id_of(row)}: {row.subject} is {interval(row, 3)}" for row in checks if not row.value >= 0),
        checks=_listed("must not be below 0", checks, taps),
        painted=tuple(_sheets(answer, taps)),
    )


def _label(row: Row) -> str:
    """The label that an encoder was trained with: it stands behind the method."""
    return row.subject.partition(" ")[2]


def _listed(value: str, rows: Sequence[Row], taps: Sequence[StyledTap]) -> PageTable:
    """Rows as they are, tap by tap."""
    lines = (TableRow(tap, tap.id, (r.subject, interval(r, 3))) for tap in taps for r in rows if tap_id_of(r) == tap.id)
    return PageTable("", ("tap", "attack", value), tuple(lines))


def _attack(row: Row) -> tuple[str, float]:
    """Attack and eps of a row on movement."""
    name, _, eps = row.subject.rpartition(" ")
    return name, float(eps)


def _movement(rows: Sequence[Row], taps: Sequence[StyledTap]) -> list[LabelledChart]:
    """Movement over eps, a small chart for each attack, all on one scale, which is logarithmic.

    Movement grows with eps, about in proportion: on a linear scale the strongest attack hides all others.
    """
    split = [(row, *_attack(row)) for row in rows]
    levels = sorted({eps for _, name, eps in split if name in ATTACKS})
    up = log_axis([1.0, *(row.value for row, name, _ in split if name in ATTACKS and row.value > 0)])
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
        chart = charts.lines(curves, across, up, 220, f"movement under {label}")
        plots.append(LabelledChart(label, "eps in 255ths", chart, anchor=anchor("robustness", attack)))
    return plots


def _crossed(rows: Sequence[Row], taps: Sequence[StyledTap]) -> Iterator[Crossed]:
    """The differences at the middle eps, one matrix a tap: supervised encoders below, the others beside each other."""
    first = {tap.encoder: tap for tap in reversed(taps)}
    for metric in dict.fromkeys(row.metric for row in rows if row.metric.startswith(GAP)):
        gaps = {(row.encoder, *row.subject.rpartition(" ")[::2]): row for row in rows if row.metric == metric}
        levels = sorted({eps for *_, eps in gaps}, key=float)
        middle = levels[len(levels) // 2]
        below = list(dict.fromkeys(encoder for encoder, *_ in gaps))
        beside = tuple(dict.fromkeys(other for _, other, _ in gaps))
        tap = metric.removeprefix(GAP)
        lines: list[CrossedLine] = []
        for encoder in below:
            cells = tuple(
                None if (row := gaps.get((encoder, other, middle))) is None else _gap_cell(row, tap, other, middle)
                for other in beside
            )
            styled = first.get(encoder)
            leads = not lines or styled is None or lines[-1].tap is None or lines[-1].tap.family != styled.family
            lines.append(CrossedLine(encoder, styled, leads, cells))
        yield Crossed(f"At the {tap}, eps {middle} / 255", beside, tuple(lines))


def _gap_cell(row: Row, tap: str, other: str, eps: str) -> CrossedCell:
    outcomes = ((row.low > ROBUST_MIN, "shown", "farther"), (row.high < -ROBUST_MIN, "opposite", "less far"))
    style, word = next(
        ((style, word) for found, style, word in outcomes if found), ("not-shown", "no clear difference")
    )
    title = f"{row.encoder} − {other}: {interval(row)}, {word}"
    at = anchor("robustness", tap, row.encoder, other)
    return CrossedCell(at, number(row.value), f"state {style}", f"f-{style}", word, title)


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
        found.append(Sheet(label, "", shown[0][1].columns, strips, anchor("robustness", "painted", label)))
    return found
