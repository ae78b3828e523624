"""Parts of the report: how taps are dressed, how numbers are written, how figures are cut."""

import base64

import numpy as np
import pytest

from stages.images import pixels
from stages.report import numbers, pictures, taps
from tests.stages.report import synthetic

PLACES = ["oracle:attributes", "simclr:backbone", "simclr:projector.0", "simclr:projector", "other:backbone"]


def test_encoders_under_study_come_first_and_empty_on_the_way_to_the_projector() -> None:
    dressed = taps.dress(PLACES, {"simclr", "other"}, {"simclr:backbone": 256})
    assert [tap.place for tap in dressed][-1] == "oracle:attributes"
    shapes = {tap.place: tap.shape for tap in dressed}
    assert shapes["simclr:backbone"] == "circle"
    assert shapes["simclr:projector.0"] == "circle-dot"
    assert shapes["simclr:projector"] == "circle-open"
    assert shapes["other:backbone"] == "square"
    assert [tap.numbers for tap in dressed][:2] == ["256 numbers", "a vector"]


def test_no_two_taps_look_the_same() -> None:
    places = [f"{encoder}:{tap}" for encoder in "abcd" for tap in ("backbone", "projector.0", "projector")]
    places += [f"reference{number}:backbone" for number in range(8)]
    dressed = taps.dress(places, set("abcd"), {})
    assert len({(tap.shape, tap.colour) for tap in dressed}) == len(places)
    assert len({tap.style for tap in dressed}) == len(places)


@pytest.mark.parametrize(
    ("value", "written"), [(0.126, "0.13"), (-0.126, "−0.13"), (-0.001, "0.00"), (float("nan"), "–"), (1.0, "1.00")]
)
def test_scores_are_written_for_people(value: float, written: str) -> None:
    assert numbers.number(value) == written


@pytest.mark.parametrize(
    ("value", "written"), [(2.5, "2.5"), (3.0, "3"), (1234567.0, "1\u202f234\u202f567"), (float("inf"), "–")]
)
def test_counts_are_written_for_people(value: float, written: str) -> None:
    assert numbers.count(value) == written


@pytest.mark.parametrize(
    ("subject", "found"),
    [("crop 0.5", ("crop", 0.5)), ("own", ("own", 1.0)), ("same shape", ("same shape", 1.0))],
)
def test_the_subject_of_a_transform_is_its_name_and_strength(subject: str, found: tuple[str, float]) -> None:
    assert numbers.transform(subject) == found


def test_cards_hold_the_pixels_of_the_figures() -> None:
    rng = np.random.Generator(np.random.Philox(key=3))
    tiles = {tap: rng.integers(0, 256, (2, 4, 8, 8, 3), dtype=np.uint8) for tap in ("backbone", "projector")}
    figures = [
        synthetic.figure("grid", f"simclr:{tap}", grid, ["image 1", "image 2"], ["source", "0", "1", "2"], 0)
        for tap, grid in tiles.items()
    ]
    dressed = taps.dress(["simclr:backbone", "simclr:projector"], {"simclr"}, {})
    cards = pictures.cards(figures, dressed)
    assert [card.label for card in cards] == ["image 1", "image 2"]
    assert [strip.tap for strip in cards[0].strips] == dressed
    np.testing.assert_array_equal(decoded(cards[1].source), tiles["backbone"][1, 0])
    np.testing.assert_array_equal(decoded(cards[1].strips[1].picture), np.hstack(list(tiles["projector"][1, 1:])))


def test_transformed_images_that_two_encoders_see_alike_are_shown_once() -> None:
    same = np.zeros((1, 2, 8, 8, 3), dtype=np.uint8)
    figures = [
        synthetic.figure("grid", at, same + value, ["image 1"], ["as it is", "flip 1"], 0)
        for at, value in (("a", 0), ("b", 0), ("c", 9), ("a:backbone", 30))
    ]
    (rows,) = pictures.transformed(figures, taps.dress(["a:backbone"], {"a"}, {}))
    assert [strip.label for strip in rows.strips] == ["what a sees", "what c sees", ""]
    assert rows.columns == ("as it is", "flip 1")


def decoded(picture: pictures.Picture) -> np.ndarray:
    """The pixels of a data URI."""
    return pixels.decode(base64.b64decode(picture.uri.removeprefix("data:image/png;base64,")))
