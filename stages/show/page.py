"""Images and their samples as a page in one file, with how near the samples come at each tap."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.questions.drawing.markup import load_template
from stages.questions.drawing.pictures import Picture, picture
from stages.show.shown import Shown

HERE = Path(__file__).parent


@dataclass(frozen=True)
class TapRow:
    """What one tap makes of one image, or of all of them."""

    tap_id: str
    samples: tuple[Picture, ...]
    distance: str
    attainable: str
    rank: str


@dataclass(frozen=True)
class ImageBlock:
    """One image, and a row for each tap."""

    name: str
    image: Picture
    rows: tuple[TapRow, ...]


def render(shown: Shown) -> bytes:
    """The page as UTF-8 bytes; it needs no network and has no script."""
    blocks = [
        ImageBlock(name, picture(shown.images[i], name), tuple(_rows(shown, i))) for i, name in enumerate(shown.names)
    ]
    each = shown.taps[0].samples.shape[1]
    html = load_template(HERE / "page.html").render(
        shown=shown,
        blocks=blocks,
        each=each,
        summary=list(_summary(shown)) if len(blocks) > 1 else [],
        attainable=any(tap.attainable.any() for tap in shown.taps),
        style=(HERE / "page.css").read_text(encoding="utf-8"),
    )
    return html.encode()


def _rows(shown: Shown, i: int) -> list[TapRow]:
    name = shown.names[i]
    return [
        TapRow(
            tap.id,
            tuple(picture(one, f"Sample {k + 1} of {name} at {tap.id}") for k, one in enumerate(tap.samples[i])),
            f"{tap.distances[i].mean():.2f}",
            _attainable(float(tap.attainable[i])),
            f"{np.median(tap.ranks[i]):g}",
        )
        for tap in shown.taps
    ]


def _summary(shown: Shown) -> list[TapRow]:
    """Means and medians over the images."""
    return [
        TapRow(
            tap.id,
            (),
            f"{tap.distances.mean():.2f}",
            _attainable(float(tap.attainable.mean())),
            f"{np.median(tap.ranks):g}",
        )
        for tap in shown.taps
    ]


def _attainable(distance: float) -> str:
    return f"{distance:.2f}" if distance else ""
