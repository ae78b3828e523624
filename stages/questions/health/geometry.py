"""Measures of embeddings [N, D] without labels: rank, alignment, uniformity, dead features, likeness of two spaces.

Measures of pairs of images are averaged within blocks of images. With the unbiased estimator of HSIC the mean over
blocks is unbiased too (Nguyen, Raghu & Kornblith 2021, arXiv 2010.15327), memory grows with N instead of its square,
and blocks are what the bootstrap draws: an image that is drawn twice would be its own neighbour.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from stages.embeddings.neighbours import nearest
from stages.readers.score import Estimate, Floats, Numbers, divide

Vectors = NDArray[np.float32]

BLOCK = 256
"""Images of a block, at most."""
BLOCKS = 20
"""Blocks that there should be, for the bootstrap to draw from."""
BLOCK_MIN = 4
"""Images that the unbiased estimator of HSIC needs."""
EPS = 1e-7
"""Of RankMe (its equation 1)."""
DEAD = 1e-5
"""A feature is constant where its range is at most this share of its largest size: float32 rounds by less."""
TEMPERATURE = 2.0
"""t of uniformity."""
ROWS_AT_ONCE = 256
"""Rows that are taken to float64, or searched, at a time."""


# One space


def dead(x: Vectors) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which features [D] of [N, D] are constant, and which of these are zero."""
    low, high = x.min(axis=0), x.max(axis=0)
    size = np.maximum(np.abs(low), np.abs(high))
    return high - low <= DEAD * size, size == 0


def effective_rank(x: Vectors) -> float:
    """exp of the entropy of the shares of variance along the principal directions of [N, D]; 0 without variance.

    Roy & Vetterli 2007, "The effective rank", of the covariance: D where all directions vary alike, 1 where one does.
    """
    return _spread(_spectrum(x, x.mean(axis=0, dtype=np.float64)))


def rank_me(x: Vectors) -> float:
    """RankMe: exp of the entropy of the singular values of [N, D], not centred (Garrido et al. 2023, arXiv 2210.02885).

    0 where all vectors are zero.
    """
    return _spread(np.sqrt(_spectrum(x, np.zeros(x.shape[1]))), EPS)


