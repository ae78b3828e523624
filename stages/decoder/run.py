"""What the `decoder` step does: lays images and embeddings down as rows on a local disk, trains, writes the decoder."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from stages.contract import Context, Inputs, Output, Summary
from stages.decoder import format
from stages.decoder.aligning import align
from stages.decoder.card import still_falling
from stages.decoder.data import VIEWS, PairedSet
from stages.decoder.loop import Training, fit
from stages.decoder.network import Network
from stages.decoder.objective import Edm
from stages.embeddings.format import OK, Table, open_table
from stages.errors import InputError
from stages.images.sets import Images, decoding_for, open_images
from stages.training import provenance
from stages.training.ranks import wait_for_all
from stages.training.rows import open_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stages.decoder.rcdm.stage import Rcdm
    from stages.decoder.stage import Decoder


def run(stage: "Decoder", context: Context, inputs: Inputs, out: Output) -> Summary:
    """Trains on the train images of `shards`; rank 0 writes the decoder's files."""
    train, heldout = read_sets(stage, inputs, context.rank, context.world)
    torch.manual_seed(stage.seed)
    network = Network(stage.network, train.widths, train.size)
    if fresh(context):
        align(network, train, stage.seed)
    training = Training(
        network,
        Edm(stage.training.log_sigma_mean, stage.training.log_sigma_std),
        stage.training,
        train,
        heldout,
        stage.num_images,
        stage.seed,
        context.device,
        context.rank,
        context.world,
    )
    training.agree()
    return fit_and_write(training, stage, context, out)


def fresh(context: Context) -> bool:
    """Whether this rank's first weights count: other ranks take those of the first, later attempts a checkpoint's."""
    return context.rank == 0 and context.checkpoints.latest() is None


def fit_and_write(
    training: Training, stage: "Decoder", context: Context, out: Output, extends: format.Extends | None = None
) -> Summary:
    """Trains to the end; rank 0 writes the files of a decoder, of which `stage` says what the card tells."""
    train, network = training.data, training.network
    assert isinstance(network, Network)
    format.require_one_file(network)
    fit(training, context, stage.checkpoint_images, stage.taps)
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
        rest=network.rest,
        curve=curve,
        still_falling=still_falling(curve),
        finished=provenance.today(),
        versions=provenance.versions(),
        extends=extends,
    )
    if context.rank == 0:
        weights = []
        for vector in (training.average, training.halfway):
            with training.averaged(vector):
                weights.append(_copied(network.painter.state_dict()))
        files = format.dump(network, weights[0], weights[1], train.statistics, card)
        for name, data in files.items():
            stored = out.put(name, data)
            if name == format.CARD:
                kept = format.parse_card(stored)
                assert isinstance(kept, format.Card)
                card = kept
    return {
        "taps": card.taps,
        "num_images": card.num_images,
        "train_images": card.train_images,
        "loss": card.curve[-1].loss,
        "heldout": card.curve[-1].heldout,
        "still_falling": card.still_falling,
    }


def read_sets(stage: "Decoder | Rcdm", inputs: Inputs, rank: int = 0, world: int = 1) -> tuple[PairedSet, PairedSet]:
    """Train and held-out images with the embeddings of all taps, laid down on the local disk by all ranks together.

    Raises InputError for a size that the network cannot work at, an unknown tap, or a set without images.
    """
    if stage.size % stage.network.multiple:
        raise InputError(
            expected=f"a size that is a multiple of {stage.network.multiple} pixels, for this network",
            found=f"{stage.size}",
            remedy="Change the decoder's size, or its patch and number of levels.",
        )
    images = open_images(inputs["shards"])
    rows = {split: _rows_of(images, split) for split in ("train", "heldout")}
    for split, found in rows.items():
        if not len(found):
            raise InputError(
                expected=f"at least one {'train' if split == 'train' else 'held-out'} image",
                found="none",
                remedy="Give more images: the split is by a hash of each image.",
            )
    tables: dict[str, Table] = {}
    places = [place.split(":") for place in stage.taps]
    for encoder, _ in places:
        if encoder not in tables:
            tables[encoder] = open_table(inputs[f"embeddings.{encoder}"])
    statistics = tuple(tables[encoder].statistics(tap) for encoder, tap in places)
    # A flipped image needs its own embedding at every tap.
    views = VIEWS if all("flip" in table.views for table in tables.values()) else VIEWS[:1]
    pixels = (images.count, (stage.size, stage.size, 3), np.uint8)
    vectors = [(images.count, (len(views), tables[name].taps[tap]), tables[name].dtype) for name, tap in places]
    (pictures, *embeddings), mine = open_rows([pixels, *vectors], rank, world)

    def lay_down(part: int) -> None:
        here, decoded = images.decode_part(part, stage.size, decoding.processes)
        if not len(here):
            return
        whole = np.arange(here[0], here[-1] + 1)
        pictures.write(whole[0], _spread(decoded, here - here[0]))
        for (encoder, tap), file in zip(places, embeddings, strict=True):
            read = np.stack([tables[encoder].read(tap, view, here) for view in views], axis=1)
            file.write(whole[0], _spread(read, here - here[0]))

    with (
        closing(decoding_for(images, stage.size, torch.get_num_threads())) as decoding,
        # One more than decode: a part is read meanwhile.
        ThreadPoolExecutor(decoding.threads + 1, "decode") as threads,
    ):
        list(threads.map(lay_down, range(mine.index, images.parts, mine.count)))
    wait_for_all(world)
    train, heldout = (PairedSet(pictures, tuple(embeddings), statistics, rows[split]) for split in ("train", "heldout"))
    return train, heldout


def _rows_of(images: Images, split: str) -> "NDArray[np.int64]":
    """Rows of a split that hold an image, rising."""
    import pyarrow.compute as pc

    table = images.table()
    chosen = pc.and_(pc.equal(table.column("split"), split), pc.equal(table.column("status"), OK))
    return np.flatnonzero(chosen.to_numpy())


def _spread(found: "NDArray[Any]", places: "NDArray[np.int64]") -> "NDArray[Any]":
    """[B, …] put at `places` (rising, from 0) of a longer array; what lies between belongs to rows without an image."""
    if len(found) == places[-1] + 1:
        return found
    whole = np.zeros((places[-1] + 1, *found.shape[1:]), dtype=found.dtype)
    whole[places] = found
    return whole


def _copied(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in weights.items()}
