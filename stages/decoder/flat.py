"""A module's parameters as one flat vector, and so their gradients; and the optimisers of its parts.

Moving average, sum over ranks and optimiser are one operation each, but for the matrices that Muon wants one by one,
and for parameters that learn at rates of their own.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = 3
"""Steps by which Muon makes an update nearly orthogonal."""
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
        self.ahead = sum(matrix.numel() for matrix in self.matrices)
        """Numbers of the vector that belong to matrices."""
        equal = [(share, sum(p.numel() for p in group)) for share, group in groupby(others, rate)] or [(1.0, 0)]
        lengths = [length for _, length in equal]
        values, gradients = (torch.split(vector[self.ahead :], lengths) for vector in (self.values, self.gradient))
        self.stretches = [
            (_trained(value, gradient), share)
            for (share, _), value, gradient in zip(equal, values, gradients, strict=True)
        ]
        """All other numbers, as one vector for each rate, beside its share of the learning rate; the highest first."""

    def summed_over_ranks(self, world: int) -> None:
        """Replaces the gradient by its sum over all ranks."""
        if world > 1:
            torch.distributed.all_reduce(self.gradient)


def like(vector: Tensor, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
    """A vector in one piece for each of `parameters`, as long as that."""
    return torch.split(vector, [p.numel() for p in parameters])


def muon(flat: Flat, momentum: Tensor) -> torch.optim.Optimizer:
    """The optimiser of a vector's matrices, its state the vector `momentum`; updates are as long as AdamW's."""
    optimiser = torch.optim.Muon(
        flat.matrices, weight_decay=0.0, ns_steps=NEWTON_SCHULZ, adjust_lr_fn="match_rms_adamw"
    )
    for matrix, piece in zip(flat.matrices, like(momentum, flat.matrices), strict=True):
        optimiser.state[matrix]["momentum_buffer"] = piece.view_as(matrix)
    return optimiser


class AdamW:
    """The optimiser of a vector's stretches. Its state is one vector for each of `MOMENTS`, and `updates`."""

    def __init__(self, flat: Flat, betas: tuple[float, float]) -> None:
        groups = [{"params": [numbers], "share": share} for numbers, share in flat.stretches]
        self._optimiser = torch.optim.AdamW(groups, betas=betas, weight_decay=0.0, fused=True)
        self.moments = {name: torch.zeros_like(flat.values[flat.ahead :]) for name in MOMENTS}
        stretches = [numbers for numbers, _ in flat.stretches]
        for name, moment in self.moments.items():
            for numbers, piece in zip(stretches, like(moment, stretches), strict=True):
                self._optimiser.state[numbers][name] = piece
        self.updates = 0

    @property
    def updates(self) -> int:
        """How often it has stepped."""
        return int(next(iter(self._optimiser.state.values()))["step"])

    @updates.setter
    def updates(self, count: int) -> None:
        for numbers, state in self._optimiser.state.items():
            # The fused optimiser counts steps on the device of the weights, as it does with all its state.
            state["step"] = torch.tensor(float(count), device=numbers.device)

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
    made = nn.Parameter(values)
    made.grad = gradient
    return made


# Convolution weights stand channels-last in the vector, which spares a copy of each in every step.
def _flattened(p: Tensor) -> Tensor:
    return (p.permute(0, 2, 3, 1) if p.ndim == 4 else p).reshape(-1)


def _shaped(piece: Tensor, shape: torch.Size) -> Tensor:
    if len(shape) == 4:
        out, inward, high, wide = shape
        return piece.view(out, high, wide, inward).permute(0, 3, 1, 2)
    return piece.view(shape)
