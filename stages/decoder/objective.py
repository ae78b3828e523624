"""What a diffusion model is trained to do: which noise levels it sees, and what its answer costs.

The loop (`loop.py`) knows neither: it is given a network and an objective.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from stages.decoder.data import Batch
from stages.decoder.network import DecoderNetwork, Parts
from stages.diffusion import edm


class Objective(Protocol):
    """One way to train a denoiser."""

    def levels(self, draws: Tensor) -> Tensor:
        """Noise levels [B] of uniform draws, float64 [B] in (0, 1)."""

    def losses(self, network: Parts, batch: Batch) -> Tensor:
        """Loss of each image, float32 [B]. Called under the training's autocast."""


@dataclass(frozen=True)
class Edm:
    """EDM's weighted squared error at log-normal noise levels (Karras et al. 2022, table 1), around the sketch."""

    log_sigma_mean: float
    log_sigma_std: float

    def levels(self, draws: Tensor) -> Tensor:
        """sigma, float32 [B]."""
        return edm.log_normal(torch.special.ndtri(draws), self.log_sigma_mean, self.log_sigma_std).float()

    def losses(self, network: Parts, batch: Batch) -> Tensor:
        """See `Objective`; the sketch stays as it is."""
        assert isinstance(network, DecoderNetwork)
        noisy = batch.clean + batch.level[:, None, None, None] * batch.noise
        with torch.no_grad():
            drawn = network.sketch(batch.h, batch.tap)
        denoised = network.denoise(noisy, batch.level, batch.h, batch.tap, drawn)
        return edm.losses(denoised, batch.clean, batch.level, network.residual_std[batch.tap])
