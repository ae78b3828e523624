"""The mathematics of diffusion against closed forms: samplers' order, preconditioning, loss, noise."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from stages.diffusion import edm, noise, samplers

CENTRE, SPREAD = 0.3, 0.5


def gaussian(x: Tensor, sigma: Tensor, h: Tensor) -> Tensor:
    """The exact denoiser of data N(CENTRE, SPREAD^2): a mean of data and noisy value, weighted by their precision."""
    share = SPREAD**2 / (SPREAD**2 + sigma.to(x) ** 2)
    denoised: Tensor = CENTRE + share[:, None, None, None] * (x - CENTRE)
    return denoised


def exact(noise: Tensor, sigma_max: float) -> Tensor:
    """Where the probability-flow ODE takes `sigma_max * noise`: deviations shrink by the ratio of the spreads."""
    start = sigma_max * noise
    reached: Tensor = CENTRE + (start - CENTRE) * SPREAD / (SPREAD**2 + sigma_max**2) ** 0.5
    return reached


def only(unit: Tensor) -> noise.Noise:
    """Noise for the start alone."""

    def started(step: int) -> Tensor:
        assert step == 0
        return unit

    return started


def levels(steps: int) -> Tensor:
    """Noise levels in double precision, the last step onto 0 so short that it cannot be seen."""
    ramp = torch.linspace(5.0 ** (1 / 7), 1e-5 ** (1 / 7), steps, dtype=torch.float64) ** 7
    return torch.cat([ramp, torch.zeros(1, dtype=torch.float64)])


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("euler", 1), ("heun", 2), ("dpm++2m", 2)])
def test_a_sampler_converges_at_its_order(name: str, order: int) -> None:
    unit = torch.randn(64, 1, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    errors = [
        float((samplers.SAMPLERS[name](gaussian, only(unit), levels(steps), unit) - exact(unit, 5.0)).abs().mean())
        for steps in (40, 80, 160)
    ]
    measured = [torch.tensor(a / b).log2().item() for a, b in pairwise(errors)]
    assert measured == pytest.approx([order, order], abs=0.3)


def painted_moments(name: str, steps: int) -> tuple[float, float]:
    """Mean and standard deviation of what a sampler paints, exactly: with a right denoiser it is affine in its noises.

    Row 0 of the batch has none of them, row 1 + i only that of step i.
    """

    def noise(step: int) -> Tensor:
        return torch.zeros(steps + 2, 1, 1, 1, dtype=torch.float64).index_fill(0, torch.tensor(1 + step), 1.0)

    painted = samplers.SAMPLERS[name](gaussian, noise, levels(steps), torch.zeros(steps + 2, 1))
    return float(painted[0]), float((painted[1:] - painted[0]).square().sum().sqrt())


@pytest.mark.parametrize(("name", "order"), [("ancestral", 1), ("sde-dpm++2m", 2)])
def test_a_stochastic_sampler_paints_the_mean_and_the_spread_of_the_data_at_its_order(name: str, order: int) -> None:
    start = CENTRE * SPREAD / (SPREAD**2 + 25.0) ** 0.5  # What noise of level 5 lacks of the mean of noisy data.
    errors = []
    for steps in (40, 80, 160):
        mean, spread = painted_moments(name, steps)
        assert mean == pytest.approx(CENTRE, abs=start)
        errors.append(abs(SPREAD - spread))
    assert errors[-1] == pytest.approx(0.0, abs=0.02)
    assert [math.log2(a / b) for a, b in pairwise(errors)] == pytest.approx([order, order], abs=0.3)


def test_only_stochastic_samplers_ask_for_noise_at_every_step_but_the_last() -> None:
    for name, sampler in samplers.SAMPLERS.items():
        asked: list[int] = []

        def noise(step: int, asked: list[int] = asked) -> Tensor:
            asked.append(step)
            return torch.zeros(1, 1, 2, 2)

        sampler(gaussian, noise, samplers.karras_sigmas(4, 0.01, 10.0), torch.zeros(1, 1))
        assert asked == ([0, 1, 2, 3] if name in ("ancestral", "sde-dpm++2m") else [0])


@pytest.mark.parametrize("name", sorted(samplers.SAMPLERS))
def test_a_sampler_evaluates_as_often_as_it_says_and_hands_the_condition_on(name: str) -> None:
    h = torch.ones(3, 5)
    seen = []

    def denoiser(x: Tensor, sigma: Tensor, given: Tensor) -> Tensor:
        seen.append(given)
        assert sigma.shape == (3,)
        return gaussian(x, sigma, given)

    samplers.SAMPLERS[name](denoiser, lambda step: torch.zeros(3, 1, 2, 2), samplers.karras_sigmas(7, 0.01, 10.0), h)
    assert len(seen) == samplers.evaluations(name, 7)
    assert all(given is h for given in seen)


def test_noise_levels_fall_from_the_largest_to_zero() -> None:
    sigmas = samplers.karras_sigmas(9, 0.02, 20.0)
    assert sigmas.shape == (10,)
    assert sigmas[0].item() == pytest.approx(20.0)
    assert sigmas[-2].item() == pytest.approx(0.02)
    assert sigmas[-1].item() == 0.0
    assert (sigmas[1:] < sigmas[:-1]).all()


def test_preconditioning_gives_unit_variance_into_the_network_and_unit_targets() -> None:
    sigma = torch.tensor([0.01, 0.3, 1.0, 50.0], dtype=torch.float64)
    c = edm.coefficients(sigma, 0.5)
    assert torch.allclose(c.scale_in**2 * (0.25 + sigma**2), torch.ones_like(sigma))
    # Variance of the effective target (x - c_skip (x + n)) / c_out, equation 6 of the appendix.
    target = ((1 - c.skip) ** 2 * 0.25 + c.skip**2 * sigma**2) / c.out**2
    assert torch.allclose(target, torch.ones_like(sigma))
    assert torch.allclose(c.noise, sigma.log() / 4)


def test_a_silent_network_is_the_best_linear_denoiser() -> None:
    y, sigma = torch.randn(4, 3, 2, 2), torch.tensor([0.1, 0.5, 2.0, 1e4])
    denoised = edm.denoise(lambda x, c: torch.zeros_like(x), y, sigma, 0.5)
    share = 0.25 / (0.25 + sigma**2)
    assert torch.allclose(denoised, share[:, None, None, None] * y)


def test_the_loss_of_a_silent_network_is_one_at_every_noise_level() -> None:
    generator = torch.Generator().manual_seed(2)
    clean = 0.5 * torch.randn(4, 3, 64, 64, generator=generator)
    sigma = torch.tensor([0.05, 0.3, 1.0, 8.0])
    noisy = clean + sigma[:, None, None, None] * torch.randn(clean.shape, generator=generator)
    denoised = edm.denoise(lambda x, c: torch.zeros_like(x), noisy, sigma, 0.5)
    assert edm.losses(denoised, clean, sigma, 0.5).tolist() == pytest.approx([1.0] * 4, rel=0.05)


def test_noise_levels_are_log_normal() -> None:
    assert edm.log_normal(torch.tensor([-1.0, 0.0, 1.0]), -0.4, 1.2).log().tolist() == pytest.approx([-1.6, -0.4, 0.8])


def test_noise_depends_on_its_stream_and_not_on_its_batch() -> None:
    together = noise.normal([(0, 5, 0), (0, 5, 1), (1, 5, 0)], (3, 4, 4))
    alone = noise.normal([(0, 5, 1)], (3, 4, 4))
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(together[0], together[2])
    assert noise.normal([], (3, 4, 4)).shape == (0, 3, 4, 4)


def test_noise_of_a_step_has_a_stream_of_its_own_that_no_batch_changes() -> None:
    streams = [(0, 5, 0), (0, 5, 1)]
    together, alone = noise.by_step(streams, (3, 4, 4), "cpu"), noise.by_step(streams[1:], (3, 4, 4), "cpu")
    assert torch.equal(together(0), noise.normal(streams, (3, 4, 4)))
    for step in (0, 1, 7):
        assert torch.equal(together(step)[1], alone(step)[0])
    assert torch.equal(together(7), together(7))
    assert not torch.equal(together(7), together(1))


def test_noise_streams_keep_their_values() -> None:
    # Pinned: samples already in a store are matched against samples still to be painted.
    assert noise.mix(0, 5, 1) == MIXED
    assert noise.mix(5, 0, 1) != noise.mix(0, 5, 1)


def test_noise_is_standard_normal() -> None:
    drawn = noise.normal(((3, row) for row in range(400)), (3, 8, 8))
    assert drawn.mean().item() == pytest.approx(0.0, abs=0.02)
    assert drawn.std().item() == pytest.approx(1.0, abs=0.02)


MIXED = 6086224461081295000


@pytest.mark.parametrize("name", sorted(samplers.SAMPLERS))
def test_noise_around_the_mean_of_the_data_paints_without_a_bias_towards_zero(name: str) -> None:
    mean, spread, sigma_max = 0.8, 0.1, 5.0

    def denoiser(x: Tensor, sigma: Tensor, h: Tensor) -> Tensor:
        share = (spread**2 / (spread**2 + sigma**2))[:, None, None, None]
        return mean + share * (x - mean)

    sigmas = samplers.karras_sigmas(40, 0.002, sigma_max)
    # Both signs of the same noise, so that their mean has no chance in it.
    unit = torch.randn((64, 1, 2, 2), generator=torch.Generator().manual_seed(1))
    drawn = only(torch.cat([unit, -unit])) if name in ("ddim", "dpm++2m", "euler", "heun") else noisy(unit)
    around = noise.around(drawn, torch.tensor(mean / sigma_max))
    painted = samplers.SAMPLERS[name](denoiser, around, sigmas, torch.zeros(128, 1))
    assert float(painted.mean()) == pytest.approx(mean, abs=1e-4)


def noisy(unit: Tensor) -> noise.Noise:
    """Noise for every step, each of both signs."""

    def drawn(step: int) -> Tensor:
        fresh = torch.randn(unit.shape, generator=torch.Generator().manual_seed(100 + step)) if step else unit
        return torch.cat([fresh, -fresh])

    return drawn
