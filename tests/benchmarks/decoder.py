"""The decoder's speed and memory: training alone and on two ranks, and painting; the published network's training step
as released against ours; peak memory by number of images.

    python -m tests.benchmarks.decoder [training] [released] [memory]

Prints; asserts nothing. CPU seconds stand beside wall seconds, because the machine may be shared.
"""

import copy
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from stages.decoder import layers
from stages.decoder.flat import AdamW, Flat
from stages.decoder.loop import Training
from stages.decoder.network import DecoderNetwork
from stages.decoder.objective import Edm
from stages.decoder.rcdm import network as adm
from stages.decoder.rcdm.spec import AdmSettings
from stages.decoder.recipe import Recipe
from stages.decoder.stage import Decoder
from stages.diffusion import noise, samplers
from stages.samples.stage import Samples
from tests.artifacts import InlineContext
from tests.stages.decoder.big import big
from tests.stages.decoder.small import paired_set

WIDTHS = (256, 128, 25)
"""Taps like the demo's: a backbone, a projector, the true attributes."""
STEPS = 20
ADM = AdmSettings(image_size=32, model_channels=64, channel_mult=(1, 2, 2), attention_resolutions=(16, 8))
"""The published architecture at a size for a CPU: 8.0 M parameters."""
ROUNDS = 5
"""How often the steps that are compared take turns."""


def training_of(stage: Decoder, rank: int = 0, world: int = 1) -> Training:
    """A training on noise, its sketch just begun: speed does not depend on what is in the pictures."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2048, stage.size, stage.size, 3), dtype=torch.uint8, generator=generator)
    data = paired_set(images, [torch.randn(2, 2048, width, generator=generator) for width in WIDTHS])
    settings = stage.training.model_copy(update={"sketch_images": STEPS * stage.training.sketch_batch})
    objective = Edm(settings.log_sigma_mean, settings.log_sigma_std)
    network = DecoderNetwork(stage.network, WIDTHS, stage.size)
    context = InlineContext(rank=rank, world=world)
    return Training(network, objective, Recipe(settings, 10**6, 0), data, data, context)


def timed(work: Callable[[], object], times: int) -> tuple[float, float]:
    """Wall and CPU seconds of one call, over `times` calls after one to warm up."""
    work()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(times):
        work()
    return (time.perf_counter() - wall) / times, (time.process_time() - cpu) / times


def training(stage: Decoder, rank: int = 0, world: int = 1) -> None:
    """A step of the sketch and a step of the diffusion model."""
    trained = training_of(stage, rank, world)
    for name, batch in (("sketch", stage.training.sketch_batch), ("diffusion", stage.training.batch)):
        wall, cpu = timed(trained.advance, STEPS - 1)
        if rank == 0:
            print(
                f"{name}, {world} x {torch.get_num_threads()} threads: {1e3 * wall:.0f} ms a step"
                f" ({1e3 * cpu:.0f} ms of CPU per rank), {batch / wall:,.0f} images/s",
                flush=True,
            )


def rank_of_two(rank: int, port: int) -> None:
    """One of two ranks with one thread each, as Ray Train runs them on two CPUs."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    training(Decoder(taps=("a:a", "b:b", "c:c")), rank, 2)
    torch.distributed.destroy_process_group()


def painting(stage: Decoder) -> None:
    """256 samples at the default settings of the samples stage."""
    trained, settings = training_of(stage), Samples()
    h, tap = torch.randn(256, max(WIDTHS)), torch.zeros(256, dtype=torch.int64)
    unit = noise.by_step([(0, row) for row in range(256)], (3, stage.size, stage.size), "cpu")
    levels = samplers.karras_sigmas(settings.steps, settings.sigma_min, settings.sigma_max, settings.rho)

    @torch.no_grad()
    def paint() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            samplers.SAMPLERS[settings.sampler](lambda x, sigma, h: trained.network(x, sigma, h, tap), unit, levels, h)

    wall, cpu = timed(paint, 2)
    evaluations = 256 * samplers.evaluations(settings.sampler, settings.steps)
    print(f"painting: {evaluations / wall:,.0f} evaluations/s ({evaluations / cpu:,.0f} per CPU second),", end=" ")
    print(f"{256 / wall:,.0f} samples/s of {settings.steps} steps", flush=True)


def where_time_goes(name: str, step: Callable[[], object]) -> None:
    """The ten dearest operations of a step."""
    step()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        step()
    total = sum(event.self_cpu_time_total for event in profiled.key_averages())
    print(f"where the time of {name} goes:")
    for event in sorted(profiled.key_averages(), key=lambda e: -e.self_cpu_time_total)[:10]:
        print(f"  {event.self_cpu_time_total / total:6.1%} {event.key}")


