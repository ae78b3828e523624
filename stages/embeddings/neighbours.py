"""Exact nearest neighbours by brute force, block by block, in the memory of one block.

One matrix product in float32 gives every pair of a block a score. Its rounding error has a bound, so whatever may be
among the nearest is measured again in float64: the answer is that of float64 throughout.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stages.embeddings.chunks import widened

Metric = Literal["l2", "cosine"]
Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]

EPS = 2.0**-23
CACHED_ROWS = 1024
"""Vectors that are converted and multiplied at once."""
TINY = np.float32(1e-30)
"""A squared length below it is not known well in float32."""
RANDOM_PAIRS = 2**14
"""Pairs whose mean distance is the unit: its standard error is below 1 % of it."""
UNIT_ROWS = 4096
"""Rows among which these pairs are drawn."""
PAIRS_AT_ONCE = 2**22
"""Numbers of pairs of vectors that are measured again at once."""
BLOCK_ROWS = 2048
"""Rows of a block where the pairs of two blocks are compared."""


@dataclass(frozen=True)
class Neighbours:
    """Rows int64 [Q, k] and distances float64 [Q, k], nearest first; equal distances are in the order of the rows."""

    rows: Rows
    distances: NDArray[np.float64]


def nearest(
    queries: Vectors, blocks: Iterable[tuple[Rows, NDArray[Any]]], k: int, metric: Metric, own: Rows
) -> Neighbours:
    """The `k` nearest of all blocks (rows [B], vectors [B, D], float16 or float32) to each of `queries` [Q, D].

    `own` int64 [Q] is a row that is left out for each query, or -1. There must be `k` others. The distance is
    Euclidean, or 1 - cosine, which is 1 for a vector of zeros.
    """
    near = np.full(len(queries), np.inf)
    kept = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64))
    search = _Search.of(queries, metric)
    for rows, vectors in blocks:
        scores = search.scores(vectors)
        if len(rows) > k and np.isinf(near).any():
            # The k-th of any rows is no nearer than the k-th of all.
            column = np.concatenate([np.argpartition(one, -(k + 1))[-(k + 1) :] for one in scores.T])
            query = np.repeat(np.arange(len(queries)), k + 1)
            distances = _exact(queries, vectors, query, column, metric)
            distances[rows[column] == own[query]] = np.inf
            near = np.minimum(near, np.partition(distances.reshape(-1, k + 1), k - 1, axis=1)[:, k - 1])
        column, query = np.divmod(np.flatnonzero(~(scores < search.least(near))), len(queries))
        others = rows[column] != own[query]
        query, column = query[others], column[others]
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


@dataclass(frozen=True)
class Space:
    """Vectors that are read when they are needed, and the unit of their distances.

    `read` takes rows and returns their vectors [N, D]. `unit` is the mean distance of random pairs, `centre` float64
    [D] the mean of some vectors.
    """

    read: Callable[[Rows], Vectors]
    metric: Metric
    unit: float
    centre: NDArray[np.float64]

    @classmethod
    def of(cls, rows: Rows, read: Callable[[Rows], Vectors], metric: Metric) -> "Space":
        """Unit and centre come from `UNIT_ROWS` of the rows, drawn at random: the same for the same number of rows."""
        order = np.random.Generator(np.random.Philox(key=[1, len(rows)])).permutation(len(rows))
        vectors = read(np.sort(rows[order[:UNIT_ROWS]]))
        return cls(read, metric, random_pair(vectors, metric), vectors.mean(axis=0, dtype=np.float64))

    def prepared(self, rows: Rows) -> NDArray[np.float64]:
        """Vectors float64 [N, D]: of length 1 for cosine, else without the centre, so that rounding takes less."""
        x = self.read(rows).astype(np.float64)
        if self.metric == "l2":
            x -= self.centre
            return x
        norms = np.sqrt(np.einsum("ij,ij->i", x, x))[:, None]
        scaled: NDArray[np.float64] = np.divide(x, norms, out=np.zeros_like(x), where=norms > 0)
        return scaled

    def distances(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of all pairs of prepared vectors [A, D] and [B, D], [A, B], in units of random pairs."""
        found: NDArray[np.float64] = a @ b.T
        if self.metric == "cosine":
            np.subtract(1, found, out=found)
        else:
            found *= -2
            found += np.einsum("ij,ij->i", a, a)[:, None]
            found += np.einsum("ij,ij->i", b, b)
            np.sqrt(np.maximum(found, 0, out=found), out=found)
        found /= self.unit or 1.0
        return found

    def pairs(self, rows: Rows) -> NDArray[np.float64]:
        """Of pairs of rows [N, 2], [N], from differences of vectors, in units of random pairs."""
        each = np.arange(len(rows))
        distances = _exact(self.read(rows[:, 0]), self.read(rows[:, 1]), each, each, self.metric)
        found: NDArray[np.float64] = (np.sqrt(distances) if self.metric == "l2" else distances) / (self.unit or 1.0)
        return found


