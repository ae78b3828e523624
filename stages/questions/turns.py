"""In which order sources are shown: drawn by a seed, so that the classes of the dataset take turns.

In a folder that is sorted by class the first sources are of one class and much alike. What is shown at once is then of
many, and the same in every figure.
"""

from collections.abc import Sequence

import numpy as np

from stages.attributes import load
from stages.contract import Input
from stages.images.sets import ATTRIBUTES, open_images
from stages.readers.score import Numbers

SEED = 0


def in_turns(shards: Input, rows: Numbers) -> Numbers:
    """Positions in `rows` [N] in the order in which their images are shown: int64 [N]."""
    _, classes = classes_of(shards, rows.tolist())
    return order(classes)


def order(classes: Sequence[float]) -> Numbers:
    """Positions in random order, so that each class comes once before any comes again: int64 [N]."""
    shuffled = np.random.Generator(np.random.Philox(key=[SEED, len(classes)])).permutation(len(classes))
    seen: dict[float, int] = {}
    turns: list[tuple[int, int, int]] = []
    for index in shuffled.tolist():
        turns.append((seen.setdefault(classes[index], 0), len(turns), index))
        seen[classes[index]] += 1
    return np.array([index for _, _, index in sorted(turns)], dtype=np.int64)


def classes_of(shards: Input, rows: Sequence[int]) -> tuple[str, list[float]]:
    """Name and values of the first class attribute of the dataset; no name and one class where it has none."""
    if ATTRIBUTES in shards.names():
        for attribute in load(shards.read(ATTRIBUTES)):
            if attribute.kind == "class":
                values = open_images(shards).values([attribute.name])[attribute.name]
                # Where a label is not known it is a class of its own.
                return attribute.name, np.nan_to_num(values[list(rows)], nan=-1.0).tolist()
    return "", [0.0] * len(rows)
