"""What the section of a question is: `section(answer, answers, taps)` in its `section.py` returns a `Section`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from markupsafe import Markup

from stages.questions.answers import Answer, tap_id_of
from stages.questions.drawing.markup import fill
from stages.questions.drawing.numbers import PageTable, TableRow, interval, plain
from stages.questions.drawing.pictures import Picture, rows
from stages.questions.drawing.taps import StyledTap
from stages.questions.findings import Finding

TEMPLATE = Path(__file__).with_name("markup.html")


@dataclass(frozen=True)
class SectionPart:
    """One `<section>` of the page: its id, which must be its own, its name in the contents, and its HTML."""

    anchor: str
    label: str
    html: Markup


@dataclass(frozen=True)
class Painted:
    """A vector drawn as a bar code, and four samples of it; `verdict` says what they show."""

    tap: StyledTap
    barcode: tuple[str, ...]
    samples: tuple[Picture, ...]
    verdict: Markup | str = ""


@dataclass(frozen=True)
class Example:
    """The picture that opens the page: an image and the samples of its vector at one tap, or at two that differ."""

    source: Picture
    taps: tuple[Painted, ...]
    claim: Markup | str = ""


@dataclass(frozen=True)
class Remark:
    """A sentence on the encoders of a family for the opening of the page. Those of the greatest strength come first."""

    family: str
    text: Markup | str
    anchor: str = ""
    """Where the page shows it."""
    strength: float = 0.0
    """Of a contrast: by how much kept differs at least. 0 where nothing is compared."""


@dataclass(frozen=True)
class TapVerdict:
    """A line of the opening on one tap: how many attributes got each verdict, and all of it as a sentence."""

    tap: StyledTap
    tally: Markup
    text: str


@dataclass(frozen=True)
class TrainedBlock:
    """One thing that was trained: in words, as facts, as a chart, as a table."""

    title: str
    text: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    chart: Markup | None = None
    note: str = ""
    table: PageTable | None = None
    folded: bool = False
    """Whether it opens on demand."""


@dataclass(frozen=True)
class Section:
    """All that a question puts on the page. Any of it may be empty."""

    parts: tuple[SectionPart, ...] = ()
    """What stands after the opening and the findings."""
    measures: tuple[tuple[str, str], ...] = ()
    """Term and meaning of every number, for "how each number was measured"."""
    headlines: tuple[str, ...] = ()
    """Lines for a terminal, at the end of a run."""
    remarks: tuple[Remark, ...] = ()
    """For the opening: what is to be said first of each family of encoders."""
    verdicts: tuple[TapVerdict, ...] = ()
    """For the opening: a line on each tap."""
    facts: tuple[tuple[str, str], ...] = ()
    """Name and value, for the head of the page."""
    findings: tuple[Finding, ...] = ()
    """Claims that its rows show or do not, to stand beside the paper's findings."""
    example: Example | None = None
    """The page shows that of the first question that has one."""
    trained: tuple[TrainedBlock, ...] = ()
    """What was trained for the answer, for "encoders, and what was trained"."""


class SectionModule(Protocol):
    """A `section.py`."""

    def section(self, answer: Answer, answers: Mapping[str, Answer], taps: Sequence[StyledTap]) -> Section:
        """The section of `answer`. It may read rows of all `answers` of the study; `taps` are those of the page."""


def rows_part(answer: Answer, anchor: str) -> SectionPart:
    """All figures and rows of an answer, as they are."""
    table = PageTable(
        "",
        ("metric", "tap", "subject", "value", "unit", "verdict"),
        tuple(
            TableRow(None, row.metric, (tap_id_of(row), row.subject, interval(row, 3), row.unit, row.verdict))
            for row in answer.rows
        ),
    )
    title = plain(answer.question).capitalize()
    html = fill(
        TEMPLATE, "answer_rows", anchor=anchor, title=title, sheets=[rows(f) for f in answer.figures], rows=table
    )
    return SectionPart(anchor, title, html)
