"""A module's parameters as one flat vector, and so their gradients; and the optimisers of its parts.

Moving average, sum over ranks and optimiser are one operation each, but for the matrices that Muon wants one by one,
and for parameters that learn at rates of their own.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from stages.training.precision import Precision

MOMENTUM = 0.95
"""Of Muon."""
NEWTON_SCHULZ = 3
"""Steps by which Muon makes an update nearly orthogonal."""
QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of such a step, X <- a X + b (X X^T) X + c (X X^T)^2 X, the steepest at singular values near 0."""
MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps of each number."""


class Flat:
    """The trainable parameters of a module as one vector; the module goes on working, on views of it.

    `matrices`: those that come first in the vector, because an optimiser wants each by itself. `rates`: which of the
    others learn at a share of the learning rate, 1 for those that it does not name.
    """

    def __init__(
        self, module: nn.Module, matrices: Sequence[Tensor] = (), rates: Mapping[Tensor, float] | None = None
    ) -> None:
        def rate(p: Tensor) -> float:
            return (rates or {}).get(p, 1.0)

        apart = [p for p in matrices if p.requires_grad]
        chosen = {id(p) for p in apart}
        others = [p for p in module.parameters() if p.requires_grad and id(p) not in chosen]
        others.sort(key=rate, reverse=True)
        parameters = apart + others
        flat = [_flattened(p.detach()) for p in parameters]
        self.values = torch.cat(flat) if flat else torch.zeros(0)
        self.gradient = torch.zeros_like(self.values)
        values, gradients = (like(vector, parameters) for vector in (self.values, self.gradient))
        for p, value, gradient in zip(parameters, values, gradients, strict=True):
            p.data, p.grad = _shaped(value, p.shape), _shaped(gradient, p.shape)
        self.matrices = [
            _trained(value.view(len(p), -1), gradient.view(len(p), -1))
            for p, value, gradient in zip(apart, values, gradients, strict=False)
        ]
        """[rows, columns] each: outputs of a layer by its inputs."""
        self.matrix_elements = sum(matrix.numel() for matrix in self.matrices)
        """Number of elements of all matrices; they come first in the vector."""
        equal = [(share, sum(p.numel() for p in group)) for share, group in groupby(others, rate)] or [(1.0, 0)]
        lengths = [length for _, length in equal]
        values, gradients = (
            torch.split(vector[self.matrix_elements :], lengths) for vector in (self.values, self.gradient)
        )
        self.groups = [
            (_trained(value, gradient), share)
            for (share, _), value, gradient in zip(equal, values, gradients, strict=True)
        ]
        """All other parameters in groups: a vector, and its share of the learning rate; the highest share first."""

    def sum_gradient(self, world: int) -> None:
        """Replaces the gradient by its sum over all ranks."""
        if world > 1:
            torch.distributed.all_reduce(self.gradient)

    def broadcast(self, world: int) -> None:
        """Gives all ranks the values of the first."""
        if world > 1 and len(self.values):
            torch.distributed.broadcast(self.values, 0)


def like(vector: Tensor, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
    """A vector in one piece for each of `parameters`, as long as that."""
    return torch.split(vector, [p.numel() for p in parameters])


class Muon:
    """The optimiser of a vector's matrices (Jordan et al. 2024): nearly orthogonal updates, as long as AdamW's.

    Its state is the vector `momentum`. torch.optim.Muon takes the same steps, but in bfloat16 on every device.
    """

    def __init__(self, flat: Flat, momentum: Tensor, precision: Precision) -> None:
        self.precision = precision
        """Of the products that make an update orthogonal."""
        self._matrices = list(zip(flat.matrices, like(momentum, flat.matrices), strict=True))

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update, at a learning rate."""
        dtype = torch.bfloat16 if self.precision == "bfloat16" else torch.float32
        for matrix, piece in self._matrices:
            assert matrix.grad is not None
            momentum = piece.view_as(matrix)
            momentum.lerp_(matrix.grad, 1 - MOMENTUM)
            update = orthogonal(matrix.grad.lerp(momentum, MOMENTUM).to(dtype))
            # Liu et al. 2025 (arXiv 2502.16982), equation 4: the root of the mean square of an AdamW update.
            matrix.add_(update, alpha=-rate * 0.2 * math.sqrt(max(matrix.shape)))


def orthogonal(matrix: Tensor) -> Tensor:
    """A matrix [rows, columns] with its singular values brought near 1, in its type (Jordan et al. 2024)."""
    a, b, c = QUINTIC
    tall = len(matrix) > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = torch.div(x, x.norm().clamp(min=1e-7))
    gram = x @ x.T
    if x.dtype == torch.bfloat16:
        for step in range(NEWTON_SCHULZ):
            gram = x @ x.T if step else gram
            x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return x.T if tall else x
    # Each step is a polynomial of X X^T before X, and those commute: only the last product is as wide as X. That is
    # half the work, and too rough for bfloat16.
    whole = torch.eye(len(x), dtype=x.dtype, device=x.device)
    for _ in range(NEWTON_SCHULZ):
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal().add_(a)
        whole = polynomial @ whole
        gram = polynomial @ gram @ polynomial
    x = torch.mm(whole, x)
    return x.T if tall else x


class AdamW:
    """The optimiser of a vector's parameter groups. Its state is one vector for each of `MOMENTS`, and `updates`."""

    def __init__(self, flat: Flat, betas: tuple[float, float]) -> None:
        groups = [{"params": [vector], "share": share} for vector, share in flat.groups]
        self._optimiser = torch.optim.AdamW(groups, betas=betas, weight_decay=0.0, fused=True)
        self.moments = {name: torch.zeros_like(flat.values[flat.matrix_elements :]) for name in MOMENTS}
        vectors = [vector for vector, _ in flat.groups]
        for name, moment in self.moments.items():
            for vector, piece in zip(vectors, like(moment, vectors), strict=True):
                self._optimiser.state[vector][name] = piece
        self.updates = 0

    @property
    def updates(self) -> int:
        """How often it has stepped."""
        return int(next(iter(self._optimiser.state.values()))["step"])

    @updates.setter
    def updates(self, count: int) -> None:
        for vector, state in self._optimiser.state.items():
            # The fused optimiser counts steps on the device of the weights, as it does with all its state.
            state["step"] = torch.tensor(float(count), device=vector.device)

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        first = self._optimiser.param_groups[0]
        return float(first["lr"] / first["share"])

    def step(self, rate: float) -> None:
        """One update, at a learning rate."""
        for group in self._optimiser.param_groups:
            group["lr"] = rate * group["share"]
        self._optimiser.step()


def _trained(values: Tensor, gradient: Tensor) -> nn.Parameter:
    parameter = nn.Parameter(values)
    parameter.grad = gradient
    return parameter


# Convolution weights stand channels-last in the vector, which spares a copy of each in every step.
def _flattened(p: Tensor) -> Tensor:
    return (p.permute(0, 2, 3, 1) if p.ndim == 4 else p).reshape(-1)


def _shaped(piece: Tensor, shape: torch.Size) -> Tensor:
    if len(shape) == 4:
        out, inward, high, wide = shape
        return piece.view(out, high, wide, inward).permute(0, 3, 1, 2)
    return piece.view(shape)
