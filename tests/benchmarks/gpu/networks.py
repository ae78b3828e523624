"""Speed and memory of both U-Nets in training: one batch that stays on the device, and the whole loop with its data.

A rate in TFLOP/s counts the operations of convolutions and matrix products, forwards and backwards. It is given as a
share of what a large matrix product reaches on the same card, and of the card's data sheet.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.study import load
from stages.decoder.data import Batch, PairedSet
from stages.decoder.loop import Training
from stages.decoder.network import DecoderNetwork
from stages.decoder.objective import Edm
from stages.decoder.rcdm.spec import AdmSettings, AdmTraining
from stages.decoder.rcdm.train import AdmNetwork, Hybrid, published_recipe
from stages.decoder.recipe import Recipe
from stages.decoder.spec import NetworkSettings, TrainingSettings
from stages.decoder.stage import Decoder
from stages.diffusion import discrete
from stages.training.precision import Precision, arithmetic, unrounded
from tests.artifacts import InlineContext
from tests.benchmarks.gpu.card import datasheet_tflops, product_tflops
from tests.benchmarks.gpu.figures import Bench
from tests.stages.decoder.small import paired_set

WIDTHS = (512, 128)
"""Taps like those of the recipes for GPUs: a backbone and a projector."""
SKETCH_STEPS = 12
ADM64 = AdmSettings(
    image_size=64, model_channels=192, num_res_blocks=3, channel_mult=(1, 2, 3, 4), attention_resolutions=(32, 16, 8)
)
"""The published architecture at 64 px, sized as ADM's own of 64 px (Dhariwal & Nichol 2021, table 11)."""


@dataclass(frozen=True)
class Case:
    """A network to train: its name, the images of one pass, and how its training is built."""

    name: str
    size: int
    batch: int
    build: Callable[[PairedSet, str, bool], Training]


def recipe(name: str) -> Decoder:
    """The decoder of a recipe."""
    decoder = load(name).decoder
    assert isinstance(decoder, Decoder)
    return decoder


def ours(stage: Decoder, precision: Precision = "bfloat16") -> Callable[[PairedSet, str, bool], Training]:
    """Our training of a recipe's decoder, with a short sketch."""
    sketch_images = SKETCH_STEPS * stage.training.sketch_batch
    changed = {"sketch_images": sketch_images, "precision": precision}

    def build(data: PairedSet, device: str, compiled: bool) -> Training:
        settings = TrainingSettings.model_validate(stage.training.model_dump() | changed | {"compile": compiled})
        network = DecoderNetwork(stage.network, data.widths, data.size)
        objective = Edm(settings.log_sigma_mean, settings.log_sigma_std)
        return Training(network, objective, Recipe(settings, 10**8, 0), data, data, InlineContext(device=device))

    return build


def published(
    network: AdmSettings, batch: int, precision: Precision = "bfloat16"
) -> Callable[[PairedSet, str, bool], Training]:
    """The published training, in passes of a whole batch."""

    def build(data: PairedSet, device: str, compiled: bool) -> Training:
        settings = AdmTraining(batch=batch, micro_batch=None, precision=precision, compile=compiled)
        first = PairedSet(data.images, data.embeddings[:1], data.statistics[:1], data.rows)
        schedule = discrete.SCHEDULES["linear"](1000)
        own, objective = AdmNetwork(network, data.widths[0]), Hybrid(schedule.to(device))
        return Training(
            own, objective, published_recipe(settings, 10**8, 0), first, first, InlineContext(device=device)
        )

    return build


def cases(full: bool) -> list[Case]:
    """What is measured, the most important first."""
    if not full:
        small = Decoder(
            taps=("a:a", "b:b"),
            size=16,
            network=NetworkSettings(channels=(8, 16), blocks=(1, 1), width=16, sketch=(16, 16)),
            training=TrainingSettings(batch=4, sketch_batch=4),
        )
        adm = AdmSettings(image_size=16, model_channels=32, channel_mult=(1, 2), attention_resolutions=(8,))
        return [Case("published", 16, 2, published(adm, 2)), Case("ours", 16, 4, ours(small))]
    scenes, folder128, scenes64 = recipe("scenes"), recipe("folder128"), recipe("scenes64")
    return [
        Case("published, 128 px", 128, 64, published(AdmSettings(), 64)),
        Case("ours, scenes", 32, scenes.training.batch, ours(scenes)),
        Case("ours, folder128", 128, folder128.training.micro_batch or folder128.training.batch, ours(folder128)),
        Case("ours, scenes64", 64, scenes64.training.batch, ours(scenes64)),
        Case("published, 64 px", 64, 128, published(ADM64, 128)),
    ]


