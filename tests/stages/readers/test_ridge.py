"""Linear maps against closed forms and data of known truth."""

import numpy as np
import pytest

from stages.attributes import Attribute
from stages.readers import ridge, score


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(seed)).standard_normal(shape)


def value(estimate: score.Estimate, n: int) -> float:
    return float(estimate(np.ones((1, n)))[0])


def test_the_ridge_is_that_of_the_penalty_with_the_least_generalised_cross_validation_error() -> None:
    x, y = normal(1, 60, 5) * [1, 2, 3, 4, 5] + 3, normal(2, 60, 2)
    y[:, 0] += 0.4 * x[:, 1]
    found = ridge.Ridges(x).fit(y)
    centred, wanted = x - x.mean(axis=0), y - y.mean(axis=0)
    product = centred.T @ centred
    errors, maps = [], []
    for penalty in ridge.PENALTIES:
        inverse = np.linalg.inv(product + penalty * np.trace(product) / 5 * np.eye(5))
        hat = centred @ inverse @ centred.T
        errors.append(60 * np.square(wanted - hat @ wanted).sum() / (59 - np.trace(hat)) ** 2)
        maps.append(inverse @ centred.T @ wanted)
    np.testing.assert_allclose(found.weights, maps[int(np.argmin(errors))], atol=1e-10)
    np.testing.assert_allclose(found.predict(x).mean(axis=0), y.mean(axis=0))


@pytest.mark.parametrize(("count", "width"), [(200, 10), (40, 60)])
def test_a_rotation_is_mapped_back_and_rows_that_do_not_belong_together_are_not(count: int, width: int) -> None:
    rotation = np.linalg.qr(normal(3, width, width))[0]
    train, sources = normal(4, count, width) + 2, normal(5, 50, width) + 2
    ridges = ridge.Ridges(train @ rotation)
    foreign = train[score.derangement(count, 0)]
    found = [
        value(ridge.explained(ridges.fit(y).predict(sources @ rotation), sources, train.mean(axis=0)), 50)
        for y in (train, foreign)
    ]
    # With fewer images than features only the part of the space that they span is learned.
    assert found[0] > (0.99 if count > width else 0.5)
    assert found[1] < 0.1


def test_explained_is_one_minus_the_missed_share_and_undefined_sources_are_left_out() -> None:
    truth = np.array([[0.0], [2.0], [np.nan], [4.0]])
    predicted = np.array([[1.0], [2.0], [9.0], [4.0]])
    assert value(ridge.explained(predicted, truth, np.array([2.0])), 4) == pytest.approx(1 - 1 / 8)


def test_attributes_are_read_as_numbers_whose_squared_distances_are_their_differences() -> None:
    values = np.array([0.0, 0.25, np.nan])
    scalar, circle = Attribute(name="a", kind="scalar"), Attribute(name="a", kind="circle")
    np.testing.assert_allclose(ridge.features(scalar, values), values[:, None])
    turned = np.array([[1, 0], [0, 1], [np.nan, np.nan]])
    np.testing.assert_allclose(ridge.features(circle, values), turned, atol=1e-9)
    letters = Attribute(name="a", kind="class", classes=("x", "y"))
    found = ridge.features(letters, np.array([1.0, 0.0, np.nan]))
    np.testing.assert_array_equal(found, [[0, 1], [1, 0], [np.nan, np.nan]])


def test_an_attribute_is_read_where_it_varies_and_undefined_ones_are_not_learned_from() -> None:
    x, seen = normal(6, 80, 3), normal(7, 30, 3)
    scalars = [Attribute(name=name, kind="scalar") for name in ("linear", "noise", "one", "unknown")]
    train = {"linear": x[:, 1].copy(), "noise": normal(8, 80), "one": np.ones(80), "unknown": x[:, 0]}
    truth = {"linear": seen[:, 1], "noise": normal(9, 30), "one": np.ones(30), "unknown": np.full(30, np.nan)}
    train["linear"][:10] = np.nan
    found = ridge.readable(ridge.Ridges(x), seen, scalars, train, truth)
    assert found.keys() == {"linear", "noise"}
    assert value(found["linear"], 30) > 0.99
    assert value(found["noise"], 30) < 0.2
