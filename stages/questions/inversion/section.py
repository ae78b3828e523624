"""What the page shows of inversion: distances of both beside each other, and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.questions.answers import Answer, first, tap_id_of
from stages.questions.drawing import pictures
from stages.questions.drawing.markup import fill
from stages.questions.drawing.numbers import PageTable, TableRow, interval
from stages.questions.drawing.pictures import Sheet
from stages.questions.drawing.section import Section, SectionPart
from stages.questions.drawing.taps import StyledTap
from stages.questions.inversion.answer import DISTANCE, FITTED, GAP, OTHER, OWN, SAMPLES, SECONDS, SPREAD
from stages.questions.inversion.verdicts import RULE

TEMPLATE = Path(__file__).with_suffix(".html")
HEAD = (
    *("tap", "verdict", "inverted", "samples", "another image", "inverted - samples"),
    *("own space: inverted", "own space: samples", "spread: inverted", "spread: samples", "seconds an image"),
)
CELLS = (
    *((DISTANCE, FITTED), (DISTANCE, SAMPLES), (DISTANCE, OTHER), (GAP, "")),
    *((OWN, FITTED), (OWN, SAMPLES), (SPREAD, FITTED), (SPREAD, SAMPLES), (SECONDS, FITTED)),
)
MEASURES = (
    (
        "Inversion",
        "Pixels are fitted by gradients until the network's embedding of them is the source's, with a penalty on their "
        "total variation whose weight is the best of several on train images (Mahendran & Vedaldi 2015). Distances to "
        f"the source are those of an encoder that is not under study, in distances of two random images. {RULE}",
    ),
    (
        "Own space and spread",
        "Own space: the distance at the tap itself, which the fit makes small; small there and large to the judge is "
        "an image that fools the network. Spread: the distance between two fitted images, or two samples, of one "
        "source, to the judge.",
    ),
)


@dataclass(frozen=True)
class InversionContent:
    """What the template needs."""

    distances: PageTable
    sheets: tuple[Sheet, ...]
    rule: str


def section(answer: Answer, answers: Mapping[str, Answer], taps: Sequence[StyledTap]) -> Section:
    """The table, the figures and the headlines."""
    gaps = answer.where(GAP)
    if not gaps:
        return Section()
    lines = []
    for tap in taps:
        gap = first(gaps, tap.id, "")
        if gap is None:
            continue
        found = [first(answer.where(metric), tap.id, subject) for metric, subject in CELLS]
        lines.append(TableRow(tap, tap.id, (gap.verdict, *("" if one is None else interval(one) for one in found))))
    sheets = tuple(pictures.rows(figure) for figure in answer.kind("inversion"))
    content = InversionContent(PageTable("", HEAD, tuple(lines)), sheets, RULE)
    html = fill(TEMPLATE, "inversion", content=content)
    headlines = (f"inversion  {tap_id_of(row)}  {row.verdict}  {interval(row)}" for row in gaps)
    return Section(parts=(SectionPart("inversion", "Inversion", html),), measures=MEASURES, headlines=tuple(headlines))
