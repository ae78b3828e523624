"""A contact sheet: pictures in a grid, each with a few lines under it."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.images.pixels import encode_png

COLUMNS = 6
SIDE, LINE, GAP = 144, 13, 8
"""Pixels: of a picture, of a line of text, between two pictures."""
QUALITY = 90
"""Of WebP, at which a tile of 64 pixels takes 1 to 2 kB."""
LETTERS = 24
"""Of a line: what a picture's width holds."""


@dataclass(frozen=True)
class Picture:
    """uint8 [SIDE, SIDE, 3], and what stands under it."""

    pixels: NDArray[np.uint8]
    lines: tuple[str, ...]


def sheet(pictures: Sequence[Picture]) -> bytes:
    """The pictures as a PNG, `COLUMNS` beside each other."""
    from PIL import Image, ImageDraw, ImageFont

    columns = min(COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    height = SIDE + LINE * max(len(picture.lines) for picture in pictures) + GAP
    page = Image.new("RGB", (GAP + columns * (SIDE + GAP), GAP + rows * height), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default()
    for number, picture in enumerate(pictures):
        x, y = GAP + number % columns * (SIDE + GAP), GAP + number // columns * height
        page.paste(Image.fromarray(picture.pixels), (x, y))
        for place, line in enumerate(picture.lines):
            # The end of a name says more than its beginning; the font has Latin letters.
            text = line if len(line) <= LETTERS else f"..{line[2 - LETTERS :]}"
            text = text.encode("latin-1", "replace").decode("latin-1")
            draw.text((x, y + SIDE + place * LINE), text, fill="black", font=font)
    return encode_png(np.asarray(page))


def mosaic(tiles: NDArray[np.uint8], columns: int) -> bytes:
    """Tiles uint8 [N, side, side, 3] in lines of `columns` without gaps, as a WebP that is close to them."""
    from PIL import Image

    count, side = tiles.shape[:2]
    lines = -(-count // columns)
    padded = np.zeros((lines * columns, *tiles.shape[1:]), dtype=np.uint8)
    padded[:count] = tiles
    grid = padded.reshape(lines, columns, side, side, 3).transpose(0, 2, 1, 3, 4)
    sink = io.BytesIO()
    Image.fromarray(grid.reshape(lines * side, columns * side, 3)).save(
        sink, "WEBP", quality=QUALITY, use_sharp_yuv=True
    )
    return sink.getvalue()


def thumbnail(data: bytes, side: int) -> bytes:
    """An image as a PNG whose longer side has `side` pixels at most."""
    from PIL import Image

    from stages.images.image_file import decode

    image = Image.fromarray(decode(data))
    image.thumbnail((side, side))
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()
