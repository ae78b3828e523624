"""Samplers as plain functions of a denoiser: probability-flow ODE from sigma_max down to 0.

    x = sampler(denoiser, noise, sigmas, h)

`noise` is standard normal [B, C, H, W] and is injected, `sigmas` [steps + 1] fall from sigma_max to 0, `h` is handed to
the denoiser untouched. All solve dx/d sigma = (x - D(x; sigma)) / sigma (Karras et al. 2022, equation 3 with
sigma(t) = t, s(t) = 1).
"""

from collections.abc import Callable
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor

Denoiser: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""D(x, sigma, h): noisy [B, C, H, W], noise levels [B] and conditions [B, D] to denoised [B, C, H, W]."""

Sampler: TypeAlias = Callable[[Denoiser, Tensor, Tensor, Tensor], Tensor]


def karras_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """Noise levels evenly spaced in sigma^(1/rho), then 0: float32 [steps + 1] (Karras et al. 2022, equation 5)."""
    ramp = torch.linspace(0.0, 1.0, steps, dtype=torch.float64)
    low, high = sigma_min ** (1.0 / rho), sigma_max ** (1.0 / rho)
    return torch.cat([(high + ramp * (low - high)) ** rho, torch.zeros(1, dtype=torch.float64)]).float()


def _at(denoiser: Denoiser, x: Tensor, sigma: Tensor, h: Tensor) -> Tensor:
    return denoiser(x, sigma.to(x).expand(x.shape[0]), h)


def euler(denoiser: Denoiser, noise: Tensor, sigmas: Tensor, h: Tensor) -> Tensor:
    """Euler's method, order 1, `steps` evaluations; equals DDIM (Song et al. 2021) in these coordinates."""
    x = noise * sigmas[0].to(noise)
    for now, after in pairwise(sigmas):
        x = x + (after - now) * (x - _at(denoiser, x, now, h)) / now
    return x


def heun(denoiser: Denoiser, noise: Tensor, sigmas: Tensor, h: Tensor) -> Tensor:
    """Heun's method, order 2, `2 * steps - 1` evaluations (Karras et al. 2022, algorithm 1)."""
    x = noise * sigmas[0].to(noise)
    for now, after in pairwise(sigmas):
        slope = (x - _at(denoiser, x, now, h)) / now
        ahead = x + (after - now) * slope
        if after > 0:
            slope = (slope + (ahead - _at(denoiser, ahead, after, h)) / after) / 2
            ahead = x + (after - now) * slope
        x = ahead
    return x


def dpm_solver_2m(denoiser: Denoiser, noise: Tensor, sigmas: Tensor, h: Tensor) -> Tensor:
    """DPM-Solver++(2M), order 2, `steps` evaluations (Lu et al. 2022, arXiv 2211.01095, algorithm 2).

    With alpha = 1 and lambda = -ln sigma; the last step, onto sigma = 0, is of first order and returns D itself.
    """
    x = noise * sigmas[0].to(noise)
    before: Tensor | None = None
    width_before = torch.zeros(())
    for now, after in pairwise(sigmas):
        denoised = _at(denoiser, x, now, h)
        if after == 0:
            return denoised
        width = (now / after).log()
        target = denoised
        if before is not None:
            # The paper's r is the last step's width over this one's: extrapolate D to the middle of this step.
            target = denoised + (denoised - before) * (width / (2 * width_before))
        x = (after / now) * x - torch.expm1(-width) * target
        before, width_before = denoised, width
    return x


SAMPLERS: dict[str, Sampler] = {"dpm++2m": dpm_solver_2m, "euler": euler, "heun": heun}


def evaluations(sampler: str, steps: int) -> int:
    """How many times a sampler calls the denoiser."""
    return 2 * steps - 1 if sampler == "heun" else steps
