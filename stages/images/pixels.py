"""Pixels: the only place where they change range, size, layout or encoding.

Stored images are uint8 [B, H, W, 3] in [0, 255], RGB; networks see float32 [B, 3, H, W] in [-1, 1] (decoders and
encoders of the paper), in [0, 1] (attacks), or normalised by an encoder's own mean and standard deviation.
"""

import io
import struct
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from stages.errors import InputError
from stages.training.prefetch import sent

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL import Image

PIXEL_LIMIT = 64_000_000
"""Width x height above which an image is refused before a pixel is decoded: 64 megapixels are 192 MB as RGB."""

FORMATS = {
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "BMP": "bmp",
    "TIFF": "tif",
    "GIF": "gif",
    "AVIF": "avif",
    "JPEG2000": "jp2",
    "PPM": "ppm",
    "QOI": "qoi",
}
"""Encodings that are read, by Pillow's name, and the ending under which each is kept."""

ENDINGS = tuple(
    f".{ending}"
    for ending in (
        *("apng", "avif", "bmp", "gif", "j2c", "j2k", "jfif", "jp2", "jpc", "jpe", "jpeg", "jpf", "jpg", "jpx"),
        *("pbm", "pgm", "png", "pnm", "ppm", "qoi", "tif", "tiff", "webp"),
    )
)
"""Endings of the files that are taken for images, in lower case."""

SIGNATURE_BYTES = 16
"""How many bytes from the beginning of a file `has_signature` needs."""

END_OF_JPEG = b"\xff\xd9"

_PNG = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")

_SIGNATURES = (
    *(b"\xff\xd8\xff", _PNG, b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"qoif"),
    *(b"\0\0\0\x0cjP  \r\n", b"\xff\x4f\xff\x51"),
    *(b"P%d%c" % (number, space) for number in range(1, 7) for space in b" \n\r\t"),
)

SPARE = 2
"""A JPEG may be decoded at a part of its size where that leaves so many times the resolution that is wanted."""
SCALES = (8, 4, 2)
"""Parts of its size, 1/8 … 1/2, that a JPEG can be decoded at."""

RESIZED_PIXELS = 2**24
"""Pixels of a resized image from which only what the cut shows is resized: a picture of 1 x 20 000 would take 5 GB."""

FILTER_REACH = 3
"""Pixels on either side that Pillow's widest filter (lanczos) takes in, times the reduction."""

DARK = 2**12
"""Levels below which 16 bits of grey are taken for fewer bits, whose white is unknown: they would all be near black."""

ORIENTATION = 0x0112
"""Tag of EXIF."""

_PILLOW = r"PIL\."
"""Modules whose warnings are not shown."""


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


@dataclass(frozen=True)
class Header:
    """Ending of the format that an encoded image has, and its width and height in pixels, upright."""

    ending: str
    width: int
    height: int


