"""How the projections of taps start: aligned, so that what is learned from one tap holds for the others.

Random projections would map each tap to another code, and training would have to translate between them (figures in
docs/understanding/decisions.md). So each tap's projection starts as a rotation, the one that comes nearest to targets
which are the same for all taps: the principal components of all their embeddings together, mixed at random. A
regression in place of the rotation would keep of a tap what it shares with the others; what is in that tap alone, a
shape perhaps, would start near zero and be learned late.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stages.decoder.conditioning import Projection
from stages.decoder.data import PairedSet
from stages.decoder.network import DecoderNetwork

IMAGES = 8_192
"""Train images that the rotations are fitted on."""
COMPONENTS = 256
"""Principal components of a tap, and of all together; fewer where there are fewer numbers."""
OUTPUT_STDS = (1.4, 1.0)
"""Standard deviations of the outputs of the projections: at the sketch and at the U-Net."""
WHITENING = (0.5, 0.0)
"""How far the components of a tap are whitened before they are rotated, at the sketch and at the U-Net: 0 leaves
their standard deviations as they are, 1 makes all equal. Whitening scales components that are mostly noise up, and a
sketch overfits to them."""
LEAST_STD = 0.03
"""Lower bound of a component's standard deviation, so that whitening does not blow up what hardly varies."""


@torch.no_grad()
def align(network: DecoderNetwork, train: PairedSet, seed: int) -> None:
    """Sets the projections of all taps, at the sketch and at the U-Net. Mixes by torch's own generator."""
    order = np.random.Generator(np.random.Philox(key=[seed, len(train)])).permutation(len(train))
    rows = np.sort(order[:IMAGES])
    taps = [embeddings(train, number, rows) for number in range(len(train.widths))]
    shared = components(torch.cat(taps, dim=1))
    each = [components(h) for h in taps]
    for projection, output_std, whitening in zip(projections(network), OUTPUT_STDS, WHITENING, strict=True):
        targets = (shared.scores * shared.std.sqrt()) @ torch.randn(len(shared.std), len(projection.vectors.T))
        for weight, own in zip(projection.weights, each, strict=True):
            weight.copy_(rotation(own, targets, whitening, output_std))


class Components(NamedTuple):
    """Principal components of B embeddings of D numbers."""

    scores: Tensor
    """[B, K], each of unit variance."""
    std: Tensor
    """Their standard deviations [K]."""
    directions: Tensor
    """[D, K], orthonormal."""


def components(h: Tensor) -> Components:
    """Those of embeddings [B, D]."""
    count = len(h)
    scores, lengths, directions = torch.svd_lowrank(h - h.mean(dim=0), q=min(COMPONENTS, *h.shape), niter=4)
    return Components(scores * count**0.5, (lengths / count**0.5).clamp(min=LEAST_STD), directions)


def rotation(own: Components, targets: Tensor, whitening: float, output_std: float) -> Tensor:
    """The rotation of a tap's components that comes nearest to targets [B, T], up to its scale: weights [T, D].

    Orthogonal Procrustes (Schönemann 1966, doi 10.1007/BF02289451).
    """
    scaled = own.scores * own.std ** (1.0 - whitening)
    left, _, right = torch.linalg.svd(scaled.T @ targets, full_matrices=False)
    rotated = left @ right
    std = (scaled @ rotated).square().mean().sqrt()
    weight: Tensor = (own.directions * own.std**-whitening) @ rotated * output_std / std.clamp(min=0.1)
    return weight.T


def embeddings(train: PairedSet, number: int, rows: "np.ndarray") -> Tensor:
    """Those of one tap, standardised, in the plain view: float32 [B, D]."""
    plain = np.zeros(len(rows), dtype=np.bool_)
    h, _ = train.conditions(rows, plain, np.full(len(rows), number))
    return h[:, : train.widths[number]]


def projections(network: DecoderNetwork) -> tuple[Projection, Projection]:
    """At the sketch and at the U-Net."""
    return network.sketch.projection, network.painter.projection
