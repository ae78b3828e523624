"""The scale on which everything that reads an attribute is judged: 1 - d / d of another image; and its intervals.

Everything that gets an interval is an `Estimate`: a function from weights of the sources `[B, N]` to values `[B]`. The
value itself is the estimate at weights of one; the interval comes from resampled sources (Efron & Tibshirani 1993,
chapter 13). Two estimates over the same sources meet the same resamples, so their difference is a paired one.

Pairs of different sources never enter as an `[N, N]` table of attribute differences: all three differences of
`stages.attributes` are, up to a factor that cancels in every ratio here, squared distances of features phi (the number
itself; cos and sin; one-hot), and sum |phi_i - phi_j|^2 = n_j q_i + n_i q_j - 2 s_i . s_j with counts n, sums s of phi
and q of |phi|^2.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from stages.attributes import Attribute

Floats: TypeAlias = NDArray[np.float64]
Numbers: TypeAlias = NDArray[np.int64]
Estimate: TypeAlias = Callable[[Floats], Floats]

DRAWS = 1000
"""Resamples behind an interval."""

LEVEL = 0.95
"""Coverage of every interval."""

SOURCES_MIN = 20
"""Sources below which no verdict is given: the percentile interval of fewer is too narrow."""

UNDEFINED_MAX = 0.5 * (1.0 - LEVEL)
"""Share of resamples without a value above which an interval has no bounds: they may lie on either side."""


@dataclass(frozen=True)
class Interval:
    """A value with its interval [low, high], from `n` sources."""

    value: float
    low: float
    high: float
    n: int


@lru_cache(maxsize=4)
def resamples(num_sources: int, seed: int, draws: int = DRAWS) -> Floats:
    """How often each source stands in each resample: float64 [draws, num_sources], rows sum to num_sources."""
    rng = np.random.Generator(np.random.Philox(key=[seed, num_sources]))
    drawn = rng.multinomial(num_sources, np.full(num_sources, 1.0 / num_sources), size=draws).astype(np.float64)
    drawn.setflags(write=False)
    return drawn


def interval(estimate: Estimate, num_sources: int, seed: int, n: int | None = None, draws: int = DRAWS) -> Interval:
    """The estimate with its percentile interval; `n` sources are reported where fewer than all are defined.

    Bounds are NaN where more than `UNDEFINED_MAX` of the resamples have no value.
    """
    return _percentiles(estimate, resamples(num_sources, seed, draws), num_sources if n is None else n)


def unpaired(estimate: Estimate, groups: Sequence[int], seed: int) -> Interval:
    """The estimate over sources of several groups, each resampled by itself; `groups` are their numbers, in order.

    So a difference between the groups is an unpaired one.
    """
    # A seed each: groups of equal size would be resampled alike.
    drawn = np.concatenate([resamples(count, seed + number) for number, count in enumerate(groups)], axis=1)
    return _percentiles(estimate, drawn, sum(groups))


def _percentiles(estimate: Estimate, weights: Floats, n: int) -> Interval:
    value = float(estimate(np.ones((1, weights.shape[1])))[0])
    drawn = estimate(weights)
    tail = 50.0 * (1.0 - LEVEL)
    low, high = np.nan, np.nan
    if often_defined(drawn):
        low, high = np.percentile(drawn[np.isfinite(drawn)], [tail, 100.0 - tail])
    return Interval(value, float(low), float(high), n)


def often_defined(drawn: Floats) -> bool:
    """Whether enough resamples [B] have a value for an interval; few sources, or one alone of a class, have too few."""
    return bool(np.isfinite(drawn).mean() >= 1.0 - UNDEFINED_MAX)


def divide(a: Floats, b: Floats) -> Floats:
    """a / b elementwise; NaN where b is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(b != 0, a / np.where(b != 0, b, 1.0), np.nan)


def difference(a: Estimate, b: Estimate) -> Estimate:
    """a - b over the same resampled sources: the paired difference."""
    return lambda weights: a(weights) - b(weights)


def ratio(a: Estimate, b: Estimate) -> Estimate:
    """a / b over the same resampled sources; NaN where b vanishes."""
    return lambda weights: divide(a(weights), b(weights))


