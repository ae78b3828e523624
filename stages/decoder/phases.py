"""The two phases of a decoder's training: the sketch by itself, then the diffusion model of its residual."""

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.contract import Context
from stages.decoder.data import Batch, PairedSet, Pairs, Series, pieces, share
from stages.decoder.flat import AdamW, Flat, Muon
from stages.decoder.network import Parts
from stages.decoder.objective import Objective
from stages.decoder.recipe import Recipe
from stages.training.precision import Precision, agreed, arithmetic, unrounded
from stages.training.prefetch import Prefetch

JUDGEMENTS = 12
"""How often the sketch is judged on images that it is not shown."""
SHOWN = 512
"""Images of one pass of the sketch."""
PREFETCHED = 2
"""Steps whose batches are read while a GPU is busy."""

Prepared = TypeVar("Prepared")


def rate(peak: float, done: float, warm_up: float, cool_down: float) -> float:
    """Learning rate when the share `done` of training is over: linear up, level, linear down to 0."""
    rising = done / warm_up if warm_up else 1.0
    return peak * min(1.0, rising, (1.0 - done) / cool_down if cool_down else 1.0)


class Phase(ABC, Generic[Prepared]):
    """Steps that train one part of the network, `flat`: `images` in batches of `batch`."""

    model: ClassVar[str]
    """What is trained, in messages."""
    setting: ClassVar[str]
    """The setting that has its highest learning rate."""

    def __init__(
        self, flat: Flat, images: int, batch: int, recipe: Recipe, precision: Precision, context: Context
    ) -> None:
        self.flat, self.images, self.batch = flat, images, batch
        self.steps = -(-images // batch)
        self.settings, self.precision, self.context = recipe.settings, precision, context
        self.adamw = AdamW(flat, recipe.betas)
        self._on_gpu = torch.device(context.device).type == "cuda"
        self._batches = Prefetch(self.prepare, self.steps, PREFETCHED if self._on_gpu else 0)
        flat.broadcast(context.world)

    @abstractmethod
    def prepare(self, step: int) -> Prepared:
        """What a step is computed from, on the CPU."""

    @abstractmethod
    def advance(self, step: int) -> Tensor:
        """Takes a step; returns this rank's share of the loss, [], so that the sum over ranks is the batch's mean."""

    def close(self) -> None:
        """Ends the threads that read batches."""
        self._batches.close()

    def learning_rate(self, step: int) -> float:
        """That of a step."""
        settings = self.settings
        return rate(getattr(settings, self.setting), step / self.steps, settings.warm_up, settings.cool_down)

    def numbers(self, step: int) -> NDArray[np.int64]:
        """Numbers of the images of a step, of all ranks: int64 [B]."""
        return np.arange(step * self.batch, (step + 1) * self.batch)


class SketchPhase(Phase[Pairs]):
    """Trains the sketch: plain squared error.

    A sketch that knows its images by heart leaves the diffusion model a residual that other images do not have. So it
    is judged on train images that it is not shown, now and then, and ends with the weights that were best there.
    """

    model, setting = "the sketch", "sketch_learning_rate"

    def __init__(
        self,
        network: Parts,
        recipe: Recipe,
        series: Series,
        judged: PairedSet,
        precision: Precision,
        context: Context,
    ) -> None:
        self.network, self.series, self.judged = network, series, judged
        images = recipe.settings.sketched(len(series.data.widths), len(series.data))
        flat = Flat(network.sketch, rates=network.shares)
        super().__init__(flat, images, recipe.settings.sketch_batch, recipe, precision, context)
        self.best, self.least = flat.values.clone(), math.inf
        """The weights that were best on `judged`, and their mean squared error there."""

    def prepare(self, step: int) -> Pairs:
        """Images and embeddings of a step, the same on all ranks."""
        pairs = self.series.pairs(self.numbers(step))
        return pairs.pinned() if self._on_gpu else pairs

    def advance(self, step: int) -> Tensor:
        """See `Phase`. Every rank computes the whole step: summing gradients would take longer."""
        pairs = self._batches.take(step).to(self.context.device)
        self.flat.gradient.zero_()
        with arithmetic(self.precision, self.context.device):
            drawn = self.network.sketch(pairs.h, pairs.tap)
        loss: Tensor = (drawn - pairs.clean).square().flatten(1).mean(1).sum() / self.batch
        torch.autograd.backward(loss)
        self.adamw.step(self.learning_rate(step))
        if step + 1 in self._judged_at:
            self._judge()
        if step + 1 == self.steps:
            if math.isfinite(self.least):
                self.flat.values.copy_(self.best)
            # Rounding may have made the weights of ranks differ.
            self.flat.broadcast(self.context.world)
        return loss.detach() / self.context.world

    @property
    def _judged_at(self) -> set[int]:
        return {-(-self.steps * number // JUDGEMENTS) for number in range(1, JUDGEMENTS + 1)}

    def _judge(self) -> None:
        if not len(self.judged):
            return
        taps = len(self.judged.widths)
        error = float(np.mean([squared_error(self.network, self.judged, tap, self.context) for tap in range(taps)]))
        if error < self.least:
            self.least = error
            self.best.copy_(self.flat.values)


@torch.no_grad()
def squared_error(network: Parts, images: PairedSet, tap: int, context: Context) -> float:
    """Mean squared error of the sketch at a tap, or of the null; every other image is flipped, where views allow it."""
    errors = []
    for start in range(0, len(images), SHOWN):
        rows = np.arange(start, min(start + SHOWN, len(images)))
        pairs = images.shown(rows, rows * (images.views - 1) % 2 == 1, np.full(len(rows), tap)).to(context.device)
        errors.append((network.sketch(pairs.h, pairs.tap) - pairs.clean).square().flatten(1).mean(1))
    return float(torch.cat(errors).mean())


class ResidualPhase(Phase[list[Batch]]):
    """Trains the diffusion model; the sketch stays as it is."""

    model, setting = "the diffusion model", "learning_rate"

    def __init__(
        self,
        network: Parts,
        objective: Objective,
        recipe: Recipe,
        series: Series,
        precision: Precision,
        context: Context,
    ) -> None:
        self.network, self.objective, self.series = network, objective, series
        settings = recipe.settings
        inner, shares = set(network.matrices), network.shares
        rates: dict[Tensor, float] = {
            p: shares.get(p, 1.0) * (1.0 if p in inner else settings.outer) for p in network.painter.parameters()
        }
        flat = Flat(network.painter, network.matrices if settings.optimiser == "muon" else (), rates)
        super().__init__(flat, recipe.num_images, settings.batch, recipe, precision, context)
        self.momentum = torch.zeros(flat.matrix_elements, device=context.device)
        self.muon = None
        if flat.matrices:
            self.muon = Muon(flat, self.momentum, agreed("bfloat16", context.device, context.world))

    def prepare(self, step: int) -> list[Batch]:
        """This rank's share of a step, in micro-batches."""
        own = share(self.numbers(step), self.context.rank, self.context.world)
        batches = [self.series.batch(piece) for piece in pieces(own, self.settings.micro_batch)]
        return [batch.pinned() for batch in batches] if self._on_gpu else batches

    def advance(self, step: int) -> Tensor:
        """See `Phase`."""
        device = self.context.device
        self.flat.gradient.zero_()
        total = torch.zeros((), device=device)
        for batch in self._batches.take(step):
            with unrounded(self.precision):
                with arithmetic(self.precision, device):
                    each = self.objective.losses(self.network, batch.to(device))
                loss = each.sum() / self.batch
                torch.autograd.backward(loss)
            total += loss.detach()
        self.flat.sum_gradient(self.context.world)
        learning_rate = self.learning_rate(step)
        self.adamw.step(learning_rate)
        if self.muon is not None:
            self.muon.step(learning_rate)
        return total
