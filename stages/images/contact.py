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


def thumbnail(data: bytes, side: int) -> bytes:
    """An image as a PNG whose longer side has `side` pixels at most."""
    from PIL import Image

    from stages.images.pixels import decode

    image = Image.fromarray(decode(data))
    image.thumbnail((side, side))
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()
