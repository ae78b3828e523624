"""Trains the decoder: first the sketch by itself, then the diffusion model around it.

The parameters of each are one flat vector (`flat.py`). Every rank draws the same steps (`data.py`) and computes its
share of each; gradients are summed, so that any number of ranks trains the same decoder. Position is counted in images;
seconds decide nothing.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Self, TypedDict

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from stages.contract import Checkpoint, Context
from stages.decoder.data import Batch, PairedSet, Pairs, Series, pieces, share
from stages.decoder.flat import AdamW, Flat, Muon
from stages.decoder.network import Parts
from stages.decoder.objective import Objective
from stages.decoder.spec import TrainingSettings
from stages.diffusion import noise
from stages.errors import InputError
from stages.training.precision import agreed, arithmetic, computed, unrounded
from stages.training.prefetch import Ahead
from stages.training.ranks import newest_checkpoint

HELDOUT, LEVELS = 256, 8
"""Held-out images and noise levels of the held-out loss."""
MEASURED = 4096
"""Train images on which the rest is measured that the sketch leaves."""
TOLD = 20
"""Steps between two reports."""
AHEAD = 2
"""Steps whose batches are made while a GPU is busy."""


PIECE = 1 << 27
"""Numbers in one file of a checkpoint: half a GiB, because a store takes no object above one."""


class Look(TypedDict):
    """One point of the training curve."""

    images: int
    """Seen by the diffusion model so far."""
    loss: float
    """Mean over the steps since the point before."""
    heldout: list[float]
    """Loss of the averaged weights on held-out images, per tap."""


def _piece(name: str, number: int) -> str:
    return f"{name}-{number:02d}.safetensors"


def _named(optimiser: str, moments: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{optimiser}.{name}": moment for name, moment in moments.items()}


def averaging_exponent(length: float) -> float:
    """Exponent gamma of the power-function average of the weights whose relative standard deviation is `length`.

    Karras et al. 2024 (EDM2, arXiv 2312.02696), algorithm 2: the largest root of a cubic.
    """
    t = length**-2
    return float(np.roots([1.0, 7.0, 16.0 - t, 12.0 - t]).real.max())


def rate(peak: float, done: float, warm_up: float, cool_down: float) -> float:
    """Learning rate when the share `done` of training is over: linear up, level, linear down to 0."""
    rising = done / warm_up if warm_up else 1.0
    return peak * min(1.0, rising, (1.0 - done) / cool_down if cool_down else 1.0)


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

    betas: ClassVar[tuple[float, float]] = (0.9, 0.99)
    """Of AdamW."""
    looks: ClassVar[int] = 8
    """How often the held-out loss is taken."""
    within: ClassVar[str] = "training."
    """What a study writes before the names of the settings."""

    def __init__(
        self,
        network: Parts,
        objective: Objective,
        training: TrainingSettings,
        data: PairedSet,
        heldout: PairedSet,
        num_images: int,
        seed: int,
        device: str = "cpu",
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.network, self.objective, self.settings = network, objective, training
        self.data, self.heldout, self.seed = data, heldout, seed
        self.device, self.rank, self.world = device, rank, world
        self.precision = computed(training.precision, device)
        self.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.series = Series(data, seed, training.null, objective.levels)
        self.first = Phase(training.sketched(len(data.widths)), training.sketch_batch)
        self.second = Phase(num_images, training.batch)
        self.sketch = Flat(self.network.sketch, rates=network.shares)
        self.painter = Flat(
            self.network.painter, network.matrices if training.optimiser == "muon" else (), self._painter_rates()
        )
        self.average = self.painter.values.clone()
        self.optimisers = {name: AdamW(flat, self.betas) for name, flat in self._flats.items()}
        self.momentum = torch.zeros(self.painter.ahead, device=device)
        self.orthogonal = Muon(self.painter, self.momentum) if self.painter.matrices else None
        if self.orthogonal is not None:
            self.orthogonal.precision = computed("bfloat16", device)
        self.gamma = averaging_exponent(training.ema)
        self.halfway = self.average.clone()
        self.curve: list[Look] = []
        self.step = 0
        if not self.first.steps:
            self.measure_rest()
        on_gpu = torch.device(device).type == "cuda"
        self._pairs = Ahead(self._paired, self.first.steps, AHEAD if on_gpu else 0)
        self._batches = Ahead(self._batched, self.second.steps, AHEAD if on_gpu else 0)
        if on_gpu and training.compile:
            require_compiler(device, f"{self.within}compile")
            self.network.compile_kernels()

    @property
    def steps(self) -> int:
        """Steps of both phases."""
        return self.first.steps + self.second.steps

    def advance(self) -> Tensor:
        """One step; returns this rank's share of the loss [], so that the sum over ranks is the batch's mean."""
        if self.step < self.first.steps:
            loss = self._draw(self.step) / self.world
            if self.step + 1 == self.first.steps:
                if self.world > 1:
                    torch.distributed.broadcast(self.sketch.values, 0)
                self.measure_rest()
        else:
            loss = self._paint(self.step - self.first.steps)
            if self.step + 1 == self.first.steps + (self.second.steps + 1) // 2:
                self.halfway.copy_(self.average)
        self.step += 1
        return loss

    def agree(self) -> None:
        """All ranks start from the weights of the first, whatever rounding has made of theirs."""
        if self.world > 1:
            for flat in self._flats.values():
                torch.distributed.broadcast(flat.values, 0)
            self.average.copy_(self.painter.values)
            self.halfway.copy_(self.average)

    def agree_on_precision(self) -> None:
        """All ranks compute in one precision, whatever each would be fastest in: see `agreed`."""
        self.precision = agreed(self.settings.precision, self.device, self.world)
        if self.orthogonal is not None:
            self.orthogonal.precision = agreed("bfloat16", self.device, self.world)

    def told(self, losses: Sequence[Tensor]) -> list[float]:
        """The losses of the last steps over all ranks, of this rank's shares of them. All ranks call it together.

        Raises InputError on all of them where a loss, or a weight after these steps, is not finite.
        """
        found = torch.stack([*losses, *(flat.values.sum().to(self.device) for flat in self._flats.values())])
        if self.world > 1:
            torch.distributed.all_reduce(found)
        numbers: list[float] = found.tolist()
        self._require_finite(numbers, self.step - len(losses))
        return numbers[: len(losses)]

    def look(self, loss: float) -> None:
        """Puts a point on the curve; `loss` is the training loss since the last. InputError where it is not finite."""
        heldout = torch.zeros(self.taps, dtype=torch.float64)
        # All ranks keep the curve, as any of them may go on from a checkpoint; one look is enough for all.
        if self.rank == 0:
            heldout[:] = torch.tensor(self.heldout_losses(), dtype=torch.float64)
        if self.world > 1:
            heldout = heldout.to(self.device)
            torch.distributed.all_reduce(heldout)
        self._require_finite([loss, *heldout.tolist()], self.step - 1)
        self.curve.append({"images": self.painted, "loss": loss, "heldout": heldout.tolist()})

    def _require_finite(self, numbers: Sequence[float], first: int) -> None:
        """InputError where one is not: of step `first`, of the steps after it, and of where the training stands."""
        bad = next((place for place, number in enumerate(numbers) if not math.isfinite(number)), None)
        if bad is None:
            return
        step = min(first + bad, self.step - 1)
        sketching = step < self.first.steps
        name, what = ("sketch_learning_rate", "the sketch") if sketching else ("learning_rate", "the diffusion model")
        shown = step * self.first.batch if sketching else (step - self.first.steps) * self.second.batch
        raise InputError(
            expected="losses and weights that stay finite",
            found=f"{numbers[bad]} after {shown} images of {what}, at {name} {getattr(self.settings, name):g}",
            remedy=f"Lower {self.within}{name}.",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Ends the threads that make batches."""
        self._pairs.close()
        self._batches.close()

    @property
    def learning_rate(self) -> float:
        """That of the last step."""
        name = "sketch" if self.step <= self.first.steps else "painter"
        return self.optimisers[name].rate

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
        unit = noise.normal(((self.seed, HELDOUT, row) for row in range(count)), (3, *[self.heldout.size] * 2))
        # Equal steps of the distribution of noise levels, one after the other.
        level = self.objective.levels((torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS)
        level = level[torch.arange(count) % LEVELS]
        found = []
        with self.averaged(self.average), torch.no_grad(), arithmetic(self.precision, self.device):
            for tap in range(self.taps):
                shown = self.heldout.shown(rows, plain, np.full(count, tap)).noised(level, unit)
                losses = [
                    self.objective.losses(self.network, batch.to(self.device))
                    for batch in shown.split(self.settings.micro_batch or count)
                ]
                found.append(float(torch.cat(losses).mean()))
        return found

    @contextmanager
    def averaged(self, weights: Tensor) -> Iterator[None]:
        """Lends the painter other weights, a vector like `average`."""
        own = self.painter.values.clone()
        self.painter.values.copy_(weights)
        try:
            yield
        finally:
            self.painter.values.copy_(own)

    def state(self) -> dict[str, bytes]:
        """The files of a checkpoint: each vector in pieces, and where the training stands."""
        vectors = self._vectors()
        for name, optimiser in self.optimisers.items():
            if optimiser.updates:
                vectors |= _named(name, optimiser.moments)
        files = {
            _piece(name, number): save({"values": piece})
            for name, vector in vectors.items()
            for number, piece in enumerate(torch.split(vector, PIECE))
        }
        updates = {name: optimiser.updates for name, optimiser in self.optimisers.items()}
        position = {"step": self.step, "rest": self.network.rest, "curve": self.curve, "updates": updates}
        return files | {"position.json": json.dumps(position).encode()}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes back to the state of a checkpoint."""

        def read_into(name: str, vector: Tensor) -> None:
            for number, piece in enumerate(torch.split(vector, PIECE)):
                piece.copy_(load(checkpoint.read(_piece(name, number)))["values"])

        position = json.loads(checkpoint.read("position.json"))
        self.step, self.network.rest, self.curve = position["step"], position["rest"], position["curve"]
        vectors = self._vectors()
        for name, optimiser in self.optimisers.items():
            optimiser.updates = position["updates"][name]
            if optimiser.updates:
                vectors |= _named(name, optimiser.moments)
        for name, vector in vectors.items():
            read_into(name, vector)

    @property
    def _flats(self) -> dict[str, Flat]:
        return {"sketch": self.sketch, "painter": self.painter}

    def _vectors(self) -> dict[str, Tensor]:
        """All weights, averages and the momentum of matrices included, in place."""
        weights = {name: flat.values for name, flat in self._flats.items()}
        averages = {"average": self.average, "halfway": self.halfway}
        return weights | averages | ({"momentum": self.momentum} if len(self.momentum) else {})

    def _draw(self, step: int) -> Tensor:
        """A step of the sketch: plain squared error.

        Every rank computes the whole of it: summing the gradient would take longer than making it.
        """
        settings, phase = self.settings, self.first
        pairs = self._pairs.take(step).to(self.device)
        self.sketch.gradient.zero_()
        with arithmetic(self.precision, self.device):
            drawn = self.network.sketch(pairs.h, pairs.tap)
        loss: Tensor = (drawn - pairs.clean).square().flatten(1).mean(1).sum() / phase.batch
        torch.autograd.backward(loss)
        self._update("sketch", settings.sketch_learning_rate, step / phase.steps)
        return loss.detach()

    def _paint(self, step: int) -> Tensor:
        """A step of the diffusion model; the sketch stays as it is."""
        settings, phase = self.settings, self.second
        self.painter.gradient.zero_()
        total = torch.zeros((), device=self.device)
        for batch in self._batches.take(step):
            with unrounded(self.precision):
                with arithmetic(self.precision, self.device):
                    each = self.objective.losses(self.network, batch.to(self.device))
                loss = each.sum() / phase.batch
                torch.autograd.backward(loss)
            total += loss.detach()
        self.painter.summed_over_ranks(self.world)
        self._update("painter", settings.learning_rate, step / phase.steps)
        self.average.lerp_(self.painter.values, self.share_in_average(step))
        return total

    def share_in_average(self, step: int) -> float:
        """Share of the average of the weights that those after a step of the diffusion model take, 0 first."""
        return float(1.0 - (1.0 - 1.0 / (step + 1)) ** (self.gamma + 1.0))

    def _update(self, name: str, peak: float, done: float) -> None:
        now = rate(peak, done, self.settings.warm_up, self.settings.cool_down)
        self.optimisers[name].step(now)
        if name == "painter" and self.orthogonal is not None:
            self.orthogonal.step(now)

    def _painter_rates(self) -> dict[Tensor, float]:
        """What the painter's parameters take of the learning rate."""
        inner, shares = set(self.network.matrices), self.network.shares
        return {
            p: shares.get(p, 1.0) * (1.0 if p in inner else self.settings.outer)
            for p in self.network.painter.parameters()
        }

    def _paired(self, step: int) -> Pairs:
        """The batch of a step of the sketch."""
        made = self.series.pairs(np.arange(step * self.first.batch, (step + 1) * self.first.batch))
        return made.pinned() if self.device.startswith("cuda") else made

    def _batched(self, step: int) -> list[Batch]:
        """This rank's share of a step of the diffusion model, in micro-batches."""
        numbers = np.arange(step * self.second.batch, (step + 1) * self.second.batch)
        own = pieces(share(numbers, self.rank, self.world), self.settings.micro_batch)
        made = [self.series.batch(piece) for piece in own]
        return [batch.pinned() for batch in made] if self.device.startswith("cuda") else made

    @torch.no_grad()
    def measure_rest(self) -> None:
        """Sets the second phase's sigma_data: the standard deviation of what the sketch leaves, on train images."""
        squares = []
        for start in range(0, MEASURED, 512):
            pairs = self.series.pairs(np.arange(start, start + 512)).to(self.device)
            squares.append((self.network.sketch(pairs.h, pairs.tap) - pairs.clean).square().mean())
        self.network.rest = float(torch.stack(squares).mean().sqrt())


def require_compiler(device: str, setting: str) -> None:
    """Compiles a function of one line: a network is compiled when it first runs, and that is after the sketch.

    Raises InputError where torch.compile cannot work; `setting` is the name of what turns it off.
    """
    try:
        torch.compile(lambda x: x.sin() + 1.0)(torch.zeros(2, device=device))
    except Exception as error:
        # What follows in it is advice for those who develop compilers.
        told = " ".join(str(error).partition("Set TORCHDYNAMO")[0].split())
        raise InputError(
            expected="a C compiler and the headers of Python, with which torch.compile makes the U-Net's kernels",
            found=f"{type(error).__name__}: {told[:400]}",
            remedy=f"Install them (on Debian gcc and python3-dev), or set {setting} to false.",
        ) from error


SKETCH_COST = 0.04
"""What an image costs the sketch, in images of the diffusion model: progress is told in the latter's."""


def fit(training: Training, context: Context, checkpoint_images: int, taps: Sequence[str]) -> None:
    """Trains to the end, from the newest checkpoint of `context` where there is one. `taps` are their names.

    Raises RaceError where ranks see different checkpoints, and InputError where a GPU's memory is too small, or losses
    or weights do not stay finite: no such state is saved.
    """
    training.agree_on_precision()
    if (checkpoint := newest_checkpoint(context)) is not None:
        training.restore(checkpoint)
    painting = training.second.steps * training.second.batch
    total = round(SKETCH_COST * training.first.images) + painting
    looks = {
        training.first.steps + training.second.steps * (look + 1) // training.looks for look in range(training.looks)
    }
    every = max(1, checkpoint_images // training.second.batch)
    fresh: list[Tensor] = []
    recent: list[float] = []
    with training, _within_memory(training):
        while training.step < training.steps:
            fresh.append(training.advance())
            telling = training.step % TOLD == 0 or training.step == training.steps
            saving = training.step % every == 0 and training.step < training.steps
            sketched = training.step == training.first.steps
            if telling or saving or sketched or training.step in looks:
                # Only now: asking a GPU for a number waits for all that it has to do.
                recent += training.told(fresh)
                fresh.clear()
            if training.step in looks:
                training.look(float(np.mean(recent)))
                recent.clear()
            if telling:
                drawn = min(min(training.step, training.first.steps) * training.first.batch, training.first.images)
                shown = round(SKETCH_COST * drawn) + training.painted
                context.report(min(shown, total), total, _metrics(training, recent, taps))
            if saving and context.rank == 0:
                context.checkpoints.save(training.step, training.state())
            if sketched:
                recent.clear()
    if context.rank == 0:
        # Files of two trainings make no decoder: who has to write them a second time starts from here.
        context.checkpoints.save(training.step, training.state())


@contextmanager
def _within_memory(training: Training) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        # What follows in it is advice on the allocator.
        told = str(error).partition(" If reserved")[0]
        raise InputError(
            expected="a training that fits the memory of its GPU",
            found=f"with micro_batch {training.settings.micro_batch or 'not set'}: {told}",
            remedy=f"Set {training.within}micro_batch, the images of one pass, lower: the training stays the same.",
        ) from error


def _metrics(training: Training, recent: Sequence[float], taps: Sequence[str]) -> dict[str, float]:
    """What is told of a training: loss of the last steps, learning rate, newest held-out losses."""
    loss = float(np.mean(recent[-TOLD:])) if recent else training.curve[-1]["loss"]
    metrics = {"loss": loss, "learning_rate": training.learning_rate}
    if training.curve:
        metrics |= {f"heldout/{tap}": loss for tap, loss in zip(taps, training.curve[-1]["heldout"], strict=True)}
    return metrics
