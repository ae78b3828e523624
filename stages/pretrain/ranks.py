"""A batch that is spread over ranks: BatchNorm over all of it, the outputs of every rank, and the sum of the gradients.

Each rank computes the loss of the whole batch from what all have gathered, and a world-th of it counts, so that any
number of ranks trains the same encoder.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from lightly.utils.dist import GatherLayer
from torch import Tensor, nn


class SynchronisedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm over the samples of all ranks, [B, C, …] of any B, on any device: torch's own works on GPUs only.

    Every rank hands round its mean, its variance and its number of samples; they are put together as Chan et al. 1979
    (STAN-CS-79-773) do, which loses no digits where the mean is large.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        assert input.ndim >= 2, f"expected [B, C, …], found {list(input.shape)}"

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, …] in any precision to the same; statistics are float32."""
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        with torch.no_grad():
            ignored = torch.zeros_like(self.running_mean)
            own = torch.batch_norm_update_stats(input, ignored, ignored.clone(), self.momentum)
            size = ignored.new_full((1,), input.numel() / input.shape[1])
            means, variances, sizes = torch.split(_all(torch.cat([*own, size])), [len(ignored), len(ignored), 1], 1)
            count = sizes.sum()
            mean = (sizes * means).sum(0) / count
            variance = (sizes * (variances + (means - mean).square())).sum(0) / count
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        normalised: Tensor = _Normalised.apply(input, self.weight, self.bias, mean, variance, count, self.eps)
        return normalised


class _Normalised(torch.autograd.Function):
    """Normalises by statistics of all ranks, and knows in the backward pass that they depend on every sample."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, count: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps = eps
        return nn.functional.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, count = ctx.saved_tensors
        # As if the statistics were constants; the native kernels add up in float32 whatever the precision of x.
        towards_x, towards_weight, towards_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        shares = torch.stack([towards_weight, towards_bias])
        torch.distributed.all_reduce(shares)
        scale = -weight * (variance + ctx.eps).rsqrt() / count
        # What the statistics add is linear in x, hence again a normalisation.
        towards_x += nn.functional.batch_norm(
            x, mean, variance, scale * shares[0], scale * shares[1], training=False, eps=ctx.eps
        )
        return towards_x, towards_weight, towards_bias, None, None, None, None


def _all(values: Tensor) -> Tensor:
    """What every rank has, [world, *], without gradient."""
    found = [torch.empty_like(values) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(found, values)
    return torch.stack(found)


def synchronise(module: nn.Module) -> None:
    """Replaces every BatchNorm inside `module` by one over all ranks, with the same weights and names."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
            across = SynchronisedBatchNorm(child.num_features, child.eps, child.momentum)
            across.load_state_dict(child.state_dict())
            setattr(module, name, across)
        else:
            synchronise(child)


def gathered(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """Rows [B_r, D] of every rank in the order of ranks, [sum of sizes, D]; gradients find their way back."""
    padded = nn.functional.pad(rows, (0, 0, 0, max(sizes) - len(rows)))
    return torch.cat([part[:size] for part, size in zip(GatherLayer.apply(padded), sizes, strict=True)])


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replaces every gradient by its sum over all ranks, in one exchange."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    total = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(total)
    for gradient, piece in zip(gradients, torch.split(total, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(piece.view_as(gradient))
