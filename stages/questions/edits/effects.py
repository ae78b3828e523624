"""Effects of edits on attributes, as plain functions on what readers read from samples.

An attribute is a vector phi: the number itself, the point on the circle, the one-hot class. Effects are distances of
phi in units of two random images (root mean square), so those on different attributes can be compared. The edited
and the unedited sample k of a source have the same noise; their difference is the effect on sample k.
"""

from collections.abc import Sequence

import numpy as np

from stages.attributes import Attribute
from stages.readers import score
from stages.readers.score import Estimate, Floats


def features(attribute: Attribute, values: Floats) -> Floats:
    """phi of values [...]: float64 [..., F], NaN where undefined."""
    if attribute.kind == "scalar":
        number: Floats = values[..., None]
        return number
    if attribute.kind == "circle":
        return np.stack([np.cos(2 * np.pi * values), np.sin(2 * np.pi * values)], axis=-1)
    onehot = (values[..., None] == np.arange(len(attribute.classes))).astype(np.float64)
    return np.where(np.expand_dims(np.isfinite(values), -1), onehot, np.nan)


def unit(attribute: Attribute, values: Floats) -> float:
    """Root mean square distance of phi of two random images, from the values of many [N]; NaN where all are equal."""
    phi = features(attribute, values[np.isfinite(values)])
    variance = float(phi.var(axis=0).sum()) if len(phi) else 0.0
    return float(np.sqrt(2.0 * variance)) if variance > 0 else float("nan")


def change(attribute: Attribute, edited: Floats, unedited: Floats, unit: float) -> Floats:
    """What an edit did to each sample: readings [N, K] to float64 [N, K, F]; NaN where either is undefined."""
    return (features(attribute, edited) - features(attribute, unedited)) / unit


def along(changes: Floats, towards: Floats) -> Floats:
    """Mean change of each source in the wanted direction: [N, K, F] and unit vectors [N, F] to [N]."""
    found = (changes * towards[:, None]).sum(axis=2)
    return _mean(found)


def squared(changes: Floats) -> Floats:
    """Squared length of the mean change of each source: [N, K, F] to [N].

    From pairs of different samples, which is unbiased: samples that only scatter have no effect. With a single
    sample scatter counts as effect.
    """
    defined = np.asarray(np.isfinite(changes)).all(axis=2)
    filled = np.where(np.isfinite(changes).all(axis=2, keepdims=True), changes, 0.0)
    n = defined.sum(axis=1)
    lengths = (filled**2).sum(axis=(1, 2))
    if changes.shape[1] == 1:
        return np.where(n > 0, lengths, np.nan)
    return score.divide((filled.sum(axis=1) ** 2).sum(axis=1) - lengths, (n * (n - 1)).astype(np.float64))


def root_mean(squares: Floats) -> Estimate:
    """Root of the mean over sources; 0 where chance makes that negative."""
    mean = score.mean(squares)
    return lambda weights: np.sqrt(np.maximum(mean(weights), 0.0))


def largest(estimates: Sequence[Estimate]) -> Estimate:
    """The largest of several in each resample, so that the choice of the largest is part of the interval."""

    def estimate(weights: Floats) -> Floats:
        found: Floats = np.fmax.reduce([one(weights) for one in estimates])
        return found

    return estimate


def progress(readings: Floats, start: Floats, end: Floats) -> tuple[Floats, Floats]:
    """How far samples' phi [R, N, K, F] have gone from phi `start` to phi `end` (both [N, F]), at R points of a path.

    Two arrays: products (phi - start) (end - start), float64 [R, N], and squared lengths of end - start, [N]. The share
    of the way is the sum of the first over the sum of the second: two sources that hardly differ hardly count, where
    the mean of their quotients would be theirs alone. Both are NaN where something is undefined anywhere on the path.
    """
    way = end - start
    products = np.stack([_mean(((phi - start[:, None]) * way[:, None]).sum(axis=2)) for phi in readings])
    lengths = (way**2).sum(axis=1)
    defined = np.isfinite(products).all(axis=0) & np.isfinite(lengths)
    return np.where(defined, products, np.nan), np.where(defined, lengths, np.nan)


def _mean(values: Floats) -> Floats:
    """Mean over samples [N, K] that are defined; NaN where none is."""
    defined = np.isfinite(values)
    return score.divide(np.where(defined, values, 0.0).sum(axis=1), defined.sum(axis=1).astype(np.float64))
