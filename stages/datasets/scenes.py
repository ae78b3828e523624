"""`scenes`: small drawings of one shape on one background, of which every attribute is known.

`sample` draws the attributes of image number i from a Philox stream keyed by (seed, i), so any image can be made
without the others; `draw` paints attributes; `render` does both. All arithmetic that reaches a pixel uses only
operations that IEEE 754 rounds exactly (sines and cosines are rounded to a fixed grid first), so the bytes are equal on
every machine.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stages.attributes import Attribute

Floats = NDArray[np.float64]
Plane = NDArray[np.float32]

SHAPES = ("disc", "ring", "square", "triangle", "star", "half-disc", "bar", "cross")
SYMMETRY = (0, 0, 4, 3, 5, 1, 2, 4)
"""Turns by 1/n leave the shape as it is; 0: every turn does, so its rotation is undefined."""

PATTERNS = ("plain", "gradient", "stripes", "checker")

CENTRE = (0.28, 0.72)
SCALE = (0.16, 0.28)
BRIGHTNESS = (0.55, 1.0)

ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute(name="shape", kind="class", classes=SHAPES),
    Attribute(name="hue", kind="circle"),
    Attribute(name="background_hue", kind="circle"),
    Attribute(name="pattern", kind="class", classes=PATTERNS),
    Attribute(name="x", kind="scalar", mirror="complement"),
    Attribute(name="y", kind="scalar"),
    Attribute(name="scale", kind="scalar"),
    Attribute(name="rotation", kind="circle", mirror="negate"),
    Attribute(name="brightness", kind="scalar"),
)
"""x and y: the shape's centre in fractions of the image, from the left and from the top; scale: radius of the circle
around the shape, in the same unit; rotation: clockwise angle from upright times the shape's symmetry, in turns (NaN
for disc and ring); brightness: factor on all pixels."""

SUBSAMPLES = 4
CHUNK = 256


def render(seed: int, indices: Sequence[int], size: int = 32) -> tuple[NDArray[np.uint8], dict[str, Floats]]:
    """Images number `indices` of the endless set `seed`, and their attributes.

    Returns uint8 [N, size, size, 3] and, by name of `ATTRIBUTES`, float64 [N].
    """
    values = sample(seed, indices)
    return draw(values, size), values


def sample(seed: int, indices: Sequence[int]) -> dict[str, Floats]:
    """Attributes of images number `indices`, drawn independently and uniformly: by name, float64 [N]."""
    raw = np.stack(
        [np.random.Philox(key=(int(index) << 64) | int(seed)).random_raw(len(ATTRIBUTES)) for index in indices]
        or [np.zeros(len(ATTRIBUTES), dtype=np.uint64)]
    )[: len(indices)]
    uniform = dict(zip((a.name for a in ATTRIBUTES), ((raw >> np.uint64(11)) * 2.0**-53).T, strict=True))
    shape = np.floor(uniform["shape"] * len(SHAPES))
    turns = np.array(SYMMETRY)[shape.astype(np.int64)]
    return {
        "shape": shape,
        "hue": uniform["hue"],
        "background_hue": uniform["background_hue"],
        "pattern": np.floor(uniform["pattern"] * len(PATTERNS)),
        "x": _between(CENTRE, uniform["x"]),
        "y": _between(CENTRE, uniform["y"]),
        "scale": _between(SCALE, uniform["scale"]),
        "rotation": np.where(turns > 0, uniform["rotation"], np.nan),
        "brightness": _between(BRIGHTNESS, uniform["brightness"]),
    }


def draw(values: Mapping[str, Floats], size: int = 32) -> NDArray[np.uint8]:
    """Paints attributes (by name, float64 [N]) as uint8 [N, size, size, 3]."""
    count = len(values["shape"])
    images = np.empty((count, size, size, 3), dtype=np.uint8)
    for start in range(0, count, CHUNK):
        chunk = slice(start, start + CHUNK)
        images[chunk] = _draw({name: column[chunk] for name, column in values.items()}, size)
    return images


def _draw(values: Mapping[str, Floats], size: int) -> NDArray[np.uint8]:
    ground = _colour(values["background_hue"], 0.5)[:, None, None, :] * _background(values["pattern"], size)[..., None]
    cover = _coverage(values, size)[..., None]
    image = ground + (_colour(values["hue"], 0.85)[:, None, None, :] - ground) * cover
    image *= values["brightness"][:, None, None, None].astype(np.float32) * np.float32(255)
    return np.rint(image).astype(np.uint8)


def _background(pattern: Floats, size: int) -> Plane:
    """Lightness of the background: float32 [N, size, size] in [0, 1], equal to its own mirror image."""
    position = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
    across, down = np.abs(position - np.float32(0.5))[None, :], position[:, None]
    stripe = np.where(np.floor(across * 8 + np.float32(0.5)) % 2 == 0, 1.0, -1.0)
    band = np.where(np.floor(np.abs(down - np.float32(0.5)) * 4) % 2 == 0, 1.0, -1.0)
    cell = np.where(np.floor(across * 4) % 2 == 0, 1.0, -1.0)
    planes = {
        "plain": np.full((size, size), 0.45),
        "gradient": 0.2 + 0.5 * down + 0.0 * across,
        "stripes": 0.45 + 0.17 * stripe + 0.0 * down,
        "checker": 0.45 + 0.17 * band * cell,
    }
    stack: Plane = np.stack([planes[name] for name in PATTERNS]).astype(np.float32)
    chosen: Plane = stack[pattern.astype(np.int64)]
    return chosen


def _coverage(values: Mapping[str, Floats], size: int) -> Plane:
    """Share of each pixel that the shape covers: float32 [N, size, size], from SUBSAMPLES x SUBSAMPLES points."""
    shape = values["shape"].astype(np.int64)
    order = np.maximum(np.array(SYMMETRY)[shape], 1)
    angle = 2.0 * np.pi * np.nan_to_num(values["rotation"]) / order
    cosine, sine = _on_grid(np.cos(angle)), _on_grid(np.sin(angle))
    # Only a window around the shape is drawn, which is a third of the image.
    window = min(size, int(np.ceil(2 * SCALE[1] * size)) + 2)
    corner = np.stack([np.floor((values[axis] - SCALE[1]) * size) for axis in ("y", "x")])
    corner = np.clip(corner, 0, size - window).astype(np.int64)
    points = (np.arange(window * SUBSAMPLES, dtype=np.float64) + 0.5) / SUBSAMPLES
    unit = values["scale"] * size
    down = ((corner[0][:, None] + points - values["y"][:, None] * size) / unit[:, None]).astype(np.float32)
    right = ((corner[1][:, None] + points - values["x"][:, None] * size) / unit[:, None]).astype(np.float32)
    cover = np.zeros((len(shape), size, size), dtype=np.float32)
    for number, inside in enumerate(INSIDE):
        chosen = np.flatnonzero(shape == number)
        if not len(chosen):
            continue
        c, s = cosine[chosen, None, None], sine[chosen, None, None]
        dx, dy = right[chosen, None, :], down[chosen, :, None]
        hit = inside(dx * c + dy * s, dx * s - dy * c)
        hit = hit.reshape(len(chosen), window, SUBSAMPLES, window, SUBSAMPLES)
        share = hit.sum(axis=(2, 4), dtype=np.int32).astype(np.float32) / np.float32(SUBSAMPLES**2)
        rows = corner[0][chosen, None, None] + np.arange(window)[:, None]
        columns = corner[1][chosen, None, None] + np.arange(window)
        cover[chosen[:, None, None], rows, columns] = share
    return cover


def _colour(hue: Floats, saturation: float) -> Plane:
    """RGB of a hue (turns) at full value: float32 [N, 3] in [0, 1]."""
    sector = np.mod(hue[:, None] * 6.0 + np.array([0.0, 4.0, 2.0]), 6.0)
    pure: Floats = np.clip(np.abs(sector - 3.0) - 1.0, 0.0, 1.0)
    return (1.0 - saturation * (1.0 - pure)).astype(np.float32)


def _on_grid(values: Floats) -> Plane:
    """Rounded to 2^-16, which hides the last bits in which mathematical libraries differ."""
    return (np.rint(values * 65536.0) / 65536.0).astype(np.float32)


def _between(bounds: tuple[float, float], uniform: Floats) -> Floats:
    return bounds[0] + (bounds[1] - bounds[0]) * uniform


# Each function says which points lie in the upright shape: right and up from the centre, in units of `scale`. Every
# shape is its own mirror image, lies within the unit circle and has its centre of mass at the origin.


def _disc(u: Plane, v: Plane) -> NDArray[np.bool_]:
    return u * u + v * v <= 0.80**2


def _ring(u: Plane, v: Plane) -> NDArray[np.bool_]:
    squared = u * u + v * v
    return (squared <= 0.95**2) & (squared >= 0.52**2)


def _square(u: Plane, v: Plane) -> NDArray[np.bool_]:
    return np.maximum(np.abs(u), np.abs(v)) <= 0.69


def _triangle(u: Plane, v: Plane) -> NDArray[np.bool_]:
    return (v >= -0.5) & (np.abs(u) * np.float32(0.8660254) + v * np.float32(0.5) <= 0.5)


def _star(u: Plane, v: Plane) -> NDArray[np.bool_]:
    side = np.abs(u)
    crossed = (
        (v > 0.309017).astype(np.int8)
        + (side * np.float32(0.9510565) + v * np.float32(0.309017) > 0.309017)
        + (side * np.float32(-0.9510565) + v * np.float32(0.309017) > 0.309017)
        + (side * np.float32(0.5877853) - v * np.float32(0.809017) > 0.309017)
        + (side * np.float32(-0.5877853) - v * np.float32(0.809017) > 0.309017)
    )
    return crossed <= 1


def _half_disc(u: Plane, v: Plane) -> NDArray[np.bool_]:
    base = v + np.float32(0.39)
    return (base >= 0) & (u * u + base * base <= 0.92**2)


def _bar(u: Plane, v: Plane) -> NDArray[np.bool_]:
    return (np.abs(u) <= 0.30) & (np.abs(v) <= 0.96)


def _cross(u: Plane, v: Plane) -> NDArray[np.bool_]:
    near, far = np.minimum(np.abs(u), np.abs(v)), np.maximum(np.abs(u), np.abs(v))
    return (near <= 0.28) & (far <= 0.95)


INSIDE: tuple[Callable[[Plane, Plane], NDArray[np.bool_]], ...] = (
    _disc,
    _ring,
    _square,
    _triangle,
    _star,
    _half_disc,
    _bar,
    _cross,
)