def log_ratio(a: Estimate, b: Estimate) -> Estimate:
    """ln a / b over the same resampled sources; NaN where it is not defined."""

    def estimate(weights: Floats) -> Floats:
        found = divide(a(weights), b(weights))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(found > 0, np.log(np.where(found > 0, found, 1.0)), np.nan)

    return estimate


def average(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of several estimates over the same resampled sources."""
    return lambda weights: np.mean([estimate(weights) for estimate in estimates], axis=0)


def over_trainings(estimates: Sequence[Estimate], seed: int) -> Estimate:
    """The mean over trainings that differ in their seed; resamples take trainings as well as sources.

    All estimates of a study meet the same resamples of its trainings, so their differences are paired. Resampling E
    trainings finds (E - 1) / E of the variance between them, so deviations are scaled up: with two or three of them the
    interval is still a rough one.
    """
    if len(estimates) == 1:
        return estimates[0]

    def estimate(weights: Floats) -> Floats:
        values = np.stack([each(weights) for each in estimates])
        middle: Floats = values.mean(axis=0)
        if len(weights) == 1:
            return middle
        count = len(estimates)
        rng = np.random.Generator(np.random.Philox(key=[seed, count]))
        drawn = rng.multinomial(count, np.full(count, 1.0 / count), size=len(weights)) / count
        resampled: Floats = middle + ((drawn.T * values).sum(axis=0) - middle) * np.sqrt(count / (count - 1))
        return resampled

    return estimate


def mean(values: Floats) -> Estimate:
    """Mean of one number per source [N]; NaN is left out."""
    defined = np.isfinite(values)
    filled, counted = np.where(defined, values, 0.0), defined.astype(np.float64)
    return lambda weights: divide(weights @ filled, weights @ counted)


def median(values: Floats) -> Estimate:
    """Median of one number per source [N]; NaN is left out. Weighted: the mean of the lower and the upper median."""
    order = np.argsort(values)[: int(np.isfinite(values).sum())]
    ordered = values[order]

    def estimate(weights: Floats) -> Floats:
        if not ordered.size:
            return np.full(len(weights), np.nan)
        cumulated = np.cumsum(weights[:, order], axis=1)
        half = 0.5 * cumulated[:, -1:]
        last = ordered.size - 1
        lower = np.minimum((cumulated < half - 1e-9).sum(axis=1), last)
        upper = np.minimum((cumulated <= half + 1e-9).sum(axis=1), last)
        middle: Floats = 0.5 * (ordered[lower] + ordered[upper])
        return middle

    return estimate


@dataclass(frozen=True)
class _Sums:
    """Per source, over its defined values: count n [N], sum of |phi|^2 q [N], sum of phi s [N, F]."""

    n: Floats
    q: Floats
    s: Floats

    def taken(self, order: Numbers) -> "_Sums":
        return _Sums(self.n[order], self.q[order], self.s[order])

    def only(self, members: NDArray[np.bool_]) -> "_Sums":
        """The same, as if all other sources had no value."""
        return _Sums(self.n * members, self.q * members, self.s * members[:, None])


def _sums(attribute: Attribute, values: Floats) -> _Sums:
    """Sums of the features of values [N, K]; NaN is left out."""
    defined = np.isfinite(values)
    filled = np.where(defined, values, 0.0)
    if attribute.kind == "scalar":
        phi = filled[..., None]
    elif attribute.kind == "circle":
        phi = np.stack([np.cos(2 * np.pi * filled), np.sin(2 * np.pi * filled)], axis=-1)
    else:
        phi = (filled[..., None] == np.arange(len(attribute.classes))).astype(np.float64)
    phi = phi * defined[..., None]
    return _Sums(defined.sum(axis=1).astype(np.float64), (phi**2).sum(axis=(1, 2)), phi.sum(axis=1))


def _own(a: _Sums, b: _Sums) -> tuple[Floats, Floats]:
    """Per source: sum of differences between its values in a and its values in b [N], and their number [N]."""
    return np.maximum(a.n * b.q + b.n * a.q - 2.0 * (a.s * b.s).sum(axis=1), 0.0), a.n * b.n


def _between(a: _Sums, b: _Sums, weights: Floats) -> Floats:
    """Mean difference between values of a and values of b of different sources [B]."""
    own, count = _own(a, b)
    total = (weights @ a.n) * (weights @ b.q) + (weights @ b.n) * (weights @ a.q)
    total = total - 2.0 * ((weights @ a.s) * (weights @ b.s)).sum(axis=1) - weights**2 @ own
    return divide(np.maximum(total, 0.0), (weights @ a.n) * (weights @ b.n) - weights**2 @ count)


def kept(attribute: Attribute, readings: Floats, truth: Floats, shown: Numbers | None = None) -> Estimate:
    """kept = 1 - mean d(reader(s_ik), a_i) / mean d(reader(s_jk), a_i), j != i.

    `readings`: float64 [N, K], the attribute read from the K samples of each source; `truth`: float64 [N]. A source of
    undefined truth (NaN) is left out; an undefined reading counts as chance, so samples that show nothing keep nothing.
    `shown` [N] gives source i the samples of source shown[i] (the shuffled control). 0: samples match their source no
    better than another source's; 1: they match it.
    """
    matched = _matched(attribute, readings, truth, shown)
    known = np.isfinite(truth).astype(np.float64)
    read = known * np.isfinite(readings if shown is None else readings[shown]).mean(axis=1)
    return lambda weights: matched(weights) * divide(weights @ read, weights @ known)


def _matched(attribute: Attribute, readings: Floats, truth: Floats, shown: Numbers | None = None) -> Estimate:
    """kept over the defined readings alone."""
    centre = _centre(attribute, truth)
    painted, real = _sums(attribute, readings - centre), _sums(attribute, truth[:, None] - centre)
    own, count = _own(painted if shown is None else painted.taken(shown), real)
    return lambda weights: 1.0 - divide(divide(weights @ own, weights @ count), _between(painted, real, weights))


def kept_of(
    attribute: Attribute, readings: Floats, truth: Floats, members: NDArray[np.bool_], others: NDArray[np.bool_]
) -> Estimate:
    """kept of the sources `members` [N], beside what samples of the sources `others` [N] match of them.

    Groups whose others are the same have one scale, also a group whose sources are all alike in an attribute.
    `readings` and `truth` are as for `kept`, which this is where both are all sources.
    """
    centre = _centre(attribute, truth)
    painted, real = _sums(attribute, readings - centre), _sums(attribute, truth[:, None] - centre).only(members)
    own, count = _own(painted, real)
    known = np.isfinite(truth).astype(np.float64) * members
    read = known * np.isfinite(readings).mean(axis=1)

    def estimate(weights: Floats) -> Floats:
        missed = divide(weights @ own, weights @ count)
        matched = 1.0 - divide(missed, _between(painted.only(others), real, weights))
        return matched * divide(weights @ read, weights @ known)

    return estimate


def fixed(attribute: Attribute, readings: Floats) -> Estimate:
    """fixed = 1 - mean d(reader(s_ik), reader(s_il)) / mean d(reader(s_ik), reader(s_jl)), k != l, j != i.

    How alike the samples of one source are; `readings` as for `kept`.
    """
    painted = _sums(attribute, readings - _centre(attribute, readings))
    own, _ = _own(painted, painted)
    count = painted.n * (painted.n - 1.0)
    return lambda weights: 1.0 - divide(divide(weights @ own, weights @ count), _between(painted, painted, weights))


def dispersion(attribute: Attribute, readings: Floats, truth: Floats) -> Estimate:
    """fixed - kept, of defined readings: 0 where samples differ from each other as much as from their source.

    It is 0 for exact samples. Above 0, samples agree with each other more than with their source, and kept is too high
    for what they know.
    """
    return difference(fixed(attribute, readings), _matched(attribute, readings, truth))


def outermost(attribute: Attribute, readings: Floats, truth: Floats, seed: int) -> Estimate:
    """How often the source is the odd one out among itself and its K samples, over how often it is by chance.

    The odd one has the largest mean difference to the others; ties are broken at random. Under an exact sampler the
    source and its samples are exchangeable, so this happens once in K + 1 sources and the ratio is 1. Sources with an
    undefined truth or reading are left out.
    """
    together = np.concatenate([truth[:, None], readings], axis=1)
    defined = np.isfinite(together).all(axis=1)
    gaps = attribute.difference(together[:, :, None], together[:, None, :]).sum(axis=2)
    rng = np.random.Generator(np.random.Philox(key=[seed, together.size]))
    jitter = rng.random(gaps.shape)
    # Sums of equal differences differ in their last digits; what counts as a tie must not depend on their order.
    ordered = np.lexsort((jitter, np.round(np.nan_to_num(gaps), 9)), axis=1)
    odd = np.where(defined, (ordered[:, -1] == 0).astype(np.float64), np.nan)
    return mean(odd * together.shape[1])


def clipped(value: float) -> float:
    """A score in [0, 1], for display only: what is stored and compared stays as it was measured."""
    return float(np.clip(value, 0.0, 1.0))


def association(attribute: Attribute, values: Floats, other: Attribute, others: Floats) -> float:
    """How far two attributes [N] of the same images are the same, 0 to 1; 0 where they are of different kinds.

    The size of a correlation: of circles that of their points on it as complex numbers. Of classes with the same names
    the share that is equal, beyond chance (Cohen's kappa). Unrelated values are 0 also where most of them are alike.
    """
    both = np.isfinite(values) & np.isfinite(others)
    a, b = values[both], others[both]
    if attribute.kind != other.kind or attribute.classes != other.classes or len(a) < 2:
        return 0.0
    if attribute.kind == "class":
        chance = sum(float((a == value).mean() * (b == value).mean()) for value in range(len(attribute.classes)))
        return max(0.0, (float((a == b).mean()) - chance) / (1.0 - chance)) if chance < 1.0 else 0.0
    x, y = (np.exp(2j * np.pi * each) if attribute.kind == "circle" else each for each in (a, b))
    if not all(each.std() > 1e-9 * np.abs(each).max() for each in (x, y)):
        return 0.0
    return float(np.abs(((x - x.mean()) * (y - y.mean()).conj()).mean()) / (x.std() * y.std()))


def num_defined(truth: Floats, readings: Floats) -> int:
    """Sources with a defined truth [N] and at least one defined reading [N, K]."""
    return int((np.isfinite(truth) & np.isfinite(readings).any(axis=1)).sum())


def derangement(num_sources: int, seed: int) -> Numbers:
    """For each source another one, each once: int64 [N], a random cycle through all."""
    order = np.random.Generator(np.random.Philox(key=[seed, num_sources])).permutation(num_sources)
    partner = np.empty(num_sources, dtype=np.int64)
    partner[order] = np.roll(order, 1)
    return partner


def _centre(attribute: Attribute, values: Floats) -> float:
    """A shift that keeps squares of scalars small; differences do not feel it."""
    if attribute.kind != "scalar":
        return 0.0
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else 0.0


def quality(attribute: Attribute, predicted: Floats, truth: Floats) -> tuple[float, int]:
    """How well predictions [N] meet the truth [N], and on how many images: balanced accuracy for a class, else R2.

    Balanced: the mean over classes of how often one is met, so that always the same class is right by chance only.
    R2 = 1 - sum d(predicted, truth) / sum d(mean, truth); for a circle d is 1 - cos and the mean the circular one.
    An undefined prediction is as wrong as the mean.
    """
    defined = np.isfinite(truth)
    n = int(defined.sum())
    if n == 0:
        return float("nan"), 0
    expected = truth[defined]
    gaps = attribute.difference(predicted[defined], expected)
    if attribute.kind == "class":
        return 1.0 - float(np.mean([gaps[expected == value].mean() for value in np.unique(expected)])), n
    if attribute.kind == "circle":
        spread = 1.0 - float(np.abs(np.exp(2j * np.pi * expected).mean()))
    else:
        spread = float(expected.var())
    missed = float(np.where(np.isfinite(gaps), gaps, spread).mean())
    return (1.0 - missed / spread if spread > 0 else float("nan")), n
