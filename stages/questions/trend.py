"""The trend of a number over a series of taps, and the rule by which it is judged."""

import math
from collections.abc import Sequence

import numpy as np

from stages.readers.score import Estimate

RISES, FALLS, STAYS, CANNOT_TELL = "RISES", "FALLS", "STAYS", "CANNOT TELL"
EFFECT_MIN = 0.05
"""A trend must change its number by this from the first point to the last."""
READER_MIN = 0.95
"""An attribute that is read less well from real images is not judged."""
POINTS_MIN = 3
"""A trend needs as many points."""

RULE = (
    f"RISES, FALLS: the interval of the trend lies beyond {EFFECT_MIN:g} or −{EFFECT_MIN:g}. STAYS: it lies between "
    f"them. CANNOT TELL: all else, and attributes whose reader scores below {READER_MIN:g}."
)


def trend(estimates: Sequence[Estimate]) -> Estimate:
    """The change from the first point to the last along the least-squares line, over the same resampled sources.

    `estimates`: one for each point, from the first to the last; points stand at equal distances.
    """
    across = np.linspace(0.0, 1.0, len(estimates))
    across -= across.mean()
    weights = across / (across**2).sum()
    return lambda drawn: weights @ np.stack([estimate(drawn) for estimate in estimates])


def judge(low: float, high: float, reader: float = 1.0) -> str:
    """The verdict on a trend from its interval, and from how well the attribute is read from real images."""
    if reader < READER_MIN or not (math.isfinite(low) and math.isfinite(high)):
        return CANNOT_TELL
    if low >= EFFECT_MIN:
        return RISES
    if high <= -EFFECT_MIN:
        return FALLS
    return STAYS if low > -EFFECT_MIN and high < EFFECT_MIN else CANNOT_TELL
