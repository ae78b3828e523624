"""The content of a page of the explorer, made up: clusters of points, plain pictures, samples of a few images."""

import numpy as np

from stages.explorer.content import COLUMNS, SHEET, Content, Kept, Label, Map, Samples, Sheets, Tap
from stages.explorer.projection import neighbours
from stages.images.contact import mosaic

TAPS = ("simclr:backbone", "simclr:projector")
HOSTILE = "</script><img src=x onerror=alert(1)>{{ data }}<!--"
CLASSES = ("disc", HOSTILE, "square")
SIDE, K, PER_SOURCE = 16, 5, 4


def content(count: int = 60, painted: int = 4, near: bool = True) -> Content:
    """`count` images at two taps; the first `painted` have samples. Without `near`, neighbours are drawn at random."""
    rng = np.random.Generator(np.random.Philox(0))
    shape = np.arange(count) % len(CLASSES)
    hue = np.where(np.arange(count) % 7 == 0, np.nan, rng.random(count))
    taps = []
    for tap_id in TAPS:
        points = 3.0 * np.stack([np.cos(shape), np.sin(shape)], axis=1) + rng.standard_normal((count, 2))
        if near:
            found, distances = neighbours(points.astype(np.float32), K)
        else:
            found, distances = rng.integers(0, count, (count, K)), rng.random((count, K))
        ranks = np.full(count, np.nan)
        ranks[:painted] = np.arange(1, painted + 1)
        taps.append(
            Tap(
                id=tap_id,
                width=8,
                maps=(Map("t-SNE", points, "A map."), Map("PCA", points[:, ::-1], "Another.")),
                near=found,
                distances=distances,
                kept={"shape": Kept("kept", 0.9, 0.8, 0.95, "Its bounds.")},
                samples=Samples(np.arange(painted), PER_SOURCE, _sheets(painted * PER_SOURCE)) if painted else None,
                ranks=ranks,
            )
        )
    return Content(
        study=f"study {HOSTILE}",
        facts=(("images", f"{count} held out"),),
        notes=("Some are left out.",),
        keys=tuple(f"{row:09d}" for row in range(count)),
        names=tuple(f"image {row} {HOSTILE}" for row in range(count)),
        labels=(
            Label("shape", "class", CLASSES, shape.astype(np.float64)),
            Label("background_hue", "circle", (), hue),
            Label("scale", "scalar", (), rng.random(count)),
        ),
        pictures=_sheets(count),
        taps=tuple(taps),
        ranked=count,
    )


def _sheets(count: int) -> Sheets:
    """Pictures of one colour each, the number of the picture in its red."""
    pictures = np.full((count, SIDE, SIDE, 3), 120, dtype=np.uint8)
    pictures[..., 0] = (np.arange(count) % 256)[:, None, None]
    blocks = (pictures[first : first + SHEET] for first in range(0, count, SHEET))
    return Sheets(SIDE, tuple(mosaic(block, COLUMNS) for block in blocks))
