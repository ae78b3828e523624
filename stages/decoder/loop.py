"""Trains the decoder: first the sketch by itself, then the diffusion model around it.

The parameters of each live in one flat vector, and so do their gradients: the optimiser, the moving average and the sum
over ranks are one operation each. Every rank draws the same steps (`data.py`) and computes its share of each; gradients
are summed, so that any number of ranks trains the same decoder. Position is counted in images; seconds decide nothing.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from stages.contract import Checkpoint, Context
from stages.decoder.data import PairedSet, Series, fixed_levels, share
from stages.decoder.network import Network
from stages.decoder.spec import NetworkSettings, TrainingSettings
from stages.diffusion import edm, noise

HELDOUT, LEVELS = 256, 8
"""Held-out images and noise levels of the held-out loss."""
LOOKS = 8
"""How often the held-out loss is taken."""
MEASURED = 4096
"""Train images on which the rest is measured that the sketch leaves."""


class Look(TypedDict):
    """One point of the training curve."""

    images: int
    """Seen by the diffusion model so far."""
    loss: float
    """Mean over the steps since the point before."""
    heldout: list[float]
    """Loss of the averaged weights on held-out images, per tap."""


class Flat:
    """The trainable parameters of a module as one vector; the module goes on working, on views of it."""

    def __init__(self, module: nn.Module) -> None:
        parameters = list(module.parameters())
        self.shapes = [p.shape for p in parameters]
        self.values = nn.Parameter(torch.cat([_flattened(p.detach()) for p in parameters]))
        self.gradient = torch.zeros_like(self.values)
        self.values.grad = self.gradient
        cut = zip(parameters, self._views(self.values.data), self._views(self.gradient), strict=True)
        for p, value, gradient in cut:
            p.data = value
            p.grad = gradient

    def _views(self, vector: Tensor) -> list[Tensor]:
        pieces = torch.split(vector, [shape.numel() for shape in self.shapes])
        return [_shaped(piece, shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def summed_over_ranks(self, world: int) -> None:
        """Replaces the gradient by its sum over all ranks."""
        if world > 1:
            torch.distributed.all_reduce(self.gradient)


# Convolution weights stand channels-last in the vector, which spares a copy of each in every step.
def _flattened(p: Tensor) -> Tensor:
    return (p.permute(0, 2, 3, 1) if p.ndim == 4 else p).reshape(-1)


def _shaped(piece: Tensor, shape: torch.Size) -> Tensor:
    if len(shape) == 4:
        out, inward, high, wide = shape
        return piece.view(out, high, wide, inward).permute(0, 3, 1, 2)
    return piece.view(shape)


def averaging_exponent(length: float) -> float:
    """Exponent gamma of the power-function average of the weights whose relative standard deviation is `length`.

    Karras et al. 2024 (EDM2, arXiv 2312.02696), algorithm 2: the largest root of a cubic.
    """
    t = length**-2
    return float(np.roots([1.0, 7.0, 16.0 - t, 12.0 - t]).real.max())


def rate(peak: float, done: float, warm_up: float, cool_down: float) -> float:
    """Learning rate when the share `done` of training is over: linear up, level, linear down to 0."""
    return peak * min(1.0, done / warm_up if warm_up else 1.0, (1.0 - done) / cool_down)


@dataclass(frozen=True)
class Phase:
    """Steps of one kind: `images` in batches of `batch`."""

    images: int
    batch: int

    @property
    def steps(self) -> int:
        """Number of steps."""
        return -(-self.images // self.batch)


class Training:
    """One training: network, averages, optimisers, and the step that it has reached, over both phases."""

    def __init__(
        self,
        network: NetworkSettings,
        training: TrainingSettings,
        data: PairedSet,
        heldout: PairedSet,
        num_images: int,
        seed: int,
        device: str,
    ) -> None:
        self.settings, self.data, self.heldout, self.seed, self.device = training, data, heldout, seed, device
        torch.manual_seed(seed)
        self.network = Network(network, data.widths, data.images.shape[1])
        self.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.series = Series(data, seed, training.null, training.log_sigma_mean, training.log_sigma_std)
        self.first = Phase(training.sketch_images, training.sketch_batch)
        self.second = Phase(num_images, training.batch)
        self.sketch = Flat(self.network.sketch)
        self.painter = Flat(self.network.painter)
        self.average = self.painter.values.detach().clone()
        self.optimisers = {
            "sketch": torch.optim.AdamW([self.sketch.values], betas=(0.9, 0.99), weight_decay=0.0, fused=True),
            "painter": torch.optim.AdamW([self.painter.values], betas=(0.9, 0.99), weight_decay=0.0, fused=True),
        }
        self.gamma = averaging_exponent(training.ema)
        self.halfway = self.average.clone()
        self.curve: list[Look] = []
        self.step = 0

    @property
    def steps(self) -> int:
        """Steps of both phases."""
        return self.first.steps + self.second.steps

    def advance(self, rank: int, world: int) -> float:
        """One step; returns this rank's share of the loss, so that the sum over ranks is the batch's mean."""
        if self.step < self.first.steps:
            loss = self._draw(self.step) / world
            if self.step + 1 == self.first.steps:
                if world > 1:
                    torch.distributed.broadcast(self.sketch.values.data, 0)
                self._measure_rest()
        else:
            loss = self._paint(self.step - self.first.steps, rank, world)
            if self.step + 1 == self.first.steps + (self.second.steps + 1) // 2:
                self.halfway.copy_(self.average)
        self.step += 1
        return loss

    @property
    def taps(self) -> int:
        """Number of taps."""
        return len(self.data.widths)

    @property
    def painted(self) -> int:
        """Images that the diffusion model has seen."""
        return max(0, self.step - self.first.steps) * self.second.batch

    def heldout_losses(self) -> list[float]:
        """Loss of the averaged weights per tap, on the same held-out images, noise and noise levels every time."""
        count = min(HELDOUT, len(self.heldout))
        rows, plain = np.arange(count), np.zeros(count, dtype=np.bool_)
        clean = self.heldout.pixels(rows, plain).to(self.device)
        unit = noise.normal(((self.seed, HELDOUT, row) for row in range(count)), clean.shape[1:]).to(self.device)
        levels = fixed_levels(LEVELS, self.settings.log_sigma_mean, self.settings.log_sigma_std).to(self.device)
        sigma = levels[torch.arange(count, device=self.device) % LEVELS]
        found = []
        with self.averaged(self.average), torch.no_grad(), self._autocast():
            for tap in range(len(self.heldout.widths)):
                h, taps = self.heldout.conditions(rows, plain, np.full(count, tap))
                denoised = self.network(
                    clean + sigma[:, None, None, None] * unit, sigma, h.to(self.device), taps.to(self.device)
                )
                found.append(float(edm.losses(denoised, clean, sigma, self.network.rest).mean()))
        return found

    @contextmanager
    def averaged(self, weights: Tensor) -> Iterator[None]:
        """Lends the painter other weights, a vector like `average`."""
        own = self.painter.values.detach().clone()
        self.painter.values.data.copy_(weights)
        try:
            yield
        finally:
            self.painter.values.data.copy_(own)

    def state(self) -> dict[str, bytes]:
        """The files of a checkpoint."""
        moments = {
            f"{name}.{moment}": value
            for name, optimiser in self.optimisers.items()
            for state in optimiser.state.values()
            for moment, value in state.items()
        }
        weights = {"sketch": self.sketch.values.detach(), "painter": self.painter.values.detach()}
        position = {"step": self.step, "rest": self.network.rest, "curve": self.curve}
        return {
            "model.safetensors": save(weights),
            "ema.safetensors": save({"average": self.average, "halfway": self.halfway}),
            "optimiser.safetensors": save(moments),
            "position.json": json.dumps(position).encode(),
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes back to the state of a checkpoint."""
        weights = load(checkpoint.read("model.safetensors"))
        self.sketch.values.data.copy_(weights["sketch"])
        self.painter.values.data.copy_(weights["painter"])
        averages = load(checkpoint.read("ema.safetensors"))
        self.average.copy_(averages["average"])
        self.halfway.copy_(averages["halfway"])
        for name, value in load(checkpoint.read("optimiser.safetensors")).items():
            whose, _, moment = name.partition(".")
            flat = self.sketch if whose == "sketch" else self.painter
            # The fused optimiser counts steps on the device of the weights, as it does with all its state.
            self.optimisers[whose].state[flat.values][moment] = value.to(self.device)
        position = json.loads(checkpoint.read("position.json"))
        self.step, self.network.rest, self.curve = position["step"], position["rest"], position["curve"]

    def _autocast(self) -> torch.autocast:
        device = torch.device(self.device).type
        return torch.autocast(device, torch.bfloat16, enabled=self.settings.precision == "bfloat16")

    def _draw(self, step: int) -> float:
        """A step of the sketch: plain squared error.

        Every rank computes the whole of it: summing the gradient would take longer than making it.
        """
        settings, phase = self.settings, self.first
        numbers = np.arange(step * phase.batch, (step + 1) * phase.batch)
        clean, h, tap = (part.to(self.device) for part in self.series.pairs(numbers))
        with self._autocast():
            drawn = self.network.sketch(h, tap)
        loss = (drawn - clean).square().flatten(1).mean(1).sum() / phase.batch
        self._update("sketch", self.sketch, loss, settings.sketch_learning_rate, step / phase.steps, 1)
        return float(loss.detach())

    def _paint(self, step: int, rank: int, world: int) -> float:
        """A step of the diffusion model; the sketch stays as it is."""
        settings, phase = self.settings, self.second
        numbers = np.arange(step * phase.batch, (step + 1) * phase.batch)
        batch = self.series.batch(share(numbers, rank, world)).to(self.device)
        noisy = batch.clean + batch.sigma[:, None, None, None] * batch.noise
        with self._autocast():
            with torch.no_grad():
                drawn = self.network.sketch(batch.h, batch.tap)
            denoised = self.network.denoise(noisy, batch.sigma, batch.h, batch.tap, drawn)
        each = edm.losses(denoised, batch.clean, batch.sigma, self.network.rest)
        loss = each.sum() / phase.batch
        self._update("painter", self.painter, loss, settings.learning_rate, step / phase.steps, world)
        self.average.lerp_(self.painter.values.detach(), 1.0 - (1.0 - 1.0 / (step + 1)) ** (self.gamma + 1.0))
        return float(loss.detach())

    def _update(self, name: str, flat: Flat, loss: Tensor, peak: float, done: float, world: int) -> None:
        settings = self.settings
        flat.gradient.zero_()
        torch.autograd.backward(loss)
        flat.summed_over_ranks(world)
        optimiser = self.optimisers[name]
        optimiser.param_groups[0]["lr"] = rate(peak, done, settings.warm_up, settings.cool_down)
        optimiser.step()

    @torch.no_grad()
    def _measure_rest(self) -> None:
        """Sets the second phase's sigma_data: the standard deviation of what the sketch leaves, on train images."""
        squares = []
        for start in range(0, MEASURED, 512):
            clean, h, tap = self.series.pairs(np.arange(start, start + 512))
            drawn = self.network.sketch(h.to(self.device), tap.to(self.device))
            squares.append((drawn - clean.to(self.device)).square().mean())
        self.network.rest = float(torch.stack(squares).mean().sqrt())


