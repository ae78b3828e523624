"""Transforms against what they must do to images of known content."""

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.datasets import scenes
from stages.encoders.augment import luma
from stages.images.pixels import to_unit
from stages.questions.asks.transforms import TRANSFORMS, transformed

EVERY = [(name, strength) for name, transform in TRANSFORMS.items() for strength in transform.strengths]
ROWS = np.arange(6)


def pictures(count: int = 6) -> Tensor:
    return to_unit(scenes.render(1, range(count))[0])


def apply(name: str, strength: float, images: Tensor, seed: int = 0) -> Tensor:
    return transformed(images, np.arange(len(images)), name, strength, seed)


def dot(x: int, y: int, size: int = 32) -> Tensor:
    """A soft spot, so that it survives interpolation."""
    down, right = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    spot = torch.exp(-((right - x) ** 2 + (down - y) ** 2) / 8.0)
    return spot.expand(1, 3, size, size).clone()


def centre(images: Tensor) -> tuple[float, float]:
    """x and y of the centre of mass, pixels."""
    mass = images[0].mean(0)
    total = mass.sum()
    position = torch.arange(mass.shape[0], dtype=mass.dtype)
    return float((mass.sum(0) * position).sum() / total), float((mass.sum(1) * position).sum() / total)


@pytest.mark.parametrize(("name", "strength"), EVERY, ids=lambda value: str(value))
def test_shape_and_range_stay_and_the_image_changes(name: str, strength: float) -> None:
    images = pictures()
    changed = apply(name, strength, images)
    assert changed.shape == images.shape
    assert float(changed.min()) >= -1e-5
    assert float(changed.max()) <= 1 + 1e-5
    assert float((changed - images).abs().mean()) > 1e-3


@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_what_happens_to_an_image_depends_on_seed_and_row_and_not_on_the_batch(name: str) -> None:
    images, strength = pictures(), TRANSFORMS[name].painted
    together = transformed(images, ROWS, name, strength, 0)
    alone = transformed(images[3:4], ROWS[3:4], name, strength, 0)
    torch.testing.assert_close(together[3:4], alone)


def test_strengths_ascend() -> None:
    for transform in TRANSFORMS.values():
        assert list(transform.strengths) == sorted(transform.strengths)
        assert transform.painted in transform.strengths


def test_a_shift_moves_by_its_fraction_of_the_width() -> None:
    (x0, y0), (x1, y1) = centre(dot(16, 16)), centre(apply("shift", 0.125, dot(16, 16)))
    assert np.hypot(x1 - x0, y1 - y0) == pytest.approx(4.0, abs=0.05)


def test_a_zoom_moves_points_away_from_the_centre() -> None:
    x, y = centre(apply("zoom", 0.5, dot(20, 15)))
    assert x - 15.5 == pytest.approx(1.5 * (20 - 15.5), abs=0.1)
    assert y - 15.5 == pytest.approx(1.5 * (15 - 15.5), abs=0.1)


def test_a_quarter_turn_takes_right_to_top_or_bottom() -> None:
    x, y = centre(apply("rotation", 90.0, dot(22, 16)))
    assert x == pytest.approx(15.5, abs=0.6)
    assert abs(y - 15.5) == pytest.approx(6.5, abs=0.1)


def test_a_crop_keeps_its_share_of_the_area() -> None:
    down, right = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    ramp = (torch.stack([right, down, right]) / 32.0).unsqueeze(0).float()
    cut = apply("crop", 0.75, ramp)
    width = (cut[0, 0].max() - cut[0, 0].min()) / (31 / 32)
    height = (cut[0, 1].max() - cut[0, 1].min()) / (31 / 32)
    assert float(width * height) == pytest.approx(0.25, abs=0.01)


def test_a_flip_is_its_own_inverse() -> None:
    torch.testing.assert_close(apply("flip", 1.0, apply("flip", 1.0, pictures())), pictures())


def test_full_greyscale_leaves_lightness_only() -> None:
    grey = apply("greyscale", 1.0, pictures())
    torch.testing.assert_close(grey[:, :1].expand_as(grey), grey)
    torch.testing.assert_close(luma(grey), luma(pictures()))


def test_half_a_turn_of_hue_makes_red_cyan_and_leaves_grey_as_it_is() -> None:
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    cyan = torch.tensor([0.0, 1.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    torch.testing.assert_close(apply("hue", 0.5, red), cyan, atol=1e-5, rtol=0)
    grey = torch.full((1, 3, 4, 4), 0.4)
    torch.testing.assert_close(apply("hue", 0.5, grey), grey)


def test_brightness_multiplies_by_one_plus_or_minus_the_strength() -> None:
    found = apply("brightness", 0.4, torch.full((20, 3, 2, 2), 0.5))[:, 0, 0, 0]
    assert sorted({round(float(value), 4) for value in found}) == [0.3, 0.7]


def test_contrast_keeps_the_mean_lightness() -> None:
    soft = 0.4 + 0.2 * pictures()
    torch.testing.assert_close(luma(apply("contrast", 0.4, soft)).mean((2, 3)), luma(soft).mean((2, 3)))


def test_blur_has_the_width_it_says_and_leaves_a_flat_image_flat() -> None:
    point = torch.zeros(1, 3, 33, 33)
    point[..., 16, 16] = 1.0
    spread = apply("blur", 0.06, point)[0, 0]
    position = torch.arange(33.0) - 16.0
    assert float((spread.sum(0) * position**2).sum()) == pytest.approx((0.06 * 33) ** 2, rel=0.03)
    assert float(spread.sum()) == pytest.approx(1.0)
    flat = torch.full((1, 3, 8, 8), 0.3)
    torch.testing.assert_close(apply("blur", 0.06, flat), flat)


def test_noise_has_the_standard_deviation_it_says() -> None:
    grey = torch.full((4, 3, 32, 32), 0.5)
    noise = apply("noise", 0.05, grey) - grey
    assert float(noise.std()) == pytest.approx(0.05, rel=0.03)
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise, apply("noise", 0.05, grey, seed=1) - grey)
