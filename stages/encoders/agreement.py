"""Agreement with the library that a network comes from: the same pixels of one image, and the same embedding of it.

Each library has its own code for both. An encoder is compared with it when it is imported, before anything is stored.
"""

from collections.abc import Callable
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.encoders.encoder import NetworkEncoder, Vectors, distances
from stages.encoders.sources.build import reason
from stages.encoders.spec import Preprocessing
from stages.encoders.taps import Tapped, Trunk
from stages.errors import InputError
from stages.images.framing import fit
from stages.images.pixels import to_unit
from stages.training.precision import unrounded

Transform = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""A library's own preprocessing: an image, uint8 [H, W, 3], to what its network sees, float32 [3, H', W']."""

LEVELS = 1.01
"""Largest difference of two pixels, in levels of 255: one level of rounding."""
STRAYS = 1e-4
"""Share of pixels that may be two levels apart: Pillow and torch round twice where they resize by cubic splines."""


def photograph(seen: Preprocessing) -> NDArray[np.uint8]:
    """An image with detail at every scale, as photographs have it: uint8 [H, W, 3], wider than high.

    It is larger than what `seen` resizes to. Half of what is cut off its width ends in 1.5 pixels, which libraries
    round to 1 or to 2.
    """
    side = seen.resize or seen.size
    height = side * 4 // 3 | 1
    width = next(n for n in count(height * 4 // 3) if (side * n // height - seen.size) % 4 == 3)
    generator = np.random.Generator(np.random.Philox(key=[1, side]))
    noise = np.fft.rfft2(generator.normal(size=(height, width, 3)), axes=(0, 1))
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    # The power of photographs falls with the square of the frequency.
    pink = np.fft.irfft2(noise / np.hypot(rows, columns).clip(1 / width)[..., None], s=(height, width), axes=(0, 1))
    levels: NDArray[np.uint8] = (127.5 + 50 * pink / pink.std()).clip(0, 255).round().astype(np.uint8)
    return levels


def shown(images: NDArray[np.uint8], seen: Preprocessing) -> Tensor:
    """What a network is given of framed images: uint8 [B, size, size, 3] to float32 [B, 3, size, size]."""
    return seen.normalise(to_unit(images))


def pixel_difference(seen: Preprocessing, transform: Transform) -> str:
    """How `seen` differs from a library's own transform on the photograph; empty where it does by a level."""
    image = photograph(seen)
    theirs = np.asarray(transform(image))
    ours = shown(fit(image, seen.framing)[None], seen)[0].numpy()
    what = f"of an image of {image.shape[1]} x {image.shape[0]} pixels"
    if theirs.shape != ours.shape:
        return f"{what} its network sees {list(theirs.shape)}, and ours would see {list(ours.shape)}"
    std = seen.std[::-1] if seen.channels == "bgr" else seen.std
    levels = np.abs(ours - theirs) * np.array(std)[:, None, None] * 255
    worst = float(levels.max())
    if worst <= 2 * LEVELS and float((levels > LEVELS).mean()) <= STRAYS:
        return ""
    return f"{what} its network and ours would see pixels {worst:.3g} levels of 255 apart"


@torch.no_grad()
def library_embedding(network: Trunk | Tapped, seen: Preprocessing) -> Vectors:
    """The photograph, embedded by the library's own forward pass: see `Trunk.library`.

    Raises InputError where that pass fails.
    """
    images = shown(fit(photograph(seen), seen.framing)[None], seen)
    try:
        with unrounded("float32", deterministic=True):
            # In torch's own layout, which ours may leave.
            given = network.eval().library(images.contiguous())
    except InputError:
        raise
    # The network is the library's or the user's own, and may raise anything; one written for a script exits.
    except (Exception, SystemExit) as error:
        raise InputError(
            f"a forward pass of the library's own that takes an image of {seen.size} x {seen.size} pixels",
            reason(error),
            "Check the network's `options` and the `size` under `preprocessing`.",
        ) from error
    return {tap: vectors.flatten(1).float().numpy() for tap, vectors in given.items()}


def require_agreement(encoder: NetworkEncoder, tapped: Tapped, untapped: Vectors) -> None:
    """Raises InputError where an embedding of the photograph is not what the library's own forward pass gives.

    `tapped` is the network of `encoder`, and `untapped` what that pass gave before any tap was attached to it.
    """
    seen = encoder.preprocessing
    expected = library_embedding(tapped, seen) | untapped
    found = encoder.embed(fit(photograph(seen), seen.framing)[None])
    far = distances({tap: vectors for tap, vectors in expected.items() if tap in found}, found, encoder.tolerance)
    if far:
        raise InputError(
            f"the embedding of an image that the library's own forward pass gives, within {encoder.tolerance:g}",
            f"a relative difference at {far}",
            "Read the network at a submodule of your choice with `kind: torch`, whose `backbone` is what your code "
            "returns.",
        )