def has_signature(data: bytes) -> bool:
    """Whether a file that begins with these bytes has a format that is read, for files whose names do not say."""
    return (
        data.startswith(_SIGNATURES)
        or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")
        or (data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis"))
        or (data[:2] == b"BM" and data[6:10] == bytes(4))
    )


def inspect(data: bytes, pixel_limit: int = PIXEL_LIMIT) -> Header:
    """Decodes an image only to judge it; raises what `decode` raises."""
    image, ending = _decode(data, pixel_limit)
    return Header(ending, image.width, image.height)


def decode(data: bytes, pixel_limit: int = PIXEL_LIMIT) -> "NDArray[np.uint8]":
    """Decodes an image to uint8 [H, W, 3], RGB, upright.

    EXIF orientation is applied, where it can be read; grey, palette, CMYK and 16-bit images are converted; transparency
    is laid on white. Raises InputError where the bytes are not a whole image of a known format, it has more than
    `pixel_limit` pixels or several frames, or the file does not define which of its values is white.
    """
    import numpy as np

    return np.array(_decode(data, pixel_limit)[0], dtype=np.uint8)


def decode_with_alpha(data: bytes, pixel_limit: int = PIXEL_LIMIT) -> "NDArray[np.uint8]":
    """Decodes an image to uint8 [H, W, 4]: RGB that is not premultiplied, and alpha, upright.

    Alpha is 255 where the file has no transparency. Raises what `decode` raises.
    """
    import numpy as np

    return np.array(_decode(data, pixel_limit, alpha=True)[0], dtype=np.uint8)


def encode_png(image: "NDArray[np.uint8]") -> bytes:
    """Encodes uint8 [H, W, 3] without loss as PNG; equal pixels give equal bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


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
    return np.array(_framed(Image.fromarray(image), framing), dtype=np.uint8)


def decode_fit(
    data: bytes, framing: int | Framing, pixel_limit: int = PIXEL_LIMIT, scaled: bool = False
) -> "NDArray[np.uint8]":
    """`fit` of `decode`, without the copies between them: uint8 [size, size, 3], read-only.

    `scaled`: a JPEG whose shorter side is 2 x `SPARE` x size or longer is decoded at a half, a quarter or an eighth of
    its size, which is quicker and within some levels of the same; only where its centre square is resized, for the
    other framings are to be a library's own. Raises what `decode` raises. Pillow lets other threads run while it
    decodes and resizes.
    """
    import numpy as np

    framing = Framing(framing) if isinstance(framing, int) else framing
    small = framing if scaled and framing.resize is None and not framing.squash else None
    return np.asarray(_framed(_decode(data, pixel_limit, small)[0], framing))


def to_network(images: "NDArray[np.uint8] | torch.Tensor") -> "torch.Tensor":
    """uint8 [B, H, W, 3] in [0, 255] to float32 [B, 3, H, W] in [-1, 1], on the device of `images`."""
    return to_unit(images) * 2.0 - 1.0


def to_unit(images: "NDArray[np.uint8] | torch.Tensor") -> "torch.Tensor":
    """uint8 [B, H, W, 3] in [0, 255] to float32 [B, 3, H, W] in [0, 1], on the device of `images`."""
    import torch

    tensor = images if isinstance(images, torch.Tensor) else torch.from_numpy(images)
    return tensor.permute(0, 3, 1, 2).to(torch.float32).contiguous() / 255.0


def from_network(images: "torch.Tensor") -> "NDArray[np.uint8]":
    """float [B, 3, H, W] in [-1, 1] (values beyond are clipped) to uint8 [B, H, W, 3], rounded to nearest."""
    return from_unit((images.float() + 1.0) / 2.0)


def from_unit(images: "torch.Tensor") -> "NDArray[np.uint8]":
    """float [B, 3, H, W] in [0, 1] (values beyond are clipped) to uint8 [B, H, W, 3], rounded to nearest."""
    import torch

    levels = (images.detach().float().clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
    array: NDArray[np.uint8] = levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return array


def resize(images: "torch.Tensor", size: int) -> "torch.Tensor":
    """float [B, C, H, W] to [B, C, size, size], bilinear with antialiasing; the range stays."""
    import torch

    if images.shape[-2:] == (size, size):
        return images
    return torch.nn.functional.interpolate(
        images, size=(size, size), mode="bilinear", antialias=True, align_corners=False
    )


def normalise(images: "torch.Tensor", mean: Sequence[float], std: Sequence[float]) -> "torch.Tensor":
    """float [B, 3, H, W] in [0, 1] to (images - mean) / std, per channel."""
    import torch

    centre, scale = (sent(torch.tensor(x, dtype=images.dtype), images.device)[:, None, None] for x in (mean, std))
    return (images - centre) / scale


def _fits(framing: Framing, width: int, height: int) -> bool:
    """Whether an image is left as it is."""
    return framing.resize is None and not framing.squash and width == height == framing.size


def _framed(image: "Image.Image", framing: Framing) -> "Image.Image":
    from PIL import Image

    size, resample = framing.size, Image.Resampling[framing.interpolation.upper()]
    width, height = image.size
    if _fits(framing, width, height):
        return image
    if framing.resize is None and not framing.squash:
        return _square(image, framing, width, height)
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


def _square(image: "Image.Image", framing: Framing, width: float, height: float) -> "Image.Image":
    """The centre square of what is shown by `width` x `height` pixels from the upper left corner, resized."""
    from PIL import Image

    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    resample = Image.Resampling[framing.interpolation.upper()]
    return image.resize((framing.size, framing.size), resample, box=(left, top, left + side, top + side))


def _silence() -> None:
    """Pillow warns of large images and of odd metadata in images that it decodes all the same.

    The filter stays: `warnings.catch_warnings` changes the filters of all threads, and puts back those of another.
    """
    import re
    import warnings

    if ("ignore", None, Warning, re.compile(_PILLOW), 0) not in warnings.filters:
        warnings.filterwarnings("ignore", module=_PILLOW)


def _decode(
    data: bytes, pixel_limit: int, small: Framing | None = None, alpha: bool = False
) -> "tuple[Image.Image, str]":
    """The image as RGB, and the ending of its format; framed as `small` already, where a part of its size will do.

    With `alpha` as RGBA.
    """
    from PIL import Image

    _silence()
    try:
        image = Image.open(io.BytesIO(_without_damaged_texts(data)), formats=tuple(FORMATS))
    except Image.DecompressionBombError as error:
        # Pillow refuses before it reports the sides, but its message has their product.
        counted = [word for word in str(error).replace("(", " ").split() if word.isdigit()]
        raise _bomb(counted[0] if counted else "far more", pixel_limit) from error
    except Exception as error:
        what = "an empty file" if not data else f"no such image ({_short(error)})"
        raise _unreadable(what) from error
    with image:
        width, height = image.size
        if width * height > pixel_limit:
            raise _bomb(f"{width} x {height}", pixel_limit)
        try:
            frames = _frames(image)
            stored = _stored(image, data)
            scale = 1 if small is None else _scale(image, small)
            drafted = image.draft(None, (width // scale, height // scale)) if scale > 1 else None
            if small is not None and drafted is not None:
                # The last column and row may reach beyond the image, so the side they are on matters: turned after.
                upright = _upright(_square(_as_rgb(image, stored), small, *drafted[1][2:]), _orientation(image))
            else:
                image.load()
                _check_white(image, stored)
                converted = _as_rgba(image, stored) if alpha else _as_rgb(image, stored)
                upright = _upright(converted, _orientation(image))
        except InputError:
            raise
        except Exception as error:
            if not _lacks_only_its_end(data):
                raise _unreadable(f"a damaged {image.format} ({_short(error)})") from error
            return _decode(data + END_OF_JPEG, pixel_limit, small, alpha)
    if frames > 1:
        raise InputError("an image of one frame", f"{frames} frames", "Give the frame that you mean as its own image.")
    return upright, FORMATS.get(str(image.format), "jpg")


def _without_damaged_texts(data: bytes) -> bytes:
    """A PNG without those texts before its pixels whose checksum is wrong: Pillow would refuse the whole file."""
    start = len(_PNG)
    if not data.startswith(_PNG):
        return data
    kept, at = [data[:start]], start
    while at + 8 <= len(data) and data[at + 4 : at + 8] != b"IDAT":
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        text = data[at + 4 : at + 8] in _TEXTS
        if not text or zlib.crc32(data[at + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big"):
            kept.append(data[at:end])
        at = end
    return data if sum(map(len, kept)) == at else b"".join([*kept, data[at:]])


def _lacks_only_its_end(data: bytes) -> bool:
    """Whether this is a JPEG that has all its pixels and no end mark, as some cameras and copies leave it.

    A decoder fills in what is missing without a word. So bits are put behind the data: they are skipped where the
    pixels are complete, and become pixels where they are not. In a progressive JPEG a whole scan may be missing, and
    nothing would show it.
    """
    from PIL import Image

    if not data.startswith(b"\xff\xd8") or data.endswith(END_OF_JPEG):
        return False
    found = set()
    for more in (b"", b"\x5a" * 512, b"\xb3\x0c" * 256):
        try:
            with Image.open(io.BytesIO(data + more + END_OF_JPEG), formats=("JPEG",)) as image:
                found.add(image.tobytes())
                if image.info.get("progressive"):
                    return False
        # Pillow raises errors of many kinds where a file is damaged.
        except Exception:
            return False
    return len(found) == 1


def _scale(image: "Image.Image", framing: Framing) -> int:
    """What the sides of an image may be divided by when it is decoded; 1 for all but JPEGs."""
    if image.format not in ("JPEG", "MPO"):
        return 1
    return next((scale for scale in SCALES if min(image.size) >= scale * SPARE * framing.size), 1)


def _frames(image: "Image.Image") -> int:
    """Frames of an animation, or pages."""
    if image.format == "MPO":
        # Cameras append thumbnails to a JPEG, which Pillow then calls MPO; its first frame is the photograph.
        return 1
    # An animated PNG may have a still picture apart from its frames. Pillow counts it, and shows it first.
    return int(getattr(image, "n_frames", 1)) - bool(image.info.get("default_image"))


def _orientation(image: "Image.Image") -> int:
    """EXIF orientation 1 … 8; 1 where there is none, or metadata that cannot be read."""
    written = _orientation_entry(image.info.get("exif", b""))
    if written is not None:
        return written
    try:
        # XMP may have it, too.
        found = image.getexif().get(ORIENTATION, 1)
    # Metadata are no pixels: Pillow raises errors of many kinds where they are malformed.
    except Exception:
        return 1
    return found if isinstance(found, int) else 1


def _orientation_entry(exif: bytes) -> int | None:
    """The orientation in the first directory of EXIF; None where there is none.

    Pillow stops at a malformed entry, and would miss an orientation after it.
    """
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return None
    (start,) = struct.unpack_from(f"{order}I", exif, 4)
    for at in range(start + 2, len(exif) - 11, 12):
        if (at - start) // 12 >= struct.unpack_from(f"{order}H", exif, start)[0]:
            return None
        tag, kind = struct.unpack_from(f"{order}HH", exif, at)
        if tag == ORIENTATION and kind in (3, 4):
            return int(struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", exif, at + 8)[0])
    return None


def _upright(image: "Image.Image", orientation: int) -> "Image.Image":
    """The image turned as its EXIF orientation says."""
    from PIL import Image

    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image


@dataclass(frozen=True)
class _Stored:
    """How a file stores its samples, of which the decoded image says nothing more."""

    data: bytes
    """The file."""
    bits: int = 8
    signed: bool = False
    white_is_zero: bool = False


def _stored(image: "Image.Image", data: bytes) -> _Stored:
    """Of an image that is not yet decoded. `bits` matter where white is sought, and for the transparent colour."""
    if image.format == "TIFF":
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        bits, signed = tags.get(258, (1,))[0], tags.get(339, (1,))[0] == 2
        return _Stored(data, bits, signed, white_is_zero=tags.get(262, 0) == 0)
    tiles: Any = getattr(image, "tile", None) if image.format == "PNG" else None
    raw = str(tiles[0].args) if tiles else image.mode
    # Pillow's names of what is in the file end in the bits of a sample: `L;4`, `RGB;16B`, `I;16B`.
    digits = "".join(letter for letter in raw.partition(";")[2] if letter.isdigit())
    return _Stored(data, 1 if raw == "1" else int(digits) if digits else 16 if image.mode == "I" else 8)


def _levels(image: "Image.Image", data: bytes) -> "NDArray[np.int32]":
    """RGB of 16 bits as it is stored: [H, W, 3] in 0 … 65535.

    Pillow keeps the high bytes. The low ones come of a second decoding, by the name of the other order of bytes.
    """
    import numpy as np
    from PIL import Image

    levels = np.array(image.convert("RGB"), dtype=np.int32) << 8
    with Image.open(io.BytesIO(data), formats=(str(image.format),)) as again:
        tiles: Any = again.tile
        swapped = [tile._replace(args=_swapped(tile.args)) for tile in tiles]
        if any(_swapped(tile.args) == tile.args for tile in tiles):
            return levels
        again.tile = swapped
        return levels | np.array(again, dtype=np.int32)[:, :, :3]


def _swapped(args: Any) -> Any:
    """Pillow's name of how a tile is stored, with the other order of bytes; unchanged where it has no order."""
    if isinstance(args, tuple):
        return (_swapped(args[0]), *args[1:])
    orders = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}
    mode, _, order = str(args).partition(";")
    return f"{mode};{orders[order]}" if mode in ("RGB", "RGBA") and order in orders else args


