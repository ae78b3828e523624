"""Where the projections of taps start: in one language, so that what is learned from one tap holds for the others.

At random, each tap of a group would write another code into the vector that sketch and U-Net read, and a part of the
training would go to the translation (docs/understanding/decisions.md). So each tap's projection starts as a rotation,
the one that comes nearest to targets which are the same for all taps: the principal components of all their embeddings
together, mixed at random. It is a rotation and no regression because a regression keeps of a tap what others tell too;
what it alone knows, a shape perhaps, would start near zero and be learned late.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stages.decoder.conditioning import Projection
from stages.decoder.data import PairedSet
from stages.decoder.network import Network

IMAGES = 8_192
"""Train images that the rotations are fitted on."""
COMPONENTS = 256
"""Principal components of a tap, and of all together; fewer where there are fewer numbers."""
SPREADS = (1.4, 1.0)
"""Standard deviations of what the projections give: at the sketch and at the U-Net."""
EVENED = (0.5, 0.0)
"""How far the components of a tap are evened out before they are rotated, at the sketch and at the U-Net: 0 leaves
their standard deviations as they are, 1 makes all equal. A sketch that is told all as loudly, with components that are
little but noise, learns its train images by heart."""
FAINT = 0.03
"""Standard deviation that a component is taken to have at least: what hardly varies is not evened out to noise."""


@torch.no_grad()
def align(network: Network, train: PairedSet, seed: int) -> None:
    """Sets the projections of all taps, at the sketch and at the U-Net. Mixes by torch's own generator."""
    order = np.random.Generator(np.random.Philox(key=[seed, len(train)])).permutation(len(train))
    rows = np.sort(order[:IMAGES])
    taps = [embeddings(train, number, rows) for number in range(len(train.widths))]
    shared = components(torch.cat(taps, dim=1))
    each = [components(h) for h in taps]
    for projection, spread, evened in zip(projections(network), SPREADS, EVENED, strict=True):
        targets = (shared.told * shared.loudness.sqrt()) @ torch.randn(len(shared.loudness), len(projection.vectors.T))
        for weight, own in zip(projection.weights, each, strict=True):
            weight.copy_(rotation(own, targets, evened, spread))


class Components(NamedTuple):
    """Principal components of B embeddings of D numbers."""

    told: Tensor
    """[B, K], each of unit variance."""
    loudness: Tensor
    """Their standard deviations [K]."""
    directions: Tensor
    """[D, K], orthonormal."""


def components(h: Tensor) -> Components:
    """Those of embeddings [B, D]."""
    count = len(h)
    told, lengths, directions = torch.svd_lowrank(h - h.mean(dim=0), q=min(COMPONENTS, *h.shape), niter=4)
    return Components(told * count**0.5, (lengths / count**0.5).clamp(min=FAINT), directions)


def rotation(own: Components, targets: Tensor, evened: float, spread: float) -> Tensor:
    """The rotation of a tap's components that comes nearest to targets [B, T], up to its scale: weights [T, D].

    Orthogonal Procrustes (Schönemann 1966, doi 10.1007/BF02289451).
    """
    spoken = own.told * own.loudness ** (1.0 - evened)
    left, _, right = torch.linalg.svd(spoken.T @ targets, full_matrices=False)
    turned = left @ right
    given = (spoken @ turned).square().mean().sqrt()
    weight = (own.directions * own.loudness**-evened) @ turned
    scaled: Tensor = weight * spread / given.clamp(min=0.1)
    return scaled.T


def embeddings(train: PairedSet, number: int, rows: "np.ndarray") -> Tensor:
    """Those of one tap, standardised, in the plain view: float32 [B, D]."""
    plain = np.zeros(len(rows), dtype=np.bool_)
    h, _ = train.conditions(rows, plain, np.full(len(rows), number))
    return h[:, : train.widths[number]]


def projections(network: Network) -> tuple[Projection, Projection]:
    """At the sketch and at the U-Net."""
    return network.sketch.projection, network.painter.projection
