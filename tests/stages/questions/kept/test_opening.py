"""What kept says first: contrasts of made-up rows."""

import re

import pytest

from stages.questions.answers import Answer
from stages.questions.drawing import taps
from stages.questions.format import BOTH, Row
from stages.questions.kept import opening, verdicts
from stages.questions.kept.opening import Scores
from tests.stages.report import synthetic

TAPS = ["a:backbone", "a:projector", "b:backbone"]


def scores(*rows: Row, families: dict[str, str] | None = None) -> Scores:
    """The scores of these rows, with both encoders under study."""
    styled = taps.assign_styles(TAPS, {"a", "b"}, {}, families=families)
    return Scores(Answer("kept", "k", rows, ()), styled)


def kept(at: str, subject: str, value: float, verdict: str) -> Row:
    """A row of kept with an interval of 0.02 to either side."""
    return synthetic.row("kept", "kept", at, subject, value, low=value - 0.02, high=value + 0.02, verdict=verdict)


def paired(subject: str, value: float, half: float) -> Row:
    """A paired difference of the two ends of `a`."""
    return synthetic.row("kept", "kept difference", f"a:{BOTH}", subject, value, low=value - half, high=value + half)


def said(found: Scores) -> list[str]:
    """What is said of `a`, as text."""
    return [re.sub("<[^>]*>", "", str(remark.text)) for remark in opening.remarks(found) if remark.family == "a"]


def test_where_all_is_kept_the_widest_paired_difference_comes_first() -> None:
    found = scores(
        *(kept(at, name, value, "KEPT") for name, value in (("hue", 1.0), ("x", 0.97)) for at in TAPS[:1]),
        kept("a:projector", "hue", 0.99, "KEPT"),
        kept("a:projector", "x", 0.68, "KEPT"),
        paired("hue", 0.01, 0.01),
        paired("x", 0.29, 0.05),
    )
    strongest = found.strongest()
    assert strongest is not None
    assert strongest.attribute == "x"
    assert strongest.gap == pytest.approx(0.24)
    assert said(found) == ["Keeps less of x at the projector than at the backbone (x: kept 0.97 against 0.68)."]


def test_the_paired_difference_decides_inside_an_encoder_and_not_two_intervals() -> None:
    rows = kept("a:backbone", "x", 0.9, "KEPT"), kept("a:projector", "x", 0.6, "PARTLY")
    assert scores(*rows, paired("x", 0.3, 0.3)).strongest() is None
    assert scores(*rows, paired("x", 0.3, 0.1)).strongest() is not None


def test_what_the_decoder_or_an_instrument_cannot_show_is_no_contrast() -> None:
    for verdict in ("CANNOT TELL", "DECODER LIMIT", ""):
        rows = kept("a:backbone", "x", 0.9, "KEPT"), kept("a:projector", "x", 0.1, verdict)
        assert scores(*rows, paired("x", 0.8, 0.1)).strongest() is None


def test_another_encoder_that_has_lost_an_attribute_is_named() -> None:
    rows = kept("a:backbone", "shape", 0.9, "KEPT"), kept("b:backbone", "shape", 0.05, "LOST")
    found = scores(*rows)
    assert said(found) == ["Keeps shape, which b has lost (shape: kept 0.90 against 0.05)."]
    strongest = found.strongest()
    assert strongest is not None
    assert strongest.words.striptags() == "a:backbone keeps shape; b:backbone has lost it."


def test_what_is_said_of_a_family_holds_in_every_member() -> None:
    rows = (
        *(kept(at, "hue", 0.9, "KEPT") for at in TAPS),
        kept("a:backbone", "x", 0.9, "KEPT"),
        kept("b:backbone", "x", 0.1, "LOST"),
    )
    (remark,) = opening.remarks(scores(*rows, families={"a": "both", "b": "both"}))
    assert re.sub("<[^>]*>", "", str(remark.text)) == "Keeps hue."


def test_functions_of_the_pixels_do_not_open_the_page_where_more_is_known() -> None:
    rows = [kept("a:backbone", name, 0.9, "KEPT") for name in ("contrast", "hue")]
    rows += [kept("b:backbone", name, 0.1, "LOST") for name in ("contrast", "hue")]
    reader = synthetic.row("kept", "reader", "", "contrast", 0.99, unit=verdicts.NOISY)
    assert scores(reader, *rows).attributes == ["hue"]
