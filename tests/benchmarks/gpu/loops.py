"""Trainings compared: memory by precision and size of pass, bfloat16 beside float32, and two ranks on one GPU."""

import socket
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stages.datasets.scenes import render
from stages.decoder.data import PairedSet
from stages.decoder.loop import Training
from stages.decoder.network import DecoderNetwork
from stages.decoder.objective import Edm
from stages.decoder.rcdm.spec import AdmSettings
from stages.decoder.recipe import Recipe
from stages.decoder.spec import NetworkSettings, TrainingSettings
from stages.training.precision import Precision
from tests.artifacts import InlineContext
from tests.benchmarks.gpu.figures import Benchmark, relative
from tests.benchmarks.gpu.networks import (
    Case,
    batch_of,
    built,
    cases,
    images,
    one_pass,
    ours,
    published,
    recipe,
)
from tests.stages.decoder.small import paired, paired_set
from tests.two_ranks import PROCESSES

PRECISIONS: tuple[Precision, ...] = ("bfloat16", "float32")


def memory(benchmark: Benchmark) -> None:
    """Peak memory of one pass, forwards and backwards, by the images in it, not compiled."""
    kinds = cases(False)
    if benchmark.full:
        folder128 = recipe("folder128")
        kinds = [
            Case(f"{name}, {precision}", 128, 16, build)
            for precision in PRECISIONS
            for name, build in (
                ("ours, folder128", ours(folder128, precision)),
                ("published, 128 px", published(AdmSettings(), 16, precision)),
            )
        ]
    for case in kinds:
        memory_of(benchmark, case)


def memory_of(benchmark: Benchmark, case: Case) -> None:
    """Writes the peak of one network."""
    with built(case, images(case.size), benchmark.device, False) as training:
        held = torch.cuda.memory_allocated() / 1e9 if benchmark.on_gpu else None
        for count in (16, 128) if benchmark.full else (2,):
            benchmark.reset_memory()
            try:
                one_pass(training, batch_of(training, count))()
                peak, fits = benchmark.peak_gb(), True
            except torch.OutOfMemoryError:
                peak, fits = None, False
            benchmark.write(
                f"{case.name}, {count} images in a pass",
                fits=fits,
                peak_memory_gb=peak,
                weights_and_state_gb=held,
                gb_per_image=None if peak is None or held is None else (peak - held) / count,
            )


