"""Speed of pretraining and of extraction, in images per second, and where the time goes. Prints; asserts nothing.

    python -m tests.benchmarks.pretraining

Figures are the best of several rounds, because the machine's speed varies; ratios are of one run. "CPU" is processor
time, which other programs on the machine change little when one thread is used (OMP_NUM_THREADS=1).
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

# The profiler complains of a missing GPU otherwise; it reads this when it is imported.
os.environ.setdefault("KINETO_LOG_LEVEL", "9")

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from stages.contract import Part
from stages.datasets.scenes import render
from stages.datasets.sources import ScenesSource
from stages.embeddings.stage import Embeddings
from stages.encoders.encoder import NetworkEncoder
from stages.encoders.network import ResNet
from stages.encoders.spec import Architecture, Untrained
from stages.listing.stage import Listing
from stages.pretrain.loop import Trainer, TrainLabels, TrainSet
from stages.pretrain.stage import Pretrain
from stages.shards.stage import Shards
from tests.artifacts import MemoryArtifact, run_stage

ROUNDS = 12


@dataclass(frozen=True)
class Best:
    """Least wall time and least processor time of some calls, seconds."""

    wall: float
    cpu: float


def best(work: Callable[[], object]) -> Best:
    """The best of `ROUNDS` calls, after one to warm up."""
    work()
    walls, cpus = [], []
    for _ in range(ROUNDS):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return Best(min(walls), min(cpus))


def pretraining() -> None:
    """A step of the default settings, where its CPU time goes, and that of each method."""
    stage = Pretrain()
    images = render(7, range(2048))[0]
    shown = TrainSet(len(images), lambda numbers: images[numbers])
    trainer = Trainer(stage, shown, "cpu")
    views = trainer.views(0)

    def forward() -> None:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            trainer.network(views)

    step, drawing, passing = best(trainer.advance), best(lambda: trainer.views(0)), best(forward)
    adapting = best(trainer.optimiser.step)
    steps = stage.num_images / stage.batch
    print(f"pretraining: {stage.batch / step.wall:,.0f} images/s (two views each), {1e3 * step.wall:.0f} ms a step")
    print(f"  {stage.num_images:,} images: {steps * step.wall:.0f} s, of CPU {steps * step.cpu:.0f} s")
    print(
        f"  CPU of augmentation {drawing.cpu / step.cpu:.0%}, of a forward pass {passing.cpu / step.cpu:.0%}, "
        f"of the optimiser {adapting.cpu / step.cpu:.1%} of a step"
    )
    labelled = replace(shown, labels=TrainLabels(torch.arange(len(images)) % 7, 7))
    for method in ("vicreg", "barlow", "supervised"):
        other = Trainer(
            Pretrain.model_validate({"method": method}), labelled if method == "supervised" else shown, "cpu"
        )
        print(f"  {method}: {best(other.advance).cpu / step.cpu:.2f} of SimCLR's CPU time")
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(3):
            trainer.advance()
    total = sum(event.self_cpu_time_total for event in profiled.key_averages())
    for event in sorted(profiled.key_averages(), key=lambda e: -e.self_cpu_time_total)[:10]:
        print(f"  {event.self_cpu_time_total / total:6.1%} {event.key}")


def extraction() -> None:
    """One tar of 1 024 PNG through the stage, against the bare forward pass on decoded images."""
    listing = run_stage(Listing(source=ScenesSource(count=1024, seed=7)))
    shards = run_stage(Shards(), {"listing": listing})
    stage = Embeddings(encoder=Untrained())
    inputs = {"images": shards}
    state = stage.setup(inputs, "cpu")
    encoder = state.encoder
    assert isinstance(encoder, NetworkEncoder)
    images = state.images.decode_part(0, encoder.preprocessing.size)[1]
    whole = best(lambda: stage.work(Part(index=0), state, inputs, MemoryArtifact()))
    decoding = best(lambda: state.images.decode_part(0, encoder.preprocessing.size))
    bare = best(lambda: [encoder.embed(images[start : start + 256]) for start in range(0, 1024, 256)])
    print(f"extraction: {1024 / whole.wall:,.0f} images/s in two views at {len(encoder.taps)} taps, PNG to Zarr")
    print(f"  CPU {1e3 * whole.cpu / 1024:.2f} ms an image; bare forward pass {1024 / bare.wall:,.0f} views/s")
    print(f"  CPU of decoding {decoding.cpu / whole.cpu:.0%}, of the forward passes {2 * bare.cpu / whole.cpu:.0%}")
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float() / 255

    def one_tap() -> None:
        backbone = encoder._network.backbone
        assert isinstance(backbone, ResNet)
        with torch.no_grad():
            backbone(pixels)

    def all_taps() -> None:
        with torch.no_grad():
            encoder._network(pixels)

    print(f"  all taps cost {best(all_taps).cpu / best(one_tap).cpu - 1:+.1%} CPU over the backbone alone")


def main() -> None:
    """Prints everything."""
    print(f"{os.cpu_count()} CPUs, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    print(f"default architecture: {Architecture()}")
    pretraining()
    extraction()


if __name__ == "__main__":
    main()
