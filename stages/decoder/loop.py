"""Trains the decoder: first the sketch by itself, then the diffusion model around it.

The parameters of each are one flat vector (`flat.py`). Every rank draws the same steps (`data.py`) and computes its
share of each; gradients are summed, so that any number of ranks trains the same decoder. Position is counted in images;
seconds decide nothing.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Self, TypedDict

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from stages.contract import Checkpoint, Context
from stages.decoder.averages import Averages
from stages.decoder.conditioning import NULL
from stages.decoder.data import PairedSet, Series, held_back
from stages.decoder.evaluation import Evaluation
from stages.decoder.network import Parts
from stages.decoder.objective import Objective
from stages.decoder.phases import ResidualPhase, SketchPhase, squared_error
from stages.decoder.recipe import Recipe
from stages.errors import InputError
from stages.training.loop import train
from stages.training.precision import agreed

MEASURED = 1024
"""Images on which the standard deviation of the residual is measured, at most."""
REPORT_EVERY = 20
"""Steps between two reports."""
PIECE = 1 << 27
"""Numbers in one file of a checkpoint: half a GiB, because a store takes no object above one."""
SKETCH_COST = 0.04
"""What an image costs the sketch, in images of the diffusion model: progress is reported in the latter's."""


class CurvePoint(TypedDict):
    """One point of the training curve."""

    images: int
    """Seen by the diffusion model so far."""
    loss: float
    """Mean over the steps since the point before."""
    heldout: list[float]
    """Loss of the averaged weights on held-out images, per tap."""


