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

TEMPLATE = Path(__file__).with_name("markup.html")


@dataclass(frozen=True)
class SectionPart:
    """One `<section>` of the page: its id, which must be its own, its name in the contents, and its HTML."""

    anchor: str
    label: str
    html: Markup


@dataclass(frozen=True)
class Example:
    """The example beside "how to read this": an image, its vector drawn as a bar code, and four samples."""

    tap: StyledTap
    source: Picture
    barcode: tuple[str, ...]
    samples: tuple[Picture, ...]


@dataclass(frozen=True)
class TrainedBlock:
    """One thing that was trained: in words, as facts, as a chart, as a table."""

    title: str
    text: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    chart: Markup | None = None
    note: str = ""
    table: PageTable | None = None


@dataclass(frozen=True)
class Section:
    """All that a question puts on the page. Any of it may be empty."""

    first: tuple[SectionPart, ...] = ()
    """What stands before the findings."""
    parts: tuple[SectionPart, ...] = ()
    """What stands after them."""
    measures: tuple[tuple[str, str], ...] = ()
    """Term and meaning of every number, for "how each number was measured"."""
    headlines: tuple[str, ...] = ()
    """Lines for a terminal, at the end of a run."""
    facts: tuple[tuple[str, str], ...] = ()
    """Name and value, for the head of the page."""
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
