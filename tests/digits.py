"""Scikit-learn's handwritten digits, written out as an image folder: real images with a class and no other truth."""

from pathlib import Path

import numpy as np

from stages.images.pixels import encode_png

SIZE = 32
"""Side of a written image, pixels; the digits come as 8 x 8."""


def write_digits(folder: Path, count: int | None = None) -> int:
    """Writes the first `count` digits (all 1 797 by default) as `folder/<class>/<number>.png`; returns how many."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (grey, label) in enumerate(zip(digits.images[:count], digits.target[:count], strict=True)):
        pixels = np.kron(grey / 16.0 * 255.0, np.ones((SIZE // 8, SIZE // 8))).round().astype(np.uint8)
        class_folder = folder / str(label)
        class_folder.mkdir(parents=True, exist_ok=True)
        (class_folder / f"{number:04d}.png").write_bytes(encode_png(np.repeat(pixels[..., None], 3, axis=2)))
    return number + 1
