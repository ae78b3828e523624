"""What `make photos` downloads, for tests and benchmarks, and how well embeddings group it by class."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from pipeline.study import RECIPES
from stages.images.framing import Framing, fit
from stages.images.image_file import decode

FOLDER = Path(__file__).parents[1] / "photos"

SIDE = 112
"""The side that the recipe `photos` shows its encoders: half of the one that they were trained with."""

MOBILENET: dict[str, Any] = {
    "kind": "torch",
    "factory": f"{FOLDER}/mobilenetv2.py:MobileNetV2_bottle",
    "weights": f"{FOLDER}/mobilenetv2.pt",
    "preprocessing": {"size": SIDE, "resize": SIDE},
}
"""An encoder that the recipe does not have."""


def recipe() -> dict[str, Any]:
    """The recipe as it is written, with the folder that is meant wherever the tests run."""
    text = (RECIPES / "photos.yaml").read_text().replace(": photos/", f": {FOLDER}/")
    document: dict[str, Any] = yaml.safe_load(text)
    return document


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
