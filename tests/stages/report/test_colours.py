"""Colours of the page: what is written in them can be read in light and dark."""

import re
from pathlib import Path

import pytest

import stages.report
from stages.questions.drawing.taps import HUES

STYLE = (Path(stages.report.__file__).parent / "page.css").read_text()
WRITTEN = ("ink", "soft", "accent", "kept", "lost", "limit", "cannot")
READABLE, VISIBLE = 4.5, 3.0
"""Contrast of text, and of what is drawn, by WCAG 2.2 (1.4.3 and 1.4.11)."""


def colours(scheme: str) -> dict[str, str]:
    """The colours of a scheme by name."""
    block = re.search(rf'data-theme="{scheme}"\] {{(.*?)}}', STYLE, re.DOTALL)
    assert block is not None
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block[1]))


def luminance(colour: str) -> float:
    """Relative luminance by WCAG."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_contrast_of_black_on_white_is_twenty_one() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("ground", ["paper", "panel"])
def test_text_can_be_read_and_marks_can_be_seen(scheme: str, ground: str) -> None:
    named = colours(scheme)
    for name in WRITTEN:
        assert contrast(named[name], named[ground]) >= READABLE, name
    for name in ("partly", "reference", *(f"c{number + 1}" for number in range(HUES))):
        assert contrast(named[name], named[ground]) >= VISIBLE, name


def test_dark_is_the_same_whether_the_system_or_the_reader_asks_for_it() -> None:
    blocks = re.findall(r"--paper: #14171a;.*?--reference: #[0-9a-f]{6};", STYLE, re.DOTALL)
    assert len(blocks) == 2
    assert len({re.sub(r"\s+", " ", block) for block in blocks}) == 1
