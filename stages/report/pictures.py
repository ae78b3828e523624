"""Pictures of the page: figures cut into tiles and put together again as cards that fit any width."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stages.questions.format import Figure
from stages.report.results import place, sheet
from stages.report.taps import Tap

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
class Twin:
    """A source and two samples that the encoder takes for the same; `notes` stand below, one for each."""

    images: tuple[Picture, Picture, Picture]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Strip:
    """The samples of one source at one tap, side by side."""

    tap: Tap
    picture: Picture


@dataclass(frozen=True)
class Card:
    """One source and its samples at every tap."""

    label: str
    source: Picture
    strips: tuple[Strip, ...]


def picture(image: "NDArray[np.uint8]", alt: str) -> Picture:
    """uint8 [H, W, 3] as a lossless data URI."""
    from stages import pixels

    uri = "data:image/png;base64," + base64.b64encode(pixels.encode_png(image)).decode("ascii")
    return Picture(uri, image.shape[1], image.shape[0], alt)


def twins(figure: Figure) -> list[Twin]:
    """The rows of a figure of kind `twins`: source, first and second sample."""
    found = []
    for number, label in enumerate(figure.rows):
        first, second, third = (
            picture(figure.tiles[number, column], f"{name} of {label}")
            for column, name in enumerate(("source", "first twin", "second twin"))
        )
        found.append(Twin((first, second, third), (label,)))
    return found


def cards(figures: Sequence[Figure], taps: Sequence[Tap]) -> list[Card]:
    """Grids of several taps over the same sources, turned around: per source, the samples of every tap."""
    by_place = {place(figure): figure for figure in figures}
    shown = [(tap, by_place[tap.place]) for tap in taps if tap.place in by_place]
    if not shown:
        return []
    head = shown[0][1]
    found = []
    for number, label in enumerate(head.rows):
        strips = []
        for tap, figure in shown:
            if label in figure.rows:
                samples = figure.tiles[figure.rows.index(label)][None, 1:]
                alt = f"{samples.shape[1]} samples of {label} at {tap.place}"
                strips.append(Strip(tap, picture(sheet(samples), alt)))
        found.append(Card(label, picture(head.tiles[number, 0], f"source: {label}"), tuple(strips)))
    return found


@dataclass(frozen=True)
class Sheet:
    """A figure as it is: labelled columns, one strip a row."""

    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, Picture], ...]


def whole_sheet(figure: Figure) -> Sheet:
    """A figure of any kind."""
    rows = tuple(
        (label, picture(sheet(tiles[None]), f"{figure.title}, {label}: {', '.join(figure.columns)}"))
        for label, tiles in zip(figure.rows, figure.tiles, strict=True)
    )
    return Sheet(figure.title, figure.caption, figure.columns, rows)
