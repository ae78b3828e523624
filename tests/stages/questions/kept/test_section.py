"""What the page shows of kept: how figures are cut."""

import base64

import numpy as np

from stages.images import image_file
from stages.questions.answers import Answer, tap_ids
from stages.questions.drawing import taps
from stages.questions.drawing.pictures import Picture
from stages.questions.kept.section import section, source_cards
from tests.stages.report import synthetic


def test_cards_hold_the_pixels_of_the_figures() -> None:
    rng = np.random.Generator(np.random.Philox(key=3))
    tiles = {tap: rng.integers(0, 256, (2, 4, 8, 8, 3), dtype=np.uint8) for tap in ("backbone", "projector")}
    figures = [
        synthetic.figure("grid", f"simclr:{tap}", grid, ["image 1", "image 2"], ["source", "0", "1", "2"], 0)
        for tap, grid in tiles.items()
    ]
    styled = taps.assign_styles(["simclr:backbone", "simclr:projector"], {"simclr"}, {})
    cards = source_cards(figures, styled)
    assert [card.label for card in cards] == ["image 1", "image 2"]
    assert [strip.tap for strip in cards[0].strips] == styled
    np.testing.assert_array_equal(decoded(cards[1].source), tiles["backbone"][1, 0])
    np.testing.assert_array_equal(decoded(cards[1].strips[1].picture), np.hstack(list(tiles["projector"][1, 1:])))


def test_slopes_over_a_dose_are_a_table_and_no_tap_of_the_page() -> None:
    asked = [
        synthetic.row(
            "kept", "kept slope", ":backbone", "hue by hue", -1.2, low=-1.5, high=-0.9, unit="per unit of hue"
        ),
        synthetic.row("invariance", "r slope", ":backbone", "hue 0.1 by hue", -0.4, unit="per unit of hue"),
    ]
    answers = {
        "kept": Answer("kept", "0" * 64, (asked[0],), ()),
        "invariance": Answer("invariance", "1" * 64, (asked[1],), ()),
    }
    found = section(answers["kept"], answers, [])
    (part,) = [part for part in found.parts if part.anchor == "slopes"]
    assert part.html.count("<tr") == 3
    assert "−1.20" in part.html or "-1.20" in part.html
    assert tap_ids(answers.values()) == []


def decoded(picture: Picture) -> np.ndarray:
    """The pixels of a data URI."""
    return image_file.decode(base64.b64decode(picture.uri.removeprefix("data:image/png;base64,")))
