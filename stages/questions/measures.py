"""Measures on embeddings and on the pixels of samples, as plain functions on arrays.

Scores of attributes (kept, fixed) and what an `Estimate` is stand in `stages.readers.score`.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from stages.readers import score
from stages.readers.score import Estimate, Floats, Interval, Numbers, divide, mean, ratio

TABLE = 2**23
"""Distances that are in memory at once: 64 MB, and a few times this while they are made."""
NORMAL_MEDIAN = 0.6745
"""Median of the size of a standard normal number."""

# Intervals of several estimates


def simultaneous(estimates: Mapping[str, Estimate], count: int, seed: int) -> dict[str, Interval]:
    """Intervals that hold for all estimates at once, in 95 of 100 studies: value -+ q x standard error.

    q is the 95 % quantile of the largest studentised deviation among the estimates in a resample (Westfall & Young
    1993), so any one may be picked for its value afterwards. Undefined estimates have undefined intervals.
    """
    ones, drawn = np.ones((1, count)), score.resamples(count, seed)
    values = {name: float(estimate(ones)[0]) for name, estimate in estimates.items()}
    draws = {name: estimate(drawn) for name, estimate in estimates.items() if np.isfinite(values[name])}
    draws = {name: found for name, found in draws.items() if score.often_defined(found)}
    errors = {name: max(float(np.nanstd(found)), 1e-12) for name, found in draws.items()}
    found = {name: Interval(value, float("nan"), float("nan"), count) for name, value in values.items()}
    if draws:
        deviations = np.fmax.reduce([np.abs(draws[name] - values[name]) / errors[name] for name in draws])
        q = float(np.nanquantile(deviations, score.LEVEL))
        found |= {
            name: Interval(values[name], values[name] - q * error, values[name] + q * error, count)
            for name, error in errors.items()
        }
    return found


# Embeddings: distances, ranks, invariance


def squared_distances(a: Floats, b: Floats) -> Floats:
    """Squared L2 distances float64 [A, B] between rows of a [A, D] and b [B, D]."""
    a, b = a.astype(np.float64, copy=False), b.astype(np.float64, copy=False)
    squared: Floats = a @ b.T
    squared *= -2.0
    squared += np.einsum("ad,ad->a", a, a)[:, None]
    squared += np.einsum("bd,bd->b", b, b)[None, :]
    return np.maximum(squared, 0.0, out=squared)


def l2(a: Floats, b: Floats) -> Floats:
    """L2 distance along the last axis (the others broadcast)."""
    distances: Floats = np.sqrt(((a.astype(np.float64) - b) ** 2).sum(axis=-1))
    return distances


def cosine(a: Floats, b: Floats) -> Floats:
    """1 - cosine along the last axis (the others broadcast); a zero vector is at distance 1 of everything."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
    return 1.0 - np.where(norms > 0, (a * b).sum(axis=-1) / np.where(norms > 0, norms, 1.0), 0.0)


def random_pair(gallery: Floats) -> float:
    """The unit of distance: mean L2 distance of two different rows of gallery [G, D]."""
    total = sum(
        float(np.sqrt(squared_distances(gallery[b], gallery)).sum()) for b in _blocks(len(gallery), len(gallery))
    )
    return total / (len(gallery) * (len(gallery) - 1))


def nearest_other(gallery: Floats, rows: Numbers) -> tuple[Numbers, Floats]:
    """For gallery[rows] the nearest other row: its position int64 [Q] and L2 distance float64 [Q]."""
    positions, distances = [], []
    for block in _blocks(len(rows), len(gallery)):
        squared = squared_distances(gallery[rows[block]], gallery)
        squared[np.arange(len(squared)), rows[block]] = np.inf
        positions.append(squared.argmin(axis=1))
        distances.append(np.sqrt(squared.min(axis=1)))
    return np.concatenate(positions), np.concatenate(distances)


def ranks(queries: Floats, gallery: Floats, source: Numbers, removed: Numbers | None = None) -> Floats:
    """Rank of each query's source among the gallery by L2 distance to the query: float64 [Q], 1 is best.

    `queries` [Q, D], `gallery` [G, D], `source` [Q]: the position of the source in the gallery; `removed` [Q]: a
    position taken out of the gallery for that query. Equal distances share their mean rank, so an embedding that is
    constant has rank (G + 1) / 2 and not 1.
    """
    found = []
    for block in _blocks(len(queries), len(gallery)):
        squared = squared_distances(queries[block], gallery)
        line = np.arange(len(squared))
        own = squared[line, source[block]][:, None]
        tolerance = 1e-12 * (own + (queries[block].astype(np.float64) ** 2).sum(axis=1)[:, None])
        if removed is not None:
            squared[line, removed[block]] = np.inf
        nearer = (squared < own - tolerance).sum(axis=1)
        equal = (np.abs(squared - own) <= tolerance).sum(axis=1)
        found.append(nearer + 0.5 * (equal + 1.0))
    return np.concatenate(found)


