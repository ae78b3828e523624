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
