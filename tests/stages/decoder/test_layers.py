"""The fast layers answer what the framework's own answer, forwards and backwards."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.decoder import layers
from stages.decoder.layers import GroupNorm, _moments_then_product, attention, group_norm


def plain_norm(norm: nn.GroupNorm, x: Tensor, scale: Tensor | None, shift: Tensor | None, silu: bool) -> Tensor:
    """What `group_norm` computes, in float32 throughout."""
    y = functional.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    if scale is not None and shift is not None:
        y = y * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    return functional.silu(y) if silu else y


def far(found: Tensor, expected: Tensor) -> float:
    """Distance in units of the expected tensor's length."""
    return float((found.detach().float() - expected.detach()).norm() / expected.detach().norm())


@pytest.fixture(params=["as is", "fused"])
def norm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> GroupNorm:
    """Four groups of three channels, with random weights; fused, what is compiled on GPUs is run uncompiled."""
    monkeypatch.setattr(layers, "_compiled", lambda *how: lambda *given: _moments_then_product(*given, *how))
    norm = GroupNorm(4, 12)
    norm.fused = request.param == "fused"
    for parameter in norm.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    return norm


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("side", [(8, 6), (32, 24)])
@pytest.mark.parametrize(("conditioned", "silu"), [(True, True), (False, True), (False, False)])
def test_the_norm_and_its_gradients_are_those_of_the_formula(
    norm: GroupNorm,
    conditioned: bool,
    silu: bool,
    side: tuple[int, int],
    dtype: torch.dtype,
    limit: float,
    layout: torch.memory_format,
) -> None:
    generator = torch.Generator().manual_seed(0)
    # Off centre, where a variance from sums of squares is at its worst.
    x = torch.randn(3, 12, *side, generator=generator) * 0.5 + 2.0
    x = x.to(dtype).to(memory_format=layout).requires_grad_()
    scale, shift = (torch.randn(3, 12, generator=generator, requires_grad=True) for _ in range(2))
    given = (scale, shift) if conditioned else (None, None)
    back = torch.randn(3, 12, *side, generator=generator).to(dtype)
    exact = x.detach().float().requires_grad_()
    found = group_norm(norm, x, given[0], given[1], silu)
    expected = plain_norm(norm, exact, given[0], given[1], silu)
    assert found.dtype == dtype
    assert far(found, expected) < limit
    wanted = [*norm.parameters(), *(thing for thing in given if thing is not None)]
    ours = torch.autograd.grad(found, [x, *wanted], back)
    theirs = torch.autograd.grad(expected, [exact, *wanted], back.float())
    for mine, other in zip(ours, theirs, strict=True):
        assert far(mine, other) < 3 * limit


@pytest.mark.parametrize(("away", "limit"), [(20, 1e-2), (50, 3e-2)])
@pytest.mark.parametrize("side", [(8, 6), (32, 24)])
def test_the_norm_holds_where_the_mean_is_many_times_the_deviation(
    side: tuple[int, int], away: int, limit: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    norm = nn.GroupNorm(4, 32)
    x = ((torch.randn(3, 32, *side, generator=generator) + away) * 0.7).to(torch.bfloat16).requires_grad_()
    back = torch.randn(3, 32, *side, generator=generator).to(torch.bfloat16)
    exact = x.detach().float().requires_grad_()
    found, expected = group_norm(norm, x, silu=False), plain_norm(norm, exact, None, None, False)
    assert far(found, expected) < limit
    ours = torch.autograd.grad(found, [x, *norm.parameters()], back)
    theirs = torch.autograd.grad(expected, [exact, *norm.parameters()], back.float())
    for mine, other in zip(ours, theirs, strict=True):
        assert far(mine, other) < limit


def test_a_constant_image_has_no_variance_and_no_trouble() -> None:
    flat = torch.full((1, 4, 4, 4), 3.0, dtype=torch.bfloat16)
    assert group_norm(nn.GroupNorm(2, 4), flat, silu=False).abs().max() < 0.1


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, 1.5e-2)])
def test_attention_is_that_of_the_formula(dtype: torch.dtype, limit: float) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 10, 8, generator=generator) for _ in range(3))
    expected = torch.einsum("bhts,bhsd->bhtd", (torch.einsum("bhtd,bhsd->bhts", q, k) / 8**0.5).softmax(-1), v)
    assert far(attention(q.to(dtype), k.to(dtype), v.to(dtype)), expected) < limit
