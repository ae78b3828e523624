"""Whether the sketch knows its train images by heart: its error on them and on held-out images, by number of images.

    python -m tests.benchmarks.sketch [length …]

The backbone of an untrained network of seed 7 on scenes of seed 7, and the true attributes. A length is a number of
embeddings of each tap, or of embeddings of each train image (`12x`); `default` is what a study trains. Prints, asserts
nothing.
"""

import sys
import time
from dataclasses import replace

import numpy as np
import torch

from stages.contract import Input
from stages.datasets.sources import ScenesSource
from stages.decoder.aligning import align
from stages.decoder.data import PairedSet
from stages.decoder.loop import Training
from stages.decoder.network import DecoderNetwork
from stages.decoder.objective import Edm
from stages.decoder.phases import squared_error
from stages.decoder.recipe import Recipe
from stages.decoder.run import read_sets
from stages.decoder.stage import Decoder
from stages.embeddings.stage import Embeddings
from stages.encoders.spec import Oracle, Untrained
from stages.listing.stage import Listing
from stages.shards.stage import Shards
from tests.artifacts import InlineContext, MemoryArtifact, run_stage

COUNTS = (400, 2_000, 18_000)
TAPS = ("untrained:backbone", "oracle:attributes")
SEED, LISTED = 7, 20_480


def world() -> dict[str, MemoryArtifact]:
    """Images and embeddings, as a study of seed 7 has them."""
    source = ScenesSource(kind="scenes", count=LISTED, seed=SEED, size=32)
    shards = run_stage(Shards(), {"listing": run_stage(Listing(source=source, holdout=0.12))})
    untrained = run_stage(Embeddings(encoder=Untrained(seed=SEED)), {"images": shards})
    oracle = run_stage(Embeddings(encoder=Oracle()), {"images": shards})
    return {"shards": shards, "embeddings.untrained": untrained, "embeddings.oracle": oracle}


def sketched(train: PairedSet, heldout: PairedSet, stage: Decoder) -> None:
    """Trains a sketch and prints a line for each tap."""
    torch.manual_seed(stage.seed)
    network = DecoderNetwork(stage.network, train.widths, train.size)
    align(network, train, stage.seed)
    objective = Edm(stage.training.log_sigma_mean, stage.training.log_sigma_std)
    context, started = InlineContext(), time.perf_counter()
    with Training(network, objective, Recipe(stage.training, 32, stage.seed), train, heldout, context) as training:
        while training.step < training.first.steps:
            training.advance()
        shown = training.first.series.data
        known = replace(shown, rows=shown.rows[:2_000])
        unknown = replace(heldout, rows=heldout.rows[:2_000])
        for tap, name in enumerate(TAPS):
            inside, outside = (squared_error(network, images, tap, context) for images in (known, unknown))
            print(
                f"{len(train):6} {training.first.images:7} {name:18} {inside:.4f} {outside:.4f} "
                f"{outside / inside:6.2f} {network.residual_std[tap]:.3f} {outside**0.5:.3f}  "
                f"{time.perf_counter() - started:.0f} s",
                flush=True,
            )


def main(lengths: list[str], inputs: dict[str, Input] | None = None) -> None:
    """Every number of images by every length."""
    stage = Decoder(taps=TAPS, seed=SEED)
    train, heldout = read_sets(stage, inputs or world())
    print("images, embeddings shown, tap, error on train and held-out images, their ratio, residual std set and true")
    for count in COUNTS:
        fewer = replace(train, rows=train.rows[np.linspace(0, len(train) - 1, min(count, len(train))).astype(int)])
        for length in lengths:
            settings = stage.training
            if length != "default":
                each = int(length.removesuffix("x")) * (count if length.endswith("x") else 1)
                settings = settings.model_copy(update={"sketch_images": len(TAPS) * each})
            sketched(fewer, heldout, stage.model_copy(update={"training": settings}))


if __name__ == "__main__":
    main(sys.argv[1:] or ["60000", "default"])
