"""Pixels on their way to a network and back."""

import numpy as np
import torch
from numpy.typing import NDArray

from stages.images import image_file, pixels
from tests.stages.images.pictures import GRADIENT


def test_png_gives_back_the_same_pixels() -> None:
    assert np.array_equal(image_file.decode(pixels.encode_png(GRADIENT)), GRADIENT)


def levels() -> NDArray[np.uint8]:
    return np.arange(256, dtype=np.uint8).repeat(3).reshape(4, 8, 8, 3)


def test_every_level_survives_the_way_to_the_network_and_back() -> None:
    assert np.array_equal(pixels.from_network(pixels.to_network(levels())), levels())
    assert np.array_equal(pixels.from_unit(pixels.to_unit(levels())), levels())


def test_networks_see_minus_one_to_one_and_attacks_zero_to_one() -> None:
    seen, unit = pixels.to_network(levels()), pixels.to_unit(levels())
    assert seen.shape == (4, 3, 8, 8)
    assert seen.dtype == unit.dtype == torch.float32
    assert (float(seen.min()), float(seen.max())) == (-1.0, 1.0)
    assert (float(unit.min()), float(unit.max())) == (0.0, 1.0)


def test_values_beyond_the_range_are_clipped() -> None:
    image = torch.tensor([-3.0, 0.0, 7.0]).reshape(1, 3, 1, 1)
    assert pixels.from_network(image).tolist() == [[[[0, 128, 255]]]]


def test_half_precision_comes_back_as_levels() -> None:
    image = torch.tensor([-1.0, -0.5, 1.0], dtype=torch.bfloat16).reshape(1, 3, 1, 1)
    assert pixels.from_network(image).tolist() == [[[[0, 64, 255]]]]


def test_resize_keeps_a_constant_image_constant() -> None:
    image = torch.full((2, 3, 9, 7), 0.25)
    for size in (4, 9, 20):
        assert torch.allclose(pixels.resize(image, size), torch.full((2, 3, size, size), 0.25))


def test_normalise_is_per_channel() -> None:
    image = torch.tensor([0.5, 0.6, 0.7]).reshape(1, 3, 1, 1)
    found = pixels.normalise(image, mean=(0.5, 0.5, 0.5), std=(1.0, 0.1, 0.2))
    assert torch.allclose(found.flatten(), torch.tensor([0.0, 1.0, 1.0]))
