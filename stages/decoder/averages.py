"""Moving averages of the weights, which are what is kept of a training."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from torch import Tensor

from stages.decoder.flat import Flat
from stages.decoder.recipe import Recipe


def averaging_exponent(length: float) -> float:
    """Exponent gamma of the power-function average of the weights whose relative standard deviation is `length`.

    Karras et al. 2024 (EDM2, arXiv 2312.02696), algorithm 2: the largest root of a cubic.
    """
    t = length**-2
    return float(np.roots([1.0, 7.0, 16.0 - t, 12.0 - t]).real.max())


class Averages:
    """The moving average of a module's weights, `current`, and a copy of it from half of the training, `halfway`."""

    def __init__(self, flat: Flat, recipe: Recipe, steps: int) -> None:
        self.current, self.halfway = flat.values.clone(), flat.values.clone()
        self._flat, self._steps, self._decay = flat, steps, recipe.ema_decay
        self._gamma = averaging_exponent(recipe.settings.ema)

    def update(self, step: int) -> None:
        """Takes in the weights after a step, the first being 0."""
        self.current.lerp_(self._flat.values, self._share(step))
        if step + 1 == (self._steps + 1) // 2:
            self.halfway.copy_(self.current)

    def _share(self, step: int) -> float:
        """Share of the average that the weights after a step take."""
        if self._decay is not None:
            return 1.0 - self._decay
        return float(1.0 - (1.0 - 1.0 / (step + 1)) ** (self._gamma + 1.0))

    @contextmanager
    def swapped_in(self, weights: Tensor) -> Iterator[None]:
        """Gives the module other weights, `current` or `halfway`, until the end."""
        own = self._flat.values.clone()
        self._flat.values.copy_(weights)
        try:
            yield
        finally:
            self._flat.values.copy_(own)
