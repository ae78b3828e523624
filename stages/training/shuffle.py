"""The order in which a training is shown its rows: a function of its seed and of nothing else."""

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def order(seed: int, count: int, numbers: "NDArray[np.int64]") -> "NDArray[np.int64]":
    """Row shown as image `numbers` (int64 [B], rising) of an endless series of shuffled epochs of `count` rows."""
    epochs, positions = np.divmod(numbers, count)
    rows = np.empty_like(numbers)
    for epoch in np.unique(epochs):
        rows[epochs == epoch] = _shuffled(seed, count, int(epoch))[positions[epochs == epoch]]
    return rows


# Two series, of a decoder's sketch and of its diffusion model, each in one epoch or between two.
@lru_cache(maxsize=4)
def _shuffled(seed: int, count: int, epoch: int) -> "NDArray[np.int64]":
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)
