"""Framing: an image of any size becomes a square, in the steps and with the rounding of the library followed."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from stages.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

RESIZED_PIXELS = 2**24
"""Pixels of a resized image from which only what the cut shows is resized: a picture of 1 x 20 000 would take 5 GB."""

FILTER_REACH = 3
"""Pixels on either side that Pillow's widest filter (lanczos) takes in, times the reduction."""

Interpolation: TypeAlias = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
"""How Pillow finds a pixel of a resized image; all but nearest are antialiased."""


@dataclass(frozen=True)
class Framing:
    """How an image of any size becomes a square of `size` pixels.

    `resize` None: the centre square is resized to `size`. A number: the shorter side is resized to it, then the centre
    is cut out. `squash`: both sides are resized to `resize` (or `size`), whatever the proportions, before the cut.
    """

    size: int
    resize: int | None = None
    squash: bool = False
    interpolation: Interpolation = "bicubic"
    rounding: Literal["even", "down"] = "even"
    """Of half a pixel of margin: torchvision's or that of transformers."""
    halve: bool = False
    """With `resize`, and without `squash`: as guided-diffusion does (Dhariwal & Nichol 2021), both sides are halved,
    each new pixel the mean of those it covers, while the shorter is 2 x `resize` or longer; after the resize the longer
    is rounded to the nearest pixel, where torchvision drops the fraction."""

    def __post_init__(self) -> None:
        """Raises InputError where the cut is larger than what it is cut from."""
        assert not self.halve or (self.resize is not None and not self.squash), "nothing to halve towards"
        if self.resize is not None and self.resize < self.size:
            raise InputError(
                f"a resized side of at least {self.size} pixels to cut {self.size} from",
                f"{self.resize}",
                "Raise `resize` or lower `size`.",
            )


def fit(image: "NDArray[np.uint8]", framing: int | Framing) -> "NDArray[np.uint8]":
    """Frames an image by Pillow: uint8 [H, W, 3] to [size, size, 3]; a plain number is `Framing` of that size.

    The steps and their rounding are those of torchvision's Resize and CenterCrop, on which timm rests; with `halve`
    those of guided-diffusion.
    """
    import numpy as np
    from PIL import Image

    framing = Framing(framing) if isinstance(framing, int) else framing
    if _fits(framing, image.shape[1], image.shape[0]):
        return image
    return np.array(framed(Image.fromarray(image), framing), dtype=np.uint8)


def _fits(framing: Framing, width: int, height: int) -> bool:
    """Whether an image is left as it is."""
    return framing.resize is None and not framing.squash and width == height == framing.size


def framed(image: "Image.Image", framing: Framing) -> "Image.Image":
    from PIL import Image

    size, resample = framing.size, Image.Resampling[framing.interpolation.upper()]
    width, height = image.size
    if _fits(framing, width, height):
        return image
    if framing.resize is None and not framing.squash:
        return centre_square(image, framing, width, height)
    wanted = framing.resize or size
    if framing.halve:
        while min(image.size) >= 2 * wanted:
            image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
        scale = wanted / min(image.size)
        scaled = (round(image.width * scale), round(image.height * scale))
    elif framing.squash:
        scaled = (wanted, wanted)
    elif width <= height:
        scaled = (wanted, wanted * height // width)
    else:
        scaled = (wanted * width // height, wanted)
    rounded = round if framing.rounding == "even" else int
    left, top = rounded((scaled[0] - size) / 2), rounded((scaled[1] - size) / 2)
    if scaled != image.size and scaled[0] * scaled[1] > RESIZED_PIXELS:
        return _cut(image, scaled, (left, top), size, resample)
    if scaled != image.size:
        image = image.resize(scaled, resample)
    return image.crop((left, top, left + size, top + size))


def _cut(
    image: "Image.Image", scaled: tuple[int, int], corner: tuple[int, int], size: int, resample: "Image.Resampling"
) -> "Image.Image":
    """The square of `size` at `corner` of the image resized to `scaled`, from the pixels that it depends on alone.

    Equal to resizing all of it up to a level of rounding.
    """
    box: list[tuple[int, int, float, float]] = []
    for length, new, first in zip(image.size, scaled, corner, strict=True):
        step = length / new
        start, stop = first * step, (first + size) * step
        margin = FILTER_REACH * max(1.0, step) + 1
        lower, upper = max(0, int(start - margin)), min(length, int(stop + margin) + 1)
        box.append((lower, upper, start - lower, stop - lower))
    (left, right, x0, x1), (top, bottom, y0, y1) = box
    return image.crop((left, top, right, bottom)).resize((size, size), resample, box=(x0, y0, x1, y1))


def centre_square(image: "Image.Image", framing: Framing, width: float, height: float) -> "Image.Image":
    """The centre square of what is shown by `width` x `height` pixels from the upper left corner, resized."""
    from PIL import Image

    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    resample = Image.Resampling[framing.interpolation.upper()]
    return image.resize((framing.size, framing.size), resample, box=(left, top, left + side, top + side))
