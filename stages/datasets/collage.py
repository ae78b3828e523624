"""`collage`: cut-outs pasted on crops of photographs, of which every attribute is known.

Image number i draws a cut-out, a background and all attributes from a Philox stream keyed by (seed, i), so any image
can be made without the others. Cut-outs and backgrounds are divided first (`hold_out`): a held-out image is made of
held-out cut-outs and backgrounds only, and no other image has any of these.

A cut-out is trimmed to its visible pixels. Images are drawn at twice their size and averaged.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.attributes import Attribute
from stages.errors import InputError
from stages.images.image_file import decode, decode_with_alpha

Floats = NDArray[np.float64]

CENTRE = (0.35, 0.65)
SCALE = (0.2, 0.35)
BRIGHTNESS = (0.6, 1.0)
"""Factor on the pixels of a cut-out."""
CROP = (0.4, 1.0)
"""Side of the square that is cut from a background, in shares of its shorter side."""

ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute(name="x", kind="scalar", mirror="complement"),
    Attribute(name="y", kind="scalar"),
    Attribute(name="scale", kind="scalar"),
    Attribute(name="rotation", kind="circle", mirror="negate"),
    Attribute(name="hue", kind="circle"),
    Attribute(name="brightness", kind="scalar"),
)
"""x and y: the cut-out's centre in fractions of the image, from the left and from the top; scale: radius of the circle
around it, in the same unit; rotation: clockwise, in turns, 0 as in its file; hue and brightness: of the pasted pixels,
the direction of its mean chroma (turns, NaN where it is nearly grey) and its mean lightness (BT.601)."""

GREY = 0.05
"""Mean chroma vector shorter than this: the cut-out has no hue."""

OVERSAMPLING = 2
VISIBLE = 128
"""Alpha of the pixels that bound a cut-out."""

KEPT_CUTOUTS, KEPT_BACKGROUNDS = 1024, 128
"""Decoded files that one process keeps, at the size in which they are used."""

PARTS = ("class", "cutout", "background class", "background", "side", "left", "top", "x", "y", "scale", "rotation")
DRAWS = (*PARTS, "hue", "brightness")
"""What is drawn for an image, each uniform in [0, 1), in the order of its random numbers."""


@dataclass(frozen=True)
class Files:
    """The files that cut-outs, or backgrounds, are read from.

    `classes` are indices of the folders' classes; all 0 where there are none. `heldout`: bool [N]. `read` gives a
    file's bytes by its name.
    """

    names: Sequence[str]
    classes: NDArray[np.int64]
    heldout: NDArray[np.bool_]
    read: Callable[[str], bytes]
    _members: dict[tuple[bool, int], NDArray[np.int64]] = field(default_factory=dict)

    def choose(self, heldout: bool, class_draw: float, draw: float) -> int:
        """The index of a file of one split: its class uniform, then the file uniform among those of the class."""
        number = int(class_draw * (int(self.classes.max()) + 1))
        key = (heldout, number)
        if key not in self._members:
            self._members[key] = np.flatnonzero((self.heldout == heldout) & (self.classes == number))
        members = self._members[key]
        return int(members[int(draw * len(members))])


def hold_out(names: Sequence[str], classes: NDArray[np.int64], share: float, where: str) -> NDArray[np.bool_]:
    """Which files are held out: `share` of each class, one at least and not all, by the sha256 of names: bool [N].

    Raises InputError where a class has a single file.
    """
    heldout = np.zeros(len(names), dtype=np.bool_)
    for number in np.unique(classes):
        members = np.flatnonzero(classes == number).tolist()
        if len(members) < 2:
            raise InputError(
                f"two files of each class in {where}, one to train on and one to hold out",
                f"{names[members[0]]} alone",
                "Add another of its class, or take it away.",
            )
        count = min(max(1, round(share * len(members))), len(members) - 1)
        first = sorted(members, key=lambda member: hashlib.sha256(names[member].encode()).digest())[:count]
        heldout[first] = True
    return heldout


class Collage:
    """An endless set of images of `size` pixels, made of these files.

    `rotation` and `hue` are how far a cut-out is turned at most, either way, in turns. What was decoded is kept as long
    as this object lives.
    """

    def __init__(
        self, seed: int, size: int, cutouts: Files, backgrounds: Files, rotation: float = 0.125, hue: float = 0.5
    ) -> None:
        self.seed, self.size = seed, size
        self.cutouts, self.backgrounds = cutouts, backgrounds
        self._rotation, self._hue = rotation, hue
        self._cutout = lru_cache(KEPT_CUTOUTS)(self._read_cutout)
        self._background = lru_cache(KEPT_BACKGROUNDS)(self._read_background)

    def files(self, number: int, heldout: bool) -> tuple[int, int]:
        """The indices of the cut-out and of the background of an image."""
        drawn = self._draws(number)
        return (
            self.cutouts.choose(heldout, drawn["class"], drawn["cutout"]),
            self.backgrounds.choose(heldout, drawn["background class"], drawn["background"]),
        )

    def values(self, number: int, heldout: bool) -> dict[str, float]:
        """The attributes of an image, and the indices of its `class` and `background`."""
        drawn = self._draws(number)
        cutout, background = self.files(number, heldout)
        colours, alpha = self._coloured(cutout, drawn)
        weights = alpha / alpha.sum()
        red, green, blue = ((colours[:, :, channel] * weights).sum() / 255.0 for channel in range(3))
        chroma = complex(red - (green + blue) / 2, (green - blue) * np.sqrt(0.75))
        turns = np.angle(chroma) / (2 * np.pi) % 1.0
        return {
            "class": float(self.cutouts.classes[cutout]),
            "background": float(self.backgrounds.classes[background]),
            "x": _between(CENTRE, drawn["x"]),
            "y": _between(CENTRE, drawn["y"]),
            "scale": _between(SCALE, drawn["scale"]),
            "rotation": _on_grid(self._turn(drawn) % 1.0) % 1.0,
            "hue": _on_grid(turns) % 1.0 if abs(chroma) > GREY else float("nan"),
            "brightness": _on_grid(0.299 * red + 0.587 * green + 0.114 * blue),
        }

    def render(self, number: int, heldout: bool) -> NDArray[np.uint8]:
        """The image: uint8 [size, size, 3]."""
        drawn = self._draws(number)
        cutout, background = self.files(number, heldout)
        image = self._crop(background, drawn).convert("RGBA")
        image.alpha_composite(self._layer(cutout, drawn))
        return np.array(image.convert("RGB"), dtype=np.uint8)

    def _draws(self, number: int) -> dict[str, float]:
        raw = np.random.Philox(key=(int(number) << 64) | int(self.seed)).random_raw(len(DRAWS))
        return dict(zip(DRAWS, ((raw >> np.uint64(11)) * 2.0**-53).tolist(), strict=True))

    def _turn(self, drawn: dict[str, float]) -> float:
        """Clockwise, in turns."""
        return _between((-self._rotation, self._rotation), drawn["rotation"])

    def _crop(self, background: int, drawn: dict[str, float]) -> Image.Image:
        """A square of a background, resized."""
        whole = self._background(background)
        side = _between(CROP, drawn["side"]) * min(whole.size)
        left, top = drawn["left"] * (whole.width - side), drawn["top"] * (whole.height - side)
        box = (left, top, left + side, top + side)
        return whole.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box)

    def _coloured(self, cutout: int, drawn: dict[str, float]) -> tuple[Floats, Floats]:
        """The colours [H, W, 3] of a cut-out, turned in hue and dimmed, and its alpha [H, W], both in [0, 255]."""
        pixels, _ = self._cutout(cutout)
        turned = turn_hue(pixels[:, :, :3], _between((-self._hue, self._hue), drawn["hue"]))
        return turned * _between(BRIGHTNESS, drawn["brightness"]), pixels[:, :, 3]

    def _layer(self, cutout: int, drawn: dict[str, float]) -> Image.Image:
        """A cut-out where it belongs, on a transparent image of the final size."""
        colours, alpha = self._coloured(cutout, drawn)
        image = Image.fromarray(np.rint(np.dstack([colours, alpha])).astype(np.uint8))
        _, radius = self._cutout(cutout)
        fine = self.size * OVERSAMPLING
        step = radius / (_between(SCALE, drawn["scale"]) * fine)
        angle = 2.0 * np.pi * self._turn(drawn)
        cosine, sine = step * _on_grid(np.cos(angle)), step * _on_grid(np.sin(angle))
        x, y = _between(CENTRE, drawn["x"]) * fine, _between(CENTRE, drawn["y"]) * fine
        # From a position in the image to one in the cut-out, which is turned back around its centre.
        across = (cosine, sine, image.width / 2 - cosine * x - sine * y)
        down = (-sine, cosine, image.height / 2 + sine * x - cosine * y)
        placed = image.transform((fine, fine), Image.Transform.AFFINE, (*across, *down), Image.Resampling.BILINEAR)
        return placed.reduce(OVERSAMPLING)

    def _read_cutout(self, index: int) -> tuple[Floats, float]:
        """Pixels [H, W, 4] of a cut-out in [0, 255], no larger than is used, and the radius around its visible ones."""
        name = self.cutouts.names[index]
        pixels = _decoded(decode_with_alpha, self.cutouts.read(name), name)
        visible = pixels[:, :, 3] >= VISIBLE
        if visible.all() or not visible.any():
            raise InputError(
                f"a cut-out with visible and with transparent pixels at {name}",
                "no transparent one" if visible.all() else "no visible one",
                "Cut it out, or take it away.",
            )
        rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
        trimmed = Image.fromarray(pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
        shrink = min(1.0, 2 * SCALE[1] * self.size * OVERSAMPLING / np.hypot(*trimmed.size))
        small = trimmed.resize([max(1, round(side * shrink)) for side in trimmed.size], Image.Resampling.BOX)
        # A transparent margin, so that edges are as soft at the trimmed sides as elsewhere.
        found = np.pad(np.asarray(small, dtype=np.float64), ((1, 1), (1, 1), (0, 0)))
        down, across = np.nonzero(found[:, :, 3] >= VISIBLE)
        away = np.hypot(np.abs(down + 0.5 - found.shape[0] / 2) + 0.5, np.abs(across + 0.5 - found.shape[1] / 2) + 0.5)
        return found, float(away.max()) if len(away) else float(np.hypot(*trimmed.size) / 2)

    def _read_background(self, index: int) -> Image.Image:
        name = self.backgrounds.names[index]
        whole = Image.fromarray(_decoded(decode, self.backgrounds.read(name), name))
        shrink = min(1.0, self.size / CROP[0] / min(whole.size))
        return whole.resize([round(side * shrink) for side in whole.size], Image.Resampling.BOX)


def turn_hue(colours: Floats, turns: float) -> Floats:
    """RGB [H, W, 3] in any range with the hue of every pixel turned; the largest and smallest value of each stay."""
    top, low = colours.max(axis=2, keepdims=True), colours.min(axis=2, keepdims=True)
    spread = np.where(top > low, top - low, 1.0)
    red, green, blue = np.moveaxis((colours - low) / spread, 2, 0)
    # In sixths of a turn; that of a grey pixel is not used.
    hue = np.where(red == 1.0, green - blue, np.where(green == 1.0, 2.0 + blue - red, 4.0 + red - green))
    sector = np.mod(hue[:, :, None] + 6.0 * turns + np.array([0.0, 4.0, 2.0]), 6.0)
    pure = np.clip(np.abs(sector - 3.0) - 1.0, 0.0, 1.0)
    turned: Floats = low + (top - low) * pure
    return turned


def _decoded(how: Callable[[bytes], NDArray[np.uint8]], data: bytes, name: str) -> NDArray[np.uint8]:
    try:
        return how(data)
    except InputError as error:
        raise InputError(f"{error.expected} at {name}", error.found, error.remedy) from error


def _on_grid(value: Any) -> float:
    """Rounded to 2^-16, which hides the last bits in which mathematical libraries differ."""
    return float(np.rint(value * 65536.0) / 65536.0)


def _between(bounds: tuple[float, float], uniform: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * uniform
