"""Effects of edits on made-up readings: units, directions, scatter that is no effect, and intervals for all at once."""

import numpy as np
import pytest

from stages.attributes import Attribute
from stages.questions import measures
from stages.questions.edits import effects
from stages.readers import score

SHAPE = Attribute(name="shape", kind="class", classes=("a", "b"))
HUE = Attribute(name="hue", kind="circle")
X = Attribute(name="x", kind="scalar")
ONE = np.ones((1, 200))


def test_the_unit_is_the_distance_of_two_random_images_whatever_the_kind() -> None:
    rng = np.random.default_rng(0)
    for attribute, values in (
        (X, rng.normal(5, 3, 4000)),
        (HUE, rng.random(4000)),
        (SHAPE, np.floor(2 * rng.random(4000))),
    ):
        phi = effects.features(attribute, values)
        apart = np.sqrt(((phi[:2000] - phi[2000:]) ** 2).sum(axis=1).mean())
        assert effects.unit(attribute, values) == pytest.approx(apart, rel=0.05)
    assert np.isnan(effects.unit(X, np.ones(4)))
    assert np.isnan(effects.unit(X, np.full(4, np.nan)))


def test_a_change_counts_in_the_wanted_direction_and_against_it() -> None:
    unedited, edited = np.zeros((2, 3)), np.array([[1.0, 3.0, np.nan], [-1.0, -1.0, -1.0]])
    changes = effects.change(X, edited, unedited, unit=2.0)
    np.testing.assert_allclose(effects.along(changes, np.ones((2, 1))), [1.0, -0.5])
    assert np.isnan(effects.along(changes, np.full((2, 1), np.nan))).all()


def test_a_class_that_is_undefined_is_no_change() -> None:
    changes = effects.change(SHAPE, np.array([[1.0, np.nan]]), np.array([[0.0, 0.0]]), unit=1.0)
    np.testing.assert_allclose(effects.along(changes, np.array([[-1.0, 1.0]]) / np.sqrt(2)), [np.sqrt(2)])


def test_samples_that_only_scatter_have_no_effect_and_a_common_change_has_its_length() -> None:
    rng = np.random.default_rng(0)
    scatter = rng.standard_normal((200, 4, 1))
    assert effects.root_mean(effects.squared(scatter))(ONE)[0] < 0.25
    assert effects.root_mean(effects.squared(0.1 * scatter + 2.0))(ONE)[0] == pytest.approx(2.0, rel=0.02)
    # Sources that move to opposite sides moved as well.
    sides = np.where(np.arange(200) % 2, 1.0, -1.0)[:, None, None]
    assert effects.root_mean(effects.squared(0.1 * scatter + sides))(ONE)[0] == pytest.approx(1.0, rel=0.02)


def test_with_one_sample_scatter_counts_as_effect() -> None:
    changes = np.array([[[1.0]], [[-1.0]], [[np.nan]]])
    np.testing.assert_allclose(effects.squared(changes), [1.0, 1.0, np.nan])


def test_the_largest_is_chosen_in_each_resample() -> None:
    found = effects.largest([lambda w: w[:, 0], lambda w: w[:, 1]])
    np.testing.assert_allclose(found(np.array([[1.0, 2.0], [4.0, 3.0]])), [2.0, 4.0])


def test_simultaneous_intervals_are_wider_than_single_ones_the_more_there_are() -> None:
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((20, 200))
    every = {str(i): score.mean(values) for i, values in enumerate(samples)}

    def width(names: int) -> float:
        found = measures.simultaneous({str(i): every[str(i)] for i in range(names)}, 200, seed=0)["0"]
        assert found.low < found.value < found.high
        return found.high - found.low

    single = score.interval(every["0"], 200, seed=0)
    assert width(1) == pytest.approx(single.high - single.low, rel=0.1)
    assert width(20) > 1.3 * width(1)


def test_simultaneous_intervals_hold_all_values_at_once_in_nearly_all_studies() -> None:
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(100):
        every = {str(i): score.mean(values) for i, values in enumerate(rng.standard_normal((8, 60)))}
        missed += any(not found.low <= 0.0 <= found.high for found in measures.simultaneous(every, 60, 0).values())
    assert missed <= 15


def test_what_is_undefined_has_no_interval_and_leaves_the_others_theirs() -> None:
    found = measures.simultaneous(
        {"no": lambda w: np.full(len(w), np.nan), "yes": score.mean(np.arange(10.0))}, 10, seed=0
    )
    assert np.isnan(found["no"].low)
    assert found["yes"].low < 4.5 < found["yes"].high


def test_sources_that_hardly_differ_hardly_count_on_a_path() -> None:
    start, end = np.array([[0.0], [0.0], [0.0]]), np.array([[4.0], [0.001], [4.0]])
    middle = np.array([[[1.0], [3.0]], [[1.0], [1.0]], [[2.0], [np.nan]]])
    products, lengths = effects.progress(np.stack([start[:, None].repeat(2, 1), middle]), start, end)
    np.testing.assert_allclose(products[1], [8.0, 0.001, 8.0])
    assert products[1].sum() / lengths.sum() == pytest.approx(0.5, abs=1e-3)


def test_a_source_that_is_undefined_anywhere_on_a_path_is_left_out_of_all_of_it() -> None:
    start, end = np.array([[0.0], [1.0]]), np.array([[4.0], [2.0]])
    path = np.array([[[[0.0]], [[1.0]]], [[[np.nan]], [[2.0]]]])
    products, lengths = effects.progress(path, start, end)
    np.testing.assert_allclose(products, [[np.nan, 0.0], [np.nan, 1.0]])
    np.testing.assert_allclose(lengths, [np.nan, 1.0])
