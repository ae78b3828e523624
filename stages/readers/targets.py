"""Attributes as the outputs of a network: how values become targets, what the loss is, how outputs become values again.

A scalar takes one output (standardised on train images), a circle two (cos and sin), a class one per class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from stages.attributes import Attribute
from stages.readers.score import Floats


@dataclass(frozen=True)
class Targets:
    """The attributes that a network reads, in order, and mean and standard deviation of each scalar."""

    attributes: tuple[Attribute, ...]
    scaling: Mapping[str, tuple[float, float]]

    @classmethod
    def of(cls, attributes: Sequence[Attribute], values: Mapping[str, Floats]) -> "Targets":
        """Scaling from train values (by name, float64 [N]); an attribute that is nowhere defined is left out."""
        some = tuple(a for a in attributes if np.isfinite(values[a.name]).any())
        scaling = {}
        for a in some:
            if a.kind == "scalar":
                finite = values[a.name][np.isfinite(values[a.name])]
                scaling[a.name] = (float(finite.mean()), float(finite.std()) or 1.0)
        return cls(some, scaling)

    @property
    def width(self) -> int:
        """Number of outputs."""
        return sum(_width(a) for a in self.attributes)

    def encode(self, values: Mapping[str, Floats]) -> Tensor:
        """Values by name, float64 [N], as float32 [N, number of attributes]; NaN stays NaN."""
        columns = []
        for a in self.attributes:
            mean, std = self.scaling.get(a.name, (0.0, 1.0))
            columns.append((values[a.name] - mean) / std)
        return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of each attribute, float32 [number of attributes], over its defined targets (0 where there is none).

        `outputs`: float32 [B, width], `targets`: float32 [B, number of attributes] from `encode`.
        """
        found = []
        for a, column, output in zip(self.attributes, targets.unbind(1), self.split(outputs), strict=True):
            defined = ~column.isnan()
            target = column.nan_to_num()
            if a.kind == "class":
                loss = cross_entropy(output, target.long(), reduction="none")
            elif a.kind == "circle":
                angle = 2 * torch.pi * target
                loss = (output[:, 0] - angle.cos()) ** 2 + (output[:, 1] - angle.sin()) ** 2
            else:
                loss = (output[:, 0] - target) ** 2
            found.append((loss * defined).sum() / defined.sum().clamp_min(1))
        return torch.stack(found)

    def decode(self, outputs: Tensor) -> dict[str, Floats]:
        """Outputs [B, width] as values by name, float64 [B]."""
        return {a.name: self.values(a, output) for a, output in zip(self.attributes, self.split(outputs), strict=True)}

    def values(self, attribute: Attribute, outputs: Tensor) -> Floats:
        """Outputs of one attribute, [B, its width], as values float64 [B]."""
        outputs = outputs.detach().double().cpu()
        if attribute.kind == "class":
            value = outputs.argmax(1).double()
        elif attribute.kind == "circle":
            value = torch.atan2(outputs[:, 1], outputs[:, 0]).div(2 * torch.pi).remainder(1.0)
        else:
            mean, std = self.scaling[attribute.name]
            value = outputs[:, 0] * std + mean
        found: Floats = value.numpy()
        return found

    def split(self, outputs: Tensor) -> tuple[Tensor, ...]:
        """Outputs [B, width] by attribute."""
        return torch.split(outputs, [_width(a) for a in self.attributes], dim=1)


def _width(attribute: Attribute) -> int:
    return {"scalar": 1, "circle": 2, "class": len(attribute.classes)}[attribute.kind]
