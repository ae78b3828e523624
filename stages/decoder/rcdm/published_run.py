"""What the `released` step does: checks a published file, writes its tensors as ours, and a card beside them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from stages.contract import Input, Output, Summary
from stages.decoder.card import CARD
from stages.decoder.rcdm import published as released
from stages.decoder.rcdm.format import AdmCard, pieces
from stages.encoders import weights
from stages.errors import InputError
from stages.external.files import fetched

if TYPE_CHECKING:
    from stages.decoder.rcdm.published_stage import ReleasedDecoder

EMBEDDING = "ssl_emb.weight"
"""The tensor that shows the width of the embedding."""


def convert(stage: "ReleasedDecoder", encoder: Input | None, out: Output) -> Summary:
    """Writes the weights; returns the names of the files and the width of the embedding.

    Raises InputError where the file cannot be read, has another sha256, holds other tensors than the network, or was
    trained with embeddings of another width than the tap of `encoder` has.
    """
    with fetched(stage.url, stage.sha256) as file:
        tensors = read(file.path, stage.url)
        width = tensors[EMBEDDING].shape[-1] if EMBEDDING in tensors else 1
        expected = released.skeleton(stage.network, width).state_dict()
        released.require(tensors, {name: tensor.shape for name, tensor in expected.items()})
        if encoder is not None:
            _require_width(width, stage.taps[0], encoder.summary["taps"])
        names = []
        for name, data in pieces(tensors):
            out.put(name, data)
            names.append(name)
    return {"weights": names, "width": width}


def describe(stage: "ReleasedDecoder", converted: Summary, out: Output) -> Summary:
    """Writes the card and returns the step's summary."""
    card = AdmCard(
        taps={stage.taps[0]: converted["width"]},
        size=stage.network.image_size,
        network=stage.network,
        schedule=stage.schedule,
        steps=stage.steps,
        precision=stage.precision,
        weights={"final": converted["weights"]},
        published_sha256=stage.sha256,
    )
    out.put(CARD, card.model_dump_json(indent=1).encode())
    return {"taps": card.taps, "published_sha256": card.published_sha256}


def _require_width(width: int, name: str, taps: Mapping[str, int]) -> None:
    found = taps[name.partition(":")[2]]
    if found != width:
        raise InputError(
            expected=f"a tap of width {width}, as the decoder was trained with",
            found=f"{name} of width {found}",
            remedy="Name the tap, and the encoder, that it was trained with; this encoder's taps are "
            f"{', '.join(f'{tap} ({wide})' for tap, wide in taps.items())}.",
        )


def read(path: Path, url: str) -> dict[str, Tensor]:
    """The tensors of a state dict by name; InputError where the file holds anything else."""
    found = weights.read(path)
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        what = f"entries such as {', '.join(map(str, list(found)[:4]))}" if isinstance(found, dict) else type(found)
        raise InputError(
            expected=f"a plain state dict of tensors at {url}",
            found=str(what),
            remedy="Give the averaged weights, not a checkpoint of a training.",
        )
    return {str(name): tensor for name, tensor in found.items()}