def _check_white(image: "Image.Image", stored: _Stored) -> None:
    """Raises InputError where RGB of 16 bits uses so few levels that it has fewer bits, whose white is unknown."""
    if stored.bits != 16 or image.mode not in ("RGB", "RGBA"):
        return
    bands: Any = image.getextrema()
    if max(high for _, high in bands[:3]) < DARK >> 8:
        reach = int(_levels(image, stored.data).max())
        if reach:
            raise _few_levels("RGB", reach)


def _as_rgb(image: "Image.Image", stored: _Stored) -> "Image.Image":
    """The image as RGB, what is transparent as white."""
    from PIL import Image

    transparent = image.info.get("transparency")
    if image.mode.startswith("I") or image.mode == "F":
        return _sixteen_bit(image, stored, transparent)
    if image.mode in ("1", "L", "RGB") and isinstance(transparent, int | tuple):
        return _without_colour(image.convert("L") if image.mode == "1" else image, stored, transparent)
    if image.mode == "RGB":
        return image
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _as_rgba(image: "Image.Image", stored: _Stored) -> "Image.Image":
    """The image as RGBA. A transparent colour counts where it has 8 bits; with others Pillow compares wrongly."""
    if "A" in image.getbands() or image.mode == "P" or (image.mode in ("L", "RGB") and stored.bits == 8):
        return image.convert("RGBA")
    return _as_rgb(image, stored).convert("RGBA")


