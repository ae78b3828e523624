"""What training image number n is: row, view, tap, noise level and noise, each a function of (seed, n) alone.

So one rank or eight, one batch or another way to cut it: the same training. Images and embeddings stand in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stages.decoder.conditioning import NULL
from stages.diffusion import edm, noise
from stages.encoders.augment import uniform

if TYPE_CHECKING:
    from numpy.typing import NDArray

VIEWS = ("plain", "flip")
# Streams of `uniform`: which draw a number is for.
TAP, VIEW, DROP, LEVEL = range(4)


@dataclass(frozen=True)
class PairedSet:
    """Images, and the embeddings of the same images in the same view, row by row."""

    images: Tensor
    """uint8 [N, S, S, 3]."""
    embeddings: tuple[Tensor, ...]
    """Per tap float32 [V, N, D], standardised; views in the order of `VIEWS`, or the plain one alone."""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each tap."""
        return tuple(table.shape[2] for table in self.embeddings)

    @property
    def views(self) -> int:
        """Number of views of each image."""
        return self.embeddings[0].shape[0]

    def pixels(self, rows: "NDArray[np.int64]", flipped: "NDArray[np.bool_]") -> Tensor:
        """float32 [B, 3, S, S] in [-1, 1]."""
        from stages.pixels import to_network

        images = to_network(self.images[torch.from_numpy(rows)])
        return torch.where(torch.from_numpy(flipped)[:, None, None, None], images.flip(3), images)

    def conditions(
        self, rows: "NDArray[np.int64]", flipped: "NDArray[np.bool_]", taps: "NDArray[np.int64]"
    ) -> tuple[Tensor, Tensor]:
        """`h` float32 [B, widest], padded with zeros, and `tap` int64 [B]; the row of a null stays zero."""
        h = torch.zeros(len(rows), max(self.widths))
        view = flipped.astype(np.int64)
        for number, table in enumerate(self.embeddings):
            here = np.flatnonzero(taps == number)
            h[torch.from_numpy(here), : table.shape[2]] = table[view[here], rows[here]]
        return h, torch.from_numpy(taps)


@dataclass(frozen=True)
class Batch:
    """Some images of one training step."""

    clean: Tensor
    """float32 [B, 3, S, S] in [-1, 1]."""
    h: Tensor
    tap: Tensor
    sigma: Tensor
    """Noise level of each image, float32 [B]."""
    noise: Tensor
    """Standard normal, float32 [B, 3, S, S]."""

    def to(self, device: str) -> "Batch":
        """The same batch on a device."""
        parts = (self.clean, self.h, self.tap, self.sigma, self.noise)
        return Batch(*(part.to(device) for part in parts))


def order(seed: int, count: int, numbers: "NDArray[np.int64]") -> "NDArray[np.int64]":
    """Row shown as image `numbers` (int64 [B], rising) of an endless series of shuffled epochs of `count` rows."""
    epochs, places = np.divmod(numbers, count)
    rows = np.empty_like(numbers)
    for epoch in np.unique(epochs):
        rows[epochs == epoch] = _shuffled(seed, count, int(epoch))[places[epochs == epoch]]
    return rows


# Two series, of the sketch and of the diffusion model, each in one epoch or between two.
@lru_cache(maxsize=4)
def _shuffled(seed: int, count: int, epoch: int) -> "NDArray[np.int64]":
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)


class Series:
    """The endless series of training images of one seed."""

    def __init__(self, data: PairedSet, seed: int, null: float, log_sigma_mean: float, log_sigma_std: float) -> None:
        self.data, self.seed, self.null = data, seed, null
        self.log_sigma = (log_sigma_mean, log_sigma_std)

    def drawn(
        self, numbers: "NDArray[np.int64]", seed: int
    ) -> tuple["NDArray[np.int64]", "NDArray[np.bool_]", "NDArray[np.int64]"]:
        """Row, whether flipped, and tap of each image."""
        rows = order(seed, len(self.data), numbers)
        taps = np.floor(uniform(seed, numbers, TAP) * len(self.data.widths)).astype(np.int64)
        flipped = uniform(seed, numbers, VIEW) * self.data.views >= 1.0
        return rows, flipped, taps

    def batch(self, numbers: "NDArray[np.int64]") -> Batch:
        """Training images number `numbers` of the diffusion model."""
        rows, flipped, taps = self.drawn(numbers, self.seed)
        taps = np.where(uniform(self.seed, numbers, DROP) < self.null, NULL, taps)
        h, tap = self.data.conditions(rows, flipped, taps)
        clean = self.data.pixels(rows, flipped)
        level = torch.special.ndtri(torch.from_numpy(uniform(self.seed, numbers, LEVEL)).clamp(1e-9, 1 - 1e-9))
        return Batch(
            clean=clean,
            h=h,
            tap=tap,
            sigma=edm.log_normal(level, *self.log_sigma).float(),
            noise=noise.normal(((self.seed, int(number)) for number in numbers), clean.shape[1:]),
        )

    def pairs(self, numbers: "NDArray[np.int64]") -> tuple[Tensor, Tensor, Tensor]:
        """Pairs for the sketch: clean float32 [B, 3, S, S], h and tap; a series of its own, with nulls too."""
        seed = noise.mix(self.seed, 1)
        rows, flipped, taps = self.drawn(numbers, seed)
        taps = np.where(uniform(seed, numbers, DROP) < self.null, NULL, taps)
        return self.data.pixels(rows, flipped), *self.data.conditions(rows, flipped, taps)


def share(numbers: "NDArray[np.int64]", rank: int, world: int) -> "NDArray[np.int64]":
    """The images of a step that fall to one rank: equal runs, as far as the batch allows."""
    return np.array_split(numbers, world)[rank]


def fixed_levels(count: int, log_sigma_mean: float, log_sigma_std: float) -> Tensor:
    """`count` noise levels at equal steps of the training distribution: float32 [count]."""
    middle = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return edm.log_normal(torch.special.ndtri(middle), log_sigma_mean, log_sigma_std).float()


def subset(data: PairedSet, rows: Sequence[int]) -> PairedSet:
    """Only these rows."""
    chosen = torch.as_tensor(rows, dtype=torch.int64)
    return PairedSet(data.images[chosen], tuple(table[:, chosen] for table in data.embeddings))
