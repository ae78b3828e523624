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
    """A source and two samples that the encoder takes for the same."""

    label: str
    images: tuple[Picture, Picture, Picture]


@dataclass(frozen=True)
class Strip:
    """Tiles side by side: those of a tap, or under a label."""

    tap: Tap | None
    label: str
    picture: Picture


@dataclass(frozen=True)
class Card:
    """One source and its samples at every tap."""

    label: str
    source: Picture
    strips: tuple[Strip, ...]


def picture(image: "NDArray[np.uint8]", alt: str) -> Picture:
    """uint8 [H, W, 3] as a lossless data URI."""
    from stages.images import pixels

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
        found.append(Twin(label, (first, second, third)))
    return found


def cards(figures: Sequence[Figure], taps: Sequence[Tap]) -> list[Card]:
    """Grids of several taps over the same sources, turned around: per source, the samples of every tap."""
    shown = _by_tap(figures, taps)
    if not shown:
        return []
    head = shown[0][1]
    found = []
    for number, label in enumerate(head.rows):
        strips = [
            strip(tap, "", figure.tiles[figure.rows.index(label), 1:], f"samples of {label} at {tap.place}")
            for tap, figure in shown
            if label in figure.rows
        ]
        found.append(Card(label, picture(head.tiles[number, 0], f"source: {label}"), tuple(strips)))
    return found


@dataclass(frozen=True)
class Rows:
    """Strips under each other with common columns."""

    title: str
    caption: str
    columns: tuple[str, ...]
    strips: tuple[Strip, ...]


def maps(figures: Sequence[Figure], taps: Sequence[Tap]) -> Rows | None:
    """Maps of several taps over the same sources: the sources in one row, the maps of each tap in a row of its own."""
    shown = _by_tap(figures, taps)
    if not shown:
        return None
    head = shown[0][1]
    strips = [strip(None, "sources", head.tiles[:, 0], f"the sources {', '.join(head.rows)}")]
    strips += [
        strip(tap, "", figure.tiles[:, 1], f"where the samples at {tap.place} differ, for {', '.join(figure.rows)}")
        for tap, figure in shown
        if figure.rows == head.rows
    ]
    return Rows("", head.caption, tuple("" for _ in head.rows), tuple(strips))


def transformed(figures: Sequence[Figure], taps: Sequence[Tap]) -> list[Rows]:
    """Per source, the transformed images that each encoder saw and a sample of each of their embeddings per tap."""
    inputs = [figure for figure in figures if not figure.tap]
    shown = _by_tap([figure for figure in figures if figure.tap], taps)
    found = []
    for label in dict.fromkeys(label for figure in inputs for label in figure.rows):
        strips: list[Strip] = []
        for figure in inputs:
            if label not in figure.rows:
                continue
            seen = figure.tiles[figure.rows.index(label)]
            made = strip(None, f"what {figure.encoder} sees", seen, f"{label}, transformed")
            strips += [made] if all(made.picture.uri != other.picture.uri for other in strips) else []
        strips += [
            strip(tap, "", figure.tiles[figure.rows.index(label)], f"samples of {label}, transformed, at {tap.place}")
            for tap, figure in shown
            if label in figure.rows
        ]
        found.append(Rows(label, "", inputs[0].columns, tuple(strips)))
    return found


def strip(tap: Tap | None, label: str, tiles: "NDArray[np.uint8]", alt: str) -> Strip:
    """Tiles [columns, size, size, 3] side by side as one image."""
    return Strip(tap, label, picture(sheet(tiles[None]), alt))


def rows(figure: Figure) -> Rows:
    """A figure of any kind, as it is."""
    strips = (
        strip(None, label, tiles, f"{figure.title}, {label}: {', '.join(figure.columns)}")
        for label, tiles in zip(figure.rows, figure.tiles, strict=True)
    )
    return Rows(figure.title, figure.caption, figure.columns, tuple(strips))


def _by_tap(figures: Sequence[Figure], taps: Sequence[Tap]) -> list[tuple[Tap, Figure]]:
    by_place = {place(figure): figure for figure in figures}
    return [(tap, by_place[tap.place]) for tap in taps if tap.place in by_place]
