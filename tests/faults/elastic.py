"""A decoder whose training waits for the machines to change, and the study that it stands in."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pipeline.step import Step
from stages.contract import Checkpoints, Context, Inputs, Output, Summary, Unkeyed
from stages.datasets.sources import ScenesSource
from stages.decoder.stage import Decoder
from stages.embeddings.stage import Embeddings
from stages.encoders.spec import Oracle
from stages.listing.stage import Listing
from stages.shards.stage import Shards
from tests.stages.decoder.small import FLOAT32, NETWORK

LEFT_AT = {1: 300, 2: 620}
"""Where a group of so many ranks waits for its machines to change: some images after a checkpoint."""


@dataclass
class Waiting:
    """A context whose report waits, once it has come so far, until the rank is ended."""

    inner: Context
    folder: Path

    def __post_init__(self) -> None:
        self.rank, self.world, self.device = self.inner.rank, self.inner.world, self.inner.device
        self.checkpoints: Checkpoints = self.inner.checkpoints

    def report(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """Writes down how many ranks have come how far."""
        self.inner.report(done, total, metrics)
        if self.rank != 0:
            return
        with (self.folder / "reports").open("a") as file:
            file.write(f"{self.world} {done}\n")
        grown = (self.folder / "2").exists()
        if done >= LEFT_AT[self.world] and not (self.world == 1 and grown):
            (self.folder / str(self.world)).touch()
            while True:
                time.sleep(0.1)


class Watched(Decoder):
    """A decoder whose training waits."""

    folder: Annotated[str, Unkeyed("when, not what")]

    def train(self, context: Context, inputs: Inputs, out: Output) -> Summary:
        return super().train(Waiting(context, Path(self.folder)), inputs, out)


FIELDS: dict[str, Any] = {
    "taps": ("oracle:attributes",),
    "size": 16,
    "num_images": 960,
    "network": NETWORK,
    "training": FLOAT32,
    "checkpoint_images": 80,
}


def graph(decoder: Decoder) -> list[Step]:
    """A decoder and what it reads."""
    return [
        Step("listing", Listing(source=ScenesSource(count=64, seed=3, size=16))),
        Step("shards", Shards(shard_rows=32), {"listing": "listing"}),
        Step("embeddings", Embeddings(encoder=Oracle()), {"images": "shards"}),
        Step("decoder", decoder, {"shards": "shards", "embeddings.oracle": "embeddings"}),
    ]
