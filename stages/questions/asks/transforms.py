"""Transforms of images at several strengths, for whole batches; what is random is a function of (seed, row).

Each maps float32 [B, 3, H, W] in [0, 1] to the same; a larger strength changes more. Geometry is bilinear, and what
comes into view from outside is the reflected image.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.diffusion.noise import normal
from stages.encoders import augment


@dataclass(frozen=True)
class Chance:
    """What is random about the transforms of images number `rows` (int64 [B])."""

    seed: int
    rows: NDArray[np.int64]

    def uniform(self, stream: int) -> NDArray[np.float64]:
        """Uniform numbers in [0, 1), one per image: float64 [B]."""
        return augment.uniform(self.seed, self.rows, stream)

    def sign(self) -> NDArray[np.float64]:
        """1 or -1 per image: float64 [B]."""
        return np.where(self.uniform(0) < 0.5, -1.0, 1.0)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal noise per image: float32 [B, *shape]."""
        return normal([(self.seed, int(row)) for row in self.rows], shape)


@dataclass(frozen=True)
class Transform:
    """A transform, the strengths at which it is asked about (ascending), and what the strength is."""

    strengths: tuple[float, ...]
    unit: str
    apply: Callable[[Tensor, float, Chance], Tensor]

    @property
    def painted(self) -> float:
        """The strength that is also painted: the middle one."""
        return self.strengths[len(self.strengths) // 2]


def transformed(images: Tensor, rows: NDArray[np.int64], name: str, strength: float, seed: int) -> Tensor:
    """Applies a transform of `TRANSFORMS` to float32 [B, 3, H, W] in [0, 1], the images number `rows` (int64 [B])."""
    return TRANSFORMS[name].apply(images, strength, Chance(seed, rows))


def crop(images: Tensor, strength: float, chance: Chance) -> Tensor:
    """Cuts away a share of the area, at a random position, and enlarges what remains."""
    side = math.sqrt(1.0 - strength)
    corner = np.stack([chance.uniform(0), chance.uniform(1)], axis=1) * (1.0 - side)
    return augment.cropped(images, np.concatenate([corner, np.full_like(corner, side)], axis=1), None)


def shift(images: Tensor, strength: float, chance: Chance) -> Tensor:
    """Moves by a fraction of the width, in a random direction."""
    angle = 2 * np.pi * chance.uniform(0)
    return _affine(images, 1.0, np.zeros(len(images)), strength * np.stack([np.cos(angle), np.sin(angle)], axis=1))


def zoom(images: Tensor, strength: float, chance: Chance) -> Tensor:
    """Enlarges around the centre: strength 0.25 makes everything 1.25 times as large."""
    return _affine(images, 1.0 / (1.0 + strength), np.zeros(len(images)), np.zeros((len(images), 2)))


def rotation(images: Tensor, strength: float, chance: Chance) -> Tensor:
    """Turns by degrees, one way or the other."""
    return _affine(images, 1.0, np.radians(strength) * chance.sign(), np.zeros((len(images), 2)))


def flip(images: Tensor, strength: float, chance: Chance) -> Tensor:
    """Mirrors left to right."""
    return images.flip(3)


def greyscale(images: Tensor, strength: float, chance: Chance) -> Tensor:
    """Mixes with the grey image."""
    return images.lerp(augment.luma(images).expand_as(images), strength)


def hue(images: Tensor, strength: float, chance: Chance) -> Tensor:
    """Turns all hues, one way or the other."""
    return augment.hue_turned(images, strength * chance.sign())


def brightness(images: Tensor, strength: float, chance: Chance) -> Tensor:
    """Multiplies by 1 + strength or 1 - strength."""
    return (images * _factor(images, strength, chance)).clamp(0.0, 1.0)


def contrast(images: Tensor, strength: float, chance: Chance) -> Tensor:
    """Stretches around the mean lightness by 1 + strength or 1 - strength."""
    mean = augment.luma(images).mean((2, 3), keepdim=True)
    return mean.lerp(images, _factor(images, strength, chance)).clamp(0.0, 1.0)


def blur(images: Tensor, strength: float, chance: Chance) -> Tensor:
    """Gaussian blur whose standard deviation is a fraction of the width."""
    sigma = strength * images.shape[3]
    radius = min(math.ceil(3 * sigma), min(images.shape[2:]) - 1)
    offset = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-0.5 * (offset / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)
    padded = torch.nn.functional.pad(images, (radius, radius, radius, radius), mode="reflect")
    across = torch.nn.functional.conv2d(padded, kernel[:, :, None, :], groups=3)
    return torch.nn.functional.conv2d(across, kernel[:, :, :, None], groups=3)


def noise(images: Tensor, strength: float, chance: Chance) -> Tensor:
    """Adds Gaussian noise of a standard deviation."""
    return (images + strength * chance.normal(images.shape[1:]).to(images.device)).clamp(0.0, 1.0)


TRANSFORMS: Mapping[str, Transform] = {
    "crop": Transform((0.2, 0.5, 0.75), "share of the area cut away", crop),
    "shift": Transform((0.0625, 0.125, 0.25), "of the width", shift),
    "zoom": Transform((0.1, 0.25, 0.5), "enlargement", zoom),
    "rotation": Transform((10.0, 30.0, 90.0), "degrees", rotation),
    "flip": Transform((1.0,), "left to right", flip),
    "greyscale": Transform((0.5, 1.0), "share of colour taken away", greyscale),
    "hue": Transform((0.05, 0.1, 0.5), "turns", hue),
    "brightness": Transform((0.2, 0.4, 0.8), "relative", brightness),
    "contrast": Transform((0.2, 0.4, 0.8), "relative", contrast),
    "blur": Transform((0.015, 0.03, 0.06), "of the width", blur),
    "noise": Transform((0.02, 0.05, 0.1), "of full intensity", noise),
}
"""Every transform by name."""


RELATED: Mapping[str, tuple[str, ...]] = {
    "crop": ("crop", "shift", "zoom"),
    "flip": ("flip",),
    "brightness": ("brightness",),
    "contrast": ("contrast",),
    "saturation": ("greyscale",),
    "hue": ("hue",),
    "greyscale": ("greyscale",),
    "blur": ("blur",),
}
"""By augmentation of pretraining, the transforms that do the same to an image."""


def untaught(augmentations: Iterable[str]) -> tuple[str, ...]:
    """The transforms that an encoder trained with these augmentations was never shown."""
    taught = {name for augmentation in augmentations for name in RELATED[augmentation]}
    return tuple(name for name in TRANSFORMS if name not in taught)


def _factor(images: Tensor, strength: float, chance: Chance) -> Tensor:
    """1 + strength or 1 - strength per image: [B, 1, 1, 1]."""
    factor = 1.0 + strength * chance.sign()
    return torch.as_tensor(factor, dtype=images.dtype, device=images.device).view(-1, 1, 1, 1)


def _affine(images: Tensor, scale: float, angles: NDArray[np.float64], shifts: NDArray[np.float64]) -> Tensor:
    """The image at rotated, scaled positions: angles [B] in radians, shifts [B, 2] in fractions of the width."""
    theta = np.zeros((len(images), 2, 3))
    theta[:, 0, 0] = theta[:, 1, 1] = scale * np.cos(angles)
    theta[:, 0, 1], theta[:, 1, 0] = -scale * np.sin(angles), scale * np.sin(angles)
    theta[:, :, 2] = -2.0 * shifts
    grid = torch.nn.functional.affine_grid(
        torch.as_tensor(theta, dtype=images.dtype, device=images.device), list(images.shape), align_corners=False
    )
    return torch.nn.functional.grid_sample(
        images, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
