"""What an answer starts from: the samples of each source at each tap, the sources, and the space of a tap.

Each tap group (the decoder's own taps, and those of each of its extensions) is asked about and painted by itself, so
that a new one repaints nothing. Its inputs have its number at their end (`conditions`, `samples`, `conditions.1`,
`samples.1`, …). All groups have the same sources, variants and noise, so an answer sees one painting.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from stages.contract import Inputs
from stages.embeddings.format import Statistics, open_table
from stages.errors import FormatError
from stages.images.sets import open_images
from stages.questions import measures
from stages.questions.asks.stage import DOWNSIZED, EMBEDDINGS, of_group
from stages.questions.format import Condition, read_conditions, split_tap
from stages.questions.question import CONDITIONS, SAMPLE_EMBEDDINGS, SAMPLES
from stages.readers.data import rows_of
from stages.readers.score import Floats, Numbers

BOTH_ENDS = ("backbone", "projector")


@dataclass(frozen=True)
class Painting:
    """Samples, arranged: each tap has the same variants of the same sources."""

    tap_ids: tuple[str, ...]
    """`encoder:tap`, in the order of the ask."""
    rows: Numbers
    """Rows of the sources, int64 [N]."""
    variants: tuple[str, ...]
    """Variants of each source, in the order of the ask."""
    numbers: dict[str, Numbers]
    """Per tap id the number of each condition, int64 [V, N]; those of a group follow those of the group before."""
    images: NDArray[np.uint8]
    """All samples by condition: uint8 [conditions, K, size, size, 3]."""
    groups: dict[str, int]
    """Per tap id the tap group that it belongs to."""
    starts: dict[int, int]
    """Per group the number of its first condition."""

    @property
    def size(self) -> int:
        """Side of a sample, pixels."""
        return int(self.images.shape[2])

    @property
    def per_source(self) -> int:
        """Samples of a condition."""
        return int(self.images.shape[1])

    def at(self, tap_id: str, variant: int = 0) -> NDArray[np.uint8]:
        """Samples of every source at a tap: uint8 [N, K, size, size, 3]."""
        chosen: NDArray[np.uint8] = self.images[self.numbers[tap_id][variant]]
        return chosen

    def ends(self) -> list[tuple[str, str, str]]:
        """(encoder, id of its backbone, id of its projector) of the encoders of which both ends were asked about."""
        found = []
        for encoder in dict.fromkeys(split_tap(tap_id)[0] for tap_id in self.tap_ids):
            first, last = (f"{encoder}:{end}" for end in BOTH_ENDS)
            if first in self.tap_ids and last in self.tap_ids:
                found.append((encoder, first, last))
        return found


def groups_of(inputs: Inputs) -> list[int]:
    """The tap groups that were asked about; 0 is that of the decoder itself."""
    named = [name.removeprefix(CONDITIONS).removeprefix(".") for name in inputs if name.split(".")[0] == CONDITIONS]
    return sorted(int(number or 0) for number in named)


def painting(inputs: Inputs, samples: str = SAMPLES, only: Collection[str] | None = None) -> Painting:
    """The samples of all groups of an ask, of which `samples` is the input's name.

    `only` names variants, where not every tap and source has all; the other conditions belong to no tap then. Raises
    FormatError where samples are not those of their conditions, or groups were not asked the same.
    """
    found = [_group(inputs, samples, group, only) for group in groups_of(inputs)]
    first = next((other for other in found if other.tap_ids), found[0])
    for other in (other for other in found if other.tap_ids):
        same = np.array_equal(other.rows, first.rows) and other.variants == first.variants
        if not same or other.images.shape[1:] != first.images.shape[1:]:
            raise FormatError(
                "the same sources, variants and number of samples in every tap group",
                f"others at {other.tap_ids[0]} than at {first.tap_ids[0]}",
                "Run again with --force for the ask and the samples of one of them.",
            )
    ends = list(accumulate(len(other.images) for other in found))
    starts = dict(zip(groups_of(inputs), [0, *ends[:-1]], strict=True))
    return Painting(
        tap_ids=tuple(tap_id for other in found for tap_id in other.tap_ids),
        rows=first.rows,
        variants=first.variants,
        numbers={
            tap_id: numbers + starts[other.groups[tap_id]]
            for other in found
            for tap_id, numbers in other.numbers.items()
        },
        images=first.images if len(found) == 1 else np.concatenate([other.images for other in found]),
        groups={tap_id: group for other in found for tap_id, group in other.groups.items()},
        starts=starts,
    )


def _group(inputs: Inputs, samples: str, group: int, only: Collection[str] | None) -> Painting:
    """The samples of one group, numbered from 0."""
    asked = read_conditions(inputs[of_group(CONDITIONS, group)])
    images = open_images(inputs[of_group(samples, group)])
    if not asked or images.count == 0 or images.count % len(asked):
        raise FormatError(
            f"samples of {len(asked)} conditions, equally many of each",
            f"{images.count} samples",
            "Run again with --force for that samples step.",
        )
    wanted = [c for c in asked if only is None or c.variant in only]
    tap_ids = tuple(dict.fromkeys(c.tap_id for c in wanted))
    variants = tuple(dict.fromkeys(c.variant for c in wanted))
    rows = np.array(list(dict.fromkeys(c.source_row for c in wanted)), dtype=np.int64)
    arranged = {tap_id: _arranged(asked, tap_id, variants, rows) for tap_id in tap_ids}
    parts = [images.read_part(part)[1] for part in range(images.parts)]
    pixels = np.concatenate([np.asarray(part, dtype=np.uint8) for part in parts])
    pixels = pixels.reshape(len(asked), images.count // len(asked), *pixels.shape[1:])
    return Painting(tap_ids, rows, variants, arranged, pixels, dict.fromkeys(tap_ids, group), {group: 0})


def _arranged(asked: list[Condition], tap_id: str, variants: tuple[str, ...], rows: Numbers) -> Numbers:
    number = {(c.variant, c.source_row): i for i, c in enumerate(asked) if c.tap_id == tap_id and c.variant in variants}
    if len(number) != len(variants) * len(rows):
        raise FormatError(
            f"every variant of every source at {tap_id}",
            f"{len(number)} conditions",
            "Run again with --force for that ask step.",
        )
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
    """Embeddings of the samples at the tap, float64 [V, N, K, D]; None where it cannot see pixels."""
    downsized: "Space | None" = None
    """The same with a gallery of images at the decoder's resolution, sources included: as near as samples can come.
    None where the encoder sees images at that resolution anyhow."""

    @property
    def sources(self) -> Floats:
        """Embeddings of the sources, float64 [N, D]."""
        return self.gallery[self.positions]

    @property
    def attainable(self) -> "Space":
        """The space in which the samples are judged: at the decoder's resolution."""
        return self if self.downsized is None else self.downsized


