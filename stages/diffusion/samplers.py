"""Samplers as plain functions of a denoiser, from noise of level sigma_max down to 0.

    x = sampler(denoiser, noise, sigmas, h)

`noise` is injected: `noise(0)` is what is started from and `noise(i)` what step i of a stochastic sampler adds.
`sigmas` [steps + 1] fall from sigma_max to 0; `h` is handed to the denoiser untouched. `ancestral` and `sde-dpm++2m`
follow the reverse of the noising, an SDE (Song et al. 2021, arXiv 2011.13456, equation 6); all others solve
dx/d sigma = (x - D(x; sigma)) / sigma, the probability-flow ODE (Karras et al. 2022, equation 3 with sigma(t) = t,
s(t) = 1).
"""

from collections.abc import Callable
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor

from stages.diffusion.noise import Noise

Denoiser: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""D(x, sigma, h): noisy [B, C, H, W], noise levels [B] and conditions [B, D] to denoised [B, C, H, W]."""

Sampler: TypeAlias = Callable[[Denoiser, Noise, Tensor, Tensor], Tensor]


def karras_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """Noise levels evenly spaced in sigma^(1/rho), then 0: float32 [steps + 1] (Karras et al. 2022, equation 5)."""
    ramp = torch.linspace(0.0, 1.0, steps, dtype=torch.float64)
    low, high = sigma_min ** (1.0 / rho), sigma_max ** (1.0 / rho)
    return torch.cat([(high + ramp * (low - high)) ** rho, torch.zeros(1, dtype=torch.float64)]).float()


def _at(denoiser: Denoiser, x: Tensor, sigma: Tensor, h: Tensor) -> Tensor:
    return denoiser(x, sigma.to(x).expand(x.shape[0]), h)


def _started(noise: Noise, sigmas: Tensor) -> Tensor:
    unit = noise(0)
    return unit * sigmas[0].to(unit)


def euler(denoiser: Denoiser, noise: Noise, sigmas: Tensor, h: Tensor) -> Tensor:
    """Euler's method, order 1, `steps` evaluations."""
    x = _started(noise, sigmas)
    for now, after in pairwise(sigmas):
        x = x + (after - now) * (x - _at(denoiser, x, now, h)) / now
    return x


def ddim(denoiser: Denoiser, noise: Noise, sigmas: Tensor, h: Tensor, eta: float = 0.0) -> Tensor:
    """DDIM (Song et al. 2021, arXiv 2010.02502, equation 12), order 1, `steps` evaluations; Euler's method at eta = 0.

    Each step keeps the noise that D sees in x, shrunk, and replaces some of it by new: none at `eta` 0, at 1 as much as
    the reverse of the noising does (equation 16, with images not scaled down as noise is added).
    """
    x = _started(noise, sigmas)
    for step, (now, after) in enumerate(pairwise(sigmas), start=1):
        denoised = _at(denoiser, x, now, h)
        fresh = eta * (after / now) * (now**2 - after**2).sqrt()
        x = denoised + (after**2 - fresh**2).sqrt() / now * (x - denoised)
        if fresh > 0:
            x = x + fresh * noise(step)
    return x


def ancestral(denoiser: Denoiser, noise: Noise, sigmas: Tensor, h: Tensor) -> Tensor:
    """Ancestral sampling (Ho et al. 2020, algorithm 2, with the smaller of its variances), `steps` evaluations."""
    return ddim(denoiser, noise, sigmas, h, eta=1.0)


def heun(denoiser: Denoiser, noise: Noise, sigmas: Tensor, h: Tensor) -> Tensor:
    """Heun's method, order 2, `2 * steps - 1` evaluations (Karras et al. 2022, algorithm 1)."""
    x = _started(noise, sigmas)
    for now, after in pairwise(sigmas):
        slope = (x - _at(denoiser, x, now, h)) / now
        proposed = x + (after - now) * slope
        if after > 0:
            slope = (slope + (proposed - _at(denoiser, proposed, after, h)) / after) / 2
            proposed = x + (after - now) * slope
        x = proposed
    return x


def dpm_solver_2m(denoiser: Denoiser, noise: Noise, sigmas: Tensor, h: Tensor) -> Tensor:
    """DPM-Solver++(2M), order 2, `steps` evaluations (Lu et al. 2022, arXiv 2211.01095, algorithm 2).

    With alpha = 1 and lambda = -ln sigma; the last step, onto sigma = 0, is of first order and returns D itself.
    """
    return _multistep(denoiser, noise, sigmas, h, stochastic=False)


def sde_dpm_solver_2m(denoiser: Denoiser, noise: Noise, sigmas: Tensor, h: Tensor) -> Tensor:
    """SDE-DPM-Solver++(2M), order 2, `steps` evaluations (Lu et al. 2022, arXiv 2211.01095).

    `ancestral` with D extrapolated to the middle of each step.
    """
    return _multistep(denoiser, noise, sigmas, h, stochastic=True)


def _multistep(denoiser: Denoiser, noise: Noise, sigmas: Tensor, h: Tensor, stochastic: bool) -> Tensor:
    x = _started(noise, sigmas)
    before: Tensor | None = None
    width_before = torch.zeros(())
    for step, (now, after) in enumerate(pairwise(sigmas), start=1):
        denoised = _at(denoiser, x, now, h)
        if after == 0:
            return denoised
        width = (now / after).log()
        target = denoised
        if before is not None:
            # The paper's r is the last step's width over this one's: extrapolate D to the middle of this step.
            target = denoised + (denoised - before) * (width / (2 * width_before))
        kept = (after / now) ** 2 if stochastic else after / now
        x = kept * x + (1 - kept) * target
        if stochastic:
            x = x + after * (1 - kept).sqrt() * noise(step)
        before, width_before = denoised, width
    return x


SAMPLERS: dict[str, Sampler] = {
    "ancestral": ancestral,
    "ddim": ddim,
    "dpm++2m": dpm_solver_2m,
    "euler": euler,
    "heun": heun,
    "sde-dpm++2m": sde_dpm_solver_2m,
}


def evaluations(sampler: str, steps: int) -> int:
    """How many times a sampler calls the denoiser."""
    return 2 * steps - 1 if sampler == "heun" else steps
