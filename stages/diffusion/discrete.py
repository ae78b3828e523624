"""Gaussian diffusion in discrete time, as the published RCDM was trained and sampled.

Equations are of Ho et al. 2020 (DDPM, arXiv 2006.11239) and Nichol & Dhariwal 2021 (improved DDPM, arXiv 2102.09672). A
network F(x_t, t, h) estimates the noise in x_t in its first half of channels; the second half says where, between the
two bounds of equation 15 of improved DDPM, the variance of the reverse step lies.

Steps count from 0, the least noise, to T - 1. Images are float32 [B, C, H, W] in [-1, 1], steps int64 [B], and all
noise is injected.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from stages.diffusion.noise import Noise

Network: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""F(x_t, t, h): [B, C, H, W], [B] and [B, D] to [B, 2 C, H, W]."""


@dataclass(frozen=True, eq=False)
class Schedule:
    """How much noise each of T steps adds, and what time the network is given at each. Arithmetic is float64."""

    betas: Tensor
    """Variance that each step adds, float64 [T]."""
    times: Tensor
    """The network's time at each step, int64 [T]: the step's number where the schedule has all of them."""

    def __len__(self) -> int:
        return len(self.betas)

    def to(self, device: str) -> "Schedule":
        """The same schedule on a device."""
        return Schedule(self.betas.to(device), self.times.to(device))

    @cached_property
    def alpha_bar(self) -> Tensor:
        """Share of the image's variance that is left after each step, float64 [T]."""
        return torch.cumprod(1.0 - self.betas, dim=0)

    @cached_property
    def alpha_bar_before(self) -> Tensor:
        """The same one step earlier: 1 before the first."""
        return torch.cat([self.alpha_bar.new_ones(1), self.alpha_bar[:-1]])

    @cached_property
    def variance(self) -> Tensor:
        """Variance of q(x_{t-1} | x_t, x_0): beta tilde of DDPM, equation 7. It is 0 at the first step."""
        return self.betas * (1.0 - self.alpha_bar_before) / (1.0 - self.alpha_bar)

    @cached_property
    def log_variance(self) -> Tensor:
        """Its logarithm, where the first step takes that of the second because its own is infinite."""
        return torch.cat([self.variance[1:2] if len(self) > 1 else self.betas, self.variance[1:]]).log()

    @cached_property
    def sigmas(self) -> Tensor:
        """Noise level of x_t divided by the scale of the image in it, float64 [T], rising."""
        return ((1.0 - self.alpha_bar) / self.alpha_bar).sqrt()


def linear(steps: int = 1000) -> Schedule:
    """Variances rising linearly; those of DDPM at 1000 steps, and as much noise in all at any other number."""
    scale = 1000 / steps
    return _whole(torch.linspace(scale * 1e-4, scale * 0.02, steps, dtype=torch.float64))


def cosine(steps: int = 1000) -> Schedule:
    """The cosine schedule of improved DDPM, equation 17: s = 0.008, variances at most 0.999."""
    fraction = torch.arange(steps + 1, dtype=torch.float64) / steps
    left = ((fraction + 0.008) / 1.008 * (math.pi / 2)).cos() ** 2
    return _whole((1.0 - left[1:] / left[:-1]).clamp(max=0.999))


SCHEDULES: dict[str, Callable[[int], Schedule]] = {"cosine": cosine, "linear": linear}


def _whole(betas: Tensor) -> Schedule:
    return Schedule(betas, torch.arange(len(betas)))


def evenly(count: int, steps: int) -> list[int]:
    """`count` of `steps` steps at equal distances, the first and the last among them (improved DDPM, section 4)."""
    stride = (steps - 1) / max(1, count - 1)
    return [round(number * stride) for number in range(count)]


def respaced(schedule: Schedule, steps: Sequence[int]) -> Schedule:
    """The schedule of fewer steps that has the noise levels of these `steps`, rising (improved DDPM, section 4)."""
    chosen = torch.as_tensor(steps, dtype=torch.int64)
    left = schedule.alpha_bar[chosen]
    return Schedule(1.0 - left / torch.cat([left.new_ones(1), left[:-1]]), schedule.times[chosen])


def q_sample(schedule: Schedule, clean: Tensor, step: Tensor, noise: Tensor) -> Tensor:
    """x_t of q(x_t | x_0), DDPM equation 4: `clean` after `step` steps of `noise`."""
    left = schedule.alpha_bar
    return _at(left.sqrt(), step, clean) * clean + _at((1.0 - left).sqrt(), step, clean) * noise


def posterior_mean(schedule: Schedule, clean: Tensor, x: Tensor, step: Tensor) -> Tensor:
    """Mean of q(x_{t-1} | x_t, x_0), DDPM equation 7."""
    left, before, betas = schedule.alpha_bar, schedule.alpha_bar_before, schedule.betas
    of_clean = betas * before.sqrt() / (1.0 - left)
    of_x = (1.0 - before) * (1.0 - betas).sqrt() / (1.0 - left)
    return _at(of_clean, step, x) * clean + _at(of_x, step, x) * x


