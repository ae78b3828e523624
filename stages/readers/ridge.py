"""Linear maps from embeddings, fitted to train images: of other embeddings, and of attributes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stages.attributes import Attribute
from stages.readers import score
from stages.readers.score import Estimate, Floats

PENALTIES = tuple(10.0**power for power in range(-5, 3))
"""Of a ridge, in units of the mean variance of what it reads."""


@dataclass(frozen=True)
class Ridge:
    """A linear map with an offset: x [N, D] to (x - x_mean) @ weights + y_mean, [N, M]."""

    x_mean: Floats
    y_mean: Floats
    weights: Floats

    def predict(self, x: Floats) -> Floats:
        """What it reads from x [N, D]."""
        found: Floats = (x - self.x_mean) @ self.weights + self.y_mean
        return found


class Ridges:
    """Ridges from the same x [N, D] to any targets: what depends on x alone is computed once."""

    def __init__(self, x: Floats) -> None:
        self.x = x
        self._mean = x.mean(axis=0)
        self._x = x - self._mean
        values, self._directions = np.linalg.eigh(self._x.T @ self._x)
        self._values = np.maximum(values, 0.0)

    def fit(self, y: Floats) -> Ridge:
        """The ridge to y [N, M] whose penalty has the least error by generalised cross-validation.

        GCV = N RSS / (N - 1 - tr H)^2 (Golub, Heath & Wahba 1979, doi 10.1080/00401706.1979.10489751).
        """
        mean = y.mean(axis=0)
        y = y - mean
        count = len(y)
        projected = self._directions.T @ (self._x.T @ y)
        power, total = np.square(projected).sum(axis=1), float(np.square(y).sum())
        unit = float(self._values.mean()) or 1.0
        best, least = self._values, np.inf
        for penalty in PENALTIES:
            damped = self._values + penalty * unit
            residual = max(0.0, total - float((power * (2.0 / damped - self._values / damped**2)).sum()))
            freedom = count - 1.0 - float((self._values / damped).sum())
            if freedom > 0 and count * residual / freedom**2 < least:
                best, least = damped, count * residual / freedom**2
        return Ridge(self._mean, mean, self._directions @ (projected / best[:, None]))


def explained(predicted: Floats, truth: Floats, mean: Floats) -> Estimate:
    """R2 over sources: 1 - sum |predicted - truth|^2 / sum |mean - truth|^2, of [N, M] and `mean` [M] of train images.

    Sources with a NaN in `truth` are left out.
    """
    missed = score.mean(np.square(predicted - truth).sum(axis=1))
    whole = score.mean(np.square(mean - truth).sum(axis=1))
    return score.difference(lambda weights: np.ones(len(weights)), score.ratio(missed, whole))


def features(attribute: Attribute, values: Floats) -> Floats:
    """An attribute [N] as numbers that a linear map can read, [N, M]; NaN where it is undefined.

    Itself, its cosine and sine, or one number for each class: squared distances are its differences.
    """
    if attribute.kind == "scalar":
        return values[:, None]
    if attribute.kind == "circle":
        return np.stack([np.cos(2 * np.pi * values), np.sin(2 * np.pi * values)], axis=1)
    classes = (values[:, None] == np.arange(len(attribute.classes))).astype(np.float64)
    return np.where(np.isfinite(values)[:, None], classes, np.nan)


def readable(
    ridges: Ridges,
    seen: Floats,
    attributes: Sequence[Attribute],
    train: Mapping[str, Floats],
    truth: Mapping[str, Floats],
) -> dict[str, Estimate]:
    """R2 of every attribute, read linearly from embeddings: fitted to those of train images, scored on `seen` [N, D].

    `train` and `truth` are the values of both by attribute. One that does not vary among train images is left out.
    """
    found = {}
    for attribute in attributes:
        wanted, expected = (features(attribute, values[attribute.name]) for values in (train, truth))
        known = np.isfinite(wanted).all(axis=1)
        if not np.isfinite(expected).all(axis=1).any() or known.sum() < 2 or not np.ptp(wanted[known], axis=0).any():
            continue
        ridge = (ridges if known.all() else Ridges(ridges.x[known])).fit(wanted[known])
        found[attribute.name] = explained(ridge.predict(seen), expected, ridge.y_mean)
    return found
