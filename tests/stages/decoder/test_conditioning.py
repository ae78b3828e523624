"""How a condition enters: the same numbers on CPUs, which are spared work, and on GPUs, which are spared waiting."""

from typing import Literal

import pytest
import torch

from stages.decoder.conditioning import NULL, Projection, with_all_rows, with_its_rows
from stages.training.precision import arithmetic

TAPS = torch.tensor([0, NULL, 2, 0, 2, NULL])


@pytest.mark.usefixtures("fast_in_bfloat16")
@pytest.mark.parametrize(("precision", "limit"), [("float32", 1e-6), ("bfloat16", 1e-2)])
def test_all_rows_give_what_its_rows_give_and_the_same_gradients(
    precision: Literal["float32", "bfloat16"], limit: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(6, 5, generator=generator)
    for number in range(3):
        both = []
        for add in (with_its_rows, with_all_rows):
            out, weight = torch.ones(6, 8, requires_grad=True), torch.full((8, 5), 0.3, requires_grad=True)
            with arithmetic(precision, "cpu"):
                found = add(out, h, weight, TAPS.eq(number))
            assert found.dtype == torch.float32
            torch.autograd.backward(found.square().sum())
            both.append((found.detach(), out.grad, torch.zeros(8, 5) if weight.grad is None else weight.grad))
        for one, other in zip(*both, strict=True):
            assert torch.allclose(one, other, rtol=limit, atol=10 * limit)


def test_a_gpu_is_not_asked_which_rows_are_of_which_tap() -> None:
    # Nothing can be asked of tensors on this device: they have no numbers.
    with torch.device("meta"):
        projection, h, tap = Projection((5, 3, 4), 8), torch.empty(6, 5), torch.empty(6, dtype=torch.int64)
    assert projection(h, tap).shape == (6, 8)
