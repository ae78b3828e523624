"""Pictures that tests of images share."""

import io
from typing import Any

import numpy as np
from PIL import Image

GRADIENT = np.stack(np.broadcast_arrays(*np.ogrid[0:240:24j, 0:240:16j], 77), axis=-1).astype(np.uint8)
"""uint8 [24, 16, 3]: red grows downwards, green to the right."""


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def photograph(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Light and dark in many sizes, smooth and rough."""
    generator = np.random.default_rng(5)
    picture = np.zeros((height, width, 3))
    for octave in range(1, 8):
        coarse = Image.fromarray(generator.integers(0, 256, (2**octave, 2**octave, 3), dtype=np.uint8))
        picture += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) * 0.6**octave
    picture = 255 * (picture - picture.min()) / np.ptp(picture) + generator.normal(0, 4, picture.shape)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8)).convert(mode)
