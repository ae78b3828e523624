"""Measures of health against closed forms, textbook formulas and data of known truth."""

from itertools import permutations

import numpy as np
import pytest

from stages.questions.health import geometry
from stages.readers import score
from stages.readers.score import Estimate, Floats


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(seed)).standard_normal(shape).astype(np.float32)


def value(estimate: Estimate, n: int) -> float:
    return float(estimate(np.ones((1, n)))[0])


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    both = geometry.centred_products(a), geometry.centred_products(b)
    own, other = (geometry.hsic(x, x) for x in both)
    return value(geometry.cka(geometry.hsic(*both), own, other), len(own))


@pytest.mark.parametrize(("count", "width"), [(200, 8), (40, 100)])
def test_ranks_are_the_entropy_of_the_spectrum_whichever_side_is_shorter(count: int, width: int) -> None:
    x = normal(1, count, width) * np.linspace(0.1, 2, width, dtype=np.float32) + 3
    for centred, found in ((True, geometry.effective_rank(x)), (False, geometry.rank_me(x))):
        wide = x.astype(np.float64)
        singular = np.linalg.svd(wide - wide.mean(axis=0) if centred else wide, compute_uv=False)
        shares = singular**2 / (singular**2).sum() if centred else singular / singular.sum() + 1e-7
        shares = shares[shares > 0]
        assert found == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-4)


def test_the_effective_rank_is_the_number_of_directions_that_vary_alike_and_no_shift_or_rotation_changes_it() -> None:
    square = np.kron(np.eye(6), [[1.0], [-1.0]]).astype(np.float32)
    rotation = np.linalg.qr(normal(2, 6, 6))[0]
    assert geometry.effective_rank(square) == pytest.approx(6)
    assert geometry.effective_rank(square @ rotation + 100) == pytest.approx(6, rel=1e-4)
    assert geometry.effective_rank(np.outer(normal(3, 30), normal(4, 6))) == pytest.approx(1, rel=1e-4)
    assert geometry.effective_rank(np.ones((30, 6), np.float32)) == 0
    assert geometry.rank_me(np.zeros((30, 6), np.float32)) == 0


def test_constant_features_are_found_and_zeros_among_them() -> None:
    x = normal(5, 50, 4)
    x[:, 1], x[:, 2] = 0, 1000 + 1e-3 * x[:, 2]
    constant, zero = geometry.dead(x)
    assert constant.tolist() == [False, True, True, False]
    assert zero.tolist() == [False, True, False, False]


def test_alignment_is_the_squared_distance_of_directions() -> None:
    x = np.array([[2, 0], [0, 5], [0, 0]], np.float32)
    y = np.array([[1, 0], [3, 0], [1, 0]], np.float32)
    found = geometry.alignment(geometry.directions(x), geometry.directions(y))
    np.testing.assert_allclose(found, [0, 2, 1])


def test_uniformity_is_zero_for_one_direction_and_near_its_limit_on_a_wide_sphere() -> None:
    one = geometry.potential(geometry.directions(np.ones((80, 3), np.float32)))
    assert value(geometry.uniformity(one), len(one)) == pytest.approx(0)
    spread = geometry.potential(geometry.directions(normal(6, 2000, 512)))
    assert value(geometry.uniformity(spread), len(spread)) == pytest.approx(-4, abs=0.02)


def test_the_variation_of_a_norm_is_its_deviation_over_its_mean() -> None:
    values = np.array([1.0, 2.0, 6.0])
    assert value(geometry.variation(values), 3) == pytest.approx(values.std() / values.mean())


def test_blocks_are_equal_disjoint_and_never_too_small() -> None:
    for count in (20, 81, 2000, 9000):
        found = [np.arange(count)[block] for block in geometry.blocks(count)]
        sizes = {len(block) for block in found}
        assert len(sizes) == 1
        assert geometry.BLOCK_MIN <= sizes.pop() <= geometry.BLOCK
        assert len(np.unique(np.concatenate(found))) == sum(map(len, found)) > 0.9 * count - geometry.BLOCK


def test_hsic_is_the_mean_over_tuples_of_different_rows_as_it_is_defined() -> None:
    """Song et al. 2012: E k(x_i, x_j) [l(y_i, y_j) + l(y_q, y_r) - 2 l(y_i, y_q)] over different i, j, q, r."""
    a, b = normal(7, 6, 2).astype(np.float64), normal(8, 6, 3).astype(np.float64)
    k, m = a @ a.T, b @ b.T
    tuples = list(permutations(range(6), 4))
    expected = np.mean([k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in tuples])

    def products(x: Floats) -> Floats:
        # One block of six rows.
        whole = geometry.centred_products(np.concatenate([x] * 20).astype(np.float32))
        return whole[:1]

    found = geometry.hsic(products(a), products(b))
    assert found[0] == pytest.approx(expected, rel=1e-5)


def test_cka_is_one_for_a_rotated_space_zero_for_a_foreign_one_and_needs_variation() -> None:
    x = normal(9, 400, 32)
    rotation = np.linalg.qr(normal(10, 32, 32))[0]
    assert likeness(x, 3 * x @ rotation + 7) == pytest.approx(1, abs=1e-4)
    # What is not debiased finds .3 or more here: as many features as images in a block.
    assert abs(likeness(x, normal(11, 400, 32))) < 0.05
    assert np.isnan(likeness(x, np.full((400, 5), 3, np.float32)))


def test_half_shared_features_give_the_cka_that_they_have_in_truth() -> None:
    """Of independent features of equal variance, s of d shared: tr(C_ab' C_ab) / d = s / d."""
    common, own, other = (normal(seed, 2000, 16) for seed in (12, 13, 14))
    found = likeness(np.hstack([common, own]), np.hstack([common, other]))
    assert found == pytest.approx(0.5, abs=0.03)


def test_permuted_products_are_those_of_permuted_rows() -> None:
    x = normal(15, 80, 5)
    order = score.derangement(4, 1)
    rows = np.concatenate([np.arange(80)[block][order] for block in geometry.blocks(80)])
    expected = geometry.centred_products(x[rows])
    np.testing.assert_allclose(geometry.permuted(geometry.centred_products(x), order), expected, atol=1e-6)


def test_neighbours_are_shared_with_a_rotated_space_and_by_chance_after_a_permutation() -> None:
    x = normal(16, 300, 8)
    near = geometry.nearest_images(x, 10)
    unit = geometry.directions(x)
    cosines = unit @ unit.T - 2 * np.eye(300)
    assert (np.sort(near[7]) == np.sort(np.argsort(-cosines[7])[:10])).all()
    assert geometry.shared(near, geometry.nearest_images(2 * x @ np.linalg.qr(normal(17, 8, 8))[0], 10)).mean() > 0.99
    order = score.derangement(300, 0)
    again = geometry.relabelled(near, order)
    assert (np.sort(again) == np.sort(geometry.nearest_images(x[order], 10))).all()
    assert geometry.shared(near, again).mean() == pytest.approx(10 / 299, abs=0.02)
