"""Pictures of the page: figures cut into strips of tiles that fit any width."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stages.questions.answers import sheet, tap_id_of
from stages.questions.drawing.taps import StyledTap
from stages.questions.format import Figure

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Picture:
    """An image of the page: where its bytes are, its size in pixels and what it shows, in words."""

    uri: str
    width: int
    height: int
    alt: str


@dataclass(frozen=True)
class Strip:
    """Tiles side by side: those of a tap, or under a label."""

    tap: StyledTap | None
    label: str
    picture: Picture


@dataclass(frozen=True)
class Sheet:
    """Strips under each other with common columns."""

    title: str
    caption: str
    columns: tuple[str, ...]
    strips: tuple[Strip, ...]
    anchor: str = ""
    """Its id on the page; empty where it has none."""


def picture(image: "NDArray[np.uint8]", alt: str) -> Picture:
    """uint8 [H, W, 3] as a lossless data URI."""
    from stages.images import pixels

    uri = "data:image/png;base64," + base64.b64encode(pixels.encode_png(image)).decode("ascii")
    return Picture(uri, image.shape[1], image.shape[0], alt)


def strip(tap: StyledTap | None, label: str, tiles: "NDArray[np.uint8]", alt: str) -> Strip:
    """Tiles [columns, size, size, 3] side by side as one image."""
    return Strip(tap, label, picture(sheet(tiles[None]), alt))


def rows(figure: Figure) -> Sheet:
    """A figure of any kind, as it is."""
    strips = (
        strip(None, label, tiles, f"{figure.title}, {label}: {', '.join(figure.columns)}")
        for label, tiles in zip(figure.rows, figure.tiles, strict=True)
    )
    return Sheet(figure.title, figure.caption, figure.columns, tuple(strips))


def by_tap(figures: Sequence[Figure], taps: Sequence[StyledTap]) -> list[tuple[StyledTap, Figure]]:
    """Figures with their taps, in the order of the taps; those of no tap are left out."""
    by_tap_id = {tap_id_of(figure): figure for figure in figures}
    return [(tap, by_tap_id[tap.id]) for tap in taps if tap.id in by_tap_id]
