"""Whitening: embeddings rotated and scaled so that every direction has the same variance.

Gradient descent learns directions of little variance last, and an embedding may hold an attribute in just those. After
whitening, how large a direction is says nothing about how soon it is learned.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SHRINKAGE_MIN = 1e-6
"""Smallest share of the diagonal, so that directions without variance are not blown up to noise."""


@dataclass(frozen=True)
class Whitening:
    """x -> L^-1 (x - mean) / std, where L L^T is the correlation matrix, shrunk towards the identity."""

    mean: Tensor
    """float32 [D]."""
    std: Tensor
    """float32 [D]; 1 where a feature is constant."""
    factor: Tensor
    """The lower triangular L, float32 [D, D]."""
    shrinkage: float
    """Weight of the identity, in [0, 1] (Ledoit & Wolf 2004)."""

    @classmethod
    def fit(cls, x: Tensor) -> "Whitening":
        """From embeddings float32 [N, D]."""
        from sklearn.covariance import ledoit_wolf_shrinkage

        mean, std = x.mean(0), x.std(0, correction=0)
        std = torch.where(std > 0, std, torch.ones_like(std))
        scaled = (x - mean) / std
        precise = scaled.double()
        shrinkage = max(SHRINKAGE_MIN, float(ledoit_wolf_shrinkage(precise.numpy(), assume_centered=True)))
        correlation = precise.T @ precise / len(x)
        shrunk = (1.0 - shrinkage) * correlation + shrinkage * torch.eye(x.shape[1], dtype=torch.float64)
        return cls(mean, std, torch.linalg.cholesky(shrunk).float(), shrinkage)

    def apply(self, x: Tensor) -> Tensor:
        """Embeddings float32 [M, D], whitened."""
        scaled = (x - self.mean) / self.std
        whitened: Tensor = torch.linalg.solve_triangular(self.factor, scaled.T, upper=False).T.contiguous()
        return whitened
