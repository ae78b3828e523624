"""Image files: the bytes of an image file become uint8 [H, W, 3], RGB, upright, or a reason why they do not."""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stages.errors import InputError
from stages.images.colour import as_rgb, as_rgba, check_white, stored_as
from stages.images.framing import Framing, centre_square, framed

if TYPE_CHECKING:
    import numpy as np
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
_OF_PIXELS = (b"tRNS", b"acTL", b"fcTL", b"fdAT")
"""Chunks of a PNG that a decoder may pass over, but on which pixels or frames depend."""
_TURNING = (b"eXIf", b"tEXtRaw profile type exif\0", b"zTXtRaw profile type exif\0", b"iTXtXML:com.adobe.xmp\0")
"""Beginnings of the chunks that may have an orientation."""

_APP0, _APP14, _SOS, _COMMENT = 0xE0, 0xEE, 0xDA, 0xFE
_TURNING_JPEG = (b"Exif\0", b"http://ns.adobe.com/xap/1.0/\0")
_ADOBE_BYTES = 12
"""Markers of a JPEG; beginnings of its segments that may have an orientation; bytes of the one that says which colours
it has."""

_SIGNATURES = (
    *(b"\xff\xd8\xff", _PNG, b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"qoif"),
    *(b"\0\0\0\x0cjP  \r\n", b"\xff\x4f\xff\x51"),
    *(b"P%d%c" % (number, space) for number in range(1, 7) for space in b" \n\r\t"),
)

_OTHERS = {
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"%PDF": "a PDF",
    b"8BPS": "a document of Photoshop",
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "a zip archive",
    b"\x93NUMPY": "an array of NumPy",
    b"version https://git-lfs": "a pointer of Git LFS in place of the file",
}
"""How files begin that are often taken for images."""

SPARE = 2
"""A JPEG may be decoded at a part of its size where that leaves so many times the resolution that is wanted."""
SCALES = (8, 4, 2)
"""Parts of its size, 1/8 … 1/2, that a JPEG can be decoded at."""

ORIENTATION = 0x0112
"""Tag of EXIF."""

SUBFILE, BESIDE = 0x00FE, 0b101
"""Tag of a page of a TIFF, and its bits that say that it is a smaller copy of another or a mask."""

