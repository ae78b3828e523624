"""Speed of the decoder: training in ms a step and images per second, alone and on two ranks, and painting.

    python -m tests.benchmarks.decoder

Prints; asserts nothing. CPU seconds stand beside wall seconds, because the machine may be shared.
"""

import multiprocessing
import os
import socket
import time
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from stages.decoder.data import PairedSet
from stages.decoder.loop import Training
from stages.decoder.stage import Decoder
from stages.diffusion import noise, samplers
from stages.samples.stage import Samples

WIDTHS = (256, 128, 25)
"""Taps like the demo's: a backbone, a projector, the true attributes."""
STEPS = 20


def made(stage: Decoder) -> Training:
    """A training on noise, its sketch just begun: speed does not depend on what is in the pictures."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2048, stage.size, stage.size, 3), dtype=torch.uint8, generator=generator)
    data = PairedSet(images, tuple(torch.randn(2, 2048, width, generator=generator) for width in WIDTHS))
    settings = stage.training.model_copy(update={"sketch_images": STEPS * stage.training.sketch_batch})
    return Training(stage.network, settings, data, data, 10**6, 0, "cpu")


def timed(work: Callable[[], object], times: int) -> tuple[float, float]:
    """Wall and CPU seconds of one call, over `times` calls after one to warm up."""
    work()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(times):
        work()
    return (time.perf_counter() - wall) / times, (time.process_time() - cpu) / times


def training(stage: Decoder, rank: int = 0, world: int = 1) -> None:
    """A step of the sketch and a step of the diffusion model."""
    trained = made(stage)
    for name, batch in (("sketch", stage.training.sketch_batch), ("diffusion", stage.training.batch)):
        wall, cpu = timed(lambda: trained.advance(rank, world), STEPS - 1)
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
    trained, settings = made(stage), Samples()
    h, tap = torch.randn(256, max(WIDTHS)), torch.zeros(256, dtype=torch.int64)
    unit = noise.normal(((0, row) for row in range(256)), (3, stage.size, stage.size))
    levels = samplers.karras_sigmas(settings.steps, settings.sigma_min, settings.sigma_max)

    @torch.no_grad()
    def paint() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            samplers.SAMPLERS[settings.sampler](
                lambda x, sigma, h: trained.network(x, sigma, h, tap), lambda step: unit, levels, h
            )

    wall, cpu = timed(paint, 2)
    evaluations = 256 * samplers.evaluations(settings.sampler, settings.steps)
    print(f"painting: {evaluations / wall:,.0f} evaluations/s ({evaluations / cpu:,.0f} per CPU second),", end=" ")
    print(f"{256 / wall:,.0f} samples/s of {settings.steps} steps", flush=True)


def where_time_goes(stage: Decoder) -> None:
    """The ten dearest operations of a step of the diffusion model."""
    trained = made(stage)
    trained.step = trained.first.steps
    trained.advance(0, 1)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(3):
            trained.advance(0, 1)
    total = sum(event.self_cpu_time_total for event in profiled.key_averages())
    for event in sorted(profiled.key_averages(), key=lambda e: -e.self_cpu_time_total)[:10]:
        print(f"  {event.self_cpu_time_total / total:6.1%} {event.key}")


def main() -> None:
    """Prints everything."""
    stage = Decoder(taps=("a:a", "b:b", "c:c"))
    trained = made(stage)
    print(f"{os.cpu_count()} CPUs, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
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
    where_time_goes(stage)


if __name__ == "__main__":
    main()
