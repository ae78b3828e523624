"""From which checkpoint on a number differs from that of the first one, by rule."""

from collections.abc import Sequence

from stages.questions.trend import EFFECT_MIN
from stages.readers.score import Interval

RULE = (
    f"CHANGED FROM: the first position from which on the interval of the change since the first checkpoint lies beyond "
    f"{EFFECT_MIN:g}, or beyond −{EFFECT_MIN:g}, at every checkpoint. These intervals hold for all checkpoints at once."
)


def lasting(changes: Sequence[Interval]) -> int | None:
    """Index of the first of the changes from which on all lie beyond `EFFECT_MIN` on one side; None where the last does
    not."""
    sides = [1 if found.low >= EFFECT_MIN else -1 if found.high <= -EFFECT_MIN else 0 for found in changes]
    if not sides or sides[-1] == 0:
        return None
    # From the end on, as long as the side is that of the last.
    return next((len(sides) - back for back, side in enumerate(reversed(sides)) if side != sides[-1]), 0)