def invariance(moved: Floats, pairs: Floats) -> Estimate:
    """r = E d(h(x), h(Tx)) / E d(h(x), h(x')): 0 where T does not move the embedding, 1 where Tx is like another image.

    `moved`: float64 [N], distance that T moves each source; `pairs`: float64 [N, N], distances between sources.
    """
    return ratio(mean(moved), pair_mean(pairs, np.ones(pairs.shape, dtype=np.bool_)))


def pair_mean(pairs: Floats, among: NDArray[np.bool_]) -> Estimate:
    """Mean of pairs [N, N] of different sources, over those where `among` [N, N]."""
    counted = among & ~np.eye(len(pairs), dtype=np.bool_)
    filled, ones = np.where(counted, pairs, 0.0), counted.astype(np.float64)
    return lambda weights: divide(((weights @ filled) * weights).sum(axis=1), ((weights @ ones) * weights).sum(axis=1))


def pair_distances(embeddings: Floats) -> Floats:
    """L2 distances float64 [N, N] between rows [N, D], exactly 0 on the diagonal."""
    distances = np.sqrt(squared_distances(embeddings, embeddings))
    np.fill_diagonal(distances, 0.0)
    return distances


def _blocks(count: int, gallery: int) -> Iterator[slice]:
    """Slices of `count` rows whose distances to so many others are a table of `TABLE` numbers at most."""
    size = max(1, min(1024, TABLE // gallery))
    for start in range(0, count, size):
        yield slice(start, start + size)


# Pixels: twins and maps


def twins(images: NDArray[np.uint8], distances: Floats) -> Numbers:
    """The two samples of each source that are both near it and differ most in pixels: int64 [N, 2], nearer one first.

    `images`: uint8 [N, K, H, W, 3]; `distances`: float64 [N, K], of each sample's embedding to its source's. Candidates
    are the nearer half of the K samples (at least two).
    """
    chosen = np.empty((len(images), 2), dtype=np.int64)
    for i, samples in enumerate(images):
        order = np.argsort(distances[i], kind="stable")
        near = order[: max(2, len(samples) // 2)]
        pixels = samples[near].reshape(len(near), -1)
        gap = squared_distances(pixels, pixels)
        a, b = np.unravel_index(np.argmax(gap), gap.shape)
        chosen[i] = near[min(a, b)], near[max(a, b)]
    return chosen


def noise_level(images: NDArray[np.uint8]) -> float:
    """Standard deviation of the noise in images uint8 [N, H, W, 3], in intensities of 0 to 1: their median.

    Of each image the response to a mask that is 0 on planes (Immerkær 1996, doi 10.1006/cviu.1996.0060), by its median,
    so that edges do not count.
    """
    levels = []
    for image in images:
        x = image.astype(np.float64) / 255.0
        across = x[:, 2:] - 2.0 * x[:, 1:-1] + x[:, :-2]
        response = across[2:] - 2.0 * across[1:-1] + across[:-2]
        levels.append(np.median(np.abs(response)) / (6.0 * NORMAL_MEDIAN))
    return float(np.median(levels))


def noised(images: NDArray[np.uint8], std: float, seed: int, number: int) -> NDArray[np.uint8]:
    """Images uint8 [N, H, W, 3] with normal noise of a standard deviation, in intensities of 0 to 1; draw `number`."""
    rng = np.random.Generator(np.random.Philox(key=[seed, number]))
    noisy = images + 255.0 * std * rng.standard_normal(images.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def deviation(images: NDArray[np.uint8]) -> Floats:
    """Standard deviation of the samples of a source at each pixel, RMS over colours: float64 [N, H, W].

    `images`: uint8 [N, K, H, W, 3]; the unit is intensity in [0, 1].
    """
    spread: Floats = np.sqrt((images.astype(np.float64) / 255.0).var(axis=1).mean(axis=-1))
    return spread


def painted(values: Floats, scale: float) -> NDArray[np.uint8]:
    """Values [..., H, W] as grey uint8 [..., H, W, 3] on a given scale, the same for a whole figure."""
    grey = np.rint(np.clip(values / scale if scale > 0 else values, 0.0, 1.0) * 255.0).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)
