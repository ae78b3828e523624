"""Attacks: on a linear network, whose worst perturbation is known, and on a small one with a bend."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stages.encoders.encoder import NetworkEncoder, probe_batch
from stages.encoders.network import initialise
from stages.encoders.spec import Architecture, Preprocessing
from stages.images.pixels import to_unit
from stages.questions.robustness import attacks

SHAPE = (3, 8, 8)
ROWS = np.arange(16)
EPS = 2 / 255
START = attacks.uniform(SHAPE, ROWS, 0, 0)
STARTS = [attacks.uniform(SHAPE, ROWS, 0, stream) for stream in range(3)]
SIGNS = attacks.uniform(SHAPE, ROWS, 0, attacks.SIGNS)
WEIGHT = attacks.uniform(SHAPE, np.array([0]), 7, 0)[0]


def images(low: float = 0.1, high: float = 0.9) -> Tensor:
    return low + (high - low) * (0.5 + 0.5 * attacks.uniform(SHAPE, ROWS, 3, 5))


def linear(x: Tensor) -> attacks.Objective:
    """Squared movement of one feature, the inner product of the pixels with `WEIGHT`."""
    return lambda pixels: ((pixels - x) * WEIGHT).sum((1, 2, 3)).square()


def bent(x: Tensor) -> attacks.Objective:
    """Squared movement at the backbone of a small network."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Tanh(), nn.Conv2d(16, 8, 3), nn.Tanh(), nn.Flatten())
    network.requires_grad_(False)
    plain = network(4 * x)
    return lambda pixels: (network(4 * pixels) - plain).square().sum(1)


def test_on_a_linear_network_pgd_and_fgsm_find_the_worst_perturbation() -> None:
    x = images()
    worst = EPS * float(WEIGHT.abs().sum())
    objective = linear(x)
    for attacked in (attacks.pgd(objective, x, STARTS, EPS, 20), attacks.fgsm(objective, x, START, EPS)):
        torch.testing.assert_close(objective(attacked).sqrt(), torch.full((16,), worst), rtol=1e-4, atol=0)
        # Either all pixels go with the weights, or all against them.
        direction = ((attacked - x) / EPS * WEIGHT.sign()).flatten(1)
        torch.testing.assert_close(direction.abs(), torch.ones_like(direction), rtol=1e-4, atol=0)
        assert (direction.mean(1).abs() > 0.999).all()


def test_the_gradient_is_zero_at_the_image_and_not_at_a_random_start() -> None:
    x = images()
    objective = bent(x)
    assert not attacks.gradient(objective, x).any()
    for start in STARTS:
        found = attacks.gradient(objective, attacks.bounded(x, x + EPS * start, EPS))
        assert (found.flatten(1).abs().sum(1) > 0).all()


def test_pgd_moves_farther_than_fgsm_and_fgsm_farther_than_random_signs() -> None:
    x = images()
    objective = bent(x)
    for eps in (0.5 / 255, 2 / 255, 8 / 255):
        pgd = objective(attacks.pgd(objective, x, STARTS, eps, 20))
        fgsm = objective(attacks.fgsm(objective, x, START, eps))
        signs = objective(attacks.signs(x, SIGNS, eps))
        assert (pgd >= fgsm).all()
        assert (fgsm > signs).all()


def test_more_starts_move_no_image_less() -> None:
    x = images()
    objective = bent(x)
    one, three = (objective(attacks.pgd(objective, x, STARTS[:n], EPS, 5)) for n in (1, 3))
    assert (three >= one).all()
    assert (three > one).any()


def test_a_larger_eps_moves_every_image_farther() -> None:
    x = images()
    objective = bent(x)
    moved = [objective(attacks.pgd(objective, x, STARTS, eps / 255, 20)) for eps in (0.25, 0.5, 1.0, 2.0, 8.0)]
    for less, more in pairwise(moved):
        assert (more > less).all()


def test_attacked_pixels_stay_within_eps_and_within_full_intensity() -> None:
    x = images(0.0, 1.0).round(decimals=1)
    assert x.min() == 0.0
    assert x.max() == 1.0
    objective = linear(x)
    for attacked in (
        attacks.pgd(objective, x, STARTS, EPS, 20),
        attacks.fgsm(objective, x, START, EPS),
        attacks.signs(x, SIGNS, EPS),
    ):
        assert attacked.min() == 0.0
        assert attacked.max() == 1.0
        assert float((attacked - x).abs().max()) == pytest.approx(EPS, rel=1e-4)


def test_random_numbers_belong_to_the_image_and_not_to_the_batch() -> None:
    assert torch.equal(attacks.uniform(SHAPE, ROWS[5:], 0, 0), START[5:])
    assert not torch.equal(STARTS[0], STARTS[1])
    assert START.min() < -0.99
    assert START.max() > 0.99


def test_pixels_that_no_attack_changed_are_embedded_as_the_encoder_embeds_them() -> None:
    preprocessing = Preprocessing(size=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    network = initialise(Architecture(widths=(4, 8), blocks=(1, 1), projector=(8, 4)), seed=0)
    encoder = NetworkEncoder(network, preprocessing, "cpu")
    pixels = to_unit(probe_batch(16))
    found = encoder.forward(attacks.bounded(pixels, pixels, EPS))
    for tap, vectors in encoder.embed(probe_batch(16)).items():
        np.testing.assert_allclose(found[tap].numpy(), vectors, rtol=1e-5, atol=1e-6)


def test_the_linear_probe_reads_what_is_linear_and_its_lead_says_where_it_is_wrong() -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(400, 6))).float()
    labels = x[:, :3].argmax(1)
    probe = attacks.fit(x, labels, 3, seed=0)
    scores = probe.scores(x)
    assert float((scores.argmax(1) == labels).double().mean()) > 0.97
    assert probe.decay in attacks.DECAYS
    assert torch.equal(probe.lead(x, labels) < 0, scores.argmax(1) == labels)


def test_a_probe_of_noise_takes_the_strongest_penalty_of_equal_ones() -> None:
    x = torch.zeros(50, 4)
    assert attacks.fit(x, torch.arange(50) % 2, 2, seed=0).decay == max(attacks.DECAYS)