def scenes(size: int, count: int) -> PairedSet:
    """Drawn scenes of 32 px, enlarged, and their true attributes as the one tap, standardised."""
    pictures, values = render(11, range(count))
    # An attribute that a shape does not have is NaN there.
    table = np.nan_to_num(np.stack([column.astype(np.float32) for column in values.values()], axis=1))
    table = (table - table.mean(0)) / np.maximum(table.std(0), 1e-6)
    large = torch.from_numpy(pictures).repeat_interleave(size // 32, 1).repeat_interleave(size // 32, 2)
    return paired_set(large, [torch.from_numpy(table)[None]])


def rounding(benchmark: Benchmark) -> None:
    """The decoder of `folder128` in bfloat16 and then in float32: mean loss by images seen.

    First weights, images and noise are the same in both, so the difference is that of the arithmetic.
    """
    if benchmark.full:
        stage, size, count, window, share = recipe("folder128"), 128, 4096, 5, 0.3
    else:
        small = {"channels": (8, 16), "blocks": (1, 1), "width": 16, "sketch": (16, 16)}
        stage = recipe("folder128").model_copy(update={"network": NetworkSettings.model_validate(small)})
        stage = stage.model_copy(update={"training": stage.training.model_copy(update={"batch": 4, "micro_batch": 2})})
        size, count, window, share = 32, 64, 1, 0.0
    data = scenes(size, count)
    changed = {"sketch_images": 64 * (256 if benchmark.full else 8), "sketch_batch": 256 if benchmark.full else 8}
    stage = stage.model_copy(update={"training": stage.training.model_copy(update=changed)})
    curves: dict[Precision, list[float]] = {}
    for precision in PRECISIONS:
        case = Case("folder128", size, stage.training.batch, timed(stage.training, stage.network, precision))
        seconds = benchmark.seconds * (share if precision == "bfloat16" else 0.55 if benchmark.full else 0.0)
        most = None if precision == "bfloat16" else len(curves["bfloat16"])
        curves[precision], rate = curve(benchmark, case, data, seconds, window, most)
        benchmark.write(f"folder128 in {precision}", steps=len(curves[precision]), images_per_second=rate)
    both = min(map(len, curves.values()))
    for first in range(0, both, max(window, both // 8)):
        here = slice(first, first + max(window, both // 8))
        half, whole = (float(np.mean(curves[precision][here])) for precision in PRECISIONS)
        benchmark.write(
            f"loss up to {min(here.stop, both) * stage.training.batch} images",
            bfloat16=half,
            float32=whole,
            difference=half - whole,
        )


def curve(
    benchmark: Benchmark, case: Case, data: PairedSet, seconds: float, window: int, most: int | None
) -> tuple[list[float], float]:
    """Losses of the diffusion model's steps in so many seconds, `most` of them at most, and images per second."""
    losses: list[Tensor] = []
    with built(case, data, benchmark.device, True) as training:
        while training.step <= training.first.steps:
            training.advance()
        benchmark.wait()
        began = time.perf_counter()
        while len(losses) < window or time.perf_counter() - began < seconds:
            losses += [training.advance() for _ in range(window)]
            benchmark.wait()
            if most is not None and len(losses) >= most:
                break
        rate = len(losses) * training.second.batch / (time.perf_counter() - began)
    return torch.stack(losses).tolist(), rate


def timed(
    training: TrainingSettings, network: NetworkSettings, precision: Precision
) -> Callable[[PairedSet, str, bool], Training]:
    """A training of these settings, from the same weights each time."""

    def build(data: PairedSet, device: str, compiled: bool) -> Training:
        settings = training.model_copy(update={"precision": precision, "compile": compiled})
        torch.manual_seed(0)
        net = DecoderNetwork(network, data.widths, data.size)
        objective = Edm(settings.log_sigma_mean, settings.log_sigma_std)
        return Training(net, objective, Recipe(settings, 10**7, 0), data, data, InlineContext(device=device))

    return build


RANKED = TrainingSettings(
    batch=64, sketch_images=256, sketch_batch=64, optimiser="adamw", precision="float32", compile=False
)
STEPS = 12


def trained(device: str, full: bool, rank: int = 0, world: int = 1) -> tuple[Tensor, float]:
    """Weights of the diffusion model after a few steps, on the CPU, and images per second."""
    data = paired(256)
    torch.manual_seed(0)
    network = (
        NetworkSettings(channels=(64, 128), blocks=(1, 1)) if full else NetworkSettings(channels=(8,), blocks=(1,))
    )
    net = DecoderNetwork(network, data.widths, data.size)
    objective = Edm(RANKED.log_sigma_mean, RANKED.log_sigma_std)
    context = InlineContext(rank, world, device)
    with Training(net, objective, Recipe(RANKED, 10_000, 0), data, data, context) as training:
        while training.step <= training.first.steps:
            training.advance()
        began = time.perf_counter()
        for _ in range(STEPS):
            training.advance()
        weights = training.second.flat.values.detach().cpu()
        return weights, STEPS * RANKED.batch / (time.perf_counter() - began)


def rank_of_two(rank: int, port: int, device: str, full: bool, file: str) -> None:
    """One of two processes that share a device. NCCL refuses two ranks on one GPU; gloo takes its tensors."""
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    found = trained(device, full, rank, 2)
    torch.distributed.destroy_process_group()
    if rank == 0:
        torch.save(found, file)


def ranks(benchmark: Benchmark) -> None:
    """Two ranks on one device against one: the same weights, and what sharing a device costs."""
    alone, one = trained(benchmark.device, benchmark.full)
    file = Path(benchmark.folder) / "ranks.pt"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    given = [(rank, port, benchmark.device, benchmark.full, str(file)) for rank in range(2)]
    processes = [PROCESSES.Process(target=rank_of_two, args=each) for each in given]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    both, two = torch.load(file, weights_only=True)
    error = relative(both, alone)
    benchmark.write(
        "two ranks on one device, gloo",
        error=error,
        bound=1e-3,
        passed=bool(error <= 1e-3),
        images_per_second=two,
        one_rank_images_per_second=one,
    )
