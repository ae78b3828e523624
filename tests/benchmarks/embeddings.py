"""Extraction at scale: against the bare forward loop, against a DataLoader, over 2 000 and 200 000 images, by taps.

    python -m tests.benchmarks.embeddings [loop] [loader] [memory] [taps]

Prints; asserts nothing. What is compared is measured in turns, so that the machine's moods meet both, and medians are
given: wall time, and CPU time of the process and its children, which other programs on the machine change less. Run it
with OMP_NUM_THREADS=1 too: that is a worker of one CPU, as parts are run on Ray.
"""

import io
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from stages.contract import Part
from stages.datasets.scenes import render
from stages.embeddings.pace import keep_memory
from stages.embeddings.stage import Embeddings
from stages.embeddings.table import EmbeddingState
from stages.encoders.encoder import NetworkEncoder
from stages.encoders.network import initialise
from stages.encoders.spec import Architecture, Preprocessing, Untrained
from stages.images.pixels import encode_png
from stages.images.sets import INDEX, Decoding, open_images
from stages.shards.format import shard_name
from tests.artifacts import FolderArtifact, MemoryArtifact
from tests.tars import index_of, tar_artifact

ROUNDS = 5
TINY = Architecture(widths=(8, 16), blocks=(1, 1), projector=(12, 6))
PREPROCESSING = Preprocessing(size=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


class Flat(nn.Module):
    """A network of one output as a network of one tap."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised images [B, 3, H, W] -> tap -> [B, D]."""
        return {"backbone": self.network(x)}


def photographs(count: int, width: int, height: int) -> list[bytes]:
    """JPEGs of `width` x `height` with the detail of photographs: scenes in many sizes over each other, and grain."""
    encoded = []
    for number in range(count):
        generator = np.random.Generator(np.random.Philox(key=[11, number]))
        picture = np.zeros((height, width, 3))
        for octave in range(2, 9):
            coarse = generator.integers(0, 256, (2**octave, 2**octave, 3), dtype=np.uint8)
            shares = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
            picture += np.asarray(shares, dtype=np.float64) * 0.6**octave
        picture = 255 * (picture - picture.min()) / np.ptp(picture) + generator.normal(0, 4, picture.shape)
        buffer = io.BytesIO()
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
        encoded.append(buffer.getvalue())
    return encoded


def cpu_seconds() -> float:
    """CPU time of this process and of its children."""
    times = [process.cpu_times() for process in (psutil.Process(), *psutil.Process().children())]
    return float(sum(entry.user + entry.system for entry in times))


def in_turns(works: Mapping[str, Callable[[], object]], images: int, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Prints the median milliseconds per image of each work, all done `rounds` times in turns; gives CPU seconds.

    Every work is done once before, unmeasured: what is started or planned then is paid for once, however many images.
    """
    walls: dict[str, list[float]] = {name: [] for name in works}
    cpus: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(rounds):
        for name, work in works.items():
            wall, cpu = time.perf_counter(), cpu_seconds()
            work()
            walls[name].append(time.perf_counter() - wall)
            cpus[name].append(cpu_seconds() - cpu)
    for name in works:
        wall, cpu = (1e3 * statistics.median(times[name]) / images for times in (walls, cpus))
        print(f"  {name:<44} {wall:8.3f} ms wall, {cpu:8.3f} ms CPU an image")
    first, *others = works
    for name in others:
        ratios = [statistics.median(x / y for x, y in zip(t[first], t[name], strict=True)) for t in (walls, cpus)]
        print(f"  {name}: {ratios[0]:.2f} of the speed of {first} by wall, {ratios[1]:.2f} by CPU")
    return cpus


def embed(state: EmbeddingState, views: tuple[str, ...]) -> None:
    """All parts through the stage, into memory."""
    stage = Embeddings(encoder=Untrained(), views=views)
    out = MemoryArtifact()
    for part in range(state.images.parts):
        stage.work(Part(index=part), state, {}, out)


def against_the_loop() -> None:
    """ResNet-50 at 224 pixels: the stage from JPEG tars to Zarr, against the forward loop on decoded images.

    Both keep the memory of their passes, as a worker of the stage does.
    """
    keep_memory("cpu")
    from torchvision.models import resnet50

    network = resnet50()
    network.fc = nn.Identity()
    encoder = NetworkEncoder(Flat(network.eval().to(memory_format=torch.channels_last)), PREPROCESSING, "cpu")
    count = 32
    images = open_images(tar_artifact(photographs(count, 256, 256), part_rows=count))
    state = EmbeddingState.of(encoder, images, "cpu")
    pixels = images.decode_part(0, encoder.preprocessing.framing)[1]
    batch = state.passes.batch
    print(f"ResNet-50 at 224 px, {count} JPEGs of 256 x 256, batches of {batch}, plain view")
    in_turns(
        {
            "the bare loop on decoded images": lambda: [
                encoder.embed(pixels[first : first + batch]) for first in range(0, count, batch)
            ],
            "the stage from JPEG tars to Zarr": lambda: embed(state, ("plain",)),
        },
        count,
        rounds=9,
    )


class Files(torch.utils.data.Dataset[Tensor]):
    """JPEG files of a folder as torchvision's users read them: framed, in [0, 1], normalised."""

    def __init__(self, folder: Path, size: int) -> None:
        from torchvision import transforms

        self.paths = sorted(folder.glob("*.jpg"))
        self.transform = transforms.Compose(
            [
                transforms.Resize(size, interpolation=transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(size),
                transforms.ToTensor(),
                transforms.Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Tensor:
        with Image.open(self.paths[row]) as image:
            tensor: Tensor = self.transform(image.convert("RGB"))
            return tensor


def script(loader: torch.utils.data.DataLoader[Tensor], network: nn.Module, folder: Path) -> None:
    """What one would write without us: a forward loop over a DataLoader with two workers, a .npy file for each tap."""
    found: dict[str, list[NDArray[np.float32]]] = {}
    with torch.no_grad():
        for batch in loader:
            for tap, vectors in network(batch).items():
                found.setdefault(tap, []).append(vectors.numpy())
    for tap, pieces in found.items():
        np.save(folder / f"{tap}.npy", np.concatenate(pieces))


def against_a_loader() -> None:
    """A small encoder on JPEG tars, against `script` on the same JPEGs as files. Both give plain views of all taps.

    The stage runs as it does on Ray with two CPUs: in two processes of one thread. They stay, as the loader's do.
    """
    small_encoder(count=512, width=500, height=375, size=64)
    small_encoder(count=512, width=500, height=375, size=64, scaled=True)
    small_encoder(count=2048, width=96, height=96, size=64)
    small_encoder(count=4096, width=32, height=32, size=32)


def small_encoder(count: int, width: int, height: int, size: int, scaled: bool = False) -> None:
    """`count` JPEGs of `width` x `height` for an encoder of `size` pixels; `scaled` as the shards may say."""
    different = photographs(min(count, 256), width, height)
    encoded = [different[row % len(different)] for row in range(count)]
    network = initialise(TINY, 0).eval()
    encoder = NetworkEncoder(network, Preprocessing(size=size), "cpu")
    images = open_images(tar_artifact(encoded, part_rows=count // 8, scaled=scaled))
    state = replace(EmbeddingState.of(encoder, images, "cpu"), decoding=Decoding())
    kilobytes = sum(map(len, encoded)) / count / 1e3
    how = "decode: scaled" if scaled else "decode: exact"
    print(f"small encoder at {size} px, {count} JPEGs of {width} x {height} ({kilobytes:.0f} kB each), {how}")
    processes = multiprocessing.get_context("fork").Pool(2, take, (state,))
    with tempfile.TemporaryDirectory() as folder, processes as pool:
        for row, data in enumerate(encoded):
            Path(folder, f"{row:06d}.jpg").write_bytes(data)
        files = Files(Path(folder), size)
        loader = torch.utils.data.DataLoader(files, batch_size=256, num_workers=2, persistent_workers=True)
        works = {
            "DataLoader and np.save": lambda: script(loader, network, Path(folder)),
            "two workers from JPEG tars to Zarr": lambda: pool.map(embed_taken, range(images.parts), chunksize=1),
        }
        in_turns(works, count)


TAKEN: list[EmbeddingState] = []
"""What a process of the pool works with."""


def take(state: EmbeddingState) -> None:
    """The first thing in such a process."""
    torch.set_num_threads(1)
    TAKEN[:] = [state]


def embed_taken(part: int) -> None:
    """One part, into memory."""
    Embeddings(encoder=Untrained(), views=("plain",)).work(Part(index=part), TAKEN[0], {}, MemoryArtifact())


def memory() -> None:
    """Peak memory of embedding 2 000 and 200 000 images, each in a process of its own."""
    print("peak memory of a worker that embeds PNGs of 32 x 32 in tars of 1 024, all taps, both views")
    peaks = []
    for count in (2_000, 200_000):
        with tempfile.TemporaryDirectory() as folder:
            write_many(Path(folder), count)
            command = [sys.executable, "-m", "tests.benchmarks.embeddings", "worker", folder]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            peaks.append(float(done.stdout))
            print(f"  {count:7,} images: {peaks[-1]:.0f} MiB")
    print(f"  {peaks[1] / peaks[0] - 1:+.1%} for a hundred times as many")


def write_many(folder: Path, count: int, part_rows: int = 1024) -> None:
    """Shards of `count` images, all tars but the last alike."""
    one = [encode_png(image) for image in render(7, range(part_rows))[0]]
    artifact = FolderArtifact(folder)
    whole, last = divmod(count, part_rows)
    first = tar_artifact(one, part_rows, "png")
    tar = first.read(shard_name(0))
    offsets = open_images(first).table(["offset"]).column("offset").to_pylist()
    for part in range(whole + (last > 0)):
        artifact.put(shard_name(part), tar)
    images = [one[row % part_rows] for row in range(count)]
    artifact.put(INDEX, index_of(images, [offsets[row % part_rows] for row in range(count)], part_rows, "png"))


def worker(folder: Path) -> None:
    """Embeds the shards in `folder`, merges, and prints the peak memory in MiB."""
    stage = Embeddings(encoder=Untrained(architecture=TINY))
    inputs = {"images": FolderArtifact(folder)}
    out = FolderArtifact(folder / "embeddings")
    parts = stage.split(inputs)
    state = stage.setup(inputs, "cpu")
    stage.merge([stage.work(part, state, inputs, out) for part in parts], inputs, out)
    # `getrusage` would count what the process that started this one held.
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def by_taps() -> None:
    """A ResNet-50 with a projector of three layers: all four taps in one pass against the backbone alone."""
    from torchvision.models import resnet50

    class Projected(nn.Module):
        """ResNet-50 under SimCLR's projector, read at `backbone` alone or everywhere."""

        def __init__(self, everywhere: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.network = resnet50()
            self.network.fc = nn.Identity()
            self.layers = nn.ModuleList([nn.Linear(2048, 2048), nn.Linear(2048, 2048), nn.Linear(2048, 128)])
            self.everywhere = everywhere

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            h = self.network(x)
            taps = {"backbone": h}
            if self.everywhere:
                for number, layer in enumerate(self.layers):
                    h = torch.relu(layer(h))
                    taps[f"projector.{number}"] = h
            return taps

    count = 32
    images = open_images(tar_artifact(photographs(count, 128, 128), part_rows=count))
    preprocessing = PREPROCESSING.model_copy(update={"size": 128})
    states = {
        name: EmbeddingState.of(
            NetworkEncoder(Projected(everywhere).eval().to(memory_format=torch.channels_last), preprocessing, "cpu"),
            images,
            "cpu",
        )
        for name, everywhere in (("one tap", False), ("four taps in one pass", True))
    }
    print(f"ResNet-50 at 128 px with three layers of 2048, 2048 and 128 on top, {count} JPEGs, from tars to Zarr")
    works = {name: (lambda state=state: embed(state, ("plain",))) for name, state in states.items()}
    cpus = in_turns(works, count)
    one, four = (statistics.median(times) for times in cpus.values())
    print(f"  four taps cost {four / one - 1:+.1%} CPU over one")


def main(names: list[str]) -> None:
    """Runs the benchmarks that are named, or all."""
    if names[:1] == ["worker"]:
        worker(Path(names[1]))
        return
    print(f"{os.cpu_count()} CPUs, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    works = {"loop": against_the_loop, "loader": against_a_loader, "memory": memory, "taps": by_taps}
    for name in names or works:
        works[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
