"""Dose and response: encoders that differ in one augmentation alone, and the slope of a number over it.

An encoder that is trained with more of an augmentation should keep less of what it changes. Where three or more
encoders of a study were trained alike but for one strength (their seeds may differ), answers have the slope of their
numbers over it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.contract import Input, Inputs
from stages.encoders.augment import TRANSFORMS
from stages.encoders.format import CARD, read_card
from stages.questions.asks.stage import of_group
from stages.questions.format import Row, row, split_tap
from stages.questions.question import CONDITIONS
from stages.readers.score import Estimate, Floats, Interval

TRAINED = "trained.json"
"""What encoders were trained with, in the artifact of an ask: by encoder `augmentations` and `others`."""
DOSES_MIN = 3
CROP_FLOOR = "crop floor"
"""The lower bound of `crop_scale`: the smaller, the stronger."""


@dataclass(frozen=True)
class Doses:
    """Encoders that differ in the strength of one augmentation, by rising strength."""

    augmentation: str
    """`hue`, …, or `CROP_FLOOR`."""
    encoders: tuple[str, ...]
    strengths: tuple[float, ...]

    @property
    def transform(self) -> str:
        """The augmentation, as `stages.encoders.augment.TRANSFORMS` names it."""
        return "crop" if self.augmentation == CROP_FLOOR else self.augmentation

    def shared_taps(self, tap_ids: Sequence[str]) -> list[str]:
        """Taps that every encoder was asked about at, in the order of the ask; `tap_ids` are `encoder:tap`."""
        taps = [{tap for at, tap in map(split_tap, tap_ids) if at == encoder} for encoder in self.encoders]
        shared = set.intersection(*taps)
        return list(dict.fromkeys(tap for _, tap in map(split_tap, tap_ids) if tap in shared))

    def row(self, question: str, metric: str, tap: str, subject: str, found: Interval) -> Row:
        """A row of a slope; it is about no single encoder."""
        named = f"{subject} by {self.augmentation}"
        return row(question, metric, f":{tap}", named, found, f"per unit of {self.augmentation}")

    @property
    def weights(self) -> Floats:
        """What each encoder's number counts in the least-squares slope, float64 [E]."""
        centred = np.array(self.strengths) - np.mean(self.strengths)
        weights: Floats = centred / (centred**2).sum()
        return weights


def trained_as(encoder: Input) -> dict[str, Any] | None:
    """What an encoder that was pretrained here was trained with; None for others."""
    if CARD not in encoder.names():
        return None
    card = read_card(encoder)
    others = card.model_dump(mode="json", include={"method", "architecture", "preprocessing", "training"})
    others["training"] = {k: v for k, v in others["training"].items() if k not in ("seed", "final_loss")}
    return {"augmentations": card.augmentations.model_dump(mode="json"), "others": others}


def asked_about(inputs: Inputs, groups: Sequence[int]) -> list[Doses]:
    """The doses among the encoders of an answer's asks."""
    found: dict[str, Any] = {}
    for group in groups:
        found |= json.loads(inputs[of_group(CONDITIONS, group)].read(TRAINED))
    return doses(found)


def doses(trained: Mapping[str, Mapping[str, Any]]) -> list[Doses]:
    """Those among encoders, whose values are `trained_as`."""
    settings = {encoder: _flat(entry) for encoder, entry in trained.items()}
    found = []
    for name in (CROP_FLOOR, *TRANSFORMS):
        alike: dict[str, dict[str, float]] = {}
        for encoder, own in settings.items():
            if name in own:
                others = json.dumps({key: value for key, value in own.items() if key != name}, sort_keys=True)
                alike.setdefault(others, {})[encoder] = own[name]
        for by_encoder in alike.values():
            ordered = sorted(by_encoder, key=by_encoder.__getitem__)
            if len(set(by_encoder.values())) >= DOSES_MIN:
                found.append(Doses(name, tuple(ordered), tuple(by_encoder[encoder] for encoder in ordered)))
    return found


def _flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    """All that an encoder was trained with, by name, the bounds of the crop apart."""
    own = dict(entry["augmentations"])
    floor, ceiling = own.pop("crop_scale")
    return own | {CROP_FLOOR: floor, "crop ceiling": ceiling, "others": entry["others"]}


def slope(estimates: Sequence[Estimate], found: Doses) -> Estimate:
    """The least-squares slope of the encoders' numbers over the strength, over the same resampled sources: paired."""
    weights = found.weights
    return lambda drawn: weights @ np.stack([estimate(drawn) for estimate in estimates])


def slope_of_intervals(intervals: Sequence[Interval], found: Doses) -> Interval:
    """The same of numbers of which only the intervals are known, taken as independent.

    Numbers over the same images vary together, so that the interval is rather too wide.
    """
    values, low, high = (np.array([getattr(i, name) for i in intervals]) for name in ("value", "low", "high"))
    middle = float(found.weights @ values)
    half = float(np.sqrt((found.weights**2) @ ((high - low) / 2) ** 2))
    return Interval(middle, middle - half, middle + half, min(i.n for i in intervals))
