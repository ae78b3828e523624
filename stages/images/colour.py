"""Colour: samples of a file, of any depth and with any transparency, become RGB of 8 bits, or a reason why not."""

import io
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stages.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

DARK = 2**12
"""Levels below which 16 bits of grey are taken for fewer bits, whose white is unknown: they would all be near black."""


GREY_ALPHA = "LA;16B"
"""Pillow's name of grey with alpha, each of 16 bits, as a PNG has them."""


@dataclass(frozen=True)
class StoredAs:
    """How a file stores its samples, of which the decoded image says nothing more."""

    data: bytes
    """The file."""
    bits: int = 8
    signed: bool = False
    white_is_zero: bool = False
    scaled: bool = False
    """Whether Pillow has scaled fewer bits to the 16 that the decoded image has."""


def stored_as(image: "Image.Image", data: bytes) -> StoredAs:
    """Of an image that is not yet decoded. `bits` matter where white is sought, and for the transparent colour."""
    if image.format == "TIFF":
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        bits, signed = tags.get(258, (1,))[0], tags.get(339, (1,))[0] == 2
        return StoredAs(data, bits, signed, white_is_zero=tags.get(262, 0) == 0)
    if image.format == "PPM":
        # The fourth word is the value of white.
        full = re.sub(rb"#[^\n]*\n", b" ", data[:4096]).split(maxsplit=4)[3:4] == [b"65535"]
        return StoredAs(data, 16 if full or image.mode == "I" else 8, scaled=not full)
    if image.format == "JPEG2000":
        # ISO/IEC 15444-1, A.5.1: the marker SIZ, and in it Ssiz, the bits less one.
        bits = (data[data.find(b"\xff\x4f\xff\x51") + 42] & 0x7F) + 1
        return StoredAs(data, 16 if image.mode.startswith("I") else 8, scaled=bits < 16)
    tiles: Any = getattr(image, "tile", None) if image.format == "PNG" else None
    raw = str(tiles[0].args) if tiles else image.mode
    # Pillow's names of what is in the file end in the bits of a sample: `L;4`, `RGB;16B`, `I;16B`.
    digits = "".join(letter for letter in raw.partition(";")[2] if letter.isdigit())
    return StoredAs(data, 1 if raw == "1" else int(digits) if digits else 16 if image.mode == "I" else 8)


def _levels(image: "Image.Image", data: bytes) -> "NDArray[np.uint16]":
    """RGB of 16 bits as it is stored: [H, W, 3] in 0 … 65535; grey with alpha as [H, W, 1].

    Pillow keeps the high bytes. The low ones come of a second decoding, by the name of the other order of bytes.
    """
    import numpy as np
    from PIL import Image

    levels: NDArray[np.uint16] = np.array(image.convert("RGB")).astype(np.uint16)
    levels <<= 8
    if image.format == "PPM":
        if data.startswith(b"P6"):
            levels = np.frombuffer(data[-2 * levels.size :], ">u2").astype(np.uint16).reshape(levels.shape)
        return levels
    with Image.open(io.BytesIO(data), formats=(str(image.format),)) as again:
        tiles: Any = again.tile
        if [tile.args for tile in tiles] == [GREY_ALPHA]:
            # There is no name of the other order, but four bytes a pixel are four channels.
            again.tile = [tile._replace(args="RGBA") for tile in tiles]
            pairs = np.array(again)[:, :, :2]
            levels = pairs[:, :, :1].astype(np.uint16)
            levels <<= 8
            levels |= pairs[:, :, 1:]
            return levels
        swapped = [tile._replace(args=_swapped(tile.args)) for tile in tiles]
        if any(_swapped(tile.args) == tile.args for tile in tiles):
            return levels
        again.tile = swapped
        levels |= np.array(again)[:, :, :3]
        return levels


def _swapped(args: Any) -> Any:
    """Pillow's name of how a tile is stored, with the other order of bytes; unchanged where it has no order."""
    if isinstance(args, tuple):
        return (_swapped(args[0]), *args[1:])
    orders = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}
    mode, _, order = str(args).partition(";")
    return f"{mode};{orders[order]}" if mode in ("RGB", "RGBA") and order in orders else args