_PILLOW = r"PIL\."
"""Modules whose warnings are not shown."""


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
    return np.asarray(framed(_decode(data, pixel_limit, small)[0], framing))


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
        image = Image.open(io.BytesIO(data), formats=tuple(FORMATS))
    except Image.DecompressionBombError as error:
        # Pillow refuses before it reports the sides, but its message has their product.
        counted = [word for word in str(error).replace("(", " ").split() if word.isdigit()]
        raise _bomb(counted[0] if counted else "far more", pixel_limit) from error
    except Exception as error:
        if (plain := _without_metadata(data)) != data:
            return _decode(plain, pixel_limit, small, alpha)
        raise _unreadable(_other_kind(data) or _unread_tiff(data) or f"no such image ({_short(error)})") from error
    with image:
        width, height = image.size
        if width * height > pixel_limit:
            raise _bomb(f"{width} x {height}", pixel_limit)
        try:
            frames = _frames(image, data)
            stored = stored_as(image, data)
            scale = 1 if small is None else _scale(image, small)
            drafted = image.draft(None, (width // scale, height // scale)) if scale > 1 else None
            if small is not None and drafted is not None:
                # The last column and row may reach beyond the image, so the side they are on matters: turned after.
                upright = _upright(centre_square(as_rgb(image, stored), small, *drafted[1][2:]), _orientation(image))
            else:
                image.load()
                check_white(image, stored)
                converted = as_rgba(image, stored) if alpha else as_rgb(image, stored)
                upright = _upright(converted, _orientation(image))
        except InputError:
            raise
        except Exception as error:
            if (plain := _without_metadata(data)) != data:
                return _decode(plain, pixel_limit, small, alpha)
            if not _lacks_only_its_end(data):
                raise _unreadable(f"a damaged {image.format} ({_short(error)})") from error
            return _decode(data + END_OF_JPEG, pixel_limit, small, alpha)
    if frames > 1:
        raise InputError("an image of one frame", f"{frames} frames", "Give the frame that you mean as its own image.")
    return upright, FORMATS.get(str(image.format), "jpg")


def _without_metadata(data: bytes) -> bytes:
    """A PNG or JPEG without what no pixel depends on, but its orientation where that is sound; others as they are.

    Pillow refuses a whole file for a profile that unpacks to more than a megabyte, a wrong checksum of a comment, or
    a segment of an editor that is too short.
    """
    if data.startswith(_PNG):
        return b"".join(_chunks(data))
    return b"".join(_segments(data)) if data.startswith(b"\xff\xd8") else data


def _chunks(data: bytes) -> Iterator[bytes]:
    """The chunks of a PNG that count."""
    at = len(_PNG)
    yield data[:at]
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            break
        sound = zlib.crc32(data[at + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")
        name = data[at + 4 : at + 8]
        if name in _OF_PIXELS or not name[:1].islower() or (sound and data.startswith(_TURNING, at + 4)):
            yield data[at:end]
        at = end
    yield data[at:]


def _segments(data: bytes) -> Iterator[bytes]:
    """The segments of a JPEG that count, before its pixels."""
    at = 2
    yield data[:at]
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] not in (0xFF, _SOS):
        marker, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        turning = data.startswith(_TURNING_JPEG, at + 4)
        colours = marker == _APP14 and end - at - 4 >= _ADOBE_BYTES
        if turning or colours or not (_APP0 <= marker < _APP0 + 16 or marker == _COMMENT):
            yield data[at:end]
        at = end
    yield data[at:]


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


def _frames(image: "Image.Image", data: bytes) -> int:
    """Frames of an animation, or pages."""
    if image.format == "TIFF":
        return _pages(data)
    if image.format == "MPO":
        # Cameras append thumbnails to a JPEG, which Pillow then calls MPO; its first frame is the photograph.
        return 1
    # An animated PNG may have a still picture apart from its frames. Pillow counts it, and shows it first.
    return int(getattr(image, "n_frames", 1)) - bool(image.info.get("default_image"))


def _pages(data: bytes) -> int:
    """Pages of a TIFF: the first, and all others that are neither a smaller copy of a page nor a mask.

    Editors, scanners and maps have such beside the image. Pillow counts them, and fails at some.
    """
    order = "<" if data.startswith(b"II") else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    counted, position, size = ("Q", "Q", 20) if big else ("H", "I", 12)
    (at,) = struct.unpack_from(f"{order}{position}", data, 8 if big else 4)
    found, met = 0, set[int]()
    while 0 < at < len(data) and at not in met:
        met.add(at)
        (entries,) = struct.unpack_from(f"{order}{counted}", data, at)
        first = at + struct.calcsize(f"{order}{counted}")
        kind = 0
        for entry in range(first, min(first + entries * size, len(data) - size), size):
            tag, width = struct.unpack_from(f"{order}HH", data, entry)
            if tag == SUBFILE and width in (3, 4):
                (kind,) = struct.unpack_from(f"{order}{'H' if width == 3 else 'I'}", data, entry + size // 2 + 2)
        found += len(met) == 1 or not kind & BESIDE
        end = first + entries * size
        (at,) = struct.unpack_from(f"{order}{position}", data, end) if end + len(b"1234") <= len(data) else (0,)
    return found


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


def _other_kind(data: bytes) -> str:
    """What a file is that is no image of a known format; empty where that is not known."""
    if not data:
        return "an empty file"
    if data[4:8] == b"ftyp" and data[8:11] in (b"hei", b"hev", b"mif", b"msf"):
        return "HEIF"
    text = data[:256].lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a page of HTML"
    if text.startswith((b"<svg", b"<?xml")):
        return "SVG or another XML"
    return next((kind for start, kind in _OTHERS.items() if data.startswith(start)), "")


def _unread_tiff(data: bytes) -> str:
    """How the samples of a TIFF are stored whose layout Pillow does not know; empty where that cannot be read."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    if not data.startswith((b"II*\0", b"MM\0*")):
        return ""
    try:
        tags: Any = ImageFileDirectory_v2(data[:8])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        bits, kind = tags.get(258, (1,)), tags.get(339, (1,))[0]
    # As of EXIF.
    except Exception:
        return ""
    what = {1: "", 2: "signed ", 3: "floating-point "}.get(kind, "other ")
    return f"a TIFF with {len(bits)} {what}samples of {bits[0]} bits for each pixel, which is not read"


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
