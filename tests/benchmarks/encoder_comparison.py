"""A network as the step `encoder` imports it, compared with the network of its library."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

# Read when transformers or timm is imported.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stages.encoders.encoder import NetworkEncoder, probe_batch
from tests.stages.encoders.files import normalised, shuffled_norms

Row = dict[str, Any]
SIZES = (64, 128, 224, 256, 299)
"""Sides of images that are tried in turn until the library itself takes one."""
TOLERANCE = 1e-3
LARGEST = 150_000_000
"""Parameters of the largest network that is tried: a file of 600 MB, of which three copies stand in memory."""
DAMPING = 1.4
"""Of the signal between layers: what is more than the variance of the noise that a normalisation is given."""


class ApartError(Exception):
    """The library itself does not embed images alone with this network, or it cannot be built here."""


class TooLargeError(Exception):
    """The network is too large for this machine."""


def compared(found: NetworkEncoder, expected: Callable[[Tensor], Tensor]) -> Row:
    """How far `backbone` of two images is from what the library gives."""
    images = probe_batch(found.preprocessing.size)[:2]
    with torch.no_grad():
        theirs = expected(normalised(images, found)).flatten(1).float().numpy()
    return distance(found.embed(images)["backbone"], theirs)


def distance(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> Row:
    """How far two arrays of vectors are from each other, as a share of the length of the second."""
    if ours.shape != theirs.shape:
        return {"outcome": "differs", "why": f"{ours.shape[1]} numbers instead of {theirs.shape[1]}"}
    far = float(np.linalg.norm(ours - theirs) / max(float(np.linalg.norm(theirs)), 1e-12))
    return {"outcome": "same" if far <= TOLERANCE else "differs", "difference": float(f"{far:.2g}"), "why": ""}


@torch.no_grad()
def alive(network: nn.Module, size: int, argument: str = "") -> Any:
    """Shuffles a network's normalisations, and gives those over the batch the statistics of some noise.

    Otherwise the signal may fade from layer to layer, until all images have one embedding. Returns an output;
    `argument` is the name of that for images.
    """
    shuffled_norms(network)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d)]
    noise, momenta = torch.rand(4, 3, size, size), [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    run = partial(network, **{argument: noise}) if argument else partial(network, noise)
    run()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        # With the variance itself, rounding would grow from layer to layer: to 2 % in an EfficientNet.
        variance = norm.running_var
        if variance is None:
            continue
        variance.clamp_(min=float(variance.mean()) / 10).mul_(DAMPING)
    network.eval()
    return run()


def counted(network: nn.Module, most: int = LARGEST) -> int:
    """The number of parameters. Raises TooLargeError for more than `most`."""
    total = sum(tensor.numel() for tensor in network.parameters())
    if total > most:
        raise TooLargeError(f"{total / 1e6:.0f} million parameters")
    return total
