"""Directions of edits: where they point, how long they are, and which values there are to go to."""

import numpy as np
import pytest

from stages.attributes import Attribute
from stages.questions.edits import directions
from stages.questions.edits.directions import UNKNOWN, Bins, Directions, Train

SHAPE = Attribute(name="shape", kind="class", classes=("a", "b", "c"))
HUE = Attribute(name="hue", kind="circle")
X = Attribute(name="x", kind="scalar")


def embeddings(values: np.ndarray, width: int = 6, noise: float = 0.5) -> np.ndarray:
    """Embeddings whose first axis is the value, and whose second shares its noise."""
    rng = np.random.default_rng(0)
    found = noise * rng.standard_normal((len(values), width))
    found[:, 1] += 2.0 * found[:, 0]
    found[:, 0] += values
    return found


def test_a_scalar_is_cut_into_thirds_a_circle_into_quarters_and_a_class_is_as_it_is() -> None:
    thirds = Bins.of(X, np.arange(9.0))
    assert thirds.numbers(np.array([0.0, 4.0, 8.0, np.nan])).tolist() == [0, 1, 2, UNKNOWN]
    assert Bins.of(HUE, np.array([0.1, 0.3])).numbers(np.array([0.0, 0.26, 0.99, 1.0])).tolist() == [0, 1, 3, 0]
    assert Bins.of(SHAPE, np.array([0.0, 2.0])).present == (0, 2)


def test_every_source_goes_to_another_value_that_train_images_have_and_a_scalar_to_an_end() -> None:
    classes = Bins.of(SHAPE, np.array([0.0, 2.0, 2.0]))
    assert classes.targets(np.array([0, 2, 1, UNKNOWN]), seed=1).tolist() == [2, 0, UNKNOWN, UNKNOWN]
    thirds = Bins.of(X, np.arange(30.0))
    own = np.repeat([0, 1, 2], 20)
    targets = thirds.targets(own, seed=1)
    assert set(targets[own == 0]) == {2}
    assert set(targets[own == 2]) == {0}
    assert set(targets[own == 1]) == {0, 2}
    np.testing.assert_array_equal(targets, thirds.targets(own, seed=1))
    assert Bins.of(SHAPE, np.zeros(5)).targets(np.zeros(3, dtype=np.int64), seed=0).tolist() == [UNKNOWN] * 3


def test_all_edits_are_as_long_as_the_difference_of_the_means_and_go_the_same_way() -> None:
    values = np.repeat([0, 1], 300)
    x = embeddings(values)
    edits = Directions.of(Train.of(x), values, 2).between(0, 1)
    means = x[values == 1].mean(axis=0) - x[values == 0].mean(axis=0)
    np.testing.assert_allclose(edits["means"], means)
    for name, edit in edits.items():
        assert np.linalg.norm(edit) == pytest.approx(np.linalg.norm(means)), name
        assert edit @ means > 0, name
    # The probe takes the noise that the second axis shares out of the first.
    assert edits["probe"][1] < -0.1


def test_a_value_goes_back_the_way_it_came() -> None:
    values = np.repeat([0, 1, 2], 100)
    found = Directions.of(Train.of(embeddings(values)), values, 3)
    there, back = found.between(0, 2), found.between(2, 0)
    for name in there:
        np.testing.assert_allclose(there[name], -back[name])


def test_equal_means_give_an_edit_of_no_length() -> None:
    values = np.array([0, 0, 1, 1])
    x = np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    for edit in Directions.of(Train.of(x), values, 2).between(0, 1).values():
        np.testing.assert_allclose(edit, 0.0, atol=1e-9)


def test_random_ways_go_from_one_image_to_another_one_and_differ_by_stream() -> None:
    train = np.arange(20.0)[:, None]
    ways = directions.random_ways(train, 200, seed=0, stream=0)
    assert (ways != 0).all()
    assert abs(ways).max() > 10
    assert not np.array_equal(ways, directions.random_ways(train, 200, seed=0, stream=1))


def test_common_dimensions_are_those_that_neighbours_share_and_random_ones_are_as_many() -> None:
    rng = np.random.default_rng(0)
    train = 0.1 * rng.standard_normal((100, 8))
    train[:50, [2, 5]] += 3.0
    chosen = directions.common(train, train[:4], neighbours=20, share=0.25)
    assert [np.flatnonzero(line).tolist() for line in chosen] == [[2, 5]] * 4
    assert (directions.random_dimensions(4, 8, 0.25, seed=0).sum(axis=1) == 2).all()
    assert [directions.number_of(0.01, 8), directions.number_of(0.99, 8), directions.number_of(0.5, 1)] == [1, 7, 1]


def test_paths_begin_and_end_at_the_sources_and_an_arc_keeps_lengths() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 5, 7))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    for path in (directions.linear, directions.spherical):
        np.testing.assert_allclose(path(a, b, 0.0), a, atol=1e-12)
        np.testing.assert_allclose(path(a, b, 1.0), b, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(directions.spherical(a, 2 * b, 0.5), axis=1), 1.5)
    assert (np.linalg.norm(directions.linear(a, b, 0.5), axis=1) < 0.99).all()


def test_an_arc_between_opposite_or_equal_embeddings_is_a_straight_line() -> None:
    a = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    b = np.array([[-1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(directions.spherical(a, b, 0.25)[:2], directions.linear(a, b, 0.25)[:2])
    assert np.isfinite(directions.spherical(a, b, 0.25)).all()
