"""How far transforms move embeddings: what the ask of *invariance* has stored, as distances."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.contract import Input
from stages.embeddings.format import Table
from stages.questions import measures
from stages.questions.asks.transforms import TRANSFORMS
from stages.questions.asks.work import MOVED, OWN, PLAIN, TRAIN, TRANSFORMED
from stages.questions.format import split_tap
from stages.readers.score import Estimate, Floats, Numbers

UNIT = "distance of two random images"
BORROWED = "usual augmentations"
"""Instead of `own` for encoders that were trained with none: the default recipe."""


@dataclass(frozen=True)
class AskedTransforms:
    """What was asked of one tap group."""

    conditions: Input
    sources: Numbers
    variants: list[list[Any]]
    """Name and strength of every transform."""
    augmentations: dict[str, list[str]]
    """By encoder what it was trained with, where that is known."""
    left_out: list[str]
    train: Numbers
    """Rows of the train images that were transformed too; none where that was not asked."""

    @classmethod
    def read(cls, conditions: Input) -> "AskedTransforms":
        """From an artifact of `transformed`."""
        about = json.loads(conditions.read(TRANSFORMED))
        sources = np.array(about["rows"], dtype=np.int64)
        train = np.array(about.get(TRAIN, ()), dtype=np.int64)
        return cls(conditions, sources, about["variants"], about["augmentations"], about["left_out"], train)

    def drawn(self, encoder: str) -> str:
        """Subject of rows on augmentations that were drawn: the encoder's own, or the usual ones."""
        return OWN if encoder in self.augmentations else BORROWED


@dataclass(frozen=True)
class Moves:
    """How far transforms move each source at a tap, and how far sources lie apart."""

    moved: dict[str, Floats]
    """float64 [N] by subject; augmentations are the mean over their draws."""
    pairs: Floats
    """float64 [N, N]."""

    def r(self, subject: str) -> Estimate:
        """r of a transform."""
        return measures.invariance(self.moved[subject], self.pairs)


def middle(name: str) -> str:
    """Subject of a transform at its middle strength."""
    return f"{name} {TRANSFORMS[name].painted:g}"


def moves_at(asked: AskedTransforms, table: Table, tap_id: str) -> Moves:
    """The distances at the tap `encoder:tap`, which must not have been left out; `table` is that of its encoder."""
    from safetensors.numpy import load

    encoder, tap = split_tap(tap_id)
    tensors = load(asked.conditions.read(f"{MOVED}/{encoder}/{tap}.safetensors"))
    statistics = table.statistics(tap)

    def standardised(x: NDArray[np.float32]) -> Floats:
        return statistics.standardise(x).astype(np.float64)

    plain = standardised(tensors[PLAIN])
    moved = {
        f"{name} {strength:g}": measures.l2(standardised(vectors), plain)
        for (name, strength), vectors in zip(asked.variants, tensors["transformed"], strict=True)
    }
    draws = [measures.l2(standardised(vectors), plain) for vectors in tensors[OWN]]
    moved[asked.drawn(encoder)] = np.mean(draws, axis=0)
    return Moves(moved, measures.pair_distances(plain))
