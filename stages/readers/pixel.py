"""Pixel attributes: closed-form functions of the pixels, which are attributes on every dataset.

Intensities are in [0, 1]; lightness is the luma of ITU-R BT.601. Each function maps float64 [B, H, W, 3] to
float64 [B].
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from stages.attributes import Attribute

Floats: TypeAlias = NDArray[np.float64]

GREY = 0.05
"""Mean chroma vector shorter than this: the image has no hue."""

ISOTROPIC = 0.02
"""Orientation strength (0 to 1) below which no direction dominates."""

BLOCK = 2048
"""Images that are read together, so that memory stays small."""


def read(images: NDArray[np.uint8]) -> dict[str, Floats]:
    """All pixel attributes of uint8 [B, H, W, 3]: name -> float64 [B], NaN where undefined."""
    parts = []
    for start in range(0, len(images), BLOCK):
        unit = images[start : start + BLOCK].astype(np.float64) / 255.0
        parts.append({attribute.name: function(unit) for attribute, function in PIXEL})
    return {a.name: np.concatenate([part[a.name] for part in parts] or [np.empty(0)]) for a, _ in PIXEL}


def mean_hue(unit: Floats) -> Floats:
    """Direction of the mean chroma vector, turns (0 red, 1/3 green, 2/3 blue); NaN where the image is nearly grey.

    The chroma vector of a pixel is its colour seen along the grey axis; it is 1 long for a pure colour.
    """
    chroma = _chroma(unit).mean(axis=(1, 2))
    return np.where(np.abs(chroma) > GREY, np.mod(np.angle(chroma) / (2 * np.pi), 1.0), np.nan)


def saturation(unit: Floats) -> Floats:
    """Mean length of the chroma vector: 0 for grey, 1 for pure red."""
    means: Floats = np.abs(_chroma(unit)).mean(axis=(1, 2))
    return means


def brightness(unit: Floats) -> Floats:
    """Mean lightness."""
    means: Floats = _lightness(unit).mean(axis=(1, 2))
    return means


def contrast(unit: Floats) -> Floats:
    """Standard deviation of lightness over the image."""
    spread: Floats = _lightness(unit).std(axis=(1, 2))
    return spread


def sharpness(unit: Floats) -> Floats:
    """RMS step of lightness between neighbouring pixels."""
    light = _lightness(unit)
    across, down = np.diff(light, axis=2), np.diff(light, axis=1)
    steps: Floats = np.sqrt(0.5 * ((across**2).mean(axis=(1, 2)) + (down**2).mean(axis=(1, 2))))
    return steps


def centre_x(unit: Floats) -> Floats:
    """Centre of mass from the left, in fractions of the width; mass: how far a colour is from the border's median."""
    return _centre(unit)[0]


def centre_y(unit: Floats) -> Floats:
    """Centre of mass from the top, in fractions of the height."""
    return _centre(unit)[1]


def orientation(unit: Floats) -> Floats:
    """Direction in which lightness changes most, of half a turn, in turns of that half; NaN where none dominates.

    Twice the angle of the first axis of the structure tensor (Bigün & Granlund 1987): 0 for changes from left to right,
    0.5 from top to bottom, 0.25 along the diagonal from upper left to lower right.
    """
    light = _lightness(unit)
    across = light[:, :-1, 1:] - light[:, :-1, :-1] + light[:, 1:, 1:] - light[:, 1:, :-1]
    down = light[:, 1:, :-1] - light[:, :-1, :-1] + light[:, 1:, 1:] - light[:, :-1, 1:]
    xx, yy, xy = ((a * b).mean(axis=(1, 2)) for a, b in ((across, across), (down, down), (across, down)))
    length, total = np.hypot(xx - yy, 2 * xy), xx + yy
    strength = np.divide(length, total, out=np.zeros_like(total), where=total > 1e-6)
    return np.where(strength > ISOTROPIC, np.mod(np.arctan2(2 * xy, xx - yy) / (2 * np.pi), 1.0), np.nan)


PIXEL: tuple[tuple[Attribute, Callable[[Floats], Floats]], ...] = (
    (Attribute(name="mean_hue", kind="circle"), mean_hue),
    (Attribute(name="saturation", kind="scalar"), saturation),
    (Attribute(name="mean_brightness", kind="scalar"), brightness),
    (Attribute(name="contrast", kind="scalar"), contrast),
    (Attribute(name="sharpness", kind="scalar"), sharpness),
    (Attribute(name="centre_x", kind="scalar", mirror="complement"), centre_x),
    (Attribute(name="centre_y", kind="scalar"), centre_y),
    (Attribute(name="orientation", kind="circle", mirror="negate"), orientation),
)
"""Every pixel attribute with its function."""

ATTRIBUTES: tuple[Attribute, ...] = tuple(attribute for attribute, _ in PIXEL)
"""Every pixel attribute."""


def _lightness(unit: Floats) -> Floats:
    luma: Floats = unit @ np.array([0.299, 0.587, 0.114])
    return luma


def _chroma(unit: Floats) -> NDArray[np.complex128]:
    """Chroma vectors [B, H, W]: sum of the channels times three unit vectors, a third of a turn apart."""
    vectors: NDArray[np.complex128] = unit @ np.exp(2j * np.pi * np.arange(3) / 3)
    return vectors


def _centre(unit: Floats) -> tuple[Floats, Floats]:
    """x and y [B] of the centre of mass; the middle where the whole image has the border's colour."""
    height, width = unit.shape[1:3]
    edge = np.concatenate([unit[:, 0], unit[:, -1], unit[:, 1:-1, 0], unit[:, 1:-1, -1]], axis=1)
    mass = np.sqrt(((unit - np.median(edge, axis=1)[:, None, None]) ** 2).sum(axis=-1))
    total = mass.sum(axis=(1, 2))
    across = mass.sum(axis=1) @ ((np.arange(width) + 0.5) / width)
    down = mass.sum(axis=2) @ ((np.arange(height) + 0.5) / height)
    some = total > 1e-9
    safe = np.where(some, total, 1.0)
    return np.where(some, across / safe, 0.5), np.where(some, down / safe, 0.5)