class Training:
    """One training over both phases: the network, its averages, and the step that it has reached.

    All ranks make theirs together, and start from the weights of the first. Raises InputError where torch.compile is
    asked for and cannot work.
    """

    def __init__(
        self,
        network: Parts,
        objective: Objective,
        recipe: Recipe,
        data: PairedSet,
        heldout: PairedSet,
        context: Context,
    ) -> None:
        settings, device = recipe.settings, context.device
        self.network, self.objective, self.recipe, self.context = network, objective, recipe, context
        self.data = data
        self.precision = agreed(settings.precision, device, context.world)
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.series = Series(data, recipe.seed, settings.null, objective.levels)
        drawn, judged = held_back(data, recipe.seed)
        sketched = Series(drawn, recipe.seed, settings.null, objective.levels)
        self.first = SketchPhase(network, recipe, sketched, judged, self.precision, context)
        self.second = ResidualPhase(network, objective, recipe, self.series, self.precision, context)
        self.averages = Averages(self.second.flat, recipe, self.second.steps)
        self.evaluation = Evaluation(network, objective, heldout, recipe, self.precision, device)
        self.curve: list[CurvePoint] = []
        self.recent: list[float] = []
        """Losses since the last point of the curve."""
        self.step = 0
        if not self.first.steps:
            self._measure_residual()
        if torch.device(device).type == "cuda" and settings.compile:
            require_compiler(device, f"{recipe.prefix}compile")
            network.compile_kernels()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Ends the threads that read batches."""
        self.first.close()
        self.second.close()

    @property
    def steps(self) -> int:
        """Steps of both phases."""
        return self.first.steps + self.second.steps

    @property
    def painted(self) -> int:
        """Images that the diffusion model has seen."""
        return max(0, self.step - self.first.steps) * self.second.batch

    @property
    def evaluated_at(self) -> set[int]:
        """The steps after which the held-out loss is evaluated."""
        count = self.recipe.evaluations
        return {self.first.steps + self.second.steps * (number + 1) // count for number in range(count)}

    def advance(self) -> Tensor:
        """One step; returns this rank's share of the loss [], so that the sum over ranks is the batch's mean."""
        if self.step < self.first.steps:
            loss = self.first.advance(self.step)
            if self.step + 1 == self.first.steps:
                self._measure_residual()
        else:
            step = self.step - self.first.steps
            loss = self.second.advance(step)
            self.averages.update(step)
        self.step += 1
        return loss

    def collect(self, losses: Sequence[Tensor]) -> None:
        """Takes in the losses of the last steps, and evaluates where it is time. All ranks call it together."""
        if self.step - len(losses) == self.first.steps:
            # Losses of the sketch are none of the diffusion model's.
            self.recent.clear()
        self.recent += self.summed(losses)
        if self.step in self.evaluated_at:
            self._evaluate(float(np.mean(self.recent)))
            self.recent.clear()

    def summed(self, losses: Sequence[Tensor]) -> list[float]:
        """The losses of the last steps, from this rank's shares of them. All ranks call it together.

        Raises InputError on all of them where a loss, or a weight after these steps, is not finite.
        """
        device = self.context.device
        found = torch.stack([*losses, *(phase.flat.values.sum().to(device) for phase in (self.first, self.second))])
        if self.context.world > 1:
            torch.distributed.all_reduce(found)
        numbers: list[float] = found.tolist()
        self._require_finite(numbers, self.step - len(losses))
        return numbers[: len(losses)]

    def heldout_losses(self) -> list[float]:
        """Held-out loss of the averaged weights per tap."""
        with self.averages.swapped_in(self.averages.current):
            return self.evaluation.losses()

    def metrics(self, taps: Sequence[str]) -> dict[str, float]:
        """What is reported: loss of the last steps, learning rate, newest held-out loss of each of the `taps`."""
        loss = float(np.mean(self.recent[-REPORT_EVERY:])) if self.recent else self.curve[-1]["loss"]
        phase = self.first if self.step <= self.first.steps else self.second
        metrics = {"loss": loss, "learning_rate": phase.adamw.rate}
        if self.curve:
            metrics |= {f"heldout/{tap}": loss for tap, loss in zip(taps, self.curve[-1]["heldout"], strict=True)}
        return metrics

    def state(self) -> dict[str, bytes]:
        """The files of a checkpoint: each vector in pieces, and where the training stands."""
        files = {
            _file(name, number): save({"values": piece})
            for name, vector in self._vectors().items()
            for number, piece in enumerate(torch.split(vector, PIECE))
        }
        updates = {"sketch": self.first.adamw.updates, "painter": self.second.adamw.updates}
        position = {"step": self.step, "rest": self.network.residual_std.tolist(), "curve": self.curve}
        position |= {"updates": updates, "least": self.first.least if math.isfinite(self.first.least) else None}
        return files | {"position.json": json.dumps(position).encode()}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes back to the state of a checkpoint."""
        position = json.loads(checkpoint.read("position.json"))
        self.step, self.curve = position["step"], position["curve"]
        self.network.residual_std.copy_(torch.tensor(position["rest"]))
        self.first.least = math.inf if position["least"] is None else position["least"]
        for name, phase in (("sketch", self.first), ("painter", self.second)):
            phase.adamw.updates = position["updates"][name]
        for name, vector in self._vectors().items():
            for number, piece in enumerate(torch.split(vector, PIECE)):
                piece.copy_(load(checkpoint.read(_file(name, number)))["values"])

    def _vectors(self) -> dict[str, Tensor]:
        """What a checkpoint holds, in place: weights, averages, and the moments of the optimisers."""
        vectors = {
            "sketch": self.first.flat.values,
            "sketch_best": self.first.best,
            "painter": self.second.flat.values,
            "average": self.averages.current,
            "halfway": self.averages.halfway,
        }
        if len(self.second.momentum):
            vectors["momentum"] = self.second.momentum
        for name, phase in (("sketch", self.first), ("painter", self.second)):
            if phase.adamw.updates:
                vectors |= {f"{name}.{moment}": vector for moment, vector in phase.adamw.moments.items()}
        return vectors

    def _evaluate(self, loss: float) -> None:
        """Puts a point on the curve; `loss` is the training loss since the last. InputError where it is not finite."""
        heldout = torch.zeros(len(self.data.widths), dtype=torch.float64)
        # All ranks keep the curve, as any of them may go on from a checkpoint; one evaluation is enough for all.
        if self.context.rank == 0:
            heldout[:] = torch.tensor(self.heldout_losses(), dtype=torch.float64)
        if self.context.world > 1:
            heldout = heldout.to(self.context.device)
            torch.distributed.all_reduce(heldout)
        self._require_finite([loss, *heldout.tolist()], self.step - 1)
        self.curve.append({"images": self.painted, "loss": loss, "heldout": heldout.tolist()})

    def _require_finite(self, numbers: Sequence[float], first: int) -> None:
        """InputError where one is not: of step `first`, of the steps after it, and of where the training stands."""
        bad = next((index for index, number in enumerate(numbers) if not math.isfinite(number)), None)
        if bad is None:
            return
        step = min(first + bad, self.step - 1)
        phase: SketchPhase | ResidualPhase = self.first
        if step >= self.first.steps:
            phase, step = self.second, step - self.first.steps
        raise InputError(
            expected="losses and weights that stay finite",
            found=f"{numbers[bad]} after {step * phase.batch} images of {phase.model}, "
            f"at {phase.setting} {getattr(self.recipe.settings, phase.setting):g}",
            remedy=f"Lower {self.recipe.prefix}{phase.setting}.",
        )

    def _measure_residual(self) -> None:
        """Sets the second phase's sigma_data: the standard deviation of each tap's residual.

        It is measured on the train images that the sketch was not shown, for those are like held-out ones.
        """
        measured = self.recipe.measured
        if not measured:
            return
        images = self.first.judged if len(self.first.judged) else self.first.series.data
        images = replace(images, rows=images.rows[:MEASURED])
        taps = [*range(len(images.widths)), *([NULL] if measured == "taps and null" else [])]
        for tap in taps:
            self.network.residual_std[tap] = squared_error(self.network, images, tap, self.context) ** 0.5


