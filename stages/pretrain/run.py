"""What the `pretrain` step does: writes decoded images to a local row file, trains, scores, writes the encoder and its
checkpoints."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import torch

from stages import attributes
from stages.attributes import Attribute
from stages.contract import Context, Input, Inputs, Output, Summary
from stages.encoders import format
from stages.encoders.encoder import NetworkEncoder, probe_batch
from stages.encoders.spec import Preprocessing, require
from stages.errors import InputError
from stages.images.sets import decoding_for, open_images
from stages.pretrain.loop import TrainLabels, TrainSet, fit
from stages.pretrain.quality import score
from stages.training import provenance
from stages.training.ranks import wait_for_all
from stages.training.rows import RowFile, open_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stages.pretrain.stage import Pretrain

COMMON = {"seed", "num_images", "batch", "learning_rate", "weight_decay", "precision"}
"""Settings of every training that its card repeats; beside them stand those of the method."""
FITTED, SCORED = 32_768, 8_192
"""Train images that quality is fitted on, and held-out images that it is taken over, at most."""


def run(stage: "Pretrain", context: Context, inputs: Inputs, out: Output) -> Summary:
    """Trains on the train images of input `shards`; rank 0 scores on the others and writes the encoder's files.

    Raises InputError where the method or the images do not allow it.
    """
    shards = inputs["shards"]
    train = rows_of(shards, "train")
    label = labelled(shards, stage.label) if stage.method == "supervised" else None
    labels = None
    if label is not None:
        values = _values(shards, label)
        train = train[~np.isnan(values[train])]
        labels = TrainLabels(torch.from_numpy(values[train].astype(np.int64)), len(label.classes))
    pictures = write_rows(shards, stage.preprocessing, context.rank, context.world)
    trainer = fit(stage, TrainSet(len(train), lambda indices: pictures.read(train[indices]), labels), context)
    if context.rank != 0:
        return {}
    settings = {
        **stage.model_dump(include=COMMON | set(stage.own_fields)),
        **({} if label is None else {"label": label.name}),
        "train_images": len(train),
    }

    def put(share: float | None, more: dict[str, float]) -> bytes:
        """Writes the encoder at the end, or after a share of the training; returns the bytes of its card."""
        network = trainer.trained(share)
        encoder = NetworkEncoder(network, stage.preprocessing, context.device)
        scored: tuple[format.Quality, ...] = ()
        if share is None:
            scored = _quality(encoder, shards, pictures, rows_of(shards, "train"), rows_of(shards, "heldout"))
        card = format.TrainedCard(
            method=stage.method,
            architecture=stage.architecture,
            projector_norm=trainer.projector_norm,
            preprocessing=stage.preprocessing,
            taps=encoder.taps,
            augmentations=stage.augmentations,
            training=settings | more,
            quality=scored,
            weights_sha256=encoder.weights_sha256,
            versions=provenance.versions(),
        )
        probes = encoder.embed(probe_batch(stage.preprocessing.size))
        files = format.dump(network, card, {tap: torch.from_numpy(values) for tap, values in probes.items()})
        folder = "" if share is None else format.checkpoint(share)
        return {name: out.put(folder + name, data) for name, data in files.items()}[format.CARD]

    for share, step in trainer.keep_at.items():
        put(share, {format.IMAGES_SEEN: step * stage.batch})
    card = format.parse_card(put(None, {"final_loss": trainer.final_loss}))
    return {
        "taps": card.taps,
        "weights_sha256": card.weights_sha256,
        "versions": card.versions,
        "loss": card.training["final_loss"],
        "quality": [entry.model_dump() for entry in card.quality],
    }


def rows_of(shards: Input, split: str) -> "NDArray[np.int64]":
    """Rows of a split that hold an image, rising: int64 [N]."""
    import pyarrow.compute as pc

    table = open_images(shards).table()
    chosen = pc.and_(pc.equal(table.column("split"), split), pc.equal(table.column("status"), "ok"))
    return np.flatnonzero(chosen.to_numpy())


def labelled(shards: Input, name: str | None) -> Attribute:
    """The class attribute of that name, or the only one; InputError where there is none, or more to choose from."""
    classes = {a.name: a for a in attributes.load(shards.read("attributes.json")) if a.kind == "class"}
    if name is None and len(classes) == 1:
        return next(iter(classes.values()))
    if name is None or not classes:
        raise InputError(
            expected="a class attribute of the dataset, as the label that `supervised` learns",
            found=f"{', '.join(classes)}, and no `label`" if classes else "none",
            remedy="Write `label:` with one of them."
            if classes
            else "Give images with classes, or use another method.",
        )
    require("class attribute", name, classes)
    return classes[name]


def write_rows(shards: Input, preprocessing: Preprocessing, rank: int, world: int) -> RowFile:
    """All images as the encoder sees them, uint8 [size, size, 3] each, on the local disk; by all ranks together."""
    images, size = open_images(shards), preprocessing.size
    (pictures,), mine = open_rows([(images.count, (size, size, 3), np.uint8)], rank, world)

    def decode(part: int) -> None:
        here, decoded = images.decode_part(part, preprocessing.framing, decoding.processes)
        # Rows without an image lie between.
        for run in np.split(np.arange(len(here)), np.flatnonzero(np.diff(here) > 1) + 1):
            if len(run):
                pictures.write(int(here[run[0]]), decoded[run])

    with (
        closing(decoding_for(images, preprocessing.framing, torch.get_num_threads())) as decoding,
        # One more than decode: a part is read meanwhile.
        ThreadPoolExecutor(decoding.threads + 1, "decode") as threads,
    ):
        list(threads.map(decode, range(mine.index, images.parts, mine.count)))
    wait_for_all(world)
    return pictures


def _values(shards: Input, attribute: Attribute) -> "NDArray[np.float64]":
    """An attribute of all rows; NaN where it is unknown."""
    return open_images(shards).values([attribute.name])[attribute.name]


def _quality(
    encoder: NetworkEncoder,
    shards: Input,
    pictures: RowFile,
    train: "NDArray[np.int64]",
    heldout: "NDArray[np.int64]",
) -> tuple[format.Quality, ...]:
    fitted, scored = _spread(train, FITTED), _spread(heldout, SCORED)
    chosen = np.concatenate([fitted, scored])
    classes = [a for a in attributes.load(shards.read("attributes.json")) if a.kind == "class"]
    values = {a.name: _values(shards, a)[chosen] for a in classes}
    batches = [encoder.embed(pictures.read(chosen[start : start + 512])) for start in range(0, len(chosen), 512)]
    embeddings = {tap: torch.from_numpy(np.concatenate([batch[tap] for batch in batches])) for tap in encoder.taps}
    return score(embeddings, classes, values, np.arange(len(chosen)) < len(fitted))


def _spread(rows: "NDArray[np.int64]", most: int) -> "NDArray[np.int64]":
    """`most` of the rows at equal distances, or all."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).round().astype(np.int64)]
