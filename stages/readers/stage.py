"""The stages `readers` (attributes from pixels) and `probes` (from embeddings), trained on train images only."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, PositiveFloat, PositiveInt

from stages.contract import Added, Context, Estimate, Gang, Inputs, Output, Part, Stage, Summary

if TYPE_CHECKING:
    from stages.readers.data import Labelled

EMBEDDINGS = "embeddings."
"""Inputs that hold tables of embeddings are named `embeddings.<encoder>`."""


class Readers(Gang):
    """Trains a small network that reads the dataset's attributes from pixels; pixel attributes need none.

    Input: `shards`. Writes `readers.safetensors` and `readers.json` (see `stages.readers.format`).
    """

    name: ClassVar[str] = "readers"
    version: ClassVar[int] = 2
    bitwise: ClassVar[bool] = False
    max_ranks: ClassVar[int | None] = 1

    size: PositiveInt = 32
    """Side at which images are read, pixels. Samples and sources of another size are resized to it, also where the
    decoder paints larger ones. Train images at this size are held in memory."""
    widths: Annotated[tuple[PositiveInt, ...], Field(min_length=2)] = (24, 48, 96, 128)
    """Channels of each resolution."""
    num_images: PositiveInt = 64_000
    """Length of the training, in images."""
    batch: Annotated[int, Field(ge=2)] = 64
    """Images per step."""
    learning_rate: PositiveFloat = 4e-3
    """Peak learning rate."""
    limit: PositiveInt = 50_000
    """Train images that it is fitted to, and held-out images that it is scored on, at most."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the initial weights and the order of the images."""

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Measured at 32 px."""
        seconds = self.num_images * 9e-4 * (max(self.size, 32) / 32) ** 0.5
        seconds += 4 + upstream["shards"].rows * 3e-4
        return Estimate(rows=1, size_bytes=4_000_000, cpu_seconds=seconds, precision="bfloat16")

    def train(self, context: Context, inputs: Inputs, out: Output) -> Summary:
        """Trains, scores on held-out images and writes; the summary holds the scores."""
        import numpy as np

        from stages.readers import network
        from stages.readers.data import (
            labelled,
            labelled_rows,
            pixel_attributes,
            rows_of,
            table_attributes,
            unseen_rows,
        )
        from stages.readers.format import ReaderCard, Score, dump
        from stages.readers.score import quality
        from stages.readers.targets import Targets

        shards = inputs["shards"]
        taught = np.union1d(rows_of(shards, "train"), unseen_rows(shards)[0])
        train = labelled_rows(shards, taught, self.size, self.limit, self.seed)
        heldout = labelled(shards, "heldout", self.size, self.limit, self.seed)
        targets = Targets.of(table_attributes(shards), train.values)
        pixel_only = pixel_attributes(shards)
        net = None
        scores = {a.name: Score(value=1.0, measure="by definition", n=len(heldout.rows)) for a in pixel_only}
        if targets.attributes:
            net = network.build(self.size, self.widths, targets.width, self.seed)
            network.fit(
                net,
                targets,
                train.images,
                train.values,
                num_images=self.num_images,
                batch=self.batch,
                learning_rate=self.learning_rate,
                seed=self.seed,
                device=context.device,
                report=lambda done, loss: context.report(done, self.num_images, {"loss": loss}),
            )
            found = network.read(net, targets, heldout.images, self.size)
            for a in targets.attributes:
                value, n = quality(a, found[a.name], heldout.values[a.name])
                scores[a.name] = Score(value=value, measure="balanced accuracy" if a.kind == "class" else "R2", n=n)
        card = ReaderCard(
            size=self.size,
            widths=self.widths,
            network=targets.attributes,
            scaling=dict(targets.scaling),
            pixel=tuple(pixel_only),
            scores=scores,
        )
        for name, data in dump(card, net).items():
            out.put(name, data)
        return {"scores": {a: round(s.value, 4) for a, s in scores.items() if s.measure != "by definition"}}


class Probes(Stage):
    """Reads every attribute from every tap by a small network, one part per encoder.

    Inputs: `shards`, and `embeddings.<encoder>` for each encoder. Writes `probes.parquet`: encoder, tap, attribute,
    score, low, high (the scale of `kept`, on held-out images), n, floor, floor_low, floor_high: the same with the
    held-out embeddings shuffled, and point, probe, control (see `stages.readers.probe.Probe`).
    """

    name: ClassVar[str] = "probes"
    version: ClassVar[int] = 2
    bitwise: ClassVar[bool] = False

    size: PositiveInt = 32
    """Side of the images whose pixel attributes are read, pixels: that of the readers."""
    epochs: PositiveInt = 16
    """At most; training stops earlier where nothing gets better."""
    limit: PositiveInt = 20_000
    """Train images that probes are fitted to, and held-out images that they are scored on, at most."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the initial weights and the order of the rows."""
    references: Annotated[tuple[str, ...], Added(when_absent=())] = ()
    """Taps of reference encoders, as `encoder:tap`, whose readings are attributes too; a study fills in those of kept.
    Each has its table of embeddings as input `reference.<encoder>`."""

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Measured on encoders of three taps of 128 to 256 features."""
        tables = [name for name in upstream if name.startswith(EMBEDDINGS)]
        rows = min(self.limit, upstream["shards"].rows)
        seconds = len(tables) * 3 * rows * self.epochs * 4e-5
        return Estimate(rows=len(tables) * 50, size_bytes=20_000 * len(tables), cpu_seconds=4 + rows * 5e-4 + seconds)

    def split(self, inputs: Inputs) -> list[Part]:
        """One part per encoder."""
        names = sorted(name.removeprefix(EMBEDDINGS) for name in inputs if name.startswith(EMBEDDINGS))
        return [Part(index=i, fields={"encoder": name}) for i, name in enumerate(names)]

    def setup(self, inputs: Inputs, device: str) -> "tuple[Labelled, Labelled]":
        """Train and held-out images with their attributes."""
        from stages.readers.data import labelled
        from stages.readers.reference import REFERENCE, Reference

        shards = inputs["shards"]
        train, heldout = (
            labelled(shards, "train", self.size, self.limit, self.seed),
            labelled(shards, "heldout", self.size, self.limit, self.seed),
        )
        for tap_id in self.references:
            table = inputs[REFERENCE + tap_id.partition(":")[0]]
            reference = Reference.of(tap_id, shards, table)
            train, heldout = (
                found.and_more(reference.attributes, reference.read_rows(table, found.rows))
                for found in (train, heldout)
            )
        return train, heldout

    def work(self, part: Part, state: "tuple[Labelled, Labelled]", inputs: Inputs, out: Output) -> Summary:
        """Trains and scores the probes of one encoder's taps."""
        from stages.readers.probe import dump, is_table, load, probe_encoder

        encoder = part.fields["encoder"]
        rows = probe_encoder(self, encoder, *state, inputs[EMBEDDINGS + encoder])
        stored = load(out.put(f"probes-{part.index:05d}.parquet", dump(rows), check=is_table))
        return {"rows": [row.model_dump(mode="json") for row in stored]}

    def merge(self, summaries: Sequence[Summary], inputs: Inputs, out: Output) -> Summary:
        """One table of all encoders."""
        from stages.readers.probe import PROBES, Probe, dump

        rows = [Probe.model_validate(row) for summary in summaries for row in summary["rows"]]
        out.put(PROBES, dump(rows))
        return {"rows": len(rows)}