def check_white(image: "Image.Image", stored: StoredAs) -> None:
    """Raises InputError where RGB, or grey with alpha, of 16 bits uses so few levels that it has fewer bits, whose
    white is unknown.
    """
    if stored.bits != 16 or stored.scaled or image.mode not in ("RGB", "RGBA"):
        return
    bands: Any = image.getextrema()
    # The decoder of PPM rounds to the nearest level.
    if max(high for _, high in bands[:3]) <= DARK >> 8:
        levels = _levels(image, stored.data)
        reach = int(levels.max())
        if 0 < reach < DARK:
            raise _few_levels("grey" if levels.shape[2] == 1 else "RGB", reach)


def as_rgb(image: "Image.Image", stored: StoredAs) -> "Image.Image":
    """The image as RGB, what is transparent as white."""
    from PIL import Image

    transparent = image.info.get("transparency")
    if stored.signed and image.mode == "L":
        image = image.point([level ^ 128 for level in range(256)])
    if image.mode.startswith("I") or image.mode == "F":
        return _sixteen_bit(image, stored, transparent)
    if image.mode in ("1", "L", "RGB") and isinstance(transparent, int | tuple):
        return _without_colour(image.convert("L") if image.mode == "1" else image, stored, transparent)
    if image.mode == "RGB":
        return image
    if image.has_transparency_data:
        layer = _with_alpha(image)
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def as_rgba(image: "Image.Image", stored: StoredAs) -> "Image.Image":
    """The image as RGBA. A transparent colour counts where it has 8 bits; with others Pillow compares wrongly."""
    plain = image.mode in ("L", "RGB") and stored.bits == 8 and not stored.signed
    if "A" in image.getbands() or image.mode == "P" or plain:
        return _with_alpha(image)
    return as_rgb(image, stored).convert("RGBA")


def _with_alpha(image: "Image.Image") -> "Image.Image":
    """The image as RGBA. Some programs write a fourth byte into BMP and TIFF that means nothing and is 0 everywhere:
    such an image is opaque.
    """
    layer = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
    if image.format in ("BMP", "TIFF") and layer.getchannel("A").getextrema() == (0, 0):
        layer.putalpha(255)
    return layer


def _without_colour(image: "Image.Image", stored: StoredAs, colour: int | tuple[int, ...]) -> "Image.Image":
    """A grey or RGB image, with the one transparent colour as white; the colour is in samples as they are stored."""
    import numpy as np
    from PIL import Image

    levels = np.array(image).reshape(image.height, image.width, -1)
    wanted = np.array(colour)
    if stored.bits > 8:
        found = _levels(image, stored.data)
    else:
        found, wanted = levels.astype(np.int32), wanted * 255 // (2**stored.bits - 1)
    levels[(found == wanted).all(axis=-1)] = 255
    return Image.fromarray(levels if image.mode == "RGB" else levels[:, :, 0]).convert("RGB")


def _sixteen_bit(image: "Image.Image", stored: StoredAs, transparent: Any) -> "Image.Image":
    """Grey of 12 or 16 bits to 8 by the high bits: Pillow's own conversion clips instead of scaling.

    Raises InputError where the file does not define which value is white.
    """
    import numpy as np
    from PIL import Image

    if image.mode == "F":
        raise _no_white("floating-point grey")
    if stored.bits > 16:
        raise _no_white(f"grey of {stored.bits} bits")
    levels = np.asarray(image).astype(np.int32)
    if stored.signed:
        levels += 2 ** (stored.bits - 1)
    low, high = int(levels.min()), int(levels.max())
    reach = high - low if stored.signed else high
    if stored.bits == 16 and not stored.scaled and 0 < reach < DARK:
        raise _few_levels("grey", reach)
    unseen = levels == transparent if isinstance(transparent, int) else None
    levels >>= stored.bits - 8
    grey = np.clip(levels, 0, 255, out=levels).astype(np.uint8)
    if stored.white_is_zero:
        grey = 255 - grey
    if unseen is not None:
        grey[unseen] = 255
    return Image.fromarray(grey).convert("RGB")


def _few_levels(kind: str, reach: int) -> InputError:
    return _no_white(f"16-bit {kind} that uses {reach + 1} of its 65536 levels, as of {reach.bit_length()} bits")


def _no_white(what: str) -> InputError:
    return InputError(
        "an image that defines which of its values is white",
        f"{what}, whose white is unknown",
        "Scale it to 8 bits, or to all of 16 unsigned ones, or remove it.",
    )
