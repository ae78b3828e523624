"""KID, precision and recall against their definitions and against sets of known distance; the rule, in every branch."""

import numpy as np
import pytest

from stages.questions.fidelity import quality, verdicts
from stages.readers import score
from stages.readers.score import Floats


def drawn(seed: int, *shape: int) -> Floats:
    return np.random.Generator(np.random.Philox(seed)).standard_normal(shape)


def test_kid_is_the_unbiased_mmd_without_pairs_inside_a_source() -> None:
    samples, images = drawn(1, 4, 2, 3), drawn(2, 5, 3)

    def kernel(a: Floats, b: Floats) -> float:
        return float((a @ b / 3 + 1) ** 3)

    among = np.mean(
        [kernel(a, b) for i in range(4) for j in range(4) if i != j for a in samples[i] for b in samples[j]]
    )
    own = np.mean([kernel(images[i], images[j]) for i in range(5) for j in range(5) if i != j])
    across = np.mean([kernel(a, b) for a in samples.reshape(-1, 3) for b in images])
    assert quality.kid(samples, images)(np.ones((1, 4)))[0] == pytest.approx(among - 2 * across + own)


def test_intervals_of_kid_cover_0_where_sets_are_alike_and_not_where_they_differ() -> None:
    hits = 0
    for trial in range(40):
        alike = quality.kid(drawn(100 + trial, 60, 3, 4), drawn(900 + trial, 200, 4))
        found = score.interval(alike, 60, trial, draws=200)
        hits += found.low <= 0 <= found.high
    assert hits >= 34
    moved = score.interval(quality.kid(drawn(1, 60, 3, 4) + 1.0, drawn(2, 200, 4)), 60, 0)
    assert moved.low > 0


def test_samples_that_are_alike_within_a_source_count_as_one() -> None:
    one = drawn(3, 50, 1, 4)
    estimate, repeated = (quality.kid(x, drawn(4, 80, 4)) for x in (one, one.repeat(6, axis=1)))
    first, second = (score.interval(e, 50, 0) for e in (estimate, repeated))
    assert second.value == pytest.approx(first.value)
    assert (second.low, second.high) == pytest.approx((first.low, first.high))


def test_a_point_reaches_as_far_as_its_neighbour_of_that_rank() -> None:
    points = np.array([[0.0], [1.0], [3.0], [7.0]])
    assert quality.radii(points, 2).tolist() == [3.0, 2.0, 3.0, 6.0]
    reach = quality.radii(points, 1)
    assert reach.tolist() == [1.0, 1.0, 2.0, 4.0]
    assert quality.covered(np.array([[-1.0], [-1.1], [5.0], [11.5]]), points, reach).tolist() == [1.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("low", "high", "floor", "verdict"),
    [
        (-0.04, 0.10, 0.9, "AS IMAGES"),
        (0.02, 0.10, 0.9, "AS IMAGES"),
        (-0.40, -0.06, 0.9, "BELOW IMAGES"),
        (-0.10, 0.02, 0.9, "CANNOT TELL"),
        (-0.04, 0.10, 0.2, "CANNOT TELL"),
        (-0.40, -0.06, float("nan"), "CANNOT TELL"),
        (float("nan"), float("nan"), 0.9, "CANNOT TELL"),
    ],
)
def test_the_rule_in_every_branch(low: float, high: float, floor: float, verdict: str) -> None:
    assert verdicts.judge(low, high, floor) == verdict