def _file(vector: str, number: int) -> str:
    return f"{vector}-{number:02d}.safetensors"


def require_compiler(device: str, setting: str) -> None:
    """Compiles a function of one line: a network is compiled when it first runs, and that is after the sketch.

    Raises InputError where torch.compile cannot work; `setting` is the name of what turns it off.
    """
    try:
        torch.compile(lambda x: x.sin() + 1.0)(torch.zeros(2, device=device))
    except Exception as error:
        # What follows in it is advice for those who develop compilers.
        message = " ".join(str(error).partition("Set TORCHDYNAMO")[0].split())
        raise InputError(
            expected="a C compiler and the headers of Python, with which torch.compile makes the U-Net's kernels",
            found=f"{type(error).__name__}: {message[:400]}",
            remedy=f"Install them (on Debian gcc and python3-dev), or set {setting} to false.",
        ) from error


def fit(training: Training, context: Context, checkpoint_images: int, taps: Sequence[str]) -> None:
    """Trains to the end, from the newest checkpoint of `context` where there is one. `taps` are their names.

    Raises RaceError where ranks see different checkpoints, and InputError where a GPU's memory is too small, or losses
    or weights do not stay finite: no such state is saved.
    """
    first, second = training.first, training.second
    total = round(SKETCH_COST * first.images) + second.steps * second.batch

    def progress() -> tuple[int, int, Mapping[str, float]]:
        drawn = min(min(training.step, first.steps) * first.batch, first.images)
        return min(round(SKETCH_COST * drawn) + training.painted, total), total, training.metrics(taps)

    with training, _errors_of_memory(training.recipe):
        train(
            training,
            context,
            report_every=REPORT_EVERY,
            save_every=max(1, checkpoint_images // second.batch),
            last_save=training.steps - 1,
            progress=progress,
            collect_at=training.evaluated_at | {first.steps},
        )


@contextmanager
def _errors_of_memory(recipe: Recipe) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        # What follows in it is advice on the allocator.
        message = str(error).partition(" If reserved")[0]
        raise InputError(
            expected="a training that fits the memory of its GPU",
            found=f"with micro_batch {recipe.settings.micro_batch or 'not set'}: {message}",
            remedy=f"Set {recipe.prefix}micro_batch, the images of one pass, lower: the training stays the same.",
        ) from error
