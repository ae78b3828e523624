"""What the page shows of fidelity: a line for each tap, every number beside that of real images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.questions.answers import Answer, first, tap_id_of
from stages.questions.drawing.markup import fill
from stages.questions.drawing.numbers import PageTable, TableRow, interval
from stages.questions.drawing.section import Section, SectionPart
from stages.questions.drawing.taps import StyledTap
from stages.questions.fidelity.answer import FLOOR, GAP, KID, PRECISION, RECALL
from stages.questions.fidelity.verdicts import RULE

TEMPLATE = Path(__file__).with_suffix(".html")
NAMES = {KID: "KID", PRECISION: "precision", RECALL: "recall"}
MEASURES = (
    (
        "KID",
        "Squared maximum mean discrepancy between samples and held-out images that are no sources, with the kernel "
        "(x · y / D + 1)³ on standardised embeddings of an encoder that is not under study (Bińkowski et al. 2018). "
        "0: no difference; it may be a little below 0. Pairs of samples of one source do not enter.",
    ),
    (
        "Precision and recall",
        "Precision: the share of samples that lie within the reach of a held-out image; recall: the share of held-out "
        "images within the reach of a sample, of one for each source (Kynkäänniemi et al. 2019). The reach is the "
        f"distance to the third nearest of its own kind, where a study sets no other. {RULE}",
    ),
    (
        "Fidelity of images",
        "The same numbers of the sources themselves, at the decoder's resolution: what perfect samples would score.",
    ),
)


@dataclass(frozen=True)
class FidelityContent:
    """What the template needs."""

    reference: str
    images: PageTable
    rule: str


def section(answer: Answer, answers: Mapping[str, Answer], taps: Sequence[StyledTap]) -> Section:
    """The table and the headlines."""
    kids = answer.where(KID)
    if not kids:
        return Section()
    reference = kids[0].subject
    lines = []
    for tap in taps:
        if first(kids, tap.id, reference) is None:
            continue
        cells = []
        for metric in NAMES:
            own, real, gap = (first(answer.where(metric + end), tap.id, reference) for end in ("", FLOOR, GAP))
            assert own is not None
            assert real is not None
            assert gap is not None
            digits = 3 if metric == KID else 2
            cells += [interval(own, digits), interval(real, digits), gap.verdict or interval(gap, digits)]
        lines.append(TableRow(tap, tap.id, tuple(cells)))
    head = ["tap"]
    for metric, name in NAMES.items():
        head += [name, "of images", "difference" if metric == KID else "verdict"]
    html = fill(
        TEMPLATE, "fidelity", content=FidelityContent(reference, PageTable("", tuple(head), tuple(lines)), RULE)
    )
    headlines = (f"KID  {tap_id_of(row)}  {interval(row, 3)} to {reference}" for row in kids)
    return Section(parts=(SectionPart("fidelity", "Fidelity", html),), measures=MEASURES, headlines=tuple(headlines))
