"""Batches and decoding threads change the speed of a worker and nothing else."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stages.contract import Part
from stages.embeddings.pace import LIMIT, Passes, choose_batch, choose_decoding, grow
from stages.embeddings.stage import Embeddings
from stages.embeddings.table import EmbeddingState
from stages.encoders.encoder import Encoder, NetworkEncoder, Vectors
from stages.encoders.load import load
from stages.encoders.spec import Preprocessing, Untrained
from stages.errors import InputError
from stages.images.framing import Framing
from stages.images.pixels import encode_png
from stages.images.sets import Decoding, open_images
from tests.artifacts import MemoryArtifact
from tests.stages.encoders.small import IMAGES, SMALL
from tests.tars import tar_artifact

ROOT = Path(__file__).parents[3]
SPEC = Untrained(architecture=SMALL)


class Mean(Encoder):
    """Mean colour of images of `size`; a pass holds `room` images."""

    def __init__(self, size: int = 32, room: int = 1_000_000) -> None:
        self.preprocessing = Preprocessing(size=size)
        self.taps = {"mean": 3}
        self.weights_sha256 = "0" * 64
        self.room = room
        self.seen: list[int] = []

    def embed(self, images: NDArray[np.uint8]) -> Vectors:
        if len(images) > self.room:
            raise torch.OutOfMemoryError("no room")
        self.seen.append(len(images))
        return {"mean": images.mean(axis=(1, 2), dtype=np.float32)}


def embedded(decoding: Decoding, batch: int) -> dict[str, bytes]:
    """What a worker writes of two tars."""
    stage = Embeddings(encoder=SPEC, batch=batch)
    images = tar_artifact([encode_png(image) for image in np.concatenate([IMAGES] * 5)], part_rows=32, ending="png")
    loaded = EmbeddingState.load(SPEC, {"images": images}, "cpu", batch)
    state = EmbeddingState(loaded.encoder, loaded.fingerprint, loaded.images, loaded.train, loaded.passes, decoding)
    out = MemoryArtifact()
    for part in range(2):
        stage.work(Part(index=part), state, {"images": images}, out)
    return out.objects


def test_whoever_decodes_the_bytes_are_the_same() -> None:
    expected = embedded(Decoding(), 12)
    assert len(expected) == 2 * 2 * 3
    assert embedded(Decoding(2), 12) == embedded(Decoding(3, prefetch=True), 12) == expected


def test_a_batch_too_large_for_the_device_is_split_and_the_next_ones_are_smaller() -> None:
    encoder = Mean(room=20)
    passes = Passes(encoder, 64)
    images = np.concatenate([IMAGES] * 10)
    np.testing.assert_array_equal(passes.embed(images)["mean"], Mean().embed(images)["mean"])
    assert encoder.seen == [16] * 5
    assert passes.batch == 16
    with pytest.raises(torch.OutOfMemoryError):
        Passes(Mean(room=0), 64).embed(images)


@pytest.mark.parametrize(
    ("rate", "room", "found"),
    [
        (lambda batch: batch, 10_000, LIMIT),  # images per second grow with the batch without end
        (lambda batch: min(batch, 200), 10_000, 256),  # until 200
        (lambda batch: 100, 10_000, 16),  # not at all
        (lambda batch: batch, 100, 64),  # memory ends it
        (lambda batch: batch, 5, 4),  # not even the smallest fits
    ],
)
def test_a_batch_grows_until_memory_or_speed_stops(rate: Callable[[int], float], room: int, found: int) -> None:
    def seconds(batch: int) -> float:
        if batch > room:
            raise torch.OutOfMemoryError("no room")
        return batch / rate(batch)

    assert grow(seconds) == found


def test_no_batch_is_found_where_one_image_does_not_fit() -> None:
    def seconds(batch: int) -> float:
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError):
        grow(seconds)


@pytest.mark.parametrize(("size", "batch"), [(16, 128), (32, 128), (64, 128), (96, 64), (224, 16), (2000, 16)])
def test_a_batch_on_a_cpu_holds_about_a_million_pixels(size: int, batch: int) -> None:
    encoder = Mean(size)
    assert choose_batch(encoder, "cpu") == batch
    assert encoder.seen == []


def test_a_batch_on_a_gpu_is_found_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Mean(8, room=40)
    assert choose_batch(encoder, "cuda:0") in (16, 32)
    assert encoder.seen[:2] == [16, 16]


@pytest.mark.parametrize(
    ("device", "cpus", "decoding"),
    [
        ("cpu", 1, Decoding(0)),
        ("cpu", 4, Decoding(4)),
        ("cuda:0", 1, Decoding(1, prefetch=True)),
        ("cuda:0", 8, Decoding(1, prefetch=True)),
    ],
)
def test_a_worker_decodes_with_its_own_cpus(
    device: str, cpus: int, decoding: Decoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: cpus)
    # So few images that one thread is enough for a GPU.
    images = open_images(tar_artifact([encode_png(image) for image in IMAGES], part_rows=8, ending="png"))
    assert choose_decoding(images, Framing(32), device) == decoding


def test_the_batch_of_a_study_is_taken_as_it_is() -> None:
    images = tar_artifact([encode_png(image) for image in IMAGES], part_rows=8, ending="png")
    state = Embeddings(encoder=SPEC, batch=3).setup({"images": images}, "cpu")
    assert state.passes.batch == 3
    assert Embeddings(encoder=SPEC).setup({"images": images}, "cpu").passes.batch == 128


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_is_refused_by_row_and_tap(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    embed = NetworkEncoder.embed

    def broken(self: NetworkEncoder, images: NDArray[np.uint8]) -> Vectors:
        found = embed(self, images)
        found["projector.0"][len(images) // 2, 3] = value
        return found

    images = tar_artifact([encode_png(image) for image in IMAGES], part_rows=8, ending="png")
    stage = Embeddings(encoder=SPEC)
    state = stage.setup({"images": images}, "cpu")
    monkeypatch.setattr(NetworkEncoder, "embed", broken)
    out = MemoryArtifact()
    with pytest.raises(InputError, match=r"finite embeddings at tap projector\.0; found NaN or infinity in row 4"):
        stage.work(Part(index=0), state, {"images": images}, out)
    assert out.objects == {}


def test_a_tap_that_an_encoder_leaves_out_is_never_taken_for_missing_images() -> None:
    encoder = load(SPEC, {}, "cpu")
    images = tar_artifact([encode_png(image) for image in IMAGES], part_rows=8, ending="png")
    state = EmbeddingState.of(encoder, open_images(images), "cpu")
    encoder.taps["more"] = 4
    with pytest.raises(AssertionError, match="more"):
        Embeddings(encoder=SPEC).work(Part(index=0), state, {"images": images}, MemoryArtifact())


FAULTS = """
import resource, sys, torch
from stages.embeddings.pace import keep_memory

keep_memory(sys.argv[1])
faults = []
for _ in range(12):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(2**24).fill_(1.0)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""
"""Prints how many pages a block of 64 MiB asks the system for, after others of its size.

The first ones may find a small block between theirs and the end of the heap, and then each takes new memory. The holes
that they leave soon hold all small blocks.
"""


def test_on_a_cpu_a_pass_writes_to_the_memory_of_the_one_before_and_a_gpus_worker_is_left_as_it_is() -> None:
    pages = {}
    for device in ("cpu", "cuda"):
        done = subprocess.run(
            [sys.executable, "-c", FAULTS, device], cwd=ROOT, check=True, capture_output=True, text=True
        )
        pages[device] = int(done.stdout)
    # The machine may give pages of 2 MiB.
    assert pages["cpu"] < 20 < 32 <= pages["cuda"]