SKETCH_COST = 0.04
"""What an image costs the sketch, in images of the diffusion model: progress is told in the latter's."""


def fit(training: Training, context: Context, checkpoint_images: int) -> None:
    """Trains to the end, from the newest checkpoint of `context` where there is one."""
    if (checkpoint := context.checkpoints.latest()) is not None:
        training.restore(checkpoint)
    painting = training.second.steps * training.second.batch
    total = round(SKETCH_COST * training.first.images) + painting
    looks = {training.first.steps + training.second.steps * (look + 1) // LOOKS for look in range(LOOKS)}
    every = max(1, checkpoint_images // training.second.batch)
    recent: list[float] = []
    while training.step < training.steps:
        recent.append(training.advance(context.rank, context.world))
        if training.step in looks:
            loss = torch.tensor(recent, dtype=torch.float64).mean()
            if context.world > 1:
                torch.distributed.all_reduce(loss)
            # All ranks keep the curve, as any of them may go on from a checkpoint; one look is enough for all.
            heldout = torch.tensor(training.heldout_losses() if context.rank == 0 else [0.0] * training.taps)
            if context.world > 1:
                torch.distributed.broadcast(heldout, 0)
            training.curve.append({"images": training.painted, "loss": float(loss), "heldout": heldout.tolist()})
            recent.clear()
        if training.step % 20 == 0 or training.step == training.steps:
            sketched = min(min(training.step, training.first.steps) * training.first.batch, training.first.images)
            shown = round(SKETCH_COST * sketched) + training.painted
            metrics = {"loss": float(np.mean(recent[-20:] or [training.curve[-1]["loss"]]))}
            context.report(min(shown, total), total, metrics)
        if training.step % every == 0 and training.step < training.steps and context.rank == 0:
            context.checkpoints.save(training.step, training.state())
        if training.step == training.first.steps:
            recent.clear()
