"""Numbers as people read them, and the charts and tables that hold them."""

import math
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


def plain(subject: str) -> str:
    """The name of an attribute or transform as it is read: `background_hue` is background hue."""
    return subject.replace("_", " ")
