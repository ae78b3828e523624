"""Exact nearest neighbours by brute force, block by block, in the memory of one block.

Distances of a block come from one matrix product in float32. Its rounding error has a bound, so whatever may be among
the nearest is kept and measured again in float64: the answer is that of float64 throughout.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Metric = Literal["l2", "cosine"]
Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]

EPS = 2.0**-23
RANDOM_PAIRS = 2**14
"""Pairs whose mean distance is the unit: its standard error is below 1 % of it."""
PAIRS_AT_ONCE = 2**22
"""Numbers of pairs of vectors that are measured again at once."""


@dataclass(frozen=True)
class Neighbours:
    """Rows int64 [Q, k] and distances float64 [Q, k], nearest first; equal distances are in the order of the rows."""

    rows: Rows
    distances: NDArray[np.float64]


def nearest(queries: Vectors, blocks: Iterable[tuple[Rows, Vectors]], k: int, metric: Metric, own: Rows) -> Neighbours:
    """The `k` nearest of all blocks (rows [B], vectors [B, D]) to each of `queries` [Q, D].

    `own` int64 [Q] is a row that is left out for each query, or -1. There must be `k` others. The distance is
    Euclidean, or 1 - cosine, which is 1 for a vector of zeros.
    """
    near = np.full(len(queries), np.inf)
    kept = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64))
    for rows, vectors in blocks:
        lower, upper = _bounds(queries, vectors, metric)
        mine = rows[None] == own[:, None]
        lower[mine] = upper[mine] = np.inf
        if np.isinf(near).any() and len(rows) >= k:
            near = np.minimum(near, np.partition(upper, k - 1, axis=1)[:, k - 1])
        # Where a number is too large for float32, the bound is NaN and the pair is measured again.
        query, column = np.nonzero(~(lower > near[:, None]) & ~mine)
        distances = _exact(queries, vectors, query, column, metric)
        kept = _best(tuple(map(np.concatenate, zip(kept, (query, rows[column], distances), strict=True))), k)
        counts = np.bincount(kept[0], minlength=len(queries))
        last = np.cumsum(counts) - 1
        full = counts == k
        near[full] = np.minimum(near[full], kept[2][last[full]])
    distances = kept[2].reshape(len(queries), k)
    return Neighbours(kept[1].reshape(len(queries), k), np.sqrt(distances) if metric == "l2" else distances)


@dataclass(frozen=True)
class Pairs:
    """Pairs of rows int64 [N, 2], with their distances in two spaces, float64 [N]."""

    rows: Rows
    near: NDArray[np.float64]
    far: NDArray[np.float64]


def confused(rows: Rows, here: Vectors, there: Vectors, n: int, metric: Metric) -> Pairs:
    """The `n` pairs of `rows` that are near by vectors `here` [N, D] and far by `there` [N, E], the clearest first.

    Both distances are in units of random pairs of their space (`random_pair`), and what counts is their difference. All
    pairs are compared, block by block, so time grows with the square of N.
    """
    spaces = [_Space.of(vectors, metric) for vectors in (here, there)]
    count = len(rows)
    best = (np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))
    step = max(1, PAIRS_AT_ONCE // count)
    for first in range(0, count, step):
        block = np.arange(first, min(first + step, count))
        gap = spaces[1].distances(block) - spaces[0].distances(block)
        gap[np.arange(count)[None] <= block[:, None]] = -np.inf
        keep = np.argpartition(gap, -min(n, gap.size), axis=None)[-n:]
        a, b = np.unravel_index(keep, gap.shape)
        merged = [np.concatenate(two) for two in zip(best, (gap[a, b], block[a], b), strict=True)]
        order = np.lexsort((merged[2], merged[1], -merged[0]))[:n]
        best = (merged[0][order], merged[1][order], merged[2][order])
    _, a, b = best
    near, far = (
        np.array([space.distances(a[i : i + 1], b[i : i + 1])[0, 0] for i in range(len(a))]) for space in spaces
    )
    return Pairs(np.stack([rows[a], rows[b]], axis=1), near, far)


def random_pair(vectors: Vectors, metric: Metric) -> float:
    """The mean distance of two rows of [N, D] drawn at random, from the same draws for the same N."""
    draws = np.random.Generator(np.random.Philox(key=[0, len(vectors)]))
    a = draws.integers(0, len(vectors), RANDOM_PAIRS)
    b = (a + draws.integers(1, len(vectors), RANDOM_PAIRS)) % len(vectors)
    distances = _exact(vectors, vectors, a, b, metric)
    return float((np.sqrt(distances) if metric == "l2" else distances).mean())


@dataclass(frozen=True)
class _Space:
    """Vectors float64 [N, D], centred or of length 1, their squared lengths, and the mean distance of random pairs."""

    vectors: NDArray[np.float64]
    squared: NDArray[np.float64]
    unit: float
    metric: Metric

    @classmethod
    def of(cls, vectors: Vectors, metric: Metric) -> "_Space":
        x = vectors.astype(np.float64)
        if metric == "cosine":
            norms = np.sqrt(np.square(x).sum(axis=1, keepdims=True))
            x = np.divide(x, norms, out=np.zeros_like(x), where=norms > 0)
        else:
            # Distances do not change, and less is lost where the mean is far from 0.
            x -= x.mean(axis=0)
        return cls(x, np.square(x).sum(axis=1), random_pair(vectors, metric) or 1.0, metric)

    def distances(self, a: Rows, b: Rows | slice = slice(None)) -> NDArray[np.float64]:
        """Of all pairs of a row of `a` and one of `b`, [A, B], in units of random pairs."""
        products = self.vectors[a] @ self.vectors[b].T
        if self.metric == "cosine":
            found: NDArray[np.float64] = (1 - products) / self.unit
            return found
        squared = self.squared[a][:, None] + self.squared[b][None] - 2 * products
        root: NDArray[np.float64] = np.sqrt(np.maximum(squared, 0)) / self.unit
        return root


def _bounds(queries: Vectors, vectors: Vectors, metric: Metric) -> tuple[NDArray[Any], NDArray[Any]]:
    """Below and above the squared Euclidean or the cosine distance of all pairs, float32 [Q, B]."""
    share = np.float32(2 * (queries.shape[1] + 8) * EPS)
    q, x = np.einsum("ij,ij->i", queries, queries)[:, None], np.einsum("ij,ij->i", vectors, vectors)[None]
    products = queries @ vectors.T
    if metric == "l2":
        sums = q + x
        products *= -2
        products += sums
        sums *= share
        return products - sums, products + sums
    norms = np.sqrt(q) * np.sqrt(x)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = np.where(norms > 0, products / norms, np.float32(0))
    return 1 - cosines - share, 1 - cosines + share


def _exact(queries: Vectors, vectors: Vectors, query: Rows, column: Rows, metric: Metric) -> NDArray[np.float64]:
    """Distances of some pairs in float64, [P]; Euclidean ones squared."""
    distances = np.empty(len(query), dtype=np.float64)
    step = max(1, PAIRS_AT_ONCE // queries.shape[1])
    for first in range(0, len(query), step):
        part = slice(first, first + step)
        q, x = queries[query[part]].astype(np.float64), vectors[column[part]].astype(np.float64)
        if metric == "l2":
            distances[part] = np.square(q - x).sum(axis=1)
        else:
            norms = np.sqrt(np.square(q).sum(axis=1) * np.square(x).sum(axis=1))
            distances[part] = 1 - np.einsum("ij,ij->i", q, x) / np.where(norms > 0, norms, 1)
    return distances


def _best(pairs: tuple[Any, ...], k: int) -> tuple[Rows, Rows, NDArray[np.float64]]:
    """Of pairs (query, row, distance) the `k` nearest of each query, sorted by query, distance and row."""
    query, rows, distances = pairs
    order = np.lexsort((rows, distances, query))
    starts = np.searchsorted(query[order], query[order], side="left")
    order = order[np.arange(len(order)) - starts < k]
    return query[order], rows[order], distances[order]