def _without_colour(image: "Image.Image", stored: _Stored, colour: int | tuple[int, ...]) -> "Image.Image":
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


def _sixteen_bit(image: "Image.Image", stored: _Stored, transparent: Any) -> "Image.Image":
    """Grey of 12 or 16 bits to 8 by the high bits: Pillow's own conversion clips instead of scaling.

    Raises InputError where the file does not define which value is white.
    """
    import numpy as np
    from PIL import Image

    if image.mode == "F":
        raise _no_white("floating-point grey")
    if stored.bits > 16:
        raise _no_white(f"grey of {stored.bits} bits")
    levels = np.asarray(image).astype(np.int32) + (2 ** (stored.bits - 1) if stored.signed else 0)
    low, high = int(levels.min()), int(levels.max())
    reach = high - low if stored.signed else high
    if stored.bits == 16 and image.format in ("PNG", "TIFF") and 0 < reach < DARK:
        raise _few_levels("grey", reach)
    grey = np.clip(levels >> (stored.bits - 8), 0, 255).astype(np.uint8)
    if stored.white_is_zero:
        grey = 255 - grey
    if isinstance(transparent, int):
        grey[levels == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def _few_levels(kind: str, reach: int) -> InputError:
    return _no_white(f"16-bit {kind} that uses {reach + 1} of its 65536 levels, as of {reach.bit_length()} bits")


def _no_white(what: str) -> InputError:
    return InputError(
        "an image that defines which of its values is white",
        f"{what}, whose white is unknown",
        "Scale it to 8 bits, or to all of 16 unsigned ones, or remove it.",
    )


def _unreadable(found: str) -> InputError:
    names = ", ".join(sorted(FORMATS))
    return InputError(f"an image ({names})", found, "Replace or remove the file.")


def _bomb(found: str, pixel_limit: int) -> InputError:
    return InputError(
        f"an image of at most {pixel_limit} pixels",
        f"{found} pixels, above the limit of {pixel_limit}",
        "Make it smaller, or raise `pixel_limit` if you trust where it comes from.",
    )


def _short(error: Exception) -> str:
    """The kind of error and its first words: messages of libraries may hold addresses that differ from run to run."""
    import re

    text = re.sub(r"<[^>]*>|0x[0-9a-f]+", "", str(error)).strip().splitlines()
    return " ".join([type(error).__name__, *text[:1]])[:100].strip()
