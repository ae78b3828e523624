"""Scenes are pure functions of seed and number, and what their attributes say is what is seen."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.datasets import scenes
from stages.datasets.scenes import ATTRIBUTES, PATTERNS, SHAPES, draw, render, sample

PINNED = "5aacb0e9f67c66fa666109940f60766bee61fb774d2546c605164d6a5025141e"

BY_NAME = {attribute.name: attribute for attribute in ATTRIBUTES}


def one(**changed: float) -> dict[str, scenes.Floats]:
    """Attributes of one scene in the middle of every range."""
    values = dict.fromkeys(BY_NAME, 0.5) | {
        "shape": 2,
        "pattern": 0,
        "scale": 0.22,
        "rotation": 0.0,
        "brightness": 1.0,
    }
    return {name: np.array([float(value)]) for name, value in (values | changed).items()}


def covered(**changed: float) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Pixels [32, 32] in which a shape changes the plain background."""
    image = draw(one(**changed))[0].astype(int)
    found: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = np.abs(image - image[0, 0]).sum(axis=-1) > 60
    return found


def test_an_image_depends_on_seed_and_number_only() -> None:
    images, values = render(3, [7, 0, 500])
    for row, number in enumerate([7, 0, 500]):
        alone, its = render(3, [number])
        assert np.array_equal(images[row], alone[0])
        assert all(np.array_equal(values[name][row], its[name][0], equal_nan=True) for name in values)
    assert not np.array_equal(images[0], render(4, [7])[0][0])


def test_the_pixels_of_a_seed_stay_what_they_are() -> None:
    images, _ = render(0, range(64))
    assert hashlib.sha256(images.tobytes()).hexdigest() == PINNED


def test_images_are_rgb_bytes_of_the_size_asked_for() -> None:
    for size in (16, 32, 64):
        images, values = render(0, range(5), size)
        assert images.shape == (5, size, size, 3)
        assert images.dtype == np.uint8
        assert set(values) == set(BY_NAME)
        assert all(column.shape == (5,) and column.dtype == np.float64 for column in values.values())
    assert render(0, [])[0].shape == (0, 32, 32, 3)


def test_attributes_are_drawn_over_their_whole_range_and_independently() -> None:
    values = sample(1, range(4000))
    for name, bounds in [
        ("x", scenes.CENTRE),
        ("y", scenes.CENTRE),
        ("scale", scenes.SCALE),
        ("brightness", scenes.BRIGHTNESS),
    ]:
        assert bounds[0] <= values[name].min() < values[name].max() <= bounds[1]
        assert np.mean(values[name]) == pytest.approx(np.mean(bounds), abs=0.01)
    for name, classes in [("shape", SHAPES), ("pattern", PATTERNS)]:
        shares = np.bincount(values[name].astype(int)) / 4000
        assert len(shares) == len(classes)
        assert np.abs(shares - 1 / len(classes)).max() < 0.03
    columns = np.stack([values[name] for name in BY_NAME if name != "rotation"])
    assert np.abs(np.corrcoef(columns) - np.eye(len(columns))).max() < 0.06


def test_only_discs_and_rings_have_no_rotation() -> None:
    values = sample(0, range(500))
    round_ones = np.isin(values["shape"], [SHAPES.index("disc"), SHAPES.index("ring")])
    assert np.array_equal(np.isnan(values["rotation"]), round_ones)


@pytest.mark.parametrize("shape", range(len(SHAPES)), ids=SHAPES)
def test_a_shape_stays_inside_its_circle_and_around_its_centre(shape: int) -> None:
    for rotation in np.linspace(0, 1, 7):
        mask = covered(shape=shape, rotation=rotation, x=0.4, y=0.6)
        down, right = (np.nonzero(mask)[axis] + 0.5 for axis in (0, 1))
        assert np.hypot(right - 0.4 * 32, down - 0.6 * 32).max() <= 0.22 * 32 + 0.8
        assert right.mean() == pytest.approx(0.4 * 32, abs=0.5)
        assert down.mean() == pytest.approx(0.6 * 32, abs=0.5)


@pytest.mark.parametrize("shape", range(len(SHAPES)), ids=SHAPES)
def test_turning_by_its_symmetry_leaves_a_shape_as_it_is(shape: int) -> None:
    assert np.array_equal(draw(one(shape=shape, rotation=0.0)), draw(one(shape=shape, rotation=1.0)))
    if scenes.SYMMETRY[shape]:
        assert not np.array_equal(draw(one(shape=shape, rotation=0.0)), draw(one(shape=shape, rotation=0.5)))


def test_rotation_is_clockwise_from_upright() -> None:
    # The half-disc's flat side is its widest line: below when upright, left after a quarter turn.
    assert covered(shape=SHAPES.index("half-disc"), rotation=0.0).sum(axis=1).argmax() > 16
    assert covered(shape=SHAPES.index("half-disc"), rotation=0.25).sum(axis=0).argmax() < 16


@given(st.integers(0, 2**53 - 1), st.integers(0, 10_000))
def test_a_flip_mirrors_the_attributes(seed: int, number: int) -> None:
    images, values = render(seed, [number])
    mirrored = {name: BY_NAME[name].mirrored(column) for name, column in values.items()}
    gap = np.abs(draw(mirrored)[0].astype(int) - images[0, :, ::-1].astype(int))
    # A point on an edge may fall to either side by rounding.
    assert (gap > 2).any(axis=-1).sum() <= 2


def test_all_shapes_differ_at_the_smallest_scale_whatever_their_rotation() -> None:
    turns = np.linspace(0, 1, 9)[:-1]

    def cover(shape: int, rotation: float) -> scenes.Floats:
        image = draw(one(shape=shape, rotation=rotation, scale=scenes.SCALE[0]))[0].astype(float)
        gap = np.abs(image - image[0, 0]).sum(axis=-1)
        share: scenes.Floats = gap / gap.max()
        return share

    covers = [[cover(shape, rotation) for rotation in turns] for shape in range(len(SHAPES))]
    for a in range(len(SHAPES)):
        for b in range(a):
            closest = min(np.abs(mine - other).sum() / mine.sum() for mine in covers[a] for other in covers[b])
            assert closest > 0.15, f"{SHAPES[a]} and {SHAPES[b]} differ in {closest:.0%} of their area"


def test_every_attribute_changes_the_picture() -> None:
    base = draw(one())[0].astype(int)
    changes = {
        "shape": 4,
        "hue": 0.7,
        "background_hue": 0.7,
        "pattern": 2,
        "x": 0.6,
        "y": 0.6,
        "scale": 0.27,
        "rotation": 0.4,
    }
    for name, value in (changes | {"brightness": 0.7}).items():
        assert np.abs(draw(one(**{name: value}))[0].astype(int) - base).mean() > 1, name


def test_shape_and_background_can_be_distinguished_even_where_their_hues_agree() -> None:
    for hue in np.linspace(0, 1, 12):
        for pattern in range(len(PATTERNS)):
            image = draw(one(shape=0, hue=hue, background_hue=hue, pattern=pattern))[0].astype(int)
            inside, outside = image[16, 16], np.concatenate([image[:4], image[-4:]]).reshape(-1, 3)
            assert np.abs(outside - inside).sum(axis=-1).min() > 75


def test_patterns_are_their_own_mirror_image() -> None:
    for pattern in range(len(PATTERNS)):
        image = draw(one(shape=0, pattern=pattern))[0]
        assert np.array_equal(image, image[:, ::-1])
