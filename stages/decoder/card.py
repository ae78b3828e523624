"""What all kinds of decoders have in common on disk: the name and the number of the format, and the training curve."""

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
