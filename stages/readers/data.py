"""Images with the values of their attributes: the table's columns, and the functions of their pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stages import attributes
from stages.attributes import Attribute
from stages.contract import Input
from stages.errors import InputError
from stages.images.sets import open_images
from stages.readers import pixel
from stages.readers.score import Floats, Numbers

Split: TypeAlias = Literal["train", "heldout", "unseen"]
"""`unseen`: images of combinations that the listing keeps from encoders and the decoder."""


@dataclass(frozen=True)
class Labelled:
    """Images of one split, by ascending row, and the values of their attributes."""

    rows: Numbers
    """int64 [N]."""
    images: NDArray[np.uint8]
    """[N, size, size, 3]."""
    values: dict[str, Floats]
    """By attribute, float64 [N]; NaN where undefined."""
    attributes: tuple[Attribute, ...]
    """The dataset's own attributes and those of the pixels."""

    def and_more(self, attributes: Sequence[Attribute], values: Mapping[str, Floats]) -> "Labelled":
        """The same images with further attributes, whose values [N] are given by name."""
        return replace(self, values={**self.values, **values}, attributes=(*self.attributes, *attributes))


def table_attributes(shards: Input) -> list[Attribute]:
    """The dataset's own attributes."""
    return attributes.load(shards.read("attributes.json"))


def pixel_attributes(shards: Input) -> list[Attribute]:
    """The functions of pixels, without those whose name the dataset uses for something else."""
    taken = {a.name for a in table_attributes(shards)}
    return [a for a in pixel.ATTRIBUTES if a.name not in taken]


def rows_of(shards: Input, split: Split) -> Numbers:
    """Rows of a split that hold an image, ascending: int64 [N]. Raises InputError where there is none."""
    rows = _rows_of(shards, split)
    if not len(rows):
        raise InputError(f"images of the split {split!r}", "none", "Change `holdout` of the listing or add images.")
    return rows


def unseen_rows(shards: Input) -> tuple[Numbers, Numbers]:
    """Rows of unseen combinations, ascending: those that readers learn from, and those that are asked about.

    A reader that had never met a combination might misread it, which would look as if samples lacked it. Both are
    empty where the listing keeps no combination from encoders and the decoder.
    """
    rows = _rows_of(shards, "unseen")
    return rows[::2], rows[1::2]


def _rows_of(shards: Input, split: Split) -> Numbers:
    table = open_images(shards).table(["status", "split"])
    sound = np.array(table.column("status").to_pylist()) == "ok"
    return np.flatnonzero(sound & (np.array(table.column("split").to_pylist()) == split)).astype(np.int64)


def truth(shards: Input, rows: Numbers, images: NDArray[np.uint8]) -> dict[str, Floats]:
    """Values of all attributes of images uint8 [N, H, W, 3] at `rows` [N]: by name, float64 [N]."""
    return pixel.read(images) | {name: column[rows] for name, column in open_images(shards).values().items()}


def labelled(shards: Input, split: Split, size: int, limit: int, seed: int = 0) -> Labelled:
    """At most `limit` images of a split, from parts chosen at random where there are more."""
    return labelled_rows(shards, rows_of(shards, split), size, limit, seed)


def labelled_rows(shards: Input, wanted: Numbers, size: int, limit: int, seed: int = 0) -> Labelled:
    """At most `limit` of the images at rows `wanted`, from parts chosen at random where there are more."""
    images = open_images(shards)
    order = np.random.Generator(np.random.Philox(key=[seed, images.parts])).permutation(images.parts)
    rows: list[Numbers] = []
    decoded: list[NDArray[np.uint8]] = []
    for part in order:
        if sum(map(len, rows)) >= limit:
            break
        if not ((wanted >= part * images.part_rows) & (wanted < (part + 1) * images.part_rows)).any():
            continue
        found, batch = images.decode_part(int(part), size)
        chosen = np.isin(found, wanted)
        rows.append(found[chosen])
        decoded.append(batch[chosen])
    gathered = np.concatenate(rows)
    ascending = np.argsort(gathered)[:limit]
    gathered, pixels = gathered[ascending], np.concatenate(decoded)[ascending]
    known = (*table_attributes(shards), *pixel_attributes(shards))
    return Labelled(gathered, pixels, truth(shards, gathered, pixels), known)
