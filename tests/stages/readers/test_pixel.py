"""Pixel attributes against closed forms."""

import colorsys

import numpy as np
import pytest

from stages.datasets import scenes
from stages.readers import pixel


def full(colour: tuple[float, float, float], size: int = 8) -> pixel.Floats:
    return np.broadcast_to(np.array(colour, dtype=np.float64), (1, size, size, 3))


@pytest.mark.parametrize("hue", [0.0, 0.1, 1 / 3, 0.5, 2 / 3, 0.9])
def test_the_hue_of_a_pure_colour_is_its_hue(hue: float) -> None:
    """Exact at the corners of the colour hexagon and at their middles, within 0.01 turns between."""
    found = pixel.mean_hue(full(colorsys.hsv_to_rgb(hue, 1.0, 1.0)))[0]
    assert abs((found - hue + 0.5) % 1.0 - 0.5) < 0.01


def test_grey_has_no_hue_no_saturation_no_contrast_no_orientation() -> None:
    read = pixel.read(np.full((2, 8, 8, 3), 128, dtype=np.uint8))
    assert np.isnan(read["mean_hue"]).all()
    assert np.isnan(read["orientation"]).all()
    for name in ("saturation", "contrast", "sharpness"):
        assert read[name] == pytest.approx(np.zeros(2), abs=1e-12)
    assert read["mean_brightness"] == pytest.approx(np.full(2, 128 / 255))
    assert read["centre_x"].tolist() == [0.5, 0.5]


def test_red_is_fully_saturated_and_pink_half() -> None:
    assert pixel.saturation(full((1.0, 0.0, 0.0)))[0] == pytest.approx(1.0)
    assert pixel.saturation(full((1.0, 0.5, 0.5)))[0] == pytest.approx(0.5)


def test_brightness_is_luma() -> None:
    assert pixel.brightness(full((0.0, 1.0, 0.0)))[0] == pytest.approx(0.587)


def test_contrast_and_sharpness_of_a_checkerboard_are_those_of_its_two_values() -> None:
    board = (np.indices((8, 8)).sum(axis=0) % 2).astype(np.float64)
    unit = np.repeat(board[None, :, :, None], 3, axis=-1) * 0.6
    assert pixel.contrast(unit)[0] == pytest.approx(0.3)
    assert pixel.sharpness(unit)[0] == pytest.approx(0.6)


def test_the_centre_of_mass_of_one_dot_is_where_the_dot_is() -> None:
    unit = np.zeros((1, 10, 20, 3))
    unit[0, 2, 15] = 1.0
    assert pixel.centre_x(unit)[0] == pytest.approx(15.5 / 20)
    assert pixel.centre_y(unit)[0] == pytest.approx(2.5 / 10)


@pytest.mark.parametrize("degrees", [0, 20, 45, 90, 135, 170])
def test_orientation_is_twice_the_angle_of_the_gradient(degrees: int) -> None:
    angle = np.radians(degrees)
    down, right = np.indices((16, 16))
    wave = 0.5 + 0.4 * np.sin(0.5 * (right * np.cos(angle) + down * np.sin(angle)))
    found = pixel.orientation(np.repeat(wave[None, :, :, None], 3, axis=-1))[0]
    assert abs((found - degrees / 180 + 0.5) % 1.0 - 0.5) < 0.02


def test_mirrored_images_have_the_mirrored_attributes() -> None:
    images, _ = scenes.render(1, range(30))
    plain, flipped = pixel.read(images), pixel.read(images[:, :, ::-1])
    for attribute in pixel.ATTRIBUTES:
        gap = attribute.difference(attribute.mirrored(plain[attribute.name]), flipped[attribute.name])
        assert np.nanmax(gap) < 1e-12, attribute.name


def test_no_images_give_no_values() -> None:
    read = pixel.read(np.empty((0, 8, 8, 3), dtype=np.uint8))
    assert all(values.shape == (0,) for values in read.values())


def test_images_read_in_blocks_read_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    images, _ = scenes.render(1, range(7))
    whole = pixel.read(images)
    monkeypatch.setattr(pixel, "BLOCK", 3)
    for name, values in pixel.read(images).items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-12)
