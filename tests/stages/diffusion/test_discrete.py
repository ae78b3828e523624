"""Diffusion in discrete time against closed forms: steps, posterior, variance, likelihood, who learns from what."""

import math

import pytest
import torch
from torch import Tensor

from stages.diffusion import discrete

SCHEDULE = discrete.linear()
CENTRE, SPREAD = 0.3, 0.5


def steps(*numbers: int) -> Tensor:
    return torch.tensor(numbers)


def images(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 4, 4, generator=generator, dtype=torch.float64)


def test_the_linear_schedule_is_that_of_the_paper_and_ends_in_noise() -> None:
    assert SCHEDULE.betas[[0, -1]].tolist() == pytest.approx([1e-4, 0.02])
    assert SCHEDULE.alpha_bar[-1].item() == pytest.approx(4.036e-5, rel=1e-3)
    shorter = discrete.linear(250)
    assert shorter.alpha_bar[-1].log().item() == pytest.approx(SCHEDULE.alpha_bar[-1].log().item(), rel=0.05)


def test_chosen_steps_keep_their_noise_levels_and_the_times_that_the_network_is_given() -> None:
    chosen = [3, 400, 999]
    few = discrete.respaced(SCHEDULE, chosen)
    assert torch.allclose(few.alpha_bar, SCHEDULE.alpha_bar[chosen])
    assert few.times.tolist() == chosen
    whole = discrete.respaced(SCHEDULE, range(1000))
    assert torch.allclose(whole.betas, SCHEDULE.betas)


def test_steps_are_chosen_with_both_ends() -> None:
    assert discrete.evenly(5, 1000) == [0, 250, 500, 749, 999]
    assert discrete.evenly(1, 1000) == [0]
    assert discrete.evenly(1000, 1000) == list(range(1000))


def test_the_image_is_estimated_from_its_noise() -> None:
    clean, noise, step = images(3), images(3, seed=1), steps(0, 300, 999)
    x = discrete.q_sample(SCHEDULE, clean, step, noise)
    assert torch.allclose(discrete.clean_from_noise(SCHEDULE, x, step, noise), clean)


def test_mean_and_variance_of_a_step_back_are_those_of_two_normal_observations() -> None:
    # Bayes: x_{t-1} is seen from the clean image with variance 1 - alpha_bar, and from x_t with variance beta.
    clean, x, step = images(3), images(3, seed=1), steps(1, 300, 999)
    before, beta = SCHEDULE.alpha_bar_before[step], SCHEDULE.betas[step]
    precision = 1 / (1 - before) + (1 - beta) / beta
    column = (-1, 1, 1, 1)
    weighed = (before.sqrt() / (1 - before)).view(column) * clean + ((1 - beta).sqrt() / beta).view(column) * x
    assert torch.allclose(discrete.posterior_mean(SCHEDULE, clean, x, step), weighed / precision.view(column))
    assert torch.allclose(SCHEDULE.variance[step], 1 / precision)


def test_the_learned_variance_lies_between_its_bounds() -> None:
    x, step = images(3), steps(0, 300, 999)
    for share, bound in ((-1.0, SCHEDULE.log_variance), (1.0, SCHEDULE.betas.log())):
        output = torch.cat([x, torch.full_like(x, share)], dim=1)
        found = discrete.predict(SCHEDULE, output, x, step)
        assert torch.allclose(found.log_variance[:, 0, 0, 0], bound[step])
        assert torch.allclose(found.variance, found.log_variance.exp())
        assert found.clean.abs().max() <= 1.0


def test_a_network_that_knows_the_posterior_has_no_bound_left_to_lower() -> None:
    clean, noise, step = images(2), images(2, seed=1), steps(300, 999)
    x = discrete.q_sample(SCHEDULE, clean, step, noise)
    perfect = torch.cat([noise, torch.full_like(noise, -1.0)], dim=1)
    found = discrete.losses(SCHEDULE, perfect, clean, x, step, noise)
    assert found.mse.tolist() == pytest.approx([0.0, 0.0], abs=1e-12)
    assert found.bound.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    assert torch.equal(found.hybrid, found.mse + found.bound)


def test_at_the_first_step_the_bound_is_the_code_length_of_the_image() -> None:
    clean = (torch.randint(0, 256, (1, 3, 8, 8), generator=torch.Generator().manual_seed(0)) / 127.5 - 1.0).double()
    clean[0, 0, 0, :2] = torch.tensor([-1.0, 1.0])
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    step = steps(0)
    x = discrete.q_sample(SCHEDULE, clean, step, noise)
    output = torch.cat([torch.zeros_like(noise), torch.ones_like(noise)], dim=1)
    predicted = discrete.predict(SCHEDULE, output, x, step, clip=False)
    away, spread = clean - predicted.mean, predicted.variance.sqrt()
    high, low = (torch.special.ndtr((away + side / 255) / spread) for side in (1, -1))
    high[clean > 0.999], low[clean < -0.999] = 1.0, 0.0
    expected = -(high - low).clamp(min=1e-12).log().mean() / math.log(2)
    assert discrete.bound(SCHEDULE, output, clean, x, step).item() == pytest.approx(expected.item(), rel=5e-3)


def test_the_mean_learns_from_the_error_and_the_variance_from_the_bound() -> None:
    clean, noise, step = images(2), images(2, seed=1), steps(5, 700)
    x = discrete.q_sample(SCHEDULE, clean, step, noise)
    estimated, share = torch.zeros_like(noise).requires_grad_(), torch.zeros_like(noise).requires_grad_()
    found = discrete.losses(SCHEDULE, torch.cat([estimated, share], dim=1), clean, x, step, noise)
    for loss, learns, rests in ((found.mse, estimated, share), (found.bound, share, estimated)):
        of_learning, of_resting = torch.autograd.grad(
            loss.sum(), (learns, rests), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        assert of_learning.any()
        assert not of_resting.any()


def exact(x: Tensor, t: Tensor, h: Tensor) -> Tensor:
    """The best estimate of the noise for data N(CENTRE, SPREAD^2), and the smaller variance."""
    left = SCHEDULE.alpha_bar[t].view(-1, 1, 1, 1)
    noise = (1 - left).sqrt() * (x - left.sqrt() * CENTRE) / (left * SPREAD**2 + 1 - left)
    return torch.cat([noise, -torch.ones_like(noise)], dim=1)


def moments(schedule: discrete.Schedule) -> tuple[float, float]:
    """Mean and standard deviation of what the loop paints, exactly: with a right denoiser it is affine in its noises.

    Row 0 of a batch has none of them, row 1 + i only number i, the start before the steps.
    """
    zero = torch.zeros(len(schedule) + 1, 1, 1, 1, dtype=torch.float64)

    def only(step: int) -> Tensor:
        return zero.index_fill(0, torch.tensor(1 + step), 1.0)

    painted = discrete.ancestral(exact, schedule, only, torch.zeros(len(zero), 1), clip=False)
    mean, reactions = painted[0], painted[1:] - painted[0]
    return float(mean), float(reactions.square().sum().sqrt())


def test_the_loop_paints_the_mean_and_the_spread_of_normal_data() -> None:
    few, many = (moments(discrete.respaced(SCHEDULE, discrete.evenly(count, 1000))) for count in (100, 200))
    assert many[0] == pytest.approx(CENTRE, abs=0.01)
    assert many[1] == pytest.approx(SPREAD, abs=0.02)
    # Of first order: twice the steps, half the error.
    assert abs(many[1] - SPREAD) < 0.6 * abs(few[1] - SPREAD)
