"""Directions of an embedding, as plain functions on standardised embeddings float64 [N, D].

They are computed from train images. An attribute is cut into few values first: the classes of a class, quarters of a
circle, thirds of a scalar.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.attributes import Attribute
from stages.questions.measures import squared_distances
from stages.readers.score import Floats, Numbers

QUARTERS, THIRDS = 4, 3
RIDGE = 0.1
"""Added to the variances within a value, in units of their mean: directions without variance are not blown up."""
UNKNOWN = -1


@dataclass(frozen=True)
class Bins:
    """An attribute, cut into values 0, 1, ….

    `edges`: where a scalar is cut. `present`: the values that occur among the train images.
    """

    attribute: Attribute
    edges: tuple[float, ...]
    present: tuple[int, ...]

    @classmethod
    def of(cls, attribute: Attribute, train: Floats) -> "Bins":
        """From the values of train images, NaN where undefined."""
        known = train[np.isfinite(train)]
        edges: tuple[float, ...] = ()
        if attribute.kind == "scalar" and len(known):
            edges = tuple(float(q) for q in np.quantile(known, np.arange(1, THIRDS) / THIRDS))
        bins = cls(attribute, edges, ())
        return cls(attribute, edges, tuple(int(value) for value in np.unique(bins.numbers(known))))

    def numbers(self, values: Floats) -> Numbers:
        """The value of each image, int64 [N]; `UNKNOWN` where it is undefined."""
        filled = np.nan_to_num(values)
        if self.attribute.kind == "scalar":
            found = np.searchsorted(np.array(self.edges), filled, side="right")
        elif self.attribute.kind == "circle":
            found = np.floor(np.mod(filled, 1.0) * QUARTERS).astype(np.int64) % QUARTERS
        else:
            found = filled.astype(np.int64)
        return np.where(np.isfinite(values), found, UNKNOWN).astype(np.int64)

    def targets(self, own: Numbers, seed: int) -> Numbers:
        """Another value for each source, int64 [N], drawn; `UNKNOWN` where there is none or its own is not known.

        A scalar goes to the lowest or the highest third.
        """
        rng = np.random.Generator(np.random.Philox(key=[seed, len(own)]))
        draws = rng.random(len(own))
        choices = [value for value in self.present if self.attribute.kind != "scalar" or value != 1]
        targets = np.full(len(own), UNKNOWN, dtype=np.int64)
        for i, value in enumerate(own):
            others = [choice for choice in choices if choice != value]
            if value in self.present and others:
                targets[i] = others[int(draws[i] * len(others))]
        return targets


@dataclass(frozen=True)
class Train:
    """Train embeddings of a tap, standardised, and what directions need of them."""

    x: Floats
    """float64 [N, D]."""
    components: Floats
    """Principal components, the first ones first: float64 [C, D]."""

    @classmethod
    def of(cls, x: Floats) -> "Train":
        """From standardised embeddings."""
        centred = x - x.mean(axis=0)
        _, vectors = np.linalg.eigh(centred.T @ centred / len(x))
        return cls(x, vectors.T[::-1])


@dataclass(frozen=True)
class Directions:
    """Directions between any two values of an attribute, float64 [B, D] each; unknown values have none."""

    means: Floats
    probe: Floats
    components: Floats

    @classmethod
    def of(cls, train: Train, values: Numbers, count: int) -> "Directions":
        """From the value of each train image, int64 [N]."""
        means = np.zeros((count, train.x.shape[1]))
        residuals = []
        for value in range(count):
            members = train.x[values == value]
            if len(members):
                means[value] = members.mean(axis=0)
                residuals.append(members - means[value])
        spread = np.concatenate(residuals)
        covariance = spread.T @ spread / len(spread)
        ridge = RIDGE * max(float(np.trace(covariance)) / len(covariance), 1e-12)
        probe = np.linalg.solve(covariance + ridge * np.eye(len(covariance)), means.T).T
        return cls(means, probe, train.components)

    def between(self, own: int, target: int) -> dict[str, Floats]:
        """Edits from one value to another, float64 [D], by name: all of the length of the first."""
        means = self.means[target] - self.means[own]
        length = float(np.linalg.norm(means))
        along = self.components @ means
        component = int(np.abs(along).argmax())
        found = {
            "means": means,
            "probe": self.probe[target] - self.probe[own],
            "pca": self.components[component] * np.sign(along[component]),
        }
        return {name: scaled(direction, length) for name, direction in found.items()}


def scaled(direction: Floats, length: float) -> Floats:
    """The direction at another length; one of no length stays as it is."""
    norm = float(np.linalg.norm(direction))
    return direction * (length / norm) if norm > 0 else direction


def random_ways(train: Floats, count: int, seed: int, stream: int) -> Floats:
    """Ways from one random train image to another, float64 [count, D]: directions in which embeddings do differ."""
    rng = np.random.Generator(np.random.Philox(key=[seed, stream]))
    first = rng.integers(0, len(train), count)
    second = (first + rng.integers(1, len(train), count)) % len(train)
    ways: Floats = train[second] - train[first]
    return ways


def common(train: Floats, sources: Floats, neighbours: int, share: float) -> NDArray[np.bool_]:
    """The dimensions that are active in most of the nearest train images of each source: bool [N, D].

    Active: above the mean of the train images. Of dimensions that are equally common the more active ones count.
    """
    chosen = np.zeros(sources.shape, dtype=np.bool_)
    squared = squared_distances(sources, train)
    for i, line in enumerate(squared):
        near = train[np.argsort(line, kind="stable")[:neighbours]]
        order = np.lexsort((-near.mean(axis=0), -(near > 0).sum(axis=0)))
        chosen[i, order[: number_of(share, sources.shape[1])]] = True
    return chosen


def random_dimensions(count: int, width: int, share: float, seed: int) -> NDArray[np.bool_]:
    """As many dimensions at random: bool [count, width]."""
    rng = np.random.Generator(np.random.Philox(key=[seed, width]))
    order = rng.random((count, width)).argsort(axis=1)
    return order < number_of(share, width)


def number_of(share: float, width: int) -> int:
    """Dimensions that are edited: at least one, and not all of several."""
    return min(max(1, round(share * width)), max(1, width - 1))


def linear(a: Floats, b: Floats, ratio: float) -> Floats:
    """The point on the straight way from a to b."""
    return (1.0 - ratio) * a + ratio * b


def spherical(a: Floats, b: Floats, ratio: float) -> Floats:
    """The point on the arc from a to b around the mean of the train images, float64 [N, D]; lengths go linearly."""
    la, lb = (np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    ua, ub = a / np.maximum(la, 1e-12), b / np.maximum(lb, 1e-12)
    angle = np.arccos(np.clip((ua * ub).sum(axis=1, keepdims=True), -1.0, 1.0))
    sine = np.sin(angle)
    # Where both point the same way, or opposite ways, there is no one arc.
    flat = sine < 1e-6
    safe = np.where(flat, 1.0, sine)
    arc = (np.sin((1.0 - ratio) * angle) * ua + np.sin(ratio * angle) * ub) / safe
    return np.where(flat, linear(a, b, ratio), arc * linear(la, lb, ratio))
