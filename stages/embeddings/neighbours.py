"""Exact nearest neighbours by brute force, block by block, in the memory of one block.

Distances of a block come from one matrix product in float32. Its rounding error has a bound, so whatever may be among
the nearest is kept and measured again in float64: the answer is that of float64 throughout.
"""

from collections.abc import Callable, Iterable
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
        return np.divide(x, norms, out=np.zeros_like(x), where=norms > 0)

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
        distances = _exact(self.read(rows[:, 0]), self.read(rows[:, 1]), *[np.arange(len(rows))] * 2, self.metric)
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
