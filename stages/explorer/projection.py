"""Maps: vectors in two dimensions, and how much of a neighbourhood a map keeps."""

import numpy as np
from numpy.typing import NDArray

from stages.embeddings.neighbours import Rows, Vectors, nearest

COMPONENTS = 50
"""Principal components that t-SNE is given, at most."""
PERPLEXITY = 30.0
LEAST = 10
"""Images below which there is no t-SNE."""
QUERIES = 512
"""Images whose neighbours are looked for at once."""


def principal(vectors: Vectors, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The first `count` principal components of [N, D], float64 [N, count], and the share of variance of each.

    The sign of each axis is such that its largest weight is above 0. Where D is below `count`, the last are 0.
    """
    centred = vectors.astype(np.float64)
    centred -= centred.mean(axis=0)
    variances, axes = np.linalg.eigh(centred.T @ centred)
    variances, axes = np.maximum(variances[::-1][:count], 0), axes[:, ::-1][:, :count]
    axes = axes * np.where(np.take_along_axis(axes, np.abs(axes).argmax(axis=0)[None], axis=0) < 0, -1.0, 1.0)
    missing = (0, count - axes.shape[1])
    shares = variances / (np.square(centred).sum() or 1.0)
    return np.pad(centred @ axes, ((0, 0), missing)), np.pad(shares, missing)


def perplexity(count: int) -> float:
    """That of `tsne` for so many images: 30, or less where there are few."""
    return min(PERPLEXITY, (count - 1) / 3)


def tsne(vectors: Vectors, seed: int) -> NDArray[np.float64]:
    """t-SNE (van der Maaten & Hinton 2008; Barnes-Hut, by scikit-learn) of [N, D], float64 [N, 2].

    It is given the first `COMPONENTS` principal components and starts from the first two. ImportError where
    scikit-learn is not installed.
    """
    from sklearn.manifold import TSNE

    given, _ = principal(vectors, min(COMPONENTS, vectors.shape[1]))
    found = TSNE(perplexity=perplexity(len(vectors)), init="pca", random_state=seed).fit_transform(given)
    return np.asarray(found, dtype=np.float64)


def neighbours(vectors: Vectors, k: int) -> tuple[Rows, NDArray[np.float64]]:
    """The `k` nearest others of each of [N, D] by Euclidean distance: numbers int64 [N, k] and distances."""
    numbers = np.arange(len(vectors))
    found = [
        nearest(vectors[first : first + QUERIES], [(numbers, vectors)], k, "l2", numbers[first : first + QUERIES])
        for first in range(0, len(vectors), QUERIES)
    ]
    return np.concatenate([part.rows for part in found]), np.concatenate([part.distances for part in found])


def preserved(near: Rows, points: NDArray[np.float64]) -> float:
    """Of the neighbours [N, k] of an image, how many are among its k nearest on the map [N, 2], on average."""
    on_map, _ = neighbours(points.astype(np.float32), near.shape[1])
    return float((near[:, :, None] == on_map[:, None, :]).any(axis=2).sum(axis=1).mean())
