"""Scores and intervals against their definitions, closed forms and synthetic data of known truth."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.attributes import Attribute
from stages.questions import measures
from stages.readers import score

SCALAR = Attribute(name="x", kind="scalar")
CIRCLE = Attribute(name="hue", kind="circle")
CLASS = Attribute(name="shape", kind="class", classes=("disc", "ring", "square", "bar"))
ATTRIBUTES = (SCALAR, CIRCLE, CLASS)
each_kind = pytest.mark.parametrize("attribute", ATTRIBUTES, ids=lambda a: a.kind)


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def draw(attribute: Attribute, rng: np.random.Generator, *shape: int) -> score.Floats:
    if attribute.kind == "class":
        return rng.integers(0, len(attribute.classes), shape).astype(np.float64)
    return rng.random(shape)


def value(estimate: score.Estimate, n: int) -> float:
    return float(estimate(np.ones((1, n)))[0])


def half_width(found: score.Interval) -> float:
    return (found.high - found.low) / 2


def one_minus_ratio(near: list[score.Floats], far: list[score.Floats]) -> float:
    """1 - mean / mean over all defined entries, NaN where there are none or nothing differs."""
    a, b = (np.concatenate([np.ravel(x) for x in parts]) for parts in (near, far))
    a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    return 1.0 - float(a.mean() / b.mean()) if a.size and b.size and b.mean() > 0 else float("nan")


def with_holes(attribute: Attribute, seed: int, n: int, k: int, holes: float) -> tuple[score.Floats, score.Floats]:
    """Readings [n, k] and the truth [n], of which a share is undefined."""
    rng = generator(seed)
    truth, readings = draw(attribute, rng, n), draw(attribute, rng, n, k)
    readings[rng.random((n, k)) < holes] = np.nan
    truth[rng.random(n) < holes] = np.nan
    return readings, truth


def kept_pair_by_pair(
    attribute: Attribute, readings: score.Floats, truth: score.Floats, own: Sequence[int], others: Sequence[int]
) -> float:
    """kept of the sources `own` beside samples of `others`, summed as it is defined."""
    near = [attribute.difference(readings[i], truth[i]) for i in own]
    far = [attribute.difference(readings[j], truth[i]) for i in own for j in others if i != j]
    defined = np.isfinite(readings[[i for i in own if np.isfinite(truth[i])]])
    return one_minus_ratio(near, far) * (float(defined.mean()) if defined.size else float("nan"))


@each_kind
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 8), k=st.integers(1, 5), holes=st.sampled_from([0.0, 0.3]))
@settings(max_examples=30)
def test_kept_equals_its_definition_summed_pair_by_pair(
    attribute: Attribute, seed: int, n: int, k: int, holes: float
) -> None:
    readings, truth = with_holes(attribute, seed, n, k, holes)
    wanted = kept_pair_by_pair(attribute, readings, truth, range(n), range(n))
    np.testing.assert_allclose(value(score.kept(attribute, readings, truth), n), wanted, atol=1e-9)


@each_kind
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(4, 8), k=st.integers(1, 4), holes=st.sampled_from([0.0, 0.3]))
@settings(max_examples=30)
def test_kept_of_a_group_is_scored_beside_samples_of_another(
    attribute: Attribute, seed: int, n: int, k: int, holes: float
) -> None:
    readings, truth = with_holes(attribute, seed, n, k, holes)
    members, others = np.arange(n) < n // 2, np.arange(n) > 0
    wanted = kept_pair_by_pair(attribute, readings, truth, range(n // 2), range(1, n))
    found = value(score.kept_of(attribute, readings, truth, members, others), n)
    np.testing.assert_allclose(found, wanted, atol=1e-9)
    everyone = np.ones(n, dtype=np.bool_)
    whole = value(score.kept_of(attribute, readings, truth, everyone, everyone), n)
    np.testing.assert_allclose(whole, value(score.kept(attribute, readings, truth), n), atol=1e-9)


@each_kind
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 7), k=st.integers(2, 5), holes=st.sampled_from([0.0, 0.3]))
@settings(max_examples=30)
def test_fixed_equals_its_definition_summed_pair_by_pair(
    attribute: Attribute, seed: int, n: int, k: int, holes: float
) -> None:
    readings, _ = with_holes(attribute, seed, n, k, holes)
    other = ~np.eye(k, dtype=bool)
    gap = [[attribute.difference(readings[i][:, None], readings[j][None, :]) for j in range(n)] for i in range(n)]
    near = [gap[i][i][other] for i in range(n)]
    far = [gap[i][j] for i in range(n) for j in range(n) if i != j]
    np.testing.assert_allclose(value(score.fixed(attribute, readings), n), one_minus_ratio(near, far), atol=1e-9)


@each_kind
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10)
def test_weights_count_a_source_as_often_as_it_was_drawn_and_never_pair_it_with_itself(
    attribute: Attribute, seed: int
) -> None:
    rng = generator(seed)
    n, k = 6, 3
    truth, readings = draw(attribute, rng, n), draw(attribute, rng, n, k)
    weights = rng.multinomial(n, np.full(n, 1 / n)).astype(np.float64)
    chosen = np.repeat(np.arange(n), weights.astype(int))
    near = [attribute.difference(readings[i], truth[i]) for i in chosen]
    far = [attribute.difference(readings[j], truth[i]) for i in chosen for j in chosen if i != j]
    actual = score.kept(attribute, readings, truth)(weights[None])[0]
    np.testing.assert_allclose(actual, one_minus_ratio(near, far or [np.array([np.nan])]), atol=1e-9)


@each_kind
def test_a_painter_that_knows_the_attribute_has_kept_and_fixed_one(attribute: Attribute) -> None:
    truth = draw(attribute, generator(1), 40)
    readings = np.repeat(truth[:, None], 4, axis=1)
    assert value(score.kept(attribute, readings, truth), 40) == pytest.approx(1.0)
    assert value(score.fixed(attribute, readings), 40) == pytest.approx(1.0)


@each_kind
def test_a_painter_of_always_one_picture_has_kept_zero(attribute: Attribute) -> None:
    truth = draw(attribute, generator(2), 60)
    found = score.interval(score.kept(attribute, np.full((60, 4), truth[0]), truth), 60, seed=0)
    assert found.value == pytest.approx(0.0, abs=1e-12)
    assert found.low == pytest.approx(0.0, abs=0.05)
    assert found.high == pytest.approx(0.0, abs=0.05)


@each_kind
def test_a_painter_that_ignores_its_condition_has_kept_and_fixed_zero_within_the_interval(attribute: Attribute) -> None:
    rng = generator(3)
    truth, readings = draw(attribute, rng, 100), draw(attribute, rng, 100, 8)
    for estimate in (score.kept(attribute, readings, truth), score.fixed(attribute, readings)):
        found = score.interval(estimate, 100, seed=0)
        assert found.low < 0.0 < found.high
        assert found.high - found.low < 0.3


@each_kind
def test_samples_of_a_shuffled_source_keep_nothing(attribute: Attribute) -> None:
    truth = draw(attribute, generator(12), 100)
    readings = np.repeat(truth[:, None], 4, axis=1)
    shuffled = score.kept(attribute, readings, truth, shown=score.derangement(100, seed=0))
    found = score.interval(shuffled, 100, seed=0)
    assert found.low < 0.0 < found.high


def test_half_the_variance_shown_is_kept_of_one_half() -> None:
    """x = a + b with a shown and b lost, equal variances: kept = 1 - 2 var(b) / (2 var(a) + 2 var(b)) = 1/2."""
    rng = generator(5)
    shown, lost, guessed = rng.normal(size=4000), rng.normal(size=4000), rng.normal(size=(4000, 8))
    readings = shown[:, None] + guessed
    assert value(score.kept(SCALAR, readings, shown + lost), 4000) == pytest.approx(0.5, abs=0.03)
    assert value(score.fixed(SCALAR, readings), 4000) == pytest.approx(0.5, abs=0.03)


def test_an_attribute_that_is_nowhere_defined_is_not_a_number_and_no_warning() -> None:
    nowhere = np.full((5, 2), np.nan)
    found = score.interval(score.kept(CIRCLE, nowhere, nowhere[:, 0]), 5, seed=0)
    assert np.isnan([found.value, found.low, found.high]).all()
    assert score.num_defined(nowhere[:, 0], nowhere) == 0


def test_an_attribute_with_one_value_is_not_a_number() -> None:
    same = np.full((5, 2), 0.25)
    assert np.isnan(value(score.kept(SCALAR, same, same[:, 0]), 5))


def test_samples_that_show_nothing_keep_nothing() -> None:
    rng = generator(3)
    truth = rng.random(400)
    readings = np.repeat(truth[:, None], 10, axis=1)
    readings[rng.random(readings.shape) < 0.9] = np.nan
    assert value(score.kept(CIRCLE, readings, truth), 400) == pytest.approx(0.1, abs=0.02)
    assert value(score.dispersion(CIRCLE, readings, truth), 400) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_dispersion_and_the_odd_one_out_find_samples_that_crowd_together(share: float) -> None:
    rng = generator(4)
    mean = rng.standard_normal(3000)
    truth = mean + rng.standard_normal(3000)
    readings = mean[:, None] + np.sqrt(1.0 - share) * rng.standard_normal((3000, 8))
    gap = value(score.dispersion(SCALAR, readings, truth), 3000)
    odd = value(score.outermost(SCALAR, readings, truth, seed=0), 3000)
    if share == 0.0:
        assert gap == pytest.approx(0.0, abs=0.03)
        assert odd == pytest.approx(1.0, abs=0.15)
    else:
        assert gap > 0.08
        assert odd > 1.3


def test_the_odd_one_out_of_classes_is_drawn_by_lot_where_all_are_alike() -> None:
    same = np.zeros((4000, 3))
    assert value(score.outermost(CLASS, same, same[:, 0], seed=1), 4000) == pytest.approx(1.0, abs=0.1)
    same[:, 0] = np.nan
    assert np.isnan(value(score.outermost(CLASS, same, np.zeros(4000), seed=1), 4000))


def test_a_score_is_clipped_for_display_only() -> None:
    assert [score.clipped(v) for v in (-0.3, 0.4, 1.2)] == [0.0, 0.4, 1.0]


@given(n=st.integers(2, 50), seed=st.integers(0, 1000))
def test_a_derangement_moves_every_source_and_loses_none(n: int, seed: int) -> None:
    partner = score.derangement(n, seed)
    assert sorted(partner) == list(range(n))
    assert (partner != np.arange(n)).all()


def test_resamples_are_seeded_and_keep_the_number_of_sources() -> None:
    drawn = score.resamples(20, seed=3)
    assert (drawn.sum(axis=1) == 20).all()
    assert (drawn == score.resamples(20, seed=3)).all()
    assert (drawn != score.resamples(20, seed=4)).any()


def test_the_interval_of_a_mean_is_that_of_the_normal_law() -> None:
    found = score.interval(score.mean(generator(6).normal(size=400)), 400, seed=0, draws=4000)
    assert half_width(found) == pytest.approx(1.96 / np.sqrt(400), rel=0.1)


def test_a_paired_difference_is_tighter_than_its_two_sides() -> None:
    rng = generator(7)
    common = rng.normal(size=100) * 5
    a, b = score.mean(common + 1.0 + 0.1 * rng.normal(size=100)), score.mean(common)
    paired, alone = score.interval(score.difference(a, b), 100, seed=0), score.interval(a, 100, seed=0)
    assert paired.low > 0.9
    assert paired.high < 1.1
    assert alone.high - alone.low > 1.0


def test_an_unpaired_difference_is_that_of_two_samples_of_their_own_sizes() -> None:
    rng = generator(9)
    values = np.concatenate([rng.normal(size=400), 1.0 + 2.0 * rng.normal(size=100)])
    first = np.arange(500) < 400
    gap = score.difference(*(score.mean(np.where(group, values, np.nan)) for group in (first, ~first)))
    found = score.unpaired(gap, (400, 100), seed=0)
    assert found.value == pytest.approx(values[first].mean() - values[~first].mean())
    expected = 1.96 * np.sqrt(values[first].var() / 400 + values[~first].var() / 100)
    assert half_width(found) == pytest.approx(expected, rel=0.1)


def test_an_interval_over_trainings_includes_what_differs_between_them() -> None:
    rng = np.random.Generator(np.random.Philox(8))
    covered = {"one": 0, "five": 0}
    for study in range(60):
        # Trainings keep .6 in the mean. An interval of one of them alone, over sources, misses it too often.
        strengths = np.clip(0.6 + 0.08 * rng.standard_normal(5), 0, 1)
        truth = rng.standard_normal(300)
        readings = [s * truth[:, None] + np.sqrt(1 - s**2) * rng.standard_normal((300, 8)) for s in np.sqrt(strengths)]
        estimates = [score.kept(SCALAR, read, truth) for read in readings]
        expected = float(np.sqrt(0.6))
        for name, used in (("one", estimates[:1]), ("five", estimates)):
            found = score.interval(score.over_trainings(used, study), 300, study, draws=300)
            covered[name] += found.low <= expected <= found.high
    assert covered["one"] < 45
    assert covered["five"] >= 50


def test_differences_between_taps_of_the_same_trainings_are_paired() -> None:
    def constant(value: float) -> score.Estimate:
        return lambda weights: np.full(len(weights), value)

    first = score.over_trainings([constant(value) for value in (0.5, 0.7, 0.9)], 0)
    second = score.over_trainings([constant(value) for value in (0.3, 0.5, 0.7)], 0)
    apart, together = score.interval(first, 10, 0), score.interval(score.difference(first, second), 10, 0)
    assert apart.high - apart.low > 0.2
    assert together.high - together.low == pytest.approx(0.0)
    assert together.value == pytest.approx(0.2)


def test_intervals_of_kept_cover_the_truth() -> None:
    """Scalar of the test above: the truth is 1/2; 95 % intervals of 64 sources must hold it about that often."""
    hits = 0
    for trial in range(200):
        rng = generator(1000 + trial)
        shown, lost, guessed = rng.normal(size=64), rng.normal(size=64), rng.normal(size=(64, 8))
        estimate = score.kept(SCALAR, shown[:, None] + guessed, shown + lost)
        found = score.interval(estimate, 64, seed=trial, draws=300)
        hits += found.low <= 0.5 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=30))
def test_the_median_is_numpys_and_skips_what_is_undefined(values: list[float]) -> None:
    array = np.array([*values, np.nan])
    assert value(score.median(array), len(array)) == pytest.approx(float(np.median(values)))


def test_a_weighted_median_is_the_median_of_the_drawn_sources() -> None:
    values = np.array([3.0, 1.0, 2.0, 10.0])
    weights = np.array([[0.0, 3.0, 1.0, 0.0], [0.0, 2.0, 2.0, 0.0], [1.0, 0.0, 0.0, 3.0]])
    assert score.median(values)(weights).tolist() == [1.0, 1.5, 10.0]


def test_an_interval_that_many_resamples_have_no_value_for_has_no_bounds() -> None:
    # One image of a class: every third resample misses it, and all that it says is by this one image.
    truth = np.zeros(64)
    truth[0] = 1.0
    perfect = score.kept(CLASS, np.repeat(truth[:, None], 4, axis=1), truth)
    found = score.interval(perfect, 64, seed=0)
    assert found.value == pytest.approx(1.0)
    assert np.isnan([found.low, found.high]).all()
    assert np.isnan(measures.simultaneous({"perfect": perfect}, 64, seed=0)["perfect"].low)
    truth[:6] = 1.0
    found = score.interval(score.kept(CLASS, np.repeat(truth[:, None], 4, axis=1), truth), 64, seed=0)
    assert (found.low, found.high) == pytest.approx((1.0, 1.0))


@each_kind
def test_attributes_are_the_same_by_more_than_both_being_mostly_alike(attribute: Attribute) -> None:
    rng = generator(5)
    rare = {"scalar": rng.random(400) ** 9, "circle": 0.1 * rng.random(400), "class": rng.random(400) > 0.9}
    a = rare[attribute.kind].astype(np.float64)
    assert score.association(attribute, a, attribute, a) == pytest.approx(1.0)
    assert score.association(attribute, a, attribute, rng.permutation(a)) < 0.2
    assert score.association(attribute, a, attribute, np.full(400, 0.25 if attribute.kind != "class" else 1.0)) == 0.0
    assert score.association(attribute, a, SCALAR if attribute.kind != "scalar" else CIRCLE, a) == 0.0
