"""Preconditioning, noise levels and loss of EDM (Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based
Generative Models", arXiv 2206.00364).

Equations are numbered as in that paper; `sigma_data` is the standard deviation of the pixels: one number, or one for
each image, [B].
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from torch import Tensor

Raw: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""F(c_in * y, c_noise): a network without preconditioning. [B, C, H, W] and [B] to [B, C, H, W]."""


class Coefficients(NamedTuple):
    """c_skip, c_out, c_in and c_noise of equation 7, each shaped as sigma."""

    skip: Tensor
    out: Tensor
    scale_in: Tensor
    noise: Tensor


def coefficients(sigma: Tensor, sigma_data: float | Tensor) -> Coefficients:
    """Preconditioning for noise level sigma > 0 (table 1, last column): unit variance into and out of the network."""
    total = (sigma**2 + sigma_data**2).sqrt()
    return Coefficients(
        skip=sigma_data**2 / total**2,
        out=sigma * sigma_data / total,
        scale_in=1.0 / total,
        noise=sigma.log() / 4.0,
    )


def denoise(raw: Raw, y: Tensor, sigma: Tensor, sigma_data: float | Tensor) -> Tensor:
    """D(y; sigma) = c_skip y + c_out F(c_in y; c_noise), equation 7.

    y is [B, C, H, W], a clean image plus noise of standard deviation sigma [B]. Computed in float32 around F.
    """
    c = coefficients(sigma.float(), sigma_data)
    column = (-1, 1, 1, 1)
    f = raw(c.scale_in.view(column) * y, c.noise)
    return c.skip.view(column) * y + c.out.view(column) * f.float()


def log_normal(z: Tensor, mean: float, std: float) -> Tensor:
    """Noise levels with ln sigma ~ N(mean, std^2) from standard normal z (table 1: training noise distribution)."""
    return (mean + std * z).exp()


def losses(denoised: Tensor, clean: Tensor, sigma: Tensor, sigma_data: float | Tensor) -> Tensor:
    """lambda(sigma) * |D - x|^2 per image, mean over its pixels: [B]. Equations 2 and 8.

    lambda = (sigma^2 + sigma_data^2) / (sigma * sigma_data)^2 makes the loss of every noise level 1 at the start.
    """
    weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
    return weight * (denoised.float() - clean).square().flatten(1).mean(1)
