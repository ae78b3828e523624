"""Wrapped networks and mixed denoisers: the same answers as before they were wrapped, or as a formula says."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from stages.diffusion import denoisers, discrete, samplers

SCHEDULE = discrete.linear()
CENTRE, SPREAD = 0.3, 0.5


def level_of(t: Tensor) -> Tensor:
    """Noise level of a step that may be a fraction, by hand: between two steps its logarithm is linear."""
    levels = SCHEDULE.sigmas.log()
    low = t.double().floor().long().clamp(max=len(levels) - 2)
    return torch.lerp(levels[low], levels[low + 1], t.double() - low).exp()


def network(x: Tensor, t: Tensor, h: Tensor) -> Tensor:
    """The best estimate of the noise in x_t for data N(CENTRE, SPREAD^2), and the smaller variance."""
    left = (1 / (1 + level_of(t) ** 2)).view(-1, 1, 1, 1)
    noise = (1 - left).sqrt() * (x - left.sqrt() * CENTRE) / (left * SPREAD**2 + 1 - left)
    return torch.cat([noise, -torch.ones_like(noise)], dim=1)


def exact(x: Tensor, sigma: Tensor, h: Tensor) -> Tensor:
    share = (SPREAD**2 / (SPREAD**2 + sigma**2)).view(-1, 1, 1, 1)
    return torch.lerp(torch.full_like(x, CENTRE), x, share)


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 2, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_wrapped_network_is_the_denoiser_that_it_stands_for() -> None:
    wrapped = denoisers.discrete(network, SCHEDULE, clip=False)
    x, sigma = 3 * images(5), torch.tensor([0.011, 0.2, 1.0, 30.0, 150.0], dtype=torch.float64)
    assert torch.allclose(wrapped(x, sigma, x), exact(x, sigma, x), atol=1e-4)
    clipped = denoisers.discrete(network, SCHEDULE, clip=True)(x, sigma, x)
    assert torch.allclose(clipped, exact(x, sigma, x).clamp(-1, 1), atol=1e-4)


def test_levels_of_the_schedule_are_its_steps_and_those_beyond_are_its_ends() -> None:
    steps = denoisers.step_of(SCHEDULE, SCHEDULE.sigmas)
    assert torch.allclose(steps, torch.arange(1000.0, dtype=torch.float64), atol=1e-6)
    few = discrete.respaced(SCHEDULE, [0, 500, 999])
    between = (few.sigmas[0] * few.sigmas[1]).sqrt()
    given = torch.stack([torch.tensor(1e-6, dtype=torch.float64), between, torch.tensor(1e6, dtype=torch.float64)])
    assert denoisers.step_of(few, given).tolist() == pytest.approx([0, 250, 999])


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("heun", 2), ("dpm++2m", 2)])
def test_samplers_keep_their_order_on_a_wrapped_network(name: str, order: int) -> None:
    wrapped = denoisers.discrete(network, SCHEDULE, clip=False)
    low, high = 0.0101, 10.0
    unit = images(8)
    there = CENTRE + (high * unit - CENTRE) * ((SPREAD**2 + low**2) / (SPREAD**2 + high**2)) ** 0.5
    errors = []
    for steps in (30, 60, 120):
        ramp = torch.linspace(high ** (1 / 7), low ** (1 / 7), steps, dtype=torch.float64) ** 7
        errors.append(float((samplers.SAMPLERS[name](wrapped, lambda step: unit, ramp, unit) - there).abs().mean()))
    assert [torch.tensor(a / b).log2().item() for a, b in pairwise(errors)] == pytest.approx([order] * 2, abs=0.35)


def test_ancestral_sampling_repeats_the_loop_of_discrete_time_on_its_noise_levels() -> None:
    schedule = discrete.respaced(SCHEDULE, discrete.evenly(10, 1000))
    start, h = images(4, seed=9), torch.zeros(4, 1)
    expected = discrete.ancestral(network, schedule, lambda step: images(4, seed=step) if step else start, h)
    sigmas = torch.cat([schedule.sigmas.flip(0), torch.zeros(1, dtype=torch.float64)])
    unit = start * (1 + sigmas[0] ** 2).sqrt() / sigmas[0]  # Discrete time starts from noise of unit variance.
    wrapped = denoisers.discrete(network, SCHEDULE, clip=True)
    found = samplers.ancestral(wrapped, lambda step: images(4, seed=step) if step else unit, sigmas, h)
    assert torch.allclose(found, expected, atol=1e-5)


def test_guidance_of_one_is_the_denoiser_itself() -> None:
    assert denoisers.guided(exact, network, 1.0) is exact


def test_guidance_goes_beyond_the_condition_inside_its_interval_and_nowhere_else() -> None:
    def conditional(x: Tensor, sigma: Tensor, h: Tensor) -> Tensor:
        return torch.full_like(x, 0.5)

    def free(x: Tensor, sigma: Tensor, h: Tensor) -> Tensor:
        return torch.full_like(x, 0.2)

    mixed = denoisers.guided(conditional, free, 3.0, low=0.2, high=5.0)
    sigma = torch.tensor([0.1, 0.2, 1.0, 5.0, 6.0], dtype=torch.float64)
    assert mixed(images(5), sigma, sigma)[:, 0, 0, 0].tolist() == pytest.approx([0.5, 1.1, 1.1, 1.1, 0.5])


def test_guidance_outside_its_interval_asks_the_free_denoiser_nothing() -> None:
    def free(x: Tensor, sigma: Tensor, h: Tensor) -> Tensor:
        raise AssertionError

    x, sigma = images(2), torch.tensor([7.0, 8.0], dtype=torch.float64)
    assert torch.equal(denoisers.guided(exact, free, 2.0, high=5.0)(x, sigma, x), exact(x, sigma, x))
