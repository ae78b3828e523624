"""Small images, a small stored encoder and an index with truth, for the tests of three rooms."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from stages import attributes
from stages.attributes import Attribute
from stages.encoders import format
from stages.encoders.augment import Augmentations
from stages.encoders.encoder import NetworkEncoder, probe_batch
from stages.encoders.network import EncoderNetwork, initialise
from stages.encoders.spec import Architecture, Preprocessing
from tests.artifacts import MemoryArtifact

SMALL = Architecture(widths=(8, 16), blocks=(1, 1), projector=(12, 6))
IMAGES = np.random.Generator(np.random.Philox(key=[1, 2])).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)


def stored_encoder(seed: int = 0) -> tuple[MemoryArtifact, EncoderNetwork]:
    """An artifact as the `pretrain` stage writes it, and its network."""
    network = initialise(SMALL, seed).eval()
    encoder = NetworkEncoder(network, Preprocessing(), "cpu")
    card = format.TrainedCard(
        method="simclr",
        architecture=SMALL,
        preprocessing=Preprocessing(),
        taps=encoder.taps,
        augmentations=Augmentations(),
        training={"seed": seed},
        quality=(),
        weights_sha256=encoder.weights_sha256,
    )
    probes = {tap: torch.from_numpy(v) for tap, v in encoder.embed(probe_batch(32)).items()}
    return MemoryArtifact(format.dump(network, card, probes), key="e" * 64), network


def count_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by the batch size with each forward pass of any network."""
    calls: list[int] = []
    forward = EncoderNetwork.forward

    def counted(self: EncoderNetwork, x: torch.Tensor) -> dict[str, torch.Tensor]:
        calls.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(EncoderNetwork, "forward", counted)
    return calls


def index() -> MemoryArtifact:
    """What an oracle reads of two images: a class, a position and an angle; the second image's angle is undefined."""
    known = [
        Attribute(name="kind", kind="class", classes=("a", "b", "c")),
        Attribute(name="x", kind="scalar", mirror="complement"),
        Attribute(name="angle", kind="circle", mirror="negate"),
    ]
    table = pa.table(
        {
            "attribute.kind": [0.0, 2.0],
            "attribute.x": [0.25, 0.5],
            "attribute.angle": [0.25, float("nan")],
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return MemoryArtifact({"attributes.json": attributes.dump(known), "index.parquet": buffer.getvalue()})
