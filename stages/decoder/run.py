"""What the `decoder` step does: reads images and embeddings into memory, trains, writes the decoder."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stages import made
from stages.contract import Context, Input, Inputs, Output, Summary
from stages.decoder import format
from stages.decoder.data import VIEWS, PairedSet
from stages.decoder.loop import Training, fit
from stages.embeddings.format import Statistics, Table, open_table
from stages.errors import InputError
from stages.images import open_images

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stages.decoder.stage import Decoder


def run(stage: "Decoder", context: Context, inputs: Inputs, out: Output) -> Summary:
    """Trains on the train images of `shards`; rank 0 writes the decoder's files."""
    train, heldout, statistics = read_sets(stage, inputs)
    training = Training(stage.network, stage.training, train, heldout, stage.num_images, stage.seed, context.device)
    fit(training, context, stage.checkpoint_images)
    curve = tuple(
        format.Point(
            images=look["images"], loss=look["loss"], heldout=dict(zip(stage.taps, look["heldout"], strict=True))
        )
        for look in training.curve
    )
    card = format.Card(
        taps=dict(zip(stage.taps, train.widths, strict=True)),
        size=stage.size,
        network=stage.network,
        training=stage.training,
        seed=stage.seed,
        num_images=training.painted,
        train_images=len(train),
        rest=training.network.rest,
        curve=curve,
        finished=made.today(),
        versions=made.versions(),
    )
    if context.rank == 0:
        weights = []
        for vector in (training.average, training.halfway):
            with training.averaged(vector):
                weights.append(_copied(training.network.painter.state_dict()))
        files = format.dump(training.network, weights[0], weights[1], statistics, card)
        for name, data in files.items():
            stored = out.put(name, data)
            if name == format.CARD:
                card = format.parse_card(stored)
    return {
        "taps": card.taps,
        "num_images": card.num_images,
        "train_images": card.train_images,
        "loss": card.curve[-1].loss,
        "heldout": card.curve[-1].heldout,
    }


def read_sets(stage: "Decoder", inputs: Inputs) -> tuple[PairedSet, PairedSet, list[Statistics]]:
    """Train and held-out images with their standardised embeddings, and the statistics of each tap.

    Raises InputError for a size that the network cannot work at, an unknown tap, or a set without images.
    """
    if stage.size % stage.network.multiple:
        raise InputError(
            expected=f"a size that is a multiple of {stage.network.multiple} pixels, for this network",
            found=f"{stage.size}",
            remedy="Change the decoder's size, or its patch and number of levels.",
        )
    pixels, rows, train = read_images(inputs["shards"], stage.size)
    tables: dict[str, Table] = {}
    embeddings: list[Tensor] = []
    statistics: list[Statistics] = []
    places = [place.split(":") for place in stage.taps]
    for encoder, _ in places:
        if encoder not in tables:
            tables[encoder] = open_table(inputs[f"embeddings.{encoder}"])
    # A flipped image needs its own embedding at every tap.
    views = VIEWS if all("flip" in table.views for table in tables.values()) else VIEWS[:1]
    for encoder, tap in places:
        found = tables[encoder].statistics(tap)
        vectors = [found.standardise(tables[encoder].read(tap, view, rows)) for view in views]
        embeddings.append(torch.from_numpy(np.stack(vectors).astype(np.float32)))
        statistics.append(found)
    sets = []
    for name, chosen in (("train", train), ("held-out", ~train)):
        if not chosen.any():
            raise InputError(
                expected=f"at least one {name} image",
                found="none",
                remedy="Give more images: the split is by a hash of each image.",
            )
        here = torch.from_numpy(np.flatnonzero(chosen))
        sets.append(PairedSet(torch.from_numpy(pixels)[here], tuple(table[:, here] for table in embeddings)))
    return sets[0], sets[1], statistics


def read_images(shards: Input, size: int) -> tuple["NDArray[np.uint8]", "NDArray[np.int64]", "NDArray[np.bool_]"]:
    """All readable images as uint8 [N, size, size, 3], their rows int64 [N], and which of them are train images."""
    images = open_images(shards)
    parts = [images.decode_part(part, size) for part in range(images.parts)]
    rows = np.concatenate([found for found, _ in parts])
    split = np.array(images.table().column("split").to_pylist(), dtype=object)[rows]
    return np.concatenate([pixels for _, pixels in parts]), rows, np.asarray(split == "train", dtype=np.bool_)


def _copied(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in weights.items()}
