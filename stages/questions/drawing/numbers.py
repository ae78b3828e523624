"""Numbers as people read them, and the charts, tables and matrices that hold them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup

from stages.questions.drawing.taps import StyledTap
from stages.questions.format import Row


@dataclass(frozen=True)
class LabelledChart:
    """A chart with its label: a name, or a tap."""

    label: str
    note: str
    chart: Markup
    tap: StyledTap | None = None
    anchor: str = ""
    """Its id on the page; empty where it has none."""


@dataclass(frozen=True)
class TableRow:
    """A row of a table, of a tap or under a label."""

    tap: StyledTap | None
    label: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class PageTable:
    """A table; the first column is the tap or the label."""

    title: str
    head: tuple[str, ...]
    rows: tuple[TableRow, ...]


@dataclass(frozen=True)
class CrossedCell:
    """A number with its verdict: the class of its colour, its symbol, and the word for who sees neither."""

    anchor: str
    value: str
    style: str
    glyph: str
    word: str
    title: str


@dataclass(frozen=True)
class CrossedLine:
    """A row of a matrix, of a tap or under a label. `leads`: a rule separates it from the row above."""

    label: str
    tap: StyledTap | None
    leads: bool
    cells: tuple[CrossedCell | None, ...]


@dataclass(frozen=True)
class Crossed:
    """A matrix of small cells that stays readable with a dozen rows and columns."""

    title: str
    head: tuple[str, ...]
    lines: tuple[CrossedLine, ...]


def number(value: float, digits: int = 2) -> str:
    """A score for people: a real minus sign, no negative zero, a dash where there is none."""
    if not math.isfinite(value):
        return "–"
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−")


def count(value: float) -> str:
    """A rank or a number of things: no decimals from 10 on, narrow spaces between thousands."""
    if not math.isfinite(value):
        return "–"
    whole = abs(value) >= 10 or value == round(value)
    return f"{value:,.0f}".replace(",", "\u202f") if whole else f"{value:.1f}"


def interval(row: Row, digits: int = 2) -> str:
    """Value and interval."""
    if not (math.isfinite(row.low) and math.isfinite(row.high)):
        return number(row.value, digits)
    return f"{number(row.value, digits)} [{number(row.low, digits)}, {number(row.high, digits)}]"


def span(values: Iterable[float], digits: int = 2) -> str:
    """The range of values, as `0.12 to 0.17`; one number where all are written alike."""
    found = list(values)
    low, high = number(min(found), digits), number(max(found), digits)
    return low if low == high else f"{low} to {high}"


def plain(subject: str) -> str:
    """The name of an attribute or transform as it is read: `background_hue` is background hue."""
    return subject.replace("_", " ")
