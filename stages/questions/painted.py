"""What an answer starts from: the samples of each source at each tap, the sources, and the space of a tap."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.contract import Input, Inputs
from stages.embeddings.format import Statistics, open_table
from stages.errors import FormatError
from stages.images import open_images
from stages.questions import measures
from stages.questions.format import Condition, read_conditions, split_tap
from stages.questions.sources import EMBEDDINGS
from stages.readers.data import rows_of
from stages.readers.score import Floats, Numbers

SAMPLE_EMBEDDINGS = "sample_embeddings."
BOTH_ENDS = ("backbone", "projector")


@dataclass(frozen=True)
class Painting:
    """Samples, arranged: each tap has the same variants of the same sources."""

    places: tuple[str, ...]
    """`encoder:tap`, in the order of the ask."""
    rows: Numbers
    """Rows of the sources, int64 [N]."""
    variants: tuple[str, ...]
    """Variants of each source, in the order of the ask."""
    numbers: dict[str, Numbers]
    """Per place the number of each condition, int64 [V, N]."""
    images: NDArray[np.uint8]
    """All samples by condition: uint8 [conditions, K, size, size, 3]."""

    @property
    def size(self) -> int:
        """Side of a sample, pixels."""
        return int(self.images.shape[2])

    @property
    def per_source(self) -> int:
        """Samples of a condition."""
        return int(self.images.shape[1])

    def at(self, place: str, variant: int = 0) -> NDArray[np.uint8]:
        """Samples of every source at a tap: uint8 [N, K, size, size, 3]."""
        chosen: NDArray[np.uint8] = self.images[self.numbers[place][variant]]
        return chosen

    def ends(self) -> list[tuple[str, str, str]]:
        """(encoder, backbone's place, projector's place) of the encoders of which both ends were asked about."""
        found = []
        for encoder in dict.fromkeys(split_tap(place)[0] for place in self.places):
            first, last = (f"{encoder}:{end}" for end in BOTH_ENDS)
            if first in self.places and last in self.places:
                found.append((encoder, first, last))
        return found


def painting(conditions: Input, samples: Input) -> Painting:
    """The samples of an ask; FormatError where they are not those of its conditions."""
    asked = read_conditions(conditions)
    images = open_images(samples)
    if not asked or images.count == 0 or images.count % len(asked):
        raise FormatError(
            f"samples of {len(asked)} conditions, equally many of each", f"{images.count} samples", "Paint them again."
        )
    places = tuple(dict.fromkeys(c.place for c in asked))
    variants = tuple(dict.fromkeys(c.variant for c in asked))
    rows = np.array(list(dict.fromkeys(c.source_row for c in asked)), dtype=np.int64)
    arranged = {place: _arranged(asked, place, variants, rows) for place in places}
    parts = [images.read_part(part)[1] for part in range(images.parts)]
    pixels = np.concatenate([np.asarray(part, dtype=np.uint8) for part in parts])
    per_source = images.count // len(asked)
    return Painting(places, rows, variants, arranged, pixels.reshape(len(asked), per_source, *pixels.shape[1:]))


def _arranged(asked: list[Condition], place: str, variants: tuple[str, ...], rows: Numbers) -> Numbers:
    number = {(c.variant, c.source_row): i for i, c in enumerate(asked) if c.place == place}
    if len(number) != len(variants) * len(rows):
        raise FormatError(f"every variant of every source at {place}", f"{len(number)} conditions", "Ask again.")
    return np.array([[number[v, int(row)] for row in rows] for v in variants], dtype=np.int64)


@dataclass(frozen=True)
class Space:
    """The space of a tap, standardised as the decoder does: the gallery, and where the sources stand in it."""

    statistics: Statistics
    gallery: Floats
    """All held-out plain embeddings, float64 [G, D]."""
    positions: Numbers
    """Of the sources in the gallery, int64 [N]."""
    unit: float
    """Mean distance of two random images."""
    samples: Floats | None
    """Embeddings of the samples, float64 [conditions, K, D]; None where the tap cannot see pixels."""

    @property
    def sources(self) -> Floats:
        """Embeddings of the sources, float64 [N, D]."""
        return self.gallery[self.positions]


def space(inputs: Inputs, found: Painting, place: str) -> Space:
    """The space of the tap `encoder:tap`."""
    encoder, tap = split_tap(place)
    table = open_table(inputs[EMBEDDINGS + encoder])
    statistics = table.statistics(tap)
    heldout = rows_of(inputs["shards"], "heldout")
    gallery = statistics.standardise(table.read(tap, "plain", heldout)).astype(np.float64)
    samples = None
    if SAMPLE_EMBEDDINGS + encoder in inputs:
        painted = open_table(inputs[SAMPLE_EMBEDDINGS + encoder])
        if tap in painted.taps:
            vectors = statistics.standardise(painted.read(tap, "plain")).astype(np.float64)
            samples = vectors.reshape(len(found.images), found.per_source, -1)
    positions = np.searchsorted(heldout, found.rows)
    return Space(statistics, gallery, positions, measures.random_pair(gallery), samples)
