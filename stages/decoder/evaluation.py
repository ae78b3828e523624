"""The held-out loss: on the same images, noise and noise levels every time."""

from dataclasses import dataclass

import numpy as np
import torch

from stages.decoder.data import PairedSet
from stages.decoder.network import Parts
from stages.decoder.objective import Objective
from stages.decoder.recipe import Recipe
from stages.diffusion import noise
from stages.training.precision import Precision, arithmetic

HELDOUT, LEVELS = 256, 8
"""Held-out images and noise levels of the held-out loss."""


@dataclass(frozen=True)
class Evaluation:
    """The loss of a network on held-out images."""

    network: Parts
    objective: Objective
    heldout: PairedSet
    recipe: Recipe
    precision: Precision
    device: str

    @torch.no_grad()
    def losses(self) -> list[float]:
        """Mean loss per tap."""
        count = min(HELDOUT, len(self.heldout))
        rows, plain = np.arange(count), np.zeros(count, dtype=np.bool_)
        unit = noise.normal(((self.recipe.seed, HELDOUT, row) for row in range(count)), (3, *[self.heldout.size] * 2))
        # Equal steps of the distribution of noise levels, one after the other.
        level = self.objective.levels((torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS)
        level = level[torch.arange(count) % LEVELS]
        found = []
        with arithmetic(self.precision, self.device):
            for tap in range(len(self.heldout.widths)):
                shown = self.heldout.shown(rows, plain, np.full(count, tap)).noised(level, unit)
                losses = [
                    self.objective.losses(self.network, batch.to(self.device))
                    for batch in shown.split(self.recipe.settings.micro_batch or count)
                ]
                found.append(float(torch.cat(losses).mean()))
        return found
