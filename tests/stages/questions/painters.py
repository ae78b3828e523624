"""A study in small whose samples are painted by hand: the artifacts that answers read, without a decoder.

The painter of a tap keeps some attributes of its source and draws the others anew, so what must be found is known.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from stages.contract import Input, Stage
from stages.datasets import scenes
from stages.datasets.sources import ScenesSource
from stages.embeddings.stage import Embeddings
from stages.encoders import format as encoder_format
from stages.encoders.augment import Augmentations
from stages.encoders.encoder import NetworkEncoder, probe_batch
from stages.encoders.network import initialise
from stages.encoders.spec import Architecture, EncoderSpec, Oracle, Preprocessing, Pretrained
from stages.images.sets import SAMPLES
from stages.listing.stage import Listing
from stages.listing.unseen import Combination
from stages.parquet import table_bytes
from stages.questions.asks.stage import of_group
from stages.questions.format import read_conditions
from stages.questions.painted import Painting
from stages.readers.stage import Probes, Readers
from stages.samples import format as samples_format
from stages.shards.stage import Shards
from tests.artifacts import MemoryArtifact, run_stage

SEED = 3
SIZE = 32
EVERYTHING = tuple(attribute.name for attribute in scenes.ATTRIBUTES)
SPECS: Mapping[str, EncoderSpec] = {
    "small": Pretrained(),
    "oracle": Oracle(),
}


@dataclass(frozen=True)
class World:
    """Artifacts by input name."""

    artifacts: dict[str, MemoryArtifact]

    def ask(self, stage: Stage) -> MemoryArtifact:
        """Runs an ask."""
        return run_stage(stage, self.artifacts)

    def paint(self, conditions: Input, keeps: Mapping[str, Collection[str]], per_source: int = 4) -> MemoryArtifact:
        """Samples of an ask; `keeps` says which attributes the painter of each tap takes from the source."""
        asked = read_conditions(conditions)
        rows = np.repeat([c.source_row for c in asked], per_source)
        own, other = scenes.sample(SEED, rows.tolist()), scenes.sample(SEED + 1, range(len(rows)))
        kept = {name: np.repeat([name in keeps[c.tap_id] for c in asked], per_source) for name in EVERYTHING}
        values = {name: np.where(kept[name], own[name], other[name]) for name in EVERYTHING}
        return samples(scenes.draw(values, SIZE), conditions, per_source)

    def answer(self, stage: Stage, conditions: Input, painted: MemoryArtifact, **more: Input) -> MemoryArtifact:
        """Runs an answer on the samples and their embeddings."""
        given = {"conditions": conditions, "samples": painted, "sample_embeddings.small": self.embed(painted)}
        return run_stage(stage, self.artifacts | given | more)

    def embed(self, painted: MemoryArtifact) -> MemoryArtifact:
        """Samples as the small encoder sees them."""
        given = {"images": painted, "encoder": self.artifacts["encoder.small"]}
        return run_stage(Embeddings(encoder=SPECS["small"], views=("plain",)), given)

    def answer_groups(
        self, stage: Stage, ask: Callable[[tuple[str, ...]], Stage], groups: Sequence[tuple[str, ...]], whole: Painting
    ) -> MemoryArtifact:
        """Runs an answer on tap groups, each asked about and painted by itself, with the samples of `whole`."""
        given: dict[str, Input] = {}
        for number, taps in enumerate(groups):
            conditions = self.ask(ask(taps))
            numbers = np.concatenate(
                [whole.numbers[tap].ravel() for tap in dict.fromkeys(c.tap_id for c in read_conditions(conditions))]
            )
            images = whole.images[numbers]
            painted = samples(images.reshape(-1, *images.shape[2:]), conditions, whole.per_source)
            given |= {of_group("conditions", number): conditions, of_group("samples", number): painted}
            given |= {of_group("halfway_samples", number): painted}
            given[f"{of_group('sample_embeddings', number)}.small"] = self.embed(painted)
        return run_stage(stage, self.artifacts | given)


def embedded(specs: Mapping[str, EncoderSpec] = SPECS, unseen: Sequence[Combination] = ()) -> dict[str, MemoryArtifact]:
    """300 scenes, an untrained encoder, and tables of embeddings by `specs`; `unseen` is that of the listing."""
    source = ScenesSource(kind="scenes", count=300, seed=SEED)
    listing = run_stage(Listing(source=source, holdout=0.3, unseen=tuple(unseen)))
    shards = run_stage(Shards(shard_rows=128), {"listing": listing})
    small = encoder()
    tables = {
        f"embeddings.{name}": run_stage(Embeddings(encoder=spec), {"images": shards, "encoder": small})
        for name, spec in specs.items()
    }
    return {"shards": shards, "encoder.small": small} | tables


def world() -> World:
    """The same with readers and probes, trained for a moment."""
    found = embedded()
    readers = run_stage(Readers(num_images=640, widths=(4, 8)), {"shards": found["shards"]})
    tables = {name: table for name, table in found.items() if name.startswith("embeddings.")}
    probes = run_stage(Probes(epochs=2), {"shards": found["shards"]} | tables)
    return World(found | {"readers": readers, "probes": probes})


ARCHITECTURE, PREPROCESSING = Architecture(widths=(4, 8), blocks=(1, 1), projector=(8, 4)), Preprocessing(size=16)


def encoder() -> MemoryArtifact:
    """An artifact of `pretrain` that has seen no training."""
    network = initialise(ARCHITECTURE, seed=0)
    frozen = NetworkEncoder(network, PREPROCESSING, "cpu")
    card = encoder_format.TrainedCard(
        method="none",
        architecture=ARCHITECTURE,
        preprocessing=PREPROCESSING,
        taps=frozen.taps,
        augmentations=Augmentations(),
        training={},
        quality=(),
        weights_sha256=frozen.weights_sha256,
    )
    probes = {tap: torch.from_numpy(vectors) for tap, vectors in frozen.embed(probe_batch(16)).items()}
    return MemoryArtifact(encoder_format.dump(network, card, probes))


def samples(images: NDArray[np.uint8], conditions: Input, per_source: int) -> MemoryArtifact:
    """An artifact of `samples` that holds uint8 [conditions x per_source, S, S, 3] in one shard."""
    table = samples_format.read_conditions(conditions)
    count = len(images)
    shard = samples_format.encode_shard(images, count, per_source)
    how = {"seed": 0, "sampler": "by hand", "steps": 0, "guidance": 1.0}
    rows = samples_format.samples_of(table, -(-count // table.num_rows), how, "0" * 8).slice(0, count)
    return MemoryArtifact(
        {
            samples_format.shard_name(0): shard,
            **samples_format.metadata(rows, images.shape[1], count, per_source, {}),
            SAMPLES: table_bytes(rows),
        }
    )
