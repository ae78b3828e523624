"""What `make photos` downloads, for tests and benchmarks, and how well embeddings group it by class."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.images.framing import Framing, fit
from stages.images.image_file import decode

FOLDER = Path(__file__).parents[1] / "photos"

MOBILENET: dict[str, Any] = {
    "kind": "torch",
    "factory": f"{FOLDER}/mobilenetv2.py:MobileNetV2_bottle",
    "weights": f"{FOLDER}/mobilenetv2.pt",
}
"""An encoder that the recipe `photos` does not have."""

SIDE = 112
HALVED = {"preprocessing": {"size": SIDE, "resize": SIDE}}
"""Half of the side that the networks were trained with, which takes a quarter of the time."""


def cutouts(each: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The first `each` cut-outs of every class on white: uint8 [N, SIDE, SIDE, 3], and their classes."""
    files = [sorted(folder.iterdir())[:each] for folder in sorted((FOLDER / "cutouts").iterdir())]
    framing = Framing(SIDE, squash=True)
    images = [fit(decode(file.read_bytes()), framing) for group in files for file in group]
    return np.stack(images), np.repeat(np.arange(len(files)), [len(group) for group in files])


def neighbours_agree(vectors: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Share of images whose nearest neighbour by cosine is of their class."""
    unit = vectors - vectors.mean(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    near = unit @ unit.T - 2 * np.eye(len(unit), dtype=np.float32)
    return float((labels[near.argmax(axis=1)] == labels).mean())
