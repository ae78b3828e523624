"""Framing: the square that is cut, and how it is resized."""

import numpy as np
import pytest

from stages.images import framing as framing_module
from stages.images.framing import Framing, fit
from tests.stages.images.pictures import GRADIENT, photograph


def test_fit_takes_the_centre_square() -> None:
    wide = np.zeros((10, 30, 3), dtype=np.uint8)
    wide[:, 10:20] = 200
    assert np.array_equal(fit(wide, 10), np.full((10, 10, 3), 200))
    assert np.array_equal(fit(wide.transpose(1, 0, 2), 10), np.full((10, 10, 3), 200))


def test_fit_leaves_an_image_of_that_size_alone() -> None:
    square = GRADIENT[:16]
    assert fit(square, 16) is square


def test_fit_makes_small_and_extreme_images_square() -> None:
    for shape in [(1, 1, 3), (1, 500, 3), (3, 2, 3)]:
        assert fit(np.full(shape, 9, dtype=np.uint8), 8).tolist() == np.full((8, 8, 3), 9).tolist()


LONG: list[Framing] = [
    Framing(12, resize=15),
    Framing(12, resize=15, interpolation="lanczos"),
    Framing(12, resize=13, rounding="down", halve=True),
]


@pytest.mark.parametrize("framing", LONG)
@pytest.mark.parametrize("shape", [(301, 225), (20, 600), (600, 20), (1, 400), (5, 3)])
def test_resizing_only_what_the_cut_shows_is_a_level_from_resizing_all(
    framing: Framing, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.asarray(photograph(*shape))
    whole = fit(image, framing)
    monkeypatch.setattr(framing_module, "RESIZED_PIXELS", 0)
    assert np.abs(fit(image, framing).astype(int) - whole).max() <= 1
