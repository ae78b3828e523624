"""Images and their samples as one picture: a row for each tap of each image, the image first."""

import numpy as np
from numpy.typing import NDArray

from stages.images.pixels import encode_png
from stages.show.shown import Shown

GAP = 2
"""Pixels between two tiles."""
MAGNIFIED = 4
"""Each pixel is shown as a square of this side."""


def draw(shown: Shown) -> bytes:
    """A PNG."""
    rows = [
        np.concatenate([shown.images[i : i + 1], tap.samples[i]]) for i in range(len(shown.names)) for tap in shown.taps
    ]
    return encode_png(_sheet(np.stack(rows)))


def _sheet(tiles: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [R, C, S, S, 3] as one image, tiles magnified and apart."""
    large = tiles.repeat(MAGNIFIED, axis=2).repeat(MAGNIFIED, axis=3)
    apart = np.pad(large, ((0, 0), (0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
    rows, columns, height, width, channels = apart.shape
    return apart.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
