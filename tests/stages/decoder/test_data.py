"""What training image number n is does not depend on how the training is cut."""

import numpy as np
import pytest
import torch

from stages.decoder.conditioning import NULL
from stages.decoder.data import Series, pieces, share
from stages.decoder.objective import Edm
from stages.images.pixels import to_network
from tests.stages.decoder.small import paired, paired_set

OBJECTIVE = Edm(log_sigma_mean=-0.4, log_sigma_std=1.2)
SERIES = Series(paired(100), seed=5, null=0.1, levels=OBJECTIVE.levels)


def test_a_training_image_is_the_same_in_any_batch() -> None:
    whole, part = SERIES.batch(np.arange(90, 130)), SERIES.batch(np.arange(97, 104))
    for name in ("clean", "h", "tap", "level", "noise"):
        assert torch.equal(getattr(whole, name)[7:14], getattr(part, name))


def test_taps_views_and_nulls_come_in_their_shares_and_noise_levels_as_asked() -> None:
    numbers = np.arange(20_000)
    _, flipped, taps = SERIES.drawn(numbers, SERIES.seed)
    assert flipped.mean() == pytest.approx(0.5, abs=0.02)
    assert taps.mean() == pytest.approx(0.5, abs=0.02)
    batch = SERIES.batch(np.arange(4_000))
    assert (batch.tap == NULL).float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert batch.level.log().mean().item() == pytest.approx(-0.4, abs=0.08)
    assert batch.level.log().std().item() == pytest.approx(1.2, abs=0.08)


def test_image_and_embedding_of_a_row_are_of_one_view() -> None:
    images = torch.randint(0, 256, (6, 8, 8, 3), dtype=torch.uint8)
    table = torch.randn(2, 6, 4)
    data = paired_set(images, [table])
    rows, flipped = np.array([2, 2]), np.array([False, True])
    shown = data.shown(rows, flipped, np.zeros(2, dtype=np.int64))
    assert torch.equal(shown.clean[0], to_network(images[2:3])[0])
    assert torch.equal(shown.clean[1], shown.clean[0].flip(2))
    assert torch.equal(shown.h[0], table[0, 2])
    assert torch.equal(shown.h[1], table[1, 2])


def test_pixels_travel_as_bytes_and_become_numbers_where_they_arrive() -> None:
    for taken in (SERIES.pairs(np.arange(5)), SERIES.batch(np.arange(5))):
        assert taken.images.dtype == torch.uint8
        arrived = taken.to("meta")
        assert (arrived.clean.device.type, arrived.clean.dtype) == ("meta", torch.float32)
        pieces_of = taken.split(2)
        assert [len(piece.tap) for piece in pieces_of] == [2, 2, 1]
        assert torch.equal(torch.cat([piece.clean for piece in pieces_of]), taken.clean)


def test_a_row_without_a_condition_carries_none() -> None:
    h, tap = paired(6).conditions(np.arange(3), np.zeros(3, dtype=np.bool_), np.array([NULL, 1, 0]))
    assert tap.tolist() == [NULL, 1, 0]
    assert not h[0].any()
    assert h[1, 3] == 0.0


def test_ranks_share_a_step_without_gap_or_overlap() -> None:
    numbers = np.arange(64, 128)
    assert (np.concatenate([share(numbers, rank, 3) for rank in range(3)]) == numbers).all()


def test_micro_batches_cut_a_share_without_gap_or_overlap() -> None:
    assert [piece.tolist() for piece in pieces(np.arange(5, 12), 3)] == [[5, 6, 7], [8, 9, 10], [11]]
    assert [piece.tolist() for piece in pieces(np.arange(3), None)] == [[0, 1, 2]]


def test_noise_levels_are_log_normal() -> None:
    draws = torch.tensor([1 / 6, 3 / 6, 5 / 6], dtype=torch.float64)
    expected = [-0.4 - 1.2 * 0.96742, -0.4, -0.4 + 1.2 * 0.96742]
    assert OBJECTIVE.levels(draws).log().tolist() == pytest.approx(expected, abs=1e-5)
