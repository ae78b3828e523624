"""What the `extension` step does: gives a trained trunk projections for new taps, trains these alone, writes a decoder.

All that the taps share is frozen: sketch, U-Net, and the null. Trained are, for each new tap,
its projection and its vector at the sketch and at the U-Net. They start fitted to the outputs of an old tap's for the
same images, which takes seconds and is most of the way.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stages.contract import Context, Inputs, Output, Summary
from stages.decoder import format
from stages.decoder.aligning import embeddings, projections
from stages.decoder.conditioning import NULL, Projection
from stages.decoder.data import PairedSet
from stages.decoder.loop import Training
from stages.decoder.network import DecoderNetwork
from stages.decoder.objective import Edm
from stages.decoder.recipe import Recipe
from stages.decoder.run import fit_and_write, fresh, read_sets
from stages.decoder.stage import Decoder
from stages.embeddings.format import open_table
from stages.errors import InputError

if TYPE_CHECKING:
    from stages.decoder.extension.stage import Extension

FITTED, JUDGED = 16_384, 2_048
"""Train images on which new projections are fitted, and by which the old tap is chosen that they follow."""
RIDGE = 1e-3
"""What the fit adds to the variance of each number of an embedding, which is 1 on average."""
EVALUATIONS = 4
"""Each costs as much as a tenth of a short training; four show whether the last quarter still helped."""


def run(stage: "Extension", context: Context, inputs: Inputs, out: Output) -> Summary:
    """Trains the new taps on the train images of `shards`; rank 0 writes the files."""
    base = format.load(inputs["decoder"], "cpu")
    if not isinstance(base, format.TrainedDecoder):
        raise InputError(
            "a decoder that was trained here", "a published one", "Extend a decoder of a study's own training."
        )
    described = as_decoder(stage, base.card)
    train, heldout = read_sets(described, inputs, context.rank, context.world)
    torch.manual_seed(stage.seed)
    network = grown(base.network, DecoderNetwork(base.card.network, train.widths, train.size))
    if fresh(context):
        fit_projections(network, base, train, inputs, stage.seed)
    objective = Edm(described.training.log_sigma_mean, described.training.log_sigma_std)
    # The null, and so the standard deviation of what it leaves, is part of the trunk.
    recipe = Recipe(
        described.training,
        described.num_images,
        stage.seed,
        evaluations=EVALUATIONS,
        measured="taps",
        prefix="",
    )
    training = Training(network, objective, recipe, train, heldout, context)
    own = base.card.extends
    extends = format.Extends(key=inputs["decoder"].key, taps=tuple(base.taps) if own is None else own.taps)
    return fit_and_write(training, described, context, out, extends)


def as_decoder(stage: "Extension", card: format.DecoderCard) -> Decoder:
    """The settings of the training, as those of a decoder of the new taps: the trunk's, but for what the stage says."""
    num_images, sketch_images = stage.lengths(
        card.num_images, card.training.sketched(len(card.taps), card.train_images)
    )
    training = {
        "learning_rate": stage.learning_rate,
        "outer": 1.0,
        "sketch_learning_rate": stage.sketch_learning_rate,
        "sketch_images": sketch_images,
        "micro_batch": stage.micro_batch,
        "compile": stage.compile,
        # The null is part of the trunk.
        "null": 0.0,
    }
    return Decoder(
        taps=stage.taps,
        size=card.size,
        seed=stage.seed,
        num_images=num_images,
        network=card.network,
        training=card.training.model_copy(update=training),
        checkpoint_images=stage.checkpoint_images,
    )


def grown(trunk: DecoderNetwork, network: DecoderNetwork) -> DecoderNetwork:
    """`network`, built for new taps, with the weights of `trunk`, all frozen but the projections of its taps."""
    network.residual_std.fill_(float(trunk.residual_std[NULL]))
    learned = trunk.state_dict()
    own = tuple(f"{name}." for name, module in network.named_modules() if isinstance(module, Projection))
    network.load_state_dict(
        {n: value if n.startswith(own) else learned[n] for n, value in network.state_dict().items()}
    )
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(own))
    with torch.no_grad():
        for projection, old in zip(projections(network), projections(trunk), strict=True):
            # It is not trained: no condition is dropped in an extension, so its gradient is exactly 0.
            projection.vectors[NULL] = old.vectors[NULL]
    return network


@torch.no_grad()
def fit_projections(
    network: DecoderNetwork, base: format.TrainedDecoder, train: PairedSet, inputs: Inputs, seed: int
) -> None:
    """Sets each new tap's projections to the ridge regression of an old tap's on the new embeddings.

    Each old tap whose embeddings are among the inputs is tried; the one is followed that leaves the sketch the least
    error on images which the fit has not seen. Without any, the projections stay at random.
    """
    order = np.random.Generator(np.random.Philox(key=[seed, len(train)])).permutation(len(train))
    judged = np.sort(order[: max(1, min(JUDGED, len(train) // 8))])
    fitted = np.sort(order[len(judged) :][:FITTED])
    plain = np.zeros(len(judged), dtype=np.bool_)
    for number in range(len(train.widths)):
        h = embeddings(train, number, fitted)
        shown = train.shown(judged, plain, np.full(len(judged), number))
        best, least = None, float("inf")
        for old in _old_projections(base, train.rows[fitted], inputs):
            solved = regressed(h, torch.cat(old, dim=1))
            set_projections(network, number, solved)
            error = float((network.sketch(shown.h, shown.tap) - shown.clean).square().mean())
            if error < least:
                best, least = solved, error
        if best is not None:
            set_projections(network, number, best)


def _old_projections(base: format.TrainedDecoder, rows: "np.ndarray", inputs: Inputs) -> Iterator[list[Tensor]]:
    """What the projections of the trunk's taps give for images, float32 [B, width] at the sketch and at the U-Net."""
    for number, name in enumerate(base.taps):
        encoder, tap = name.split(":")
        if f"embeddings.{encoder}" in inputs:
            raw = torch.from_numpy(open_table(inputs[f"embeddings.{encoder}"]).read(tap, "plain", rows))
            h, numbers = base.standardise(name, raw), torch.full((len(rows),), number)
            yield [projection(h, numbers) for projection in projections(base.network)]


def regressed(h: Tensor, targets: Tensor) -> Tensor:
    """Ridge regression of targets [B, T] on embeddings [B, D]: float32 [D + 1, T], the constants last."""
    design = torch.cat([h, torch.ones(len(h), 1)], dim=1)
    # Sums of float32 are exact enough beside the ridge; what is solved is not.
    moments = (design.T @ design).double()
    moments.diagonal().add_(RIDGE * len(h))
    solved = torch.cholesky_solve((design.T @ targets).double(), torch.linalg.cholesky(moments))
    return solved.float()


def set_projections(network: DecoderNetwork, number: int, solved: Tensor) -> None:
    """Takes over projections of a tap, float32 [D + 1, sketch's + U-Net's], the last row being the vector."""
    first = 0
    for projection in projections(network):
        last = first + projection.vectors.shape[1]
        projection.weights[number].copy_(solved[:-1, first:last].T)
        projection.vectors[number].copy_(solved[-1, first:last])
        first = last
