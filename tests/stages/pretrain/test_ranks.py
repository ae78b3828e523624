"""Several ranks train what one trains: compared in double precision, where rounding cannot hide a mistake."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from stages.datasets.scenes import render
from stages.errors import InputError
from stages.pretrain.loop import Trainer
from stages.pretrain.ranks import SynchronisedBatchNorm, synchronise
from stages.pretrain.stage import Pretrain
from tests.artifacts import InlineContext
from tests.stages.pretrain.small import METHODS, STAGE, fit, held
from tests.two_ranks import on_two_ranks

STEPS = 4


class Double(Trainer):
    """A trainer in double precision: ReLU makes a difference in the last digit of float32 one in the third in time."""

    def __init__(self, method: str, rank: int, world: int) -> None:
        # 33 images do not divide evenly.
        fields = {"method": method, "batch": 33, "num_images": 33 * STEPS, "precision": "float32"}
        stage = Pretrain.model_validate(STAGE.model_dump() | fields)
        super().__init__(stage, held(stage, render(7, range(80))[0]), "cpu", rank, world)
        self.network.double()
        self.loss.double()

    def views(self, step: int) -> torch.Tensor:
        return super().views(step).double()

    def train(self) -> tuple[list[float], dict[str, np.ndarray]]:
        losses = [float(self.advance()) for _ in range(STEPS)]
        return losses, {name: value.numpy() for name, value in self.network.state_dict().items()}


def rank_of_two(rank: int) -> dict[str, tuple[list[float], dict[str, np.ndarray]]]:
    return {method: Double(method, rank, 2).train() for method in METHODS}


def test_two_ranks_train_what_one_trains(tmp_path: Path) -> None:
    first, second = on_two_ranks(rank_of_two, tmp_path)
    for method in METHODS:
        losses, weights = Double(method, 0, 1).train()
        assert first[method][0] == pytest.approx(losses, rel=1e-10), method
        for name, value in weights.items():
            np.testing.assert_allclose(first[method][1][name], value, rtol=1e-7, atol=1e-9, err_msg=f"{method} {name}")
            np.testing.assert_array_equal(second[method][1][name], first[method][1][name], err_msg=f"{method} {name}")


def test_synchronised_batch_norm_keeps_weights_and_is_batch_norm_in_use() -> None:
    inner = nn.Sequential(nn.BatchNorm1d(5))
    plain = nn.Sequential(nn.Linear(3, 5), inner, nn.ReLU())
    for tensor in plain.state_dict().values():
        tensor += 0.25 * torch.arange(tensor.numel()).reshape(tensor.shape) if tensor.is_floating_point() else 1
    plain.eval()
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    wanted, state = plain(x), plain.state_dict()
    synchronise(plain)
    assert isinstance(inner[0], SynchronisedBatchNorm)
    assert {name: value.tolist() for name, value in plain.state_dict().items()} == {
        name: value.tolist() for name, value in state.items()
    }
    torch.testing.assert_close(plain.eval()(x), wanted)


def test_more_ranks_than_images_in_a_batch_are_refused() -> None:
    with pytest.raises(InputError, match=r"each of 17 ranks; found a batch of 16"):
        fit(STAGE, render(7, range(20))[0], InlineContext(world=17))
