"""The trend of a number over a series of taps, and the rule by which it is judged."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from stages.readers.score import SOURCES_MIN, Estimate

RISES, FALLS, BENDS, STAYS, CANNOT_TELL = "RISES", "FALLS", "BENDS", "STAYS", "CANNOT TELL"
EFFECT_MIN = 0.05
"""A trend must change its number by this from the first point to the last. kept and R2 must be as large somewhere."""
READER_MIN = 0.95
"""An attribute that is read less well from real images is not judged."""
POINTS_MIN = 3
"""A trend needs as many points."""

RULE = (
    f"RISES, FALLS: the interval of the trend lies beyond {EFFECT_MIN:g} or −{EFFECT_MIN:g}. BENDS: neither, but at "
    "some point the number differs from that of the first by as much, so that a line does not say it. STAYS: the "
    f"trend and all these differences lie between −{EFFECT_MIN:g} and {EFFECT_MIN:g}; the intervals of the differences "
    f"hold for all points at once. CANNOT TELL: all else, attributes whose reader scores below {READER_MIN:g}, "
    f"those of fewer than {SOURCES_MIN} sources, and numbers that are at no point {EFFECT_MIN:g} or more (lower "
    "bound): samples that are wrong more often than chance know no less than others."
)

Bounds: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class Evidence:
    """What the verdict on a trend rests on; bounds are of 95 % intervals."""

    trend: Bounds
    changes: Sequence[Bounds]
    """Of each later point - the first, paired, holding for all points at once."""
    sources: int
    """Those of which the number is known."""
    reader: float = 1.0
    """How well the attribute is read from real images; 1 where nothing is read."""
    largest: float = math.inf
    """The largest lower bound of the number at any point; infinite where 0 is not "nothing"."""


def trend(estimates: Sequence[Estimate]) -> Estimate:
    """The change from the first point to the last along the least-squares line, over the same resampled sources.

    `estimates`: one for each point, from the first to the last; points stand at equal distances.
    """
    across = np.linspace(0.0, 1.0, len(estimates))
    across -= across.mean()
    weights = across / (across**2).sum()
    return lambda drawn: weights @ np.stack([estimate(drawn) for estimate in estimates])


def judge(found: Evidence) -> str:
    """The verdict on a trend."""
    # Written so that a number that is not one (nothing was defined) never passes.
    read = found.reader >= READER_MIN and found.sources >= SOURCES_MIN
    if not (read and found.largest >= EFFECT_MIN and all(map(math.isfinite, found.trend))):
        return CANNOT_TELL
    low, high = found.trend
    if low >= EFFECT_MIN:
        return RISES
    if high <= -EFFECT_MIN:
        return FALLS
    if any(change[0] >= EFFECT_MIN or change[1] <= -EFFECT_MIN for change in found.changes):
        return BENDS
    level = all(bounds[0] > -EFFECT_MIN and bounds[1] < EFFECT_MIN for bounds in (found.trend, *found.changes))
    return STAYS if level else CANNOT_TELL
