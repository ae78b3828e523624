"""A module's parameters as one flat vector, and so their gradients.

Moving average, sum over ranks and optimiser are one operation each, but for the matrices that Muon wants one by one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = 3
"""Steps by which Muon makes an update nearly orthogonal."""


class Flat:
    """The trainable parameters of a module as one vector; the module goes on working, on views of it.

    `matrices`: those that come first in the vector, because an optimiser wants each by itself.
    """

    def __init__(self, module: nn.Module, matrices: Sequence[Tensor] = ()) -> None:
        apart = [p for p in matrices if p.requires_grad]
        chosen = {id(p) for p in apart}
        parameters = apart + [p for p in module.parameters() if p.requires_grad and id(p) not in chosen]
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
        self.others = _trained(self.values[self.ahead :], self.gradient[self.ahead :])
        """All other numbers, as one vector."""

    def summed_over_ranks(self, world: int) -> None:
        """Replaces the gradient by its sum over all ranks."""
        if world > 1:
            torch.distributed.all_reduce(self.gradient)


def like(vector: Tensor, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
    """A vector in one piece for each of `parameters`, as long as that."""
    return torch.split(vector, [p.numel() for p in parameters])


def muon(flat: Flat, momentum: Tensor) -> torch.optim.Muon:
    """The optimiser of a vector's matrices, its state the vector `momentum`; updates are as long as AdamW's."""
    optimiser = torch.optim.Muon(
        flat.matrices, weight_decay=0.0, ns_steps=NEWTON_SCHULZ, adjust_lr_fn="match_rms_adamw"
    )
    for matrix, piece in zip(flat.matrices, like(momentum, flat.matrices), strict=True):
        optimiser.state[matrix]["momentum_buffer"] = piece.view_as(matrix)
    return optimiser


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
