"""The small network's own convolution, against torch's."""

import pytest
import torch
from torch import nn

from stages.encoders.network import Convolution


@pytest.mark.parametrize("side", [1, 2, 3, 8])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_and_its_gradients_are_torchs_on_any_map(side: int, stride: int) -> None:
    torch.manual_seed(0)
    ours = Convolution(5, 7, stride).double()
    theirs = nn.Conv2d(5, 7, 3, stride, 1, bias=False).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 5, side, side, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()
    found, wanted = ours(x), theirs(x)
    torch.testing.assert_close(found, wanted)
    weight = torch.randn_like(wanted)
    one = torch.autograd.grad((found * weight).sum(), (x, ours.weight))
    two = torch.autograd.grad((wanted * weight).sum(), (x, theirs.weight))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b)
    assert found.is_contiguous(memory_format=torch.channels_last)
