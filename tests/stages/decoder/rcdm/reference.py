"""Weights and inputs of the published RCDM's reference values, which are defined by their names."""

import json
import math
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RELEASED = Path(__file__).parents[3] / "data" / "released"


def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal values that a name stands for."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))


def weight(salt: str, name: str, shape: tuple[int, ...]) -> Tensor:
    """A tensor of a checkpoint: near 1 for scales, near 0 for shifts, of unit gain for the rest."""
    z = drawn(salt + name, shape)
    if len(shape) == 1:
        return 1.0 + 0.1 * z if name.endswith(".weight") else 0.1 * z
    return z / math.sqrt(math.prod(shape[1:]))


@dataclass(frozen=True)
class Reference:
    """What the published code computes for one small configuration."""

    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    values: dict[str, NDArray[Any]]

    def weights(self) -> dict[str, Tensor]:
        """The checkpoint, by name."""
        return {name: weight(self.config["salt"], name, shape) for name, shape in self.shapes.items()}

    def tensor(self, name: str) -> Tensor:
        """A stored input or result."""
        return torch.from_numpy(self.values[name])

    def loop_noise(self, number: int) -> Tensor:
        """What a loop starts from, number 0, and the noise of its steps from 1 on; the published code counts from 0."""
        name = f"{self.config['salt']}step{number - 1}"
        return drawn(name, self.values["x"].shape) if number else self.tensor("x")


@cache
def reference(name: str) -> Reference:
    """The configuration A or B."""
    with np.load(RELEASED / f"rcdm_{name}.npz", allow_pickle=False) as stored:
        values = {key: stored[key] for key in stored.files}
    shapes = {key: tuple(shape) for key, shape in json.loads(str(values.pop("keys"))).items()}
    return Reference(json.loads(str(values.pop("config"))), shapes, values)


def full_shapes() -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a published checkpoint of 128 px."""
    document = json.loads((RELEASED / "released_128_state_dict.json").read_text())
    return {name: tuple(shape) for name, shape in document.items()}
