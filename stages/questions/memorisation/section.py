"""What the page shows of memorisation: a line for each tap, and the samples that come nearest to train images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.questions.answers import Answer, first, tap_id_of
from stages.questions.drawing.markup import fill
from stages.questions.drawing.numbers import PageTable, TableRow, interval
from stages.questions.drawing.pictures import Sheet, by_tap, rows
from stages.questions.drawing.section import Section, SectionPart
from stages.questions.drawing.taps import StyledTap
from stages.questions.findings import Finding, Outcome
from stages.questions.memorisation.answer import BESIDE, DISTANCE, RATIO, SAMPLES
from stages.questions.memorisation.rules import CANNOT_TELL, MEMORISED, NOT_MEMORISED, RULE

TEMPLATE = Path(__file__).with_suffix(".html")
CLAIM = "The decoder paints images that it was trained on."
OUTCOMES: Mapping[str, Outcome] = {MEMORISED: "shown", NOT_MEMORISED: "not shown", CANNOT_TELL: "cannot tell"}
MEASURES = (
    (
        "Memorisation",
        "Mean distance of samples to the nearest train image over that to the nearest held-out image, both among "
        "equally many images and their mirror images, in pixels at the decoder's resolution (from 64 px on by means of "
        "blocks of pixels). A source is left out for its own samples. It is divided by the same ratio of the sources "
        f"themselves, since one draw of images may lie nearer than another. {RULE}",
    ),
)


@dataclass(frozen=True)
class MemorisationContent:
    """What the template shows of the answer."""

    among: str
    control: str
    table: PageTable
    reasons: tuple[str, ...]
    """Why each tap has its verdict."""
    sheets: tuple[Sheet, ...]


def section(answer: Answer, answers: Mapping[str, Answer], taps: Sequence[StyledTap]) -> Section:
    """The section of memorisation."""
    ratios, (control,) = answer.where(BESIDE), answer.where(RATIO)
    lines = []
    for tap in taps:
        found = first(ratios, tap.id, SAMPLES)
        if found is None:
            continue
        apart = (first(answer.where(DISTANCE), tap.id, name) for name in ("train", "held-out"))
        cells = ("" if row is None else interval(row, 3) for row in (*apart, found))
        lines.append(TableRow(tap, tap.id, (*cells, found.verdict.lower())))
    head = ("tap", "to the nearest train image", "to the nearest held-out image", "ratio over the sources'", "verdict")
    content = MemorisationContent(
        control.unit,
        interval(control, 3),
        PageTable("", head, tuple(lines)),
        tuple(f"{tap_id_of(row)}: {row.why}" for row in ratios),
        tuple(rows(figure) for _, figure in by_tap(answer.kind("nearest"), taps)),
    )
    part = SectionPart("memorisation", "Memorisation", fill(TEMPLATE, "memorisation", content=content))
    findings = tuple(Finding("memorisation", tap_id_of(row), CLAIM, OUTCOMES[row.verdict], row.why) for row in ratios)
    headlines = (f"memorisation  {tap_id_of(row)}  {row.verdict}: {row.why}" for row in ratios)
    return Section(parts=(part,), measures=MEASURES, findings=findings, headlines=tuple(headlines))
