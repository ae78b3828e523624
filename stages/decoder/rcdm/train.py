"""What the `rcdm` step does: trains an ADM U-Net as the published one was, on one tap, and writes the decoder."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from stages.contract import Context, Inputs, Output, Summary
from stages.decoder.card import CARD, Snapshot, still_falling
from stages.decoder.data import Batch, PairedSet
from stages.decoder.layers import GroupNorm
from stages.decoder.loop import Training, fit
from stages.decoder.network import Parts
from stages.decoder.rcdm.format import AdmCard, pieces
from stages.decoder.rcdm.network import Adm
from stages.decoder.rcdm.spec import AdmSettings, AdmTraining
from stages.decoder.recipe import Recipe
from stages.decoder.run import curve_of, read_sets, summary_of
from stages.decoder.spec import TrainingSettings
from stages.diffusion import discrete
from stages.embeddings.format import Statistics
from stages.errors import FormatError
from stages.training import provenance

if TYPE_CHECKING:
    from stages.decoder.rcdm.stage import Rcdm


class AdmNetwork(Parts):
    """An ADM U-Net as the painter, and no sketch."""

    def __init__(self, settings: AdmSettings, embedding: int) -> None:
        super().__init__()
        self.sketch = nn.Module()
        self.painter = Adm(settings, embedding)
        self.residual_std = torch.ones(2)

    def compile_kernels(self) -> None:
        """Those of the norms. The whole network takes minutes, and convolutions are the same library's either way."""
        for module in self.painter.modules():
            if isinstance(module, GroupNorm):
                module.fused = True


@dataclass(frozen=True)
class Hybrid:
    """The error of the estimated noise and the variational bound, at steps drawn uniformly (`stages.diffusion`)."""

    schedule: discrete.Schedule

    def levels(self, draws: Tensor) -> Tensor:
        """Steps, int64 [B]."""
        return (draws * len(self.schedule)).long().clamp(max=len(self.schedule) - 1)

    def losses(self, network: Parts, batch: Batch) -> Tensor:
        """See `Objective`."""
        x = discrete.q_sample(self.schedule, batch.clean, batch.level, batch.noise)
        output = network.painter(x, batch.level, batch.h)
        return discrete.losses(self.schedule, output, batch.clean, x, batch.level, batch.noise).hybrid


def published_recipe(settings: AdmTraining, num_images: int, seed: int) -> Recipe:
    """AdamW with its usual moments at one learning rate, a moving average of constant length, and no sketch."""
    loop = TrainingSettings(
        batch=settings.batch,
        optimiser="adamw",
        learning_rate=settings.learning_rate,
        outer=1.0,
        warm_up=0.0,
        cool_down=0.0,
        null=0.0,
        sketch_images=0,
        precision=settings.precision,
        micro_batch=settings.micro_batch,
        compile=settings.compile,
    )
    return Recipe(loop, num_images, seed, betas=(0.9, 0.999), ema_decay=settings.ema_decay, measured="")


def run(stage: "Rcdm", context: Context, inputs: Inputs, out: Output) -> Summary:
    """Trains on the train images of `shards`; rank 0 writes the decoder's files."""
    train, heldout = (as_they_are(found) for found in read_sets(stage, inputs, context.rank, context.world))
    torch.manual_seed(stage.seed)
    network = AdmNetwork(stage.network, train.widths[0])
    schedule = discrete.SCHEDULES[stage.schedule](stage.steps)
    recipe = published_recipe(stage.training, stage.num_images, stage.seed)
    training = Training(network, Hybrid(schedule.to(context.device)), recipe, train, heldout, context)
    fit(training, context, stage.checkpoint_images, stage.taps)
    curve = curve_of(training, stage.taps)
    card = AdmCard(
        taps={stage.taps[0]: train.widths[0]},
        size=stage.size,
        network=stage.network,
        schedule=stage.schedule,
        steps=stage.steps,
        precision=stage.training.precision,
        weights={},
        training=stage.training,
        seed=stage.seed,
        num_images=training.painted,
        train_images=len(train),
        curve=curve,
        still_falling=still_falling(curve),
        finished=provenance.today(),
        versions=provenance.versions(),
    )
    if context.rank == 0:
        card = write(training, card, out)
    return summary_of(card)


def write(training: Training, card: AdmCard, out: Output) -> AdmCard:
    """Writes both snapshots and the card; returns the card that is in the store."""
    weights: dict[Snapshot, tuple[str, ...]] = {}
    snapshots: tuple[tuple[Snapshot, str, Tensor], ...] = (
        ("final", "decoder", training.averages.current),
        ("halfway", "halfway", training.averages.halfway),
    )
    for snapshot, name, vector in snapshots:
        names = []
        with training.averages.swapped_in(vector):
            for file, data in pieces(training.network.painter.state_dict(), name):
                out.put(file, data, _same_as(data))
                names.append(file)
        weights[snapshot] = tuple(names)
    whole = card.model_copy(update={"weights": weights})
    return AdmCard.model_validate_json(out.put(CARD, whole.model_dump_json(indent=1).encode()))


def _same_as(data: bytes) -> Callable[[bytes], None]:
    def check(stored: bytes) -> None:
        if stored != data:
            raise FormatError(
                expected="the weights of one training in all files",
                found="a file of another attempt, with other weights",
                remedy="Run again with --force decoder.",
            )

    return check


def as_they_are(found: PairedSet) -> PairedSet:
    """The same set, whose embeddings are not standardised."""
    plain = tuple(
        Statistics(np.zeros(width, np.float32), np.ones(width, np.float32), rms=1.0) for width in found.widths
    )
    return replace(found, statistics=plain)