class Prediction(NamedTuple):
    """What a network says of one reverse step: mean, variance and its logarithm, and the image; [B, C, H, W] each."""

    mean: Tensor
    variance: Tensor
    log_variance: Tensor
    clean: Tensor


def predict(schedule: Schedule, output: Tensor, x: Tensor, step: Tensor, clip: bool = True) -> Prediction:
    """p(x_{t-1} | x_t) from the network's `output` [B, 2 C, H, W]; `clip` keeps the image within [-1, 1].

    The mean is that of the posterior with the estimated image in place of x_0, the variance by improved DDPM, eq. 15.
    """
    noise, share = output.float().chunk(2, dim=1)
    clean = clean_from_noise(schedule, x, step, noise)
    if clip:
        clean = clean.clamp(-1.0, 1.0)
    low, high = _at(schedule.log_variance, step, x), _at(schedule.betas.log(), step, x)
    portion = (share + 1.0) / 2.0
    log_variance = portion * high + (1.0 - portion) * low
    return Prediction(posterior_mean(schedule, clean, x, step), log_variance.exp(), log_variance, clean)


def clean_from_noise(schedule: Schedule, x: Tensor, step: Tensor, noise: Tensor) -> Tensor:
    """x_0 of x_t and the noise in it: DDPM equation 4 the other way round."""
    left = schedule.alpha_bar
    return _at(left.rsqrt(), step, x) * x - _at(schedule.sigmas, step, x) * noise


class Losses(NamedTuple):
    """Losses per image, [B] each."""

    mse: Tensor
    """Mean squared error of the estimated noise: L_simple of DDPM, equation 14."""
    bound: Tensor
    """One term of the variational bound, bits per dimension; it trains the variance only."""

    @property
    def hybrid(self) -> Tensor:
        """L_simple and the bound. Equal weights: the published training did not scale the bound down by T."""
        return self.mse + self.bound


def losses(schedule: Schedule, output: Tensor, clean: Tensor, x: Tensor, step: Tensor, noise: Tensor) -> Losses:
    """Losses of the network's `output` for x = q_sample(schedule, clean, step, noise); improved DDPM, section 3.1.

    The bound's mean carries no gradient, so that only the variance learns from it.
    """
    estimated, share = output.float().chunk(2, dim=1)
    return Losses(
        mse=_mean(torch.square(noise - estimated)),
        bound=bound(schedule, torch.cat([estimated.detach(), share], dim=1), clean, x, step),
    )


def bound(schedule: Schedule, output: Tensor, clean: Tensor, x: Tensor, step: Tensor) -> Tensor:
    """L_t of DDPM, equation 5, in bits per dimension [B]: a divergence, but at step 0 the 8-bit image's likelihood."""
    predicted = predict(schedule, output, x, step, clip=False)
    mean = posterior_mean(schedule, clean, x, step)
    divergence = _divergence(mean, _at(schedule.log_variance, step, x), predicted.mean, predicted.log_variance)
    likelihood = _log_likelihood(clean, predicted.mean, predicted.log_variance / 2.0)
    return torch.where(step == 0, _mean(-likelihood), _mean(divergence)) / math.log(2.0)


def ancestral(network: Network, schedule: Schedule, noise: Noise, h: Tensor, clip: bool = True) -> Tensor:
    """Samples x_0 [B, C, H, W] by DDPM's algorithm 2 with the learned variance, one evaluation for each step.

    `noise(0)` is what is started from, x_T, and `noise(i)` what step i adds, 1 first; the last adds none.
    """
    x = noise(0)
    for number, step in enumerate(reversed(range(len(schedule))), start=1):
        steps = torch.full((len(x),), step, device=x.device)
        predicted = predict(schedule, network(x, schedule.times.to(x.device)[steps], h), x, steps, clip)
        x = predicted.mean
        if step:
            x = x + (predicted.log_variance / 2.0).exp() * noise(number)
    return x


def _at(values: Tensor, step: Tensor, like: Tensor) -> Tensor:
    """One value per image, as a column beside [B, C, H, W]."""
    return values.to(step.device)[step].to(like.dtype).view(-1, 1, 1, 1)


def _mean(x: Tensor) -> Tensor:
    return x.flatten(1).mean(1)


def _divergence(mean: Tensor, log_variance: Tensor, other: Tensor, other_log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence of one normal distribution from another, in nats."""
    ratio = log_variance - other_log_variance
    return (ratio.exp() - ratio - 1.0 + (mean - other).square() * (-other_log_variance).exp()) / 2.0


def _log_likelihood(clean: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log-probability of a pixel of 256 levels in [-1, 1] under a normal distribution (DDPM, equation 13), in nats."""
    inverse = (-log_scale).exp()
    above = _cumulative((clean - mean + 1.0 / 255.0) * inverse)
    below = _cumulative((clean - mean - 1.0 / 255.0) * inverse)
    level = torch.where(clean < -0.999, above, torch.where(clean > 0.999, 1.0 - below, above - below))
    return level.clamp(min=1e-12).log()


def _cumulative(x: Tensor) -> Tensor:
    """Cumulative standard normal distribution by tanh, within 3e-4: the published losses use it."""
    return (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))) / 2.0
