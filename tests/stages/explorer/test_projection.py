"""Maps, against closed forms."""

import numpy as np
import pytest

from stages.explorer.projection import neighbours, perplexity, preserved, principal, tsne


def vectors(count: int = 60, width: int = 5) -> np.ndarray:
    """Two groups that lie far apart along the first feature."""
    found = np.random.Generator(np.random.Philox(3)).standard_normal((count, width)).astype(np.float32)
    found[: count // 2, 0] += 40
    return found


def test_principal_components_are_those_of_the_singular_values() -> None:
    given = vectors()
    points, shares = principal(given, 2)
    left, values, _ = np.linalg.svd(given - given.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(points), np.abs(left[:, :2] * values[:2]), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(shares, values[:2] ** 2 / np.sum(values**2), rtol=1e-3)


def test_a_tap_of_one_feature_and_one_that_never_changes_have_a_map_too() -> None:
    points, shares = principal(vectors(width=1), 2)
    assert points.shape == (60, 2)
    assert shares == pytest.approx([1, 0])
    points, shares = principal(np.ones((10, 3), dtype=np.float32), 2)
    assert not points.any()
    assert not shares.any()


def test_tsne_keeps_groups_apart_and_is_the_same_for_the_same_seed() -> None:
    given = vectors()
    points = tsne(given, seed=1)
    assert np.array_equal(points, tsne(given, seed=1))
    near, _ = neighbours(points.astype(np.float32), 5)
    assert ((near < 30) == (np.arange(60) < 30)[:, None]).all()
    assert perplexity(60) == pytest.approx(59 / 3)


def test_a_map_that_is_the_space_itself_keeps_every_neighbour() -> None:
    given = vectors(width=2)
    near, _ = neighbours(given, 5)
    assert preserved(near, given.astype(np.float64)) == 5
    shuffled = np.random.Generator(np.random.Philox(0)).permutation(given.astype(np.float64))
    assert preserved(near, shuffled) < 3