def space(inputs: Inputs, found: Painting, tap_id: str) -> Space:
    """The space of the tap `encoder:tap`; the sources are held-out images."""
    from safetensors.numpy import load

    encoder, tap = split_tap(tap_id)
    table = open_table(inputs[EMBEDDINGS + encoder])
    statistics = table.statistics(tap)
    heldout = rows_of(inputs["shards"], "heldout")
    gallery = table.standardised(tap, heldout)
    samples = sample_vectors(inputs, found, tap_id, statistics)
    positions = np.searchsorted(heldout, found.rows)
    whole = Space(statistics, gallery, positions, measures.random_pair(gallery), samples)
    asked = inputs[of_group(CONDITIONS, found.groups[tap_id])]
    name = f"{DOWNSIZED}/{encoder}/{tap}.safetensors"
    if name not in asked.names():
        return whole
    small = load(asked.read(name))
    images = statistics.standardise(small["embeddings"]).astype(np.float64)
    own = np.searchsorted(small["rows"], found.rows)
    return replace(whole, downsized=Space(statistics, images, own, measures.random_pair(images), samples))


def sample_vectors(inputs: Inputs, found: Painting, tap_id: str, statistics: Statistics) -> Floats | None:
    """Embeddings of the samples at the tap `encoder:tap`, standardised: float64 [V, N, K, D].

    None where it cannot see pixels.
    """
    encoder, tap = split_tap(tap_id)
    group = found.groups[tap_id]
    embedded = inputs.get(f"{of_group(SAMPLE_EMBEDDINGS, group)}.{encoder}")
    if embedded is None:
        return None
    painted = open_table(embedded)
    if tap not in painted.taps:
        return None
    vectors = statistics.standardise(painted.read(tap, "plain")).astype(np.float64)
    by_condition = vectors.reshape(-1, found.per_source, vectors.shape[1])
    chosen: Floats = by_condition[found.numbers[tap_id] - found.starts[group]]
    return chosen