def confused(rows: Rows, here: Space, there: Space, n: int) -> Pairs:
    """The `n` pairs of `rows` [N] that are near in one space and far in another, the clearest first.

    Both distances are in units of random pairs, and what counts is their difference. All pairs are compared, so time
    grows with the square of N. Two blocks of rows are in memory at a time. There are fewer than `n` where there are
    fewer pairs; equally clear ones are in the order of the rows.
    """
    best = (np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))
    blocks = [rows[first : first + BLOCK_ROWS] for first in range(0, len(rows), BLOCK_ROWS)]
    for number, first in enumerate(blocks):
        near, far = here.prepared(first), there.prepared(first)
        for second in blocks[number:]:
            same = second is first
            gap = there.distances(far, far if same else there.prepared(second))
            gap -= here.distances(near, near if same else here.prepared(second))
            if same:
                gap[np.tri(len(first), dtype=bool)] = -np.inf
            flat = gap.reshape(-1)
            found = np.flatnonzero(flat > (best[0][-1] if len(best[0]) == n else -np.inf))
            if len(found) > n:
                found = found[np.argpartition(flat[found], -n)[-n:]]
            a, b = np.divmod(found, len(second))
            merged = [np.concatenate(two) for two in zip(best, (flat[found], first[a], second[b]), strict=True)]
            order = np.lexsort((merged[2], merged[1], -merged[0]))[:n]
            best = (merged[0][order], merged[1][order], merged[2][order])
    pairs = np.stack(best[1:], axis=1)
    return Pairs(pairs, here.pairs(pairs), there.pairs(pairs))


def random_pair(vectors: Vectors, metric: Metric) -> float:
    """The mean distance of two rows of [N, D] drawn at random, from the same draws for the same N."""
    draws = np.random.Generator(np.random.Philox(key=[0, len(vectors)]))
    a = draws.integers(0, len(vectors), RANDOM_PAIRS)
    b = (a + draws.integers(1, len(vectors), RANDOM_PAIRS)) % len(vectors)
    distances = _exact(vectors, vectors, a, b, metric)
    return float((np.sqrt(distances) if metric == "l2" else distances).mean())


@dataclass(frozen=True)
class _Search:
    """Scores of pairs that rise as distances fall, from one matrix product in float32.

    By `cosine` a score is the cosine. Else it is the product less half of the vector's squared length, which is half of
    (the query's squared length - the squared distance).
    """

    metric: Metric
    factors: Vectors
    """float32 [D, Q]: the queries, of length 1 for cosine."""
    squared: NDArray[np.float64]
    """float64 [Q]: the squared lengths of the queries."""
    share: float
    """Bound of the rounding error of a cosine, and of a squared distance as a share of both squared lengths."""

    @classmethod
    def of(cls, queries: Vectors, metric: Metric) -> "_Search":
        wide = queries.astype(np.float64)
        squared = np.square(wide).sum(axis=1)
        if metric == "cosine":
            norms = np.sqrt(squared)[:, None]
            wide = np.divide(wide, norms, out=np.zeros_like(wide), where=norms > 0)
        return cls(metric, wide.astype(np.float32).T, squared, 2 * (queries.shape[1] + 8) * EPS)

    def scores(self, vectors: NDArray[Any]) -> Vectors:
        """float32 [B, Q]; NaN where a vector's length is too large or too small for float32."""
        found = np.empty((len(vectors), self.factors.shape[1]), dtype=np.float32)
        # What is converted is still in the processor's cache when it is multiplied.
        for first in range(0, len(vectors), CACHED_ROWS):
            wide, part = widened(vectors[first : first + CACHED_ROWS]), found[first : first + CACHED_ROWS]
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                lengths = np.einsum("ij,ij->i", wide, wide)
                np.matmul(wide, self.factors, out=part)
                if self.metric == "cosine":
                    part *= np.where((lengths > TINY) & np.isfinite(lengths), 1 / np.sqrt(lengths), np.nan)[:, None]
                else:
                    half = lengths * np.float32((1 - self.share) / 2)
                    part -= np.where(np.isfinite(half), half, np.nan)[:, None]
        return found

    def least(self, near: NDArray[np.float64]) -> Vectors:
        """float32 [Q]: no pair with a lower score is as near as `near` (squared Euclidean, or cosine, distance)."""
        with np.errstate(over="ignore"):
            half = ((1 - self.share) * self.squared - near) / 2
            least = 1 - near - self.share if self.metric == "cosine" else half
            return np.nextafter(least.astype(np.float32), np.float32(-np.inf))


def _exact(queries: Vectors, vectors: NDArray[Any], query: Rows, column: Rows, metric: Metric) -> NDArray[np.float64]:
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