def released_norm(
    norm: nn.GroupNorm, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None, silu: bool = True
) -> Tensor:
    """The released code's arithmetic: the norm in float32, then one operation after another."""
    y = functional.group_norm(x.float(), norm.num_groups, norm.weight, norm.bias, norm.eps).to(x.dtype)
    if scale is not None and shift is not None:
        y = y * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    return functional.silu(y) if silu else y


def released_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The released code's arithmetic: two products with a softmax in float32 between."""
    scale = q.shape[-1] ** -0.25
    weights = torch.einsum("bhtd,bhsd->bhts", q * scale, k * scale).float().softmax(-1).to(q.dtype)
    return torch.einsum("bhts,bhsd->bhtd", weights, v)


def steps_of_adm(batch: int) -> dict[str, Callable[[], object]]:
    """One training step of the same network on the same batch in several ways; squared error of the noise."""
    generator = torch.Generator().manual_seed(0)
    x, target = (torch.randn(batch, 3, ADM.image_size, ADM.image_size, generator=generator) for _ in range(2))
    t, h = torch.randint(0, 1000, (batch,), generator=generator), torch.randn(batch, 256, generator=generator)
    network = adm.Adm(ADM, 256)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05, generator=generator)

    def loss(network: nn.Module, bfloat16: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            out = network(x, t, h)
        (out[:, :3].float() - target).square().mean().backward()

    def plain(network: nn.Module, bfloat16: bool) -> Callable[[], object]:
        optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.0)
        average = [parameter.detach().clone() for parameter in network.parameters()]

        def step() -> None:
            optimiser.zero_grad()
            with (
                mock.patch.object(layers, "group_norm", released_norm),
                mock.patch.object(adm, "attention", released_attention),
            ):
                loss(network, bfloat16)
            optimiser.step()
            for mean, parameter in zip(average, network.parameters(), strict=True):
                mean.mul_(0.9999).add_(parameter.detach(), alpha=1e-4)

        return step

    def ours(network: nn.Module) -> Callable[[], object]:
        network.to(memory_format=torch.channels_last)
        flat = Flat(network)
        average = flat.values.clone()
        optimiser = AdamW(flat, (0.9, 0.999))

        def step() -> None:
            flat.gradient.zero_()
            loss(network, True)
            optimiser.step(1e-4)
            average.lerp_(flat.values, 1e-4)

        return step

    return {
        "as released": plain(copy.deepcopy(network), False),
        "as released, bfloat16 autocast": plain(copy.deepcopy(network), True),
        "ours": ours(network),
    }


def released() -> None:
    """The published network trained as released and as here, in turns."""
    parameters = sum(parameter.numel() for parameter in adm.Adm(ADM, 256).parameters())
    for threads in (1, 2):
        torch.set_num_threads(threads)
        steps = steps_of_adm(32)
        walls: dict[str, list[float]] = {name: [] for name in steps}
        cpus: dict[str, list[float]] = {name: [] for name in steps}
        for turn in range(ROUNDS + 1):
            for name, step in steps.items():
                wall, cpu = time.perf_counter(), time.process_time()
                step()
                if turn:
                    walls[name].append(time.perf_counter() - wall)
                    cpus[name].append(time.process_time() - cpu)
        print(f"ADM, {parameters / 1e6:.1f} M parameters, 32 px, batch 32, {threads} threads, best of {ROUNDS}:")
        first = next(iter(steps))
        for name in steps:
            print(
                f"  {name}: {min(walls[name]):.2f} s a step ({min(cpus[name]):.2f} s of CPU), "
                f"{32 / min(walls[name]):.1f} images/s, {min(walls[first]) / min(walls[name]):.2f} x "
                f"({min(cpus[first]) / min(cpus[name]):.2f} x by CPU)",
                flush=True,
            )
    where_time_goes("our step", steps["ours"])


def memory() -> None:
    """Peak memory of a process that writes images of 64 px to a row file and reads each once."""
    for count in (2_048, 20_480, 102_400):
        with tempfile.TemporaryDirectory() as folder:
            big(count, Path(folder))
            command = [sys.executable, "-m", "tests.stages.decoder.read_once", folder]
            peak = int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
        print(f"{count} images of 64 px ({count * 64 * 64 * 3 / 1e6:,.0f} MB): peak {peak / 1e6:,.0f} MB", flush=True)


def our_training() -> None:
    """Training and painting of the default decoder."""
    stage = Decoder(taps=("a:a", "b:b", "c:c"))
    trained = training_of(stage)
    for name, module in (("sketch", trained.network.sketch), ("painter", trained.network.painter)):
        print(f"{name}: {sum(p.numel() for p in module.parameters()):,} parameters")
    training(stage)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=rank_of_two, args=(rank, port)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    painting(stage)
    trained.step = trained.first.steps
    where_time_goes("a step of the diffusion model", trained.advance)


PARTS = {"training": our_training, "released": released, "memory": memory}


def main(names: Sequence[str]) -> None:
    """Prints all parts, or those named."""
    print(f"{os.cpu_count()} CPUs, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    for name in names or PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