def images(size: int) -> PairedSet:
    """Random images and embeddings: speed does not depend on what they show."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (1024, size, size, 3), dtype=torch.uint8, generator=generator)
    return paired_set(pixels, [torch.randn(2, 1024, width, generator=generator) for width in WIDTHS])


@contextmanager
def built(case: Case, data: PairedSet, device: str, compiled: bool) -> Iterator[Training]:
    """A training. Whoever uses it does so in a function of its own: what that leaves is freed before the next."""
    # Trainings refer to themselves, so that nothing but a collection frees them.
    gc.collect()
    with case.build(data, device, compiled) as training:
        yield training


def one_pass(training: Training, batch: Batch) -> Callable[[], None]:
    """Forward and backward pass of a batch that is on the device."""
    precision = training.recipe.settings.precision

    def work() -> None:
        training.second.flat.gradient.zero_()
        with unrounded(precision):
            with arithmetic(precision, training.context.device):
                loss = training.objective.losses(training.network, batch).mean()
            torch.autograd.backward(loss)

    return work


def batch_of(training: Training, count: int) -> Batch:
    """A batch on the device."""
    return training.series.batch(np.arange(count)).to(training.context.device)


def operations(case: Case, data: PairedSet, device: str) -> float:
    """Operations of one image, forwards and backwards."""
    with built(case, data, device, False) as training:
        counter = FlopCounterMode(display=False)
        work = one_pass(training, batch_of(training, 2))
        with counter:
            work()
        return counter.get_total_flops() / 2


def measure(bench: Bench, case: Case, data: PairedSet, compiled: bool, ceiling: float, each: float) -> None:
    """Writes the figures of one network, compiled or not. `each`: operations of one image."""
    bench.reset_memory()
    with built(case, data, bench.device, compiled) as training:
        sketched = training.first.steps
        for _ in range(min(2, sketched)):
            training.advance()
        if sketched > 2:
            seconds = bench.first_seconds(lambda: [training.advance() for _ in range(2, sketched)])
            rate = (sketched - 2) * training.first.batch / seconds
            bench.write(f"{case.name}: sketch", compiled=compiled, images_per_second=rate)
        first = bench.first_seconds(training.advance)
        bench.write(f"{case.name}: first step", compiled=compiled, seconds=first)
        work = one_pass(training, batch_of(training, case.batch))
        seconds = bench.seconds_of(work, 2.0)
        tflops = each * case.batch / seconds / 1e12
        sheet = datasheet_tflops(bench.device)
        bench.write(
            f"{case.name}: one pass, batch {case.batch}",
            compiled=compiled,
            images_per_second=case.batch / seconds,
            gflop_per_image=each / 1e9,
            tflops=tflops,
            share_of_product=tflops / ceiling,
            share_of_datasheet=tflops / sheet if sheet else None,
            peak_memory_gb=bench.peak_gb(),
        )
        # Enough for the batches that are prefetched to run out, if they do.
        passes = max(6, 512 // training.second.batch) if bench.full else 1
        whole = bench.first_seconds(lambda: [training.advance() for _ in range(passes)])
        bench.write(
            f"{case.name}: whole steps of {training.second.batch}, with data and optimiser",
            compiled=compiled,
            images_per_second=passes * training.second.batch / whole,
            share_of_one_pass=passes * training.second.batch / whole / (case.batch / seconds),
            peak_memory_gb=bench.peak_gb(),
        )


def run(bench: Bench) -> None:
    """Writes every case, as it is and compiled; data alone beside it."""
    ceiling = product_tflops(bench)
    for case in cases(bench.full):
        data = images(case.size)
        each = operations(case, data, bench.device)
        for compiled in (False, True) if bench.on_gpu else (False,):
            measure(bench, case, data, compiled, ceiling, each)
        with built(case, data, bench.device, False) as training:
            prepare = partial(training.second.prepare, 0)
            rate = training.second.batch / bench.seconds_of(prepare, 0.5)
            bench.write(f"{case.name}: batches of one thread", images_per_second=rate)
