"""What the `decoder` step does: writes images and embeddings to local row files, trains, writes the decoder."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from stages.contract import Context, Inputs, Output, Summary
from stages.decoder import format
from stages.decoder.aligning import align
from stages.decoder.card import Point, still_falling
from stages.decoder.data import VIEWS, PairedSet
from stages.decoder.loop import Training, fit
from stages.decoder.network import DecoderNetwork
from stages.decoder.objective import Edm
from stages.decoder.recipe import Recipe
from stages.embeddings.format import OK, Table, open_table
from stages.errors import InputError
from stages.images.sets import Images, decoding_for, open_images
from stages.training import provenance
from stages.training.ranks import wait_for_all
from stages.training.rows import open_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stages.decoder.stage import Decoder


class PatchSettings(Protocol):
    """Settings of a network that divides its images."""

    @property
    def multiple(self) -> int:
        """The image's side must be a multiple of this."""


class DecoderStage(Protocol):
    """A step that trains a decoder, as far as its images and embeddings go."""

    @property
    def taps(self) -> tuple[str, ...]:
        """Each as `encoder:tap`."""

    @property
    def size(self) -> int:
        """Side of the images, pixels."""

    @property
    def network(self) -> PatchSettings:
        """Settings of the network."""


def run(stage: "Decoder", context: Context, inputs: Inputs, out: Output) -> Summary:
    """Trains on the train images of `shards`; rank 0 writes the decoder's files."""
    train, heldout = read_sets(stage, inputs, context.rank, context.world)
    torch.manual_seed(stage.seed)
    network = DecoderNetwork(stage.network, train.widths, train.size)
    if fresh(context):
        align(network, train, stage.seed)
    objective = Edm(stage.training.log_sigma_mean, stage.training.log_sigma_std)
    recipe = Recipe(stage.training, stage.num_images, stage.seed)
    training = Training(network, objective, recipe, train, heldout, context)
    return fit_and_write(training, stage, context, out)


def fresh(context: Context) -> bool:
    """Whether this rank's first weights count: other ranks take those of the first, later attempts a checkpoint's."""
    return context.rank == 0 and context.checkpoints.latest() is None


def fit_and_write(
    training: Training, stage: "Decoder", context: Context, out: Output, extends: format.Extends | None = None
) -> Summary:
    """Trains to the end; rank 0 writes the files of a decoder, whose card repeats the settings of `stage`."""
    train, network = training.data, training.network
    assert isinstance(network, DecoderNetwork)
    format.require_one_file(network)
    fit(training, context, stage.checkpoint_images, stage.taps)
    curve = curve_of(training, stage.taps)
    card = format.DecoderCard(
        taps=dict(zip(stage.taps, train.widths, strict=True)),
        size=stage.size,
        network=stage.network,
        training=stage.training,
        seed=stage.seed,
        num_images=training.painted,
        train_images=len(train),
        rest=dict(zip((*stage.taps, "null"), network.residual_std.tolist(), strict=True)),
        curve=curve,
        still_falling=still_falling(curve),
        finished=provenance.today(),
        versions=provenance.versions(),
        extends=extends,
    )
    if context.rank == 0:
        weights = []
        for vector in (training.averages.current, training.averages.halfway):
            with training.averages.swapped_in(vector):
                weights.append({name: value.detach().clone() for name, value in network.painter.state_dict().items()})
        files = format.dump(network, weights[0], weights[1], train.statistics, card)
        for name, data in files.items():
            stored = out.put(name, data)
            if name == format.CARD:
                kept = format.parse_card(stored)
                assert isinstance(kept, format.DecoderCard)
                card = kept
    return summary_of(card)


def curve_of(training: Training, taps: Sequence[str]) -> tuple[Point, ...]:
    """The training curve, with the names of the taps."""
    return tuple(
        Point(images=point["images"], loss=point["loss"], heldout=dict(zip(taps, point["heldout"], strict=True)))
        for point in training.curve
    )


def summary_of(card: format.AnyCard) -> Summary:
    """The summary of a step that has trained a decoder."""
    return {
        "taps": card.taps,
        "num_images": card.num_images,
        "train_images": card.train_images,
        "loss": card.curve[-1].loss,
        "heldout": card.curve[-1].heldout,
        "still_falling": card.still_falling,
    }


def read_sets(stage: DecoderStage, inputs: Inputs, rank: int = 0, world: int = 1) -> tuple[PairedSet, PairedSet]:
    """Train and held-out images with the embeddings of all taps, written to local row files by all ranks together.

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
                remedy="Give more images, or change `holdout` of the listing.",
            )
    tables: dict[str, Table] = {}
    taps = [tap.split(":") for tap in stage.taps]
    for encoder, _ in taps:
        if encoder not in tables:
            tables[encoder] = open_table(inputs[f"embeddings.{encoder}"])
    statistics = tuple(tables[encoder].statistics(tap) for encoder, tap in taps)
    # A flipped image needs its own embedding at every tap.
    views = VIEWS if all("flip" in table.views for table in tables.values()) else VIEWS[:1]
    pixels = (images.count, (stage.size, stage.size, 3), np.uint8)
    vectors = [(images.count, (len(views), tables[name].taps[tap]), tables[name].dtype) for name, tap in taps]
    (pictures, *embeddings), mine = open_rows([pixels, *vectors], rank, world)

    def write_part(part: int) -> None:
        here, decoded = images.decode_part(part, stage.size, decoding.processes)
        if not len(here):
            return
        whole = np.arange(here[0], here[-1] + 1)
        pictures.write(whole[0], _spread(decoded, here - here[0]))
        for (encoder, tap), file in zip(taps, embeddings, strict=True):
            read = np.stack([tables[encoder].read(tap, view, here) for view in views], axis=1)
            file.write(whole[0], _spread(read, here - here[0]))

    with (
        closing(decoding_for(images, stage.size, torch.get_num_threads())) as decoding,
        # One more than decode: a part is read meanwhile.
        ThreadPoolExecutor(decoding.threads + 1, "decode") as threads,
    ):
        list(threads.map(write_part, range(mine.index, images.parts, mine.count)))
    wait_for_all(world)
    train, heldout = (PairedSet(pictures, tuple(embeddings), statistics, rows[split]) for split in ("train", "heldout"))
    return train, heldout


def _rows_of(images: Images, split: str) -> "NDArray[np.int64]":
    """Rows of a split that hold an image, rising."""
    import pyarrow.compute as pc

    table = images.table()
    chosen = pc.and_(pc.equal(table.column("split"), split), pc.equal(table.column("status"), OK))
    return np.flatnonzero(chosen.to_numpy())


def _spread(found: "NDArray[Any]", indices: "NDArray[np.int64]") -> "NDArray[Any]":
    """[B, …] put at `indices` (rising, from 0) of a longer array, which is zero for rows without an image."""
    if len(found) == indices[-1] + 1:
        return found
    whole = np.zeros((indices[-1] + 1, *found.shape[1:]), dtype=found.dtype)
    whole[indices] = found
    return whole
