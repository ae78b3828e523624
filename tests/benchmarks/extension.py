"""What an extension costs and reaches, against a full training that had the new tap in its group.

    python -m tests.benchmarks.extension [IMAGES]

On scenes of seed 7: a SimCLR and a VICReg encoder are trained for a moment; then a decoder of SimCLR's ends and the
true attributes on IMAGES images; then, for a layer of SimCLR's projector and for VICReg's backbone, an extension of
that decoder by the tap, and a decoder of equal length with the tap in its group. Prints CPU seconds, the mean
reciprocal rank of the sources at the new tap for both, and the paired difference over sources. With 24 000 images it
takes about a quarter of an hour of one core. Asserts nothing.
"""

import sys
import time

import numpy as np
import torch

from stages.contract import Stage
from stages.datasets.sources import ScenesSource
from stages.decoder.extension.stage import Extension
from stages.decoder.spec import TrainingSettings
from stages.decoder.stage import Decoder
from stages.embeddings.stage import Embeddings
from stages.encoders.spec import Oracle, Pretrained
from stages.listing.stage import Listing
from stages.pretrain.stage import Pretrain
from stages.questions.asks.stage import Sources
from stages.questions.faithfulness.stage import Faithfulness
from stages.questions.format import RANKS, load_ranks
from stages.readers import score
from stages.readers.score import Floats, Interval
from stages.samples.stage import Samples
from stages.shards.stage import Shards
from tests.artifacts import MemoryArtifact, run_stage

SEED = 7
SCENES = 12_288
SOURCES, PER_SOURCE = 1024, 4
PRETRAINED = 30_000
OWN = ("simclr:backbone", "simclr:projector", "oracle:attributes")
NEW = ("simclr:projector.0", "vicreg:backbone")

Artifacts = dict[str, MemoryArtifact]


def timed(stage: Stage, inputs: Artifacts) -> tuple[MemoryArtifact, float]:
    """A stage's artifact and the CPU seconds that it took."""
    start = time.process_time()
    artifact = run_stage(stage, inputs)
    return artifact, time.process_time() - start


def world() -> tuple[Artifacts, Artifacts]:
    """Shards and embeddings by input name, and encoders by theirs."""
    listing = run_stage(Listing(source=ScenesSource(count=SCENES, seed=SEED)))
    shards = run_stage(Shards(), {"listing": listing})
    encoders = {
        method: run_stage(Pretrain(method=method, seed=SEED, num_images=PRETRAINED), {"shards": shards})
        for method in ("simclr", "vicreg")
    }
    tables = {
        f"embeddings.{name}": run_stage(Embeddings(encoder=Pretrained()), {"images": shards, "encoder": encoder})
        for name, encoder in encoders.items()
    }
    tables["embeddings.oracle"] = run_stage(Embeddings(encoder=Oracle()), {"images": shards})
    return {"shards": shards} | tables, encoders


def reciprocal_ranks(tap_id: str, decoder: MemoryArtifact, given: Artifacts, encoders: Artifacts) -> Floats:
    """Mean reciprocal rank of each source at a tap, float64 [N]."""
    name = tap_id.split(":")[0]
    conditions = run_stage(Sources(taps=(tap_id,), count=SOURCES), given | {f"encoder.{name}": encoders[name]})
    samples = run_stage(Samples(per_source=PER_SOURCE), {"conditions": conditions, "decoder": decoder})
    seen = run_stage(Embeddings(encoder=Pretrained(), views=("plain",)), {"images": samples, "encoder": encoders[name]})
    painted = {"conditions": conditions, "samples": samples, f"sample_embeddings.{name}": seen}
    answer = run_stage(Faithfulness(), given | painted)
    found = next(ranked for ranked in load_ranks(answer.objects[RANKS]) if ranked.subject == "samples")
    return np.asarray((1.0 / found.ranks).mean(axis=1))


def mean(values: Floats) -> Interval:
    """With its 95 % interval over sources."""
    return score.interval(score.mean(values), len(values), SEED)


def main() -> None:
    """Trains, measures, prints."""
    images = int(sys.argv[1]) if len(sys.argv) > 1 else 24_000
    torch.set_num_threads(1)
    given, encoders = world()
    settings = TrainingSettings(sketch_images=4 * images)
    base = Decoder(taps=OWN, seed=SEED, num_images=images, training=settings)
    decoder, seconds = timed(base, given)
    print(f"decoder of {len(OWN)} taps, {images:,} images: {seconds:.0f} s of CPU", flush=True)
    for tap_id in NEW:
        extended, short = timed(Extension(taps=(tap_id,), seed=SEED), given | {"decoder": decoder})
        whole, long = timed(base.model_copy(update={"taps": (*OWN, tap_id)}), given)
        taught, trained = (reciprocal_ranks(tap_id, artifact, given, encoders) for artifact in (extended, whole))
        gap = mean(taught - trained)
        print(
            f"{tap_id}: extension {short:.0f} s of CPU, {short / long:.1%} of the {long:.0f} s of a full training; "
            f"MRR {mean(taught).value:.3f} and {mean(trained).value:.3f}, "
            f"difference {gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}] over {len(taught)} sources",
            flush=True,
        )


if __name__ == "__main__":
    main()