def _spectrum(x: Vectors, centre: Floats) -> Floats:
    """Squared singular values of x - centre, from the smaller of its two products with itself."""
    count, width = x.shape
    short = min(count, width)
    total = np.zeros((short, short))
    for start in range(0, max(count, width), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        long = x[part] - centre if width <= count else (x[:, part] - centre[part]).T
        total += long.T @ long
    values: Floats = np.maximum(np.linalg.eigvalsh(total), 0.0)
    return values


def _spread(values: Floats, eps: float = 0.0) -> float:
    """exp of the entropy of values as shares of their sum; 0 where they are all 0."""
    if values.sum() <= 0:
        return 0.0
    shares = values / values.sum() + eps
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def directions(x: Vectors) -> Floats:
    """Rows divided by their length, float64; a row of zeros stays one."""
    wide = x.astype(np.float64)
    lengths = norms(x)[:, None]
    return np.divide(wide, lengths, out=np.zeros_like(wide), where=lengths > 0)


def norms(x: Vectors) -> Floats:
    """Lengths of rows, float64 [N]."""
    lengths: Floats = np.sqrt(np.square(x.astype(np.float64)).sum(axis=1))
    return lengths


def variation(values: Floats) -> Estimate:
    """Standard deviation of one number per image [N], over its mean."""

    def estimate(weights: Floats) -> Floats:
        total = weights.sum(axis=1)
        middle = divide(weights @ values, total)
        square = divide(weights @ np.square(values), total)
        return divide(np.sqrt(np.maximum(square - middle**2, 0.0)), middle)

    return estimate


def alignment(a: Floats, b: Floats) -> Floats:
    """Squared distance of each row to that of the other view, float64 [N] (Wang & Isola 2020, arXiv 2005.10242).

    `a` and `b`: directions [N, D].
    """
    squared: Floats = np.square(a - b).sum(axis=1)
    return squared


def blocks(count: int) -> list[slice]:
    """Equal blocks of `count` rows that are in random order; what is left over is dropped."""
    size = max(BLOCK_MIN, min(BLOCK, count // BLOCKS))
    return [slice(start, start + size) for start in range(0, count - size + 1, size)]


def potential(x: Floats) -> Floats:
    """Mean of exp(-2 |x_i - x_j|^2) over pairs of each block, float64 [B]; `x`: directions [N, D]."""
    found = []
    for block in blocks(len(x)):
        products = x[block] @ x[block].T
        lengths = np.diagonal(products)
        squared = np.maximum(lengths[:, None] + lengths[None] - 2.0 * products, 0.0)
        above = np.triu_indices(len(squared), 1)
        found.append(np.exp(-TEMPERATURE * squared[above]).mean())
    return np.array(found)


def uniformity(potentials: Floats) -> Estimate:
    """ln of the mean potential over blocks [B]: 0 where all directions are one, the lower the more evenly spread.

    Wang & Isola 2020, arXiv 2005.10242. On a sphere of many dimensions it comes near to -4.
    """
    return lambda weights: np.log(divide(weights @ potentials, weights.sum(axis=1)))


# Two spaces


def centred_products(x: Vectors) -> Floats:
    """U-centred products of the rows of each block with each other, float64 [B, n, n].

    Diagonals are left out, and means of rows and columns are taken out so that `hsic` is unbiased.
    """
    # A shift changes nothing, and less is lost where the mean is far from 0. Rounding is not variation.
    wide = np.where(dead(x)[0], 0.0, x - x.mean(axis=0, dtype=np.float64))
    found = []
    for block in blocks(len(x)):
        products = wide[block] @ wide[block].T
        np.fill_diagonal(products, 0.0)
        count = len(products)
        sums = products.sum(axis=1) / (count - 2)
        products -= sums[:, None] + sums[None]
        products += sums.sum() / (count - 1)
        np.fill_diagonal(products, 0.0)
        found.append(products)
    return np.array(found)


def permuted(products: Floats, order: Numbers) -> Floats:
    """Products [B, n, n] of the rows of each block in another order [n], for a control."""
    return products[:, order][:, :, order]


def hsic(a: Floats, b: Floats) -> Floats:
    """The unbiased HSIC of each block, float64 [B], from two `centred_products` (Song et al. 2012, its equation 5)."""
    count = a.shape[1]
    together: Floats = np.einsum("bij,bij->b", a, b) / (count * (count - 3))
    return together


def cka(both: Floats, first: Floats, second: Floats) -> Estimate:
    """Linear CKA, debiased (Kornblith et al. 2019, arXiv 1905.00414): HSIC(a, b) / sqrt(HSIC(a, a) HSIC(b, b)).

    Each [B], by block. 1 where the spaces differ by a rotation and a scale, 0 where they have nothing in common (there
    it may be a little below). NaN where a space does not vary.
    """

    def estimate(weights: Floats) -> Floats:
        own, other = weights @ first, weights @ second
        alone = (own > 0) & (other > 0)
        return np.where(alone, divide(weights @ both, np.sqrt(np.where(alone, own * other, 1.0))), np.nan)

    return estimate


def nearest_images(x: Vectors, k: int) -> Numbers:
    """For each row of [N, D] the k nearest other rows by cosine, int64 [N, k]."""
    rows = np.arange(len(x), dtype=np.int64)
    found = [nearest(x[part], [(rows, x)], k, "cosine", rows[part]).rows for part in _parts(len(x))]
    return np.concatenate(found)


def shared(a: Numbers, b: Numbers) -> Floats:
    """Share of the k neighbours [N, k] that are the same in both spaces, float64 [N].

    Its mean is the mutual k-nearest-neighbour measure of Huh et al. 2024 (arXiv 2405.07987).
    """
    same: Floats = (a[:, :, None] == b[:, None, :]).any(axis=2).mean(axis=1)
    return same


def relabelled(neighbours: Numbers, order: Numbers) -> Numbers:
    """The neighbours [N, k] that there would be if row i were row order[i], for a control."""
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return back[neighbours[order]]


def _parts(count: int) -> Iterator[slice]:
    for start in range(0, count, ROWS_AT_ONCE):
        yield slice(start, start + ROWS_AT_ONCE)
