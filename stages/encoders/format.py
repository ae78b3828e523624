"""The files of a trained encoder: `encoder.safetensors` (weights, probe embeddings) and `encoder.json` (all else).

Those of its checkpoints have the same names, in a folder for each.
"""

import hashlib
import json
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ConfigDict, Field, ValidationError

from stages.contract import Input, Settings
from stages.encoders.augment import Augmentations
from stages.encoders.spec import Architecture, Preprocessing
from stages.errors import FormatError

if TYPE_CHECKING:
    from torch import Tensor

    from stages.encoders.network import EncoderNetwork

FORMAT = 1
WEIGHTS, CARD = "encoder.safetensors", "encoder.json"
PROBE = "probe."
"""Prefix of the tensors in `encoder.safetensors` that hold the embeddings of the probe batch, one per tap."""
IMAGES_SEEN = "images_seen"
"""In `training` of the card of a checkpoint: how many images had been shown by then."""


Model = TypeVar("Model", bound=Settings)


class Quality(Settings):
    """Accuracy on held-out images of one class attribute, read from one tap."""

    attribute: str
    tap: str
    knn: float
    """Majority of the 20 nearest train images, by cosine."""
    linear: float
    """Softmax regression fitted on train images."""
    chance: float
    """Share of the most frequent class."""
    n: int
    """Held-out images."""


class TrainedCard(Settings):
    """`encoder.json`: what the encoder is, how it sees an image, how it was trained and how good it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    method: str
    architecture: Architecture
    projector_norm: bool = True
    """Whether BatchNorm follows the last layer of the projector: not in VICReg and Barlow Twins."""
    preprocessing: Preprocessing
    taps: dict[str, int]
    """Name -> width, in the order of the forward pass."""
    augmentations: Augmentations
    training: dict[str, int | float | str]
    """The settings of the training run, and the loss at its end; of a checkpoint `IMAGES_SEEN` instead of the loss."""
    quality: tuple[Quality, ...]
    weights_sha256: str
    versions: dict[str, str] = Field(default_factory=dict)
    """Of Python and the libraries that it was trained with; empty where they were not written down."""


def checkpoint(share: float) -> str:
    """Prefix of the files of a checkpoint, in the artifact of its training."""
    return f"checkpoints/{share:g}/"


def digest(state: "dict[str, Tensor]") -> str:
    """sha256 over the names, shapes and bytes of a state dict, in the order of the names."""
    import torch

    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        kind, shape = str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)
        total.update(f"{name} {kind} {shape}\n".encode())
        # NumPy does not have all types of torch, bfloat16 for one.
        total.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def dump(network: "EncoderNetwork", card: TrainedCard, probes: "dict[str, Tensor]") -> dict[str, bytes]:
    """The two files by name; `probes` are the embeddings of the probe batch, per tap."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    tensors |= {PROBE + tap: values.detach().cpu().contiguous() for tap, values in probes.items()}
    return {WEIGHTS: save(tensors), CARD: card.model_dump_json(indent=1).encode()}


def read_card(inp: Input) -> TrainedCard:
    """`encoder.json` of a `pretrain` artifact; raises FormatError where its format is unknown."""
    return parse_card(inp.read(CARD))


def parse_card(data: bytes) -> TrainedCard:
    """`encoder.json` from its bytes; raises FormatError where its format is unknown or a field is wrong."""
    return parsed(TrainedCard, data, CARD, FORMAT)


def parsed(model: type[Model], data: bytes, name: str, version: int) -> Model:
    """The card in a file `name`; raises FormatError where its format is not `version` or a field is wrong."""
    document: Any = json.loads(data)
    found = document.get("format") if isinstance(document, dict) else document
    if found != version:
        raise FormatError(
            expected=f"{name} of format {version}",
            found=f"format {found!r}",
            remedy="Read it with the version of Repscope that wrote it, or make the encoder anew.",
        )
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise FormatError(
            expected=f"{name} of format {version}",
            found=str(error),
            remedy="Run again with --force for the encoder's step.",
        ) from error


def read_network(inp: Input) -> "tuple[EncoderNetwork, TrainedCard, dict[str, Tensor]]":
    """The network (evaluation mode, CPU), its card and the stored embeddings of the probe batch.

    Raises FormatError where the weights do not fit the architecture or are not those the card was written for.
    """
    import torch
    from safetensors.torch import load

    from stages.encoders.network import EncoderNetwork

    card = read_card(inp)
    tensors = load(inp.read(WEIGHTS))
    probes = {name.removeprefix(PROBE): tensor for name, tensor in tensors.items() if name.startswith(PROBE)}
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(PROBE)}
    found = digest(weights)
    if found != card.weights_sha256:
        raise FormatError(
            expected=f"weights with sha256 {card.weights_sha256}",
            found=f"{found} in {WEIGHTS}",
            remedy="Run again with --force for the encoder's step.",
        )
    network = EncoderNetwork(card.architecture, card.projector_norm)
    network.load_state_dict(weights)
    return network.eval().to(memory_format=torch.channels_last), card, probes
