"""Readers as they are stored: `readers.json` (attributes, scores) and `readers.safetensors` (the network)."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from stages.attributes import Attribute
from stages.contract import Input
from stages.errors import FormatError
from stages.readers import network, pixel
from stages.readers.score import Floats
from stages.readers.targets import Targets

FORMAT = 1
CARD, WEIGHTS = "readers.json", "readers.safetensors"


class Score(BaseModel):
    """How well an attribute is read from held-out images: `value` of 1 is perfect, 0 is no better than one constant."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    measure: str
    """`R2`, `accuracy`, or `by definition` for functions of the pixels."""
    n: int
    """Held-out images."""


class ReaderCard(BaseModel):
    """`readers.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    size: int
    """Side of the images that are read, pixels."""
    widths: tuple[int, ...]
    network: tuple[Attribute, ...]
    """What the network reads, in the order of its outputs."""
    scaling: dict[str, tuple[float, float]]
    pixel: tuple[Attribute, ...]
    """What is a function of the pixels."""
    scores: dict[str, Score]

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """Everything that can be read, the dataset's own first."""
        return self.network + self.pixel


@dataclass
class Reader:
    """Reads attributes from pixels."""

    card: ReaderCard
    net: "network.ReaderNetwork | None"

    def read(self, images: NDArray[np.uint8]) -> dict[str, Floats]:
        """Attributes of uint8 [B, H, W, 3] by name, float64 [B]; NaN where undefined."""
        values = pixel.read(images)
        found = {a.name: values[a.name] for a in self.card.pixel}
        if self.net is None:
            return found
        return network.read(self.net, Targets(self.card.network, self.card.scaling), images, self.card.size) | found


def dump(card: ReaderCard, net: "network.ReaderNetwork | None") -> dict[str, bytes]:
    """The objects by name."""
    from safetensors.torch import save

    tensors = {} if net is None else {k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}
    return {WEIGHTS: save(tensors), CARD: card.model_dump_json(indent=1).encode()}


def read_card(artifact: Input) -> ReaderCard:
    """`readers.json` alone; FormatError where its format is another."""
    document: dict[str, Any] = json.loads(artifact.read(CARD))
    if document.get("format") != FORMAT:
        raise FormatError(
            f"{CARD} of format {FORMAT}",
            f"format {document.get('format')!r}",
            "Run again with --force readers.",
        )
    return ReaderCard.model_validate(document)


def load(artifact: Input, device: str) -> Reader:
    """The trained readers, on a device."""
    from safetensors.torch import load as load_tensors

    card = read_card(artifact)
    if not card.network:
        return Reader(card, None)
    width = Targets(card.network, card.scaling).width
    net = network.build(card.size, card.widths, width, seed=0)
    net.load_state_dict(load_tensors(artifact.read(WEIGHTS)))
    return Reader(card, net.to(device).eval())
