"""Extraction at 224 px: JPEG tars to Zarr through the stage, against the bare forward loop on decoded images."""

import os
from collections.abc import Callable
from contextlib import closing
from functools import partial

import torch
import zarr  # noqa: F401 - before the clock starts: the stage imports it when it writes its first shard
from torch import nn

from stages.embeddings.table import EmbeddingState
from stages.encoders.encoder import NetworkEncoder
from stages.encoders.spec import Preprocessing
from stages.images.decode_processes import DecodeProcesses
from stages.images.framing import Framing
from stages.images.sets import Decoding, Images, open_images
from stages.training.precision import Precision
from tests.benchmarks.embeddings import PREPROCESSING, Flat, embed, photographs
from tests.benchmarks.gpu.figures import Benchmark
from tests.tars import tar_artifact


def resnet() -> nn.Module:
    """ResNet-50 without its classifier, random weights."""
    from torchvision.models import resnet50

    network = resnet50()
    network.fc = nn.Identity()
    return network.to(memory_format=torch.channels_last)  # type: ignore[no-any-return]


def vit() -> nn.Module:
    """ViT-B/16 without its classifier, random weights."""
    import timm

    return timm.create_model("vit_base_patch16_224", num_classes=0)  # type: ignore[no-any-return]


def small() -> nn.Module:
    """One convolution, for the smallest size."""
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def run(benchmark: Benchmark) -> None:
    """Writes images per second of both ways, and the batch that the stage found, for each network and precision."""
    different, times, side = (32, 160, 256) if benchmark.full else (4, 2, 40)
    jpegs = photographs(different, side, side) * times
    images = open_images(tar_artifact(jpegs, part_rows=min(1024, len(jpegs))))
    decoding(benchmark, images, (PREPROCESSING if benchmark.full else Preprocessing(size=32)).framing)
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    for build in (resnet, vit) if benchmark.full else (small,):
        for precision in precisions:
            measure(benchmark, build, precision, images)


def decoding(benchmark: Benchmark, images: Images, framing: Framing) -> None:
    """Writes images per second of decoding alone, by threads and by processes."""
    cpus = torch.get_num_threads()
    ways = [Decoding(threads, prefetch=True) for threads in sorted({1, min(4, cpus), cpus})]
    for way in (*ways, Decoding(cpus, prefetch=True, processes=DecodeProcesses(cpus))):
        with closing(way):
            work = partial(drain, images, framing, way)
            rate = min(images.count, images.part_rows) / benchmark.seconds_of(work, 0.5)
        how = "processes" if way.processes else "threads"
        benchmark.write(f"decoding JPEGs of 256 x 256, {way.threads} {how}", images_per_second=rate)


def drain(images: Images, framing: Framing, way: Decoding) -> None:
    """Decodes the first part."""
    for _ in images.stream(0, framing, 512, way):
        pass


def measure(benchmark: Benchmark, build: Callable[[], nn.Module], precision: Precision, images: Images) -> None:
    """Writes the figures of one network."""
    preprocessing = PREPROCESSING if benchmark.full else Preprocessing(size=32)
    encoder = NetworkEncoder(Flat(build().eval()), preprocessing, benchmark.device, precision)
    state = EmbeddingState.of(encoder, images, benchmark.device)
    pixels = images.decode_part(0, preprocessing.framing)[1]
    batch = state.passes.batch

    def loop() -> None:
        for first in range(0, len(pixels), batch):
            encoder.embed(pixels[first : first + batch])

    bare = len(pixels) / benchmark.seconds_of(loop, 2.0)
    benchmark.reset_memory()
    drain(images, preprocessing.framing, state.decoding)
    stage = images.count / benchmark.first_seconds(lambda: embed(state, ("plain",)))
    benchmark.write(
        f"{build.__name__}, {precision}",
        images_per_second=stage,
        bare_loop_images_per_second=bare,
        share_of_bare_loop=stage / bare,
        found_batch=batch,
        decoding_threads=state.decoding.threads,
        decoding_processes=state.decoding.processes is not None,
        cpus=os.cpu_count(),
        peak_memory_gb=benchmark.peak_gb(),
    )
    state.decoding.close()
