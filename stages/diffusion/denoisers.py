"""Denoisers that wrap something else: a network of discrete time, or two denoisers. The wrapped are not changed."""

import torch
from torch import Tensor

from stages.diffusion.discrete import Network, Schedule
from stages.diffusion.samplers import Denoiser


def discrete(network: Network, schedule: Schedule, clip: bool) -> Denoiser:
    """D(x, sigma, h) of a network F(x_t, t, h) that estimates the noise in its first channels.

    x = x_t / sqrt(alpha_bar) has noise of level sigma = sqrt((1 - alpha_bar) / alpha_bar), so the network is shown
    x / sqrt(1 + sigma^2) at the step of that level, and D = x - sigma F (Song et al. 2021, section 4.3). Beyond the
    schedule's levels it is given its first or last step. `clip` keeps D within [-1, 1].
    """

    def denoised(x: Tensor, sigma: Tensor, h: Tensor) -> Tensor:
        column = sigma.view(-1, 1, 1, 1)
        output = network(x / (1.0 + column**2).sqrt(), step_of(schedule, sigma), h)
        clean = x - column * output[:, : x.shape[1]].to(x.dtype)
        return clean.clamp(-1.0, 1.0) if clip else clean

    return denoised


def step_of(schedule: Schedule, sigma: Tensor) -> Tensor:
    """A network's time at noise levels sigma [B]: float [B], between two steps by the logarithm of the level."""
    levels, times = schedule.sigmas.log().to(sigma.device), schedule.times.to(sigma.device, torch.float64)
    log_sigma = torch.minimum(torch.maximum(sigma.double().log(), levels[0]), levels[-1])
    above = torch.searchsorted(levels, log_sigma).clamp(1, len(levels) - 1)
    share = (log_sigma - levels[above - 1]) / (levels[above] - levels[above - 1])
    return torch.lerp(times[above - 1], times[above], share).to(sigma.dtype)


def guided(
    denoiser: Denoiser, free: Denoiser, guidance: float, low: float = 0.0, high: float = float("inf")
) -> Denoiser:
    """D_free + guidance (D - D_free) where low <= sigma <= high, and D elsewhere; at guidance 1 the denoiser itself.

    `free` knows no condition. Ho & Salimans 2022 (arXiv 2207.12598); the interval: Kynkaanniemi et al. 2024 (arXiv
    2404.07724). Guidance narrows what is painted, so nothing is measured with it.
    """
    if guidance == 1.0:
        return denoiser

    def mixed(x: Tensor, sigma: Tensor, h: Tensor) -> Tensor:
        denoised = denoiser(x, sigma, h)
        inside = (sigma >= low) & (sigma <= high)
        if not inside.any():
            return denoised
        led = torch.lerp(free(x, sigma, h), denoised, guidance)
        return torch.where(inside.view(-1, 1, 1, 1), led, denoised)

    return mixed
