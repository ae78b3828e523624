"""A decoder small enough to train in a test, and what it trains on."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stages.datasets.sources import ScenesSource
from stages.decoder.data import PairedSet
from stages.decoder.loop import Training
from stages.decoder.network import DecoderNetwork
from stages.decoder.objective import Edm
from stages.decoder.recipe import Recipe
from stages.decoder.spec import NetworkSettings, TrainingSettings
from stages.embeddings.format import Statistics
from stages.embeddings.stage import Embeddings
from stages.encoders.spec import Oracle
from stages.listing.stage import Listing
from stages.shards.stage import Shards
from stages.training.rows import open_rows
from tests.artifacts import InlineContext, MemoryArtifact, run_stage

NETWORK = NetworkSettings(channels=(8, 12), blocks=(1, 1), width=16, sketch=(16, 24))
TRAINING = TrainingSettings(batch=8, sketch_images=96, sketch_batch=32, precision="float32")
FLOAT32 = TRAINING.model_copy(update={"optimiser": "adamw"})
"""For long trainings on other ranks than those they are compared with: Muon may round every update to bfloat16, and
weights drift apart by some 1e-4 in hundreds of steps."""


def paired_set(images: Tensor, tables: Sequence[Tensor]) -> PairedSet:
    """Images uint8 [N, S, S, 3] and, per tap, embeddings float32 [V, N, D] that are standardised already."""
    arrays = [images.numpy(), *(table.transpose(0, 1).numpy() for table in tables)]
    (pictures, *embeddings), _ = open_rows([(len(array), array.shape[1:], array.dtype) for array in arrays])
    for file, array in zip((pictures, *embeddings), arrays, strict=True):
        file.write(0, array)
    plain = [Statistics(np.zeros(w, np.float32), np.ones(w, np.float32), 1.0) for w in (t.shape[2] for t in tables)]
    return PairedSet(pictures, tuple(embeddings), tuple(plain), np.arange(len(images)))


def paired(count: int, seed: int = 0) -> PairedSet:
    """Images of one colour each, which a tap of 4 and a tap of 3 features know; float32 and uint8 as in training."""
    generator = torch.Generator().manual_seed(seed)
    colour = torch.randint(0, 256, (count, 3), generator=generator)
    images = colour[:, None, None, :].expand(-1, 8, 8, -1).to(torch.uint8)
    known = torch.cat([colour / 128.0 - 1.0, torch.zeros(count, 1)], dim=1)
    return paired_set(images.contiguous(), (known.expand(2, -1, -1), known[:, :3].expand(2, -1, -1)))


def training(
    num_images: int = 64, settings: TrainingSettings = TRAINING, seed: int = 0, rank: int = 0, world: int = 1
) -> Training:
    """A training of the small network on `paired`."""
    data, heldout = paired(100), paired(20, seed=1)
    torch.manual_seed(seed)
    network = DecoderNetwork(NETWORK, data.widths, data.size)
    objective = Edm(settings.log_sigma_mean, settings.log_sigma_std)
    context = InlineContext(rank=rank, world=world)
    return Training(network, objective, Recipe(settings, num_images, seed), data, heldout, context)


def scenes(count: int = 96) -> tuple[MemoryArtifact, MemoryArtifact]:
    """Shards of scenes and the oracle's embeddings of them."""
    source = ScenesSource(count=count, seed=3, size=16)
    listing = run_stage(Listing(source=source))
    shards = run_stage(Shards(shard_rows=32), {"listing": listing})
    return shards, run_stage(Embeddings(encoder=Oracle()), {"images": shards})
