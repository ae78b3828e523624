"""Distances between a set of samples and a set of images, in the space of one encoder.

KID: the squared maximum mean discrepancy with the kernel (x . y / D + 1)^3, unbiased (Binkowski et al. 2018, arXiv
1801.01401). Precision and recall: k nearest neighbours as the reach of a set (Kynkaanniemi et al. 2019, arXiv
1904.06991). Samples of one source are no independent draws, so pairs within a source never enter, and intervals
resample sources, those of recall images as well.
"""

import numpy as np

from stages.questions.measures import pair_mean, squared_distances
from stages.readers import score
from stages.readers.score import Estimate, Floats


def kernel(a: Floats, b: Floats) -> Floats:
    """(a . b / D + 1)^3 of rows a [A, D] and b [B, D]: float64 [A, B]."""
    found: Floats = (a @ b.T / a.shape[1] + 1.0) ** 3
    return found


def kid(samples: Floats, images: Floats) -> Estimate:
    """KID of samples [N, K, D] of N sources against images [M, D], as an estimate over sources. 0: no difference."""
    count, each, width = samples.shape
    flat = samples.reshape(-1, width)
    among = kernel(flat, flat).reshape(count, each, count, each).mean(axis=(1, 3))
    across = kernel(flat, images).mean(axis=1).reshape(count, each).mean(axis=1)
    own = kernel(images, images)
    constant = float(own.sum() - np.trace(own)) / (len(images) * (len(images) - 1))
    pairs, crossed = pair_mean(among, np.ones(among.shape, dtype=np.bool_)), score.mean(across)
    return lambda weights: pairs(weights) - 2.0 * crossed(weights) + constant


def radii(points: Floats, k: int) -> Floats:
    """The distance of each of [M, D] to its `k`-th nearest other: float64 [M]."""
    squared = squared_distances(points, points)
    np.fill_diagonal(squared, np.inf)
    return np.asarray(np.sqrt(np.partition(squared, k - 1, axis=1)[:, k - 1]), dtype=np.float64)


def recall(images: Floats, samples: Floats, k: int) -> Estimate:
    """The share of images [M, D] within the reach of one of samples [N, D]; an estimate over N sources and M images.

    Which sources there are matters more than which images, but the share is no mean over sources. It is taken as linear
    in their weights, by what it changes to leave one out (the jackknife, Efron & Tibshirani 1993, chapter 11). A source
    that is drawn twice cannot simply count twice: it would be its own neighbour, with no reach.
    """
    count = len(samples)
    apart = squared_distances(samples, samples)
    np.fill_diagonal(apart, np.inf)
    nearest = np.argpartition(apart, k, axis=1)[:, : k + 1]
    ranked = np.take_along_axis(nearest, np.argsort(np.take_along_axis(apart, nearest, axis=1), axis=1), axis=1)
    reach, farther = (np.take_along_axis(apart, ranked[:, rank : rank + 1], axis=1)[:, 0] for rank in (k - 1, k))
    across = squared_distances(images, samples)
    within = across <= reach
    times = within.sum(axis=1)
    found: Floats = (times > 0).astype(np.float64)
    without = np.empty(count)
    for left_out in range(count):
        # Of which it was one of the k nearest, those reach farther without it.
        wider = np.flatnonzero((ranked[:, :k] == left_out).any(axis=1))
        reached = (times - within[:, left_out] > 0) | (across[:, wider] <= farther[wider]).any(axis=1)
        without[left_out] = reached.mean()
    influence = (1.0 - 1.0 / count) * (without.mean() - without)
    over_images = score.mean(found)
    return lambda weights: over_images(weights[:, count:]) + weights[:, :count] @ influence


def covered(queries: Floats, points: Floats, reach: Floats) -> Floats:
    """1 where a query [Q, D] lies within the `reach` [M] of one of `points` [M, D], else 0: float64 [Q]."""
    within = squared_distances(queries, points) <= reach**2
    return np.asarray(within.any(axis=1), dtype=np.float64)
