"""Layers of the networks that are fast where a framework's own are not: bfloat16 on CPUs, channels-last.

Convolutions in bfloat16 are fastest on channels-last images, where PyTorch's group norm is slow on CPUs (its gradient
takes longer than that of the convolution beside it), and so is its fused attention. Both are here a few passes over the
image or a few matrix products. In trainings on GPUs the norm is compiled. Elsewhere the framework's own are taken,
with equal numbers.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

PARTIAL = 8
"""Sums over an image are taken in so many pieces, each rounded to bfloat16."""


class GroupNorm(nn.GroupNorm):
    """`group_norm` as a module. `fused`: kernels that torch.compile makes, for GPUs; see `_moments_then_product`."""

    fused: bool = False

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None, silu: bool = True) -> Tensor:
        """[B, C, H, W] and, where there is a condition, [B, C] twice -> [B, C, H, W]."""
        return group_norm(self, x, scale, shift, silu)


def group_norm(
    norm: nn.GroupNorm, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None, silu: bool = True
) -> Tensor:
    """silu(norm(x) * (1 + scale) + shift): [B, C, H, W] to the same (Wu & He 2018, arXiv 1803.08494).

    scale and shift [B, C] (None: 0) are how a condition enters (Dhariwal & Nichol 2021, arXiv 2105.05233, section 3).
    Without `silu` the sum itself.
    """
    fused = isinstance(norm, GroupNorm) and norm.fused and torch.is_grad_enabled()
    if fused or (x.device.type == "cpu" and x.dtype == torch.bfloat16):
        gain, offset = (value.float().expand(len(x), -1) for value in (norm.weight, norm.bias))
        if scale is not None and shift is not None:
            gain, offset = gain * (1 + scale.float()), offset * (1 + scale.float()) + shift.float()
        if fused:
            return _image(
                _compiled(norm.num_groups, norm.eps, silu)(_rows(x), gain.contiguous(), offset.contiguous()), x
            )
        out: Tensor = _Normed.apply(x, gain, offset, norm.num_groups, norm.eps, silu)
        return out
    normed = functional.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    if scale is not None and shift is not None:
        normed = torch.addcmul(shift[:, :, None, None], normed, 1 + scale[:, :, None, None])
    return functional.silu(normed) if silu else normed


@cache
def _compiled(groups: int, epsilon: float, silu: bool) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """`_moments_then_product` compiled for any shape: once for a network, where a shape each would take minutes."""

    def normed(rows: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
        return _moments_then_product(rows, gain, offset, groups, epsilon, silu)

    return torch.compile(normed, dynamic=True)


def _moments_then_product(
    rows: Tensor, gain: Tensor, offset: Tensor, groups: int, epsilon: float, silu: bool
) -> Tensor:
    """Group norm of rows [B, T, C], gain and offset [B, C], and SiLU: compiled, it reads rows twice and writes once.

    PyTorch's own copies a channels-last image to the other layout, works in float32 under autocast, and leaves gain,
    offset and SiLU a pass each. Channels stand next to each other in memory and those of a group do not, so moments
    are taken of each channel, and a group's from them. Float32 inside, the type of rows outside.
    """
    batch, _, channels = rows.shape
    numbers = rows.float()
    variance, mean = torch.var_mean(numbers, dim=1, correction=0)
    variance, mean = (value.view(batch, groups, channels // groups) for value in (variance, mean))
    centre = mean.mean(2, keepdim=True)
    spread = variance.mean(2, keepdim=True) + (mean - centre).square().mean(2, keepdim=True)
    a = (spread + epsilon).rsqrt().expand_as(mean).reshape(batch, channels) * gain
    b = offset - centre.expand_as(mean).reshape(batch, channels) * a
    z = numbers * a[:, None] + b[:, None]
    return (functional.silu(z) if silu else z).to(rows.dtype)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v for queries, keys and values [B, heads, T, D]: [B, heads, T, D]."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        weights = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(2, 3)).softmax(-1)
        return torch.matmul(weights, v)
    return functional.scaled_dot_product_attention(q, k, v)


class _Normed(torch.autograd.Function):
    """Group norm, gain and offset [B, C], and SiLU, in one pass for the sums and one for the output.

    With c = x - m, where m is the group's mean as x's type rounds it, xhat = (c - mean of c) r, r = 1 / sqrt(variance +
    epsilon) and z = gain xhat + offset = a c + b. Squares and products of x itself would be rounded by its distance
    from 0, which may be many times what it varies by. Sums are float32.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, offset: Tensor, groups: int, epsilon: float, silu: bool) -> Tensor:
        rows = _rows(x)
        channels = rows.shape[2]
        size = rows.shape[1] * channels // groups
        mean = _per_channel(_per_group(_summed(rows), groups) / size, channels)
        near = mean.to(x.dtype)
        rows, mean = rows - near[:, None], mean - near
        squares = rows * rows
        variance = _per_channel(_per_group(_summed(squares), groups) / size, channels) - mean.square()
        r = (variance.clamp(min=0.0) + epsilon).rsqrt()
        a = r * gain
        b = offset - mean * a
        # Memory that is done with is taken again: new pages are not free.
        z = torch.addcmul(b.to(x.dtype)[:, None], rows, a.to(x.dtype)[:, None], out=squares)
        ctx.save_for_backward(rows, z if silu else rows, gain, mean, r)
        ctx.groups, ctx.silu, ctx.size = groups, silu, size
        return _image(functional.silu(z) if silu else z, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, z, gain, mean, r = ctx.saved_tensors
        gz = _rows(gradients[0])
        if ctx.silu:
            gz = torch.ops.aten.silu_backward(gz, z)
        products = gz * rows
        total, with_x = _summed(gz), _summed(products)
        # Sums of gz xhat: what gain gets, and per group what of xhat goes back through mean and variance.
        with_xhat = r * (with_x - mean * total)
        channels = rows.shape[2]
        back = _per_channel(_per_group(gain * total, ctx.groups), channels) / ctx.size
        scaled = _per_channel(_per_group(gain * with_xhat, ctx.groups), channels) / ctx.size
        slope = -r.square() * scaled
        level = -r * back - slope * mean
        gx = torch.addcmul(level.to(rows.dtype)[:, None], rows, slope.to(rows.dtype)[:, None], out=products)
        gx.addcmul_(gz, (r * gain).to(rows.dtype)[:, None])
        return _image(gx, gradients[0]), with_xhat, total, None, None, None


def _rows(x: Tensor) -> Tensor:
    """[B, C, H, W] as [B, H W, C]; no copy where x is channels-last."""
    return x.permute(0, 2, 3, 1).contiguous().flatten(1, 2)


def _image(rows: Tensor, like: Tensor) -> Tensor:
    """[B, H W, C] as [B, C, H, W], channels-last."""
    return rows.view(len(rows), *like.shape[2:], like.shape[1]).permute(0, 3, 1, 2)


def _summed(rows: Tensor) -> Tensor:
    """[B, T, C] summed over T: float32 [B, C]."""
    # A sum that is asked for in another type first makes a copy in that type. In its own it adds up in float32 all the
    # same and rounds at the end: a few such sums are near enough to the whole.
    batch, length, channels = rows.shape
    if length >= 512 and length % PARTIAL == 0:
        rows = rows.view(batch, PARTIAL, length // PARTIAL, channels).sum(2)
    return rows.sum(1, dtype=torch.float32)


def _per_group(values: Tensor, groups: int) -> Tensor:
    """[B, C] summed over the channels of each group: [B, groups]."""
    return values.view(len(values), groups, -1).sum(2)


def _per_channel(values: Tensor, channels: int) -> Tensor:
    """[B, groups] repeated for the channels of each group: [B, C]."""
    return values.repeat_interleave(channels // values.shape[1], dim=1)
