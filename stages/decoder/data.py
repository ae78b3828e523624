"""What training image number n is: row, view, tap, noise level and noise, each a function of (seed, n) alone.

So one rank or eight, one batch or another way to cut it: the same training. Images and embeddings stand on a local disk
(`stages.training.rows`), and a batch is read from it: memory does not grow with their number.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from operator import itemgetter
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from stages.decoder.conditioning import NULL
from stages.diffusion import noise
from stages.embeddings.format import Statistics
from stages.encoders.augment import uniform
from stages.training.rows import RowFile
from stages.training.shuffle import order

if TYPE_CHECKING:
    from numpy.typing import NDArray

VIEWS = ("plain", "flip")
# Streams of `uniform`: which draw a number is for.
TAP, VIEW, DROP, LEVEL = range(4)


@dataclass(frozen=True)
class PairedSet:
    """Images, and the embeddings of the same images in the same view, row by row."""

    images: RowFile
    """uint8 [N, S, S, 3]."""
    embeddings: tuple[RowFile, ...]
    """Per tap [N, V, D] as stored, in the dtype of the table; views in the order of `VIEWS`, or the plain one alone."""
    statistics: tuple[Statistics, ...]
    """Per tap what standardises its embeddings."""
    rows: "NDArray[np.int64]"
    """The rows that belong to the set; all row numbers below are indices into this array."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def size(self) -> int:
        """Side of the images, pixels."""
        return self.images.shape[0]

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each tap."""
        return tuple(table.shape[1] for table in self.embeddings)

    @property
    def views(self) -> int:
        """Number of views of each image."""
        return self.embeddings[0].shape[0]

    def shown(self, rows: "NDArray[np.int64]", flipped: "NDArray[np.bool_]", taps: "NDArray[np.int64]") -> "Pairs":
        """Images, and their embeddings at `taps` in the same view."""
        images = torch.from_numpy(self.images.read(self.rows[rows]))
        return Pairs(images, torch.from_numpy(flipped), *self.conditions(rows, flipped, taps))

    def conditions(
        self, rows: "NDArray[np.int64]", flipped: "NDArray[np.bool_]", taps: "NDArray[np.int64]"
    ) -> tuple[Tensor, Tensor]:
        """`h` float32 [B, widest], standardised, padded with zeros, and `tap` int64 [B]; the row of a null is zero."""
        h = np.zeros((len(rows), max(self.widths)), dtype=np.float32)
        for number, (table, found) in enumerate(zip(self.embeddings, self.statistics, strict=True)):
            here = np.flatnonzero(taps == number)
            both = table.read(self.rows[rows[here]])
            raw = both[np.arange(len(here)), flipped[here].astype(np.int64)].astype(np.float32)
            h[here, : table.shape[1]] = found.standardise(raw)
        return torch.from_numpy(h), torch.from_numpy(taps)


@dataclass(frozen=True)
class Pairs:
    """Some images and what they are painted from."""

    images: Tensor
    """uint8 [B, S, S, 3]: a quarter of the bytes travels to a GPU where they become numbers there."""
    flipped: Tensor
    """Which of them are shown left to right, bool [B]."""
    h: Tensor
    tap: Tensor

    @cached_property
    def clean(self) -> Tensor:
        """float32 [B, 3, S, S] in [-1, 1]."""
        return pixels(self.images, self.flipped)

    def noised(self, level: Tensor, noise: Tensor) -> "Batch":
        """The same images as the diffusion model is shown them."""
        return Batch(self.images, self.flipped, self.h, self.tap, level, noise)

    def each(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same images, with a change made to every tensor."""
        return type(self)(*(change(getattr(self, field.name)) for field in fields(self)))

    def to(self, device: str) -> Self:
        """The same on a device."""
        return self.each(lambda part: part.to(device, non_blocking=True))

    def pinned(self) -> Self:
        """The same in memory that a GPU reads by itself."""
        return self.each(Tensor.pin_memory)

    def split(self, most: int) -> list[Self]:
        """The same images in pieces of `most`."""
        starts = range(0, len(self.tap), most)
        return [self.each(itemgetter(slice(start, start + most))) for start in starts]


@dataclass(frozen=True)
class Batch(Pairs):
    """Some images of one training step of the diffusion model."""

    level: Tensor
    """Noise level of each image, [B], in the terms of the training's objective."""
    noise: Tensor
    """Standard normal, float32 [B, 3, S, S]."""


def pixels(images: Tensor, flipped: Tensor) -> Tensor:
    """uint8 [B, S, S, 3], bool [B] -> float32 [B, 3, S, S] in [-1, 1], on the device of both."""
    from stages.images.pixels import to_network

    numbers = to_network(images)
    return torch.where(flipped[:, None, None, None], numbers.flip(3), numbers)


HELD_BACK, HELD_BACK_SHARE = 1024, 0.1
"""Train images that the sketch is not shown, to see when it begins to know the others by heart: at most so many, and
this share."""


def held_back(data: PairedSet, seed: int) -> tuple[PairedSet, PairedSet]:
    """The images that the sketch is trained on, and those by which it is judged; the latter are none of very few."""
    count = min(HELD_BACK, int(HELD_BACK_SHARE * len(data)))
    shuffled = np.random.Generator(np.random.Philox(key=[seed, len(data)])).permutation(len(data))
    judged, shown = np.sort(shuffled[:count]), np.sort(shuffled[count:])
    return replace(data, rows=data.rows[shown]), replace(data, rows=data.rows[judged])


class Series:
    """The endless series of training images of one seed.

    `null` is the share of conditions that are dropped; `levels` makes noise levels [B] of uniform draws float64 [B].
    """

    def __init__(self, data: PairedSet, seed: int, null: float, levels: Callable[[Tensor], Tensor]) -> None:
        self.data, self.seed, self.null, self.levels = data, seed, null, levels

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
        level = self.levels(torch.from_numpy(uniform(self.seed, numbers, LEVEL)).clamp(1e-9, 1 - 1e-9))
        streams = ((self.seed, int(number)) for number in numbers)
        unit = noise.normal(streams, (3, self.data.size, self.data.size))
        return self.data.shown(rows, flipped, taps).noised(level, unit)

    def pairs(self, numbers: "NDArray[np.int64]") -> Pairs:
        """Pairs for the sketch: a series of its own, with nulls too."""
        seed = noise.mix(self.seed, 1)
        rows, flipped, taps = self.drawn(numbers, seed)
        taps = np.where(uniform(seed, numbers, DROP) < self.null, NULL, taps)
        return self.data.shown(rows, flipped, taps)


def share(numbers: "NDArray[np.int64]", rank: int, world: int) -> "NDArray[np.int64]":
    """The images of a step that fall to one rank: equal runs, as far as the batch allows."""
    return np.array_split(numbers, world)[rank]


def pieces(numbers: "NDArray[np.int64]", most: int | None) -> list["NDArray[np.int64]"]:
    """The images of one rank in micro-batches of `most` (None: all at once); the last may be smaller."""
    step = most or max(1, len(numbers))
    return [numbers[start : start + step] for start in range(0, len(numbers), step)]
