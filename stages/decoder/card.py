"""What all kinds of decoders have in common on disk: the name and the number of the format, and the training curve."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

FORMAT = 1
CARD = "decoder.json"

Snapshot = Literal["final", "halfway"]


class Point(BaseModel):
    """One point of the training curve: images seen, training loss, held-out loss by tap."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int
    loss: float
    heldout: dict[str, float]


LAST = 0.25
"""Share of the training, its end, over which it is asked whether the held-out loss was still falling."""
FALLING = 0.05
"""A tap's held-out loss was still falling where it lost more than this share of itself in that time."""


def still_falling(curve: Sequence[Point]) -> dict[str, bool]:
    """By tap, whether the held-out loss was still falling when training ended; a longer one would say more then.

    Empty where the curve is too short.
    """
    before = [point for point in curve if point.images <= (1 - LAST) * curve[-1].images]
    if not before:
        return {}
    then, now = before[-1].heldout, curve[-1].heldout
    return {tap: bool(now[tap] < (1 - FALLING) * then[tap]) for tap in now}
