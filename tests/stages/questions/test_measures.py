"""Measures on embeddings and pixels against closed forms and synthetic data of known truth."""

import tracemalloc

import numpy as np
import pytest

from stages.questions import measures
from stages.readers import score


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def value(estimate: score.Estimate, n: int) -> float:
    return float(estimate(np.ones((1, n)))[0])


def test_intervals_of_invariance_cover_the_truth() -> None:
    """h ~ N(0, I_2), Th = h + s e with e ~ N(0, I_2): distances are Rayleigh, so r = s / sqrt(2)."""
    hits = 0
    for trial in range(200):
        rng = generator(2000 + trial)
        h, e = rng.normal(size=(60, 2)), rng.normal(size=(60, 2))
        estimate = measures.invariance(measures.l2(h, h + 0.5 * e), measures.pair_distances(h))
        found = score.interval(estimate, 60, seed=trial, draws=300)
        hits += found.low <= 0.5 / np.sqrt(2) <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_the_source_itself_has_rank_one_and_a_far_query_the_last() -> None:
    gallery = np.arange(10.0)[:, None]
    assert measures.ranks(gallery, gallery, np.arange(10)).tolist() == [1.0] * 10
    assert measures.ranks(np.array([[100.0]]), gallery, np.array([0])).tolist() == [10.0]


def test_equal_distances_share_their_mean_rank() -> None:
    assert measures.ranks(np.zeros((1, 3)), np.zeros((9, 3)), np.array([4])).tolist() == [5.0]


def test_an_image_taken_out_of_the_gallery_is_not_counted() -> None:
    gallery = np.array([[0.0], [1.0], [3.0], [7.0]])
    nearest, distance = measures.nearest_other(gallery, np.array([0, 3]))
    assert nearest.tolist() == [1, 2]
    assert distance.tolist() == [1.0, 4.0]
    assert measures.ranks(gallery[nearest], gallery, np.array([0, 3]), removed=nearest).tolist() == [1.0, 3.0]


def test_ranks_of_random_queries_are_uniform() -> None:
    rng = generator(9)
    gallery, queries = rng.normal(size=(500, 8)), rng.normal(size=(1500, 8))
    found = measures.ranks(queries, gallery, np.tile(np.arange(500), 3))
    assert found.mean() == pytest.approx(250.5, rel=0.06)


def test_ranks_among_many_images_take_the_memory_of_one_table_of_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "TABLE", 2**16)
    gallery = generator(12).normal(size=(20_000, 2))
    tracemalloc.start()
    ranks = measures.ranks(gallery[:300], gallery, np.arange(300))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert ranks.tolist() == [1.0] * 300
    assert peak < 6 * 8 * 2**16 + 8 * gallery.size


def test_distances_are_those_of_the_definition() -> None:
    rng = generator(10)
    a, b = rng.normal(size=(5, 7)), rng.normal(size=(5, 7))
    assert measures.l2(a, b) == pytest.approx(np.linalg.norm(a - b, axis=1))
    assert measures.squared_distances(a, b) == pytest.approx(((a[:, None] - b[None]) ** 2).sum(-1))
    assert measures.cosine(a, 3.0 * a) == pytest.approx(np.zeros(5))
    assert measures.cosine(a, -a) == pytest.approx(np.full(5, 2.0))
    assert measures.cosine(a, np.zeros_like(a)) == pytest.approx(np.ones(5))


def test_the_unit_is_the_mean_distance_of_two_different_images() -> None:
    gallery = np.array([[0.0], [1.0], [3.0]])
    assert measures.random_pair(gallery) == pytest.approx((1 + 3 + 2) / 3)


def test_a_transform_that_does_nothing_has_r_zero_and_one_that_shows_another_image_r_one() -> None:
    h = generator(11).normal(size=(300, 4))
    pairs = measures.pair_distances(h)
    assert value(measures.invariance(np.zeros(300), pairs), 300) == 0.0
    other = measures.l2(h, h[score.derangement(300, seed=0)])
    assert value(measures.invariance(other, pairs), 300) == pytest.approx(1.0, abs=0.05)


def test_twins_are_the_most_different_pair_among_the_nearer_half() -> None:
    images = np.zeros((1, 6, 2, 2, 3), dtype=np.uint8)
    images[0, :, 0, 0, 0] = [10, 50, 30, 255, 0, 255]
    distances = np.array([[0.1, 0.3, 0.2, 0.9, 0.8, 0.7]])
    assert measures.twins(images, distances).tolist() == [[0, 1]]


def test_deviation_is_the_spread_at_each_pixel_and_zero_where_samples_agree() -> None:
    images = np.zeros((1, 2, 1, 2, 3), dtype=np.uint8)
    images[0, 1, 0, 0] = 255
    assert measures.deviation(images)[0, 0].tolist() == [0.5, 0.0]


def test_one_scale_paints_equal_values_alike() -> None:
    grey = measures.painted(np.array([[[0.0, 0.25, 0.5, 9.0]]]), scale=0.5)
    assert grey.shape == (1, 1, 4, 3)
    assert grey[0, 0, :, 0].tolist() == [0, 128, 255, 255]
    assert (measures.painted(np.zeros((1, 2, 2)), scale=0.0) == 0).all()
