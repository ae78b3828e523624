"""Where the projections of taps start: in one language, so that what is learned from one tap holds for the others.

At random, each tap of a group would write another code into the vector that sketch and U-Net read, and a part of the
training would go to the translation (figures in docs/performance.md). So all start from a regression on the same
targets: the principal components of all taps' embeddings together, half whitened and mixed at random. A tap that does
not tell a component leaves it near zero. Whitened altogether, components that are little but noise would teach the
sketch its train images by heart.
"""

import numpy as np
import torch
from torch import Tensor

from stages.decoder.conditioning import Projection
from stages.decoder.data import PairedSet
from stages.decoder.network import Network

IMAGES = 8_192
"""Train images that the projections are fitted on."""
COMPONENTS = 256
"""Principal components, fewer where the taps have fewer numbers together."""
RIDGE = 1e-2
"""What the fit adds to the variance of each number of an embedding, which is 1 on average."""
SPREADS = (2.0, 1.0)
"""Standard deviations of what the projections give, had they all components: at the sketch and at the U-Net."""


@torch.no_grad()
def align(network: Network, train: PairedSet, seed: int) -> None:
    """Sets the projections of all taps, at the sketch and at the U-Net. Mixes by torch's own generator."""
    order = np.random.Generator(np.random.Philox(key=[seed, len(train)])).permutation(len(train))
    rows = np.sort(order[:IMAGES])
    taps = [embeddings(train, number, rows) for number in range(len(train.widths))]
    joint = torch.cat(taps, dim=1)
    joint -= joint.mean(dim=0)
    components, lengths, _ = torch.svd_lowrank(joint, q=min(COMPONENTS, *joint.shape), niter=4)
    spoken = components * (len(rows) * lengths / lengths.mean().clamp(min=1e-6)).sqrt()
    targets = [
        spread * spoken @ torch.randn(spoken.shape[1], projection.vectors.shape[1]) / spoken.shape[1] ** 0.5
        for projection, spread in zip(projections(network), SPREADS, strict=True)
    ]
    for number, h in enumerate(taps):
        set_projections(network, number, regressed(h, torch.cat(targets, dim=1), RIDGE))


def embeddings(train: PairedSet, number: int, rows: "np.ndarray") -> Tensor:
    """Those of one tap, standardised, in the plain view: float32 [B, D]."""
    plain = np.zeros(len(rows), dtype=np.bool_)
    h, _ = train.conditions(rows, plain, np.full(len(rows), number))
    return h[:, : train.widths[number]]


def regressed(h: Tensor, targets: Tensor, ridge: float) -> Tensor:
    """Ridge regression of targets [B, T] on embeddings [B, D]: float32 [D + 1, T], the constants last."""
    design = torch.cat([h, torch.ones(len(h), 1)], dim=1)
    # Sums of float32 are exact enough beside the ridge; what is solved is not.
    moments = (design.T @ design).double()
    moments.diagonal().add_(ridge * len(h))
    solved = torch.cholesky_solve((design.T @ targets).double(), torch.linalg.cholesky(moments))
    return solved.float()


def set_projections(network: Network, number: int, solved: Tensor) -> None:
    """Takes over projections of a tap, float32 [D + 1, sketch's + U-Net's], the last row being the vector."""
    first = 0
    for projection in projections(network):
        last = first + projection.vectors.shape[1]
        projection.weights[number].copy_(solved[:-1, first:last].T)
        projection.vectors[number].copy_(solved[-1, first:last])
        first = last


def projections(network: Network) -> tuple[Projection, Projection]:
    """At the sketch and at the U-Net."""
    return network.sketch.projection, network.painter.projection
