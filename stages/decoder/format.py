"""The decoder's files, and a trained decoder ready to paint. Those with an ADM U-Net are of `rcdm.format`.

decoder.safetensors   averaged weights of sketch and painter, and `<tap>/mean` and `<tap>/scale` of every tap
halfway.safetensors   the same painter as it was after half of its training, painter only
decoder.json          taps, size, network, training, and the curve of its losses
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load as load_tensors
from safetensors.torch import save
from torch import Tensor

from stages.contract import Input
from stages.decoder.card import CARD as CARD
from stages.decoder.card import FORMAT, Snapshot
from stages.decoder.card import Point as Point
from stages.decoder.conditioning import NULL
from stages.decoder.network import DecoderNetwork
from stages.decoder.rcdm import format as rcdm_format
from stages.decoder.rcdm.format import AdmCard, AdmDecoder
from stages.decoder.spec import NetworkSettings, TrainingSettings
from stages.diffusion.noise import Noise
from stages.diffusion.samplers import Denoiser
from stages.errors import FormatError, InputError
from stages.training.precision import arithmetic

if TYPE_CHECKING:
    from stages.embeddings.format import Statistics

WEIGHTS, HALFWAY = "decoder.safetensors", "halfway.safetensors"
LIMIT_BYTES = 1 << 30
"""Bytes of one file, at most: a store takes no larger object."""
STANDARD = "standard/"
"""Prefix of the tensors that standardise a tap's embeddings."""


class Extends(BaseModel):
    """The decoder whose frozen trunk an extension paints with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    """Of its artifact."""
    taps: tuple[str, ...]
    """The taps that the trunk was trained with, as `encoder:tap`."""


class DecoderCard(BaseModel):
    """`decoder.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    taps: dict[str, int]
    """`encoder:tap` to width, in the order of the network's projections."""
    size: int
    """Side of the images, pixels."""
    network: NetworkSettings
    training: TrainingSettings
    seed: int
    num_images: int
    train_images: int
    rest: float | dict[str, float]
    """Standard deviation of what the sketch leaves, by tap, and of the null as `null`; pixels lie in [-1, 1]. Decoders
    of before version 4 have one number for all."""
    curve: tuple[Point, ...]
    """Loss over training; the held-out loss is that of the averaged weights."""
    still_falling: dict[str, bool] = {}
    """By tap, whether the held-out loss was still falling at the end; empty where the curve is too short."""
    finished: str = ""
    """Day on which the training ended (UTC, `2026-11-22`); empty where it was not written down."""
    versions: dict[str, str] = {}
    """Of Python and the libraries that it was trained with; empty where they were not written down."""
    extends: Extends | None = None
    """None: sketch and painter were trained for these taps. Otherwise only how the taps enter them."""


@dataclass(frozen=True)
class TrainedDecoder:
    """A trained decoder on a device."""

    card: DecoderCard
    network: DecoderNetwork
    means: Mapping[str, Tensor]
    scales: Mapping[str, Tensor]
    device: str

    @property
    def taps(self) -> Mapping[str, int]:
        """`encoder:tap` to width."""
        return self.card.taps

    def standardise(self, tap: str, h: Tensor) -> Tensor:
        """Raw embeddings [N, D] of the tap `encoder:tap` in units of the train rows' spread, float32 on the device."""
        return (h.to(self.device, torch.float32) - self.means[tap]) / self.scales[tap]

    def denoiser(self, tap: str) -> Denoiser:
        """D(x, sigma, h) of the tap `encoder:tap`; h [B, D] are raw embeddings. InputError for an unknown tap."""
        if tap not in self.taps:
            raise InputError(
                expected=f"one of the decoder's taps, {', '.join(self.taps)}",
                found=tap,
                remedy="Name the tap among `taps` of the decoder and train it again.",
            )
        number = list(self.taps).index(tap)
        return lambda x, sigma, h: self._denoised(x, sigma, self.standardise(tap, h), number)

    def mean(self, tap: str) -> Callable[[Tensor], Tensor]:
        """E[image | h] of raw embeddings h [B, D] at the tap: the sketch, [B, 3, S, S]; what infinite noise leaves."""
        number = list(self.taps).index(tap)
        return lambda h: self._sketched(self.standardise(tap, h), number)

    def free(self) -> Denoiser:
        """The denoiser without a condition; h is not used. InputError where no condition was ever dropped."""
        # The card of an extension does not say how its trunk was trained; a null that never was is still 0.
        if not self.network.painter.projection.vectors[NULL].any():
            raise InputError(
                expected="a decoder that knows how to paint without a condition, for guidance",
                found="one whose training dropped no condition (`training.null` was 0)",
                remedy="Paint with guidance 1, or train a decoder with `training.null` above 0.",
            )
        widest = max(self.taps.values())
        return lambda x, sigma, h: self._denoised(x, sigma, x.new_zeros(len(x), widest), NULL)

    def published(self, tap: str, steps: int) -> Callable[[Noise, Tensor], Tensor]:
        """Raises InputError: only a network of discrete time, with a learned variance, can be sampled that way."""
        raise InputError(
            expected="a decoder with an ADM U-Net, for `sampler: published`",
            found="one of noise levels, which learns no variance",
            remedy="Choose another `samples.sampler`.",
        )

    @torch.no_grad()
    def _sketched(self, standard: Tensor, number: int) -> Tensor:
        tap = torch.full((len(standard),), number, device=self.device)
        with arithmetic(self.card.training.precision, self.device):
            out: Tensor = self.network.sketch(standard, tap)
        return out.float()

    @torch.no_grad()
    def _denoised(self, x: Tensor, sigma: Tensor, standard: Tensor, number: int) -> Tensor:
        tap = torch.full((len(x),), number, device=self.device)
        with arithmetic(self.card.training.precision, self.device):
            out: Tensor = self.network(x, sigma, standard, tap)
        return out


AnyCard: TypeAlias = DecoderCard | AdmCard
AnyDecoder: TypeAlias = TrainedDecoder | AdmDecoder


def require_one_file(network: DecoderNetwork) -> None:
    """Raises InputError where the weights are too many for `WEIGHTS`: to be asked before a training, not after it."""
    sketch, painter = (4 * sum(p.numel() for p in part.parameters()) for part in (network.sketch, network.painter))
    # What standardises embeddings, and the names of all, are small beside it.
    if sketch + painter > LIMIT_BYTES - (1 << 24):
        raise InputError(
            expected="a decoder whose weights are below 1 GiB, for they stand in one file",
            found=f"{sketch / 2**30:.2f} GiB of the sketch and {painter / 2**30:.2f} of the U-Net",
            remedy="Lower the last width of network.sketch, which draws each pixel, or the decoder's size; where "
            "it is the U-Net, network.channels.",
        )


def dump(
    network: DecoderNetwork,
    final: Mapping[str, Tensor],
    halfway: Mapping[str, Tensor],
    statistics: "Sequence[Statistics]",
    card: DecoderCard,
) -> dict[str, bytes]:
    """The decoder's files by name. `final` and `halfway`: the painter's weights by name."""
    tensors = {f"sketch.{name}": value for name, value in network.sketch.state_dict().items()}
    tensors |= {f"painter.{name}": value for name, value in final.items()}
    for tap, found in zip(card.taps, statistics, strict=True):
        tensors[f"{STANDARD}{tap}/mean"] = torch.from_numpy(found.mean)
        tensors[f"{STANDARD}{tap}/scale"] = torch.from_numpy(found.scale)
    return {
        WEIGHTS: save({name: value.contiguous() for name, value in tensors.items()}),
        HALFWAY: save({f"painter.{name}": value.contiguous() for name, value in halfway.items()}),
        CARD: json.dumps(card.model_dump(mode="json"), indent=1).encode(),
    }


def read_card(inp: Input) -> AnyCard:
    """`decoder.json`; FormatError where it is of another format."""
    return parse_card(inp.read(CARD))


def parse_card(data: bytes) -> AnyCard:
    """The card from its bytes; FormatError where they are of another format."""
    document: Any = json.loads(data)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        found = document.get("format") if isinstance(document, dict) else document
        raise FormatError(
            expected=f"{CARD} of format {FORMAT}",
            found=f"format {found!r}",
            remedy="Read it with the version of Repscope that wrote it, or train the decoder again.",
        )
    kind: type[AnyCard] = AdmCard if "architecture" in document else DecoderCard
    if kind is DecoderCard and isinstance(document.get("training"), dict):
        # Cards that do not say how they were trained are older than the choice.
        document["training"].setdefault("optimiser", "adamw")
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise FormatError(
            f"{CARD} of format {FORMAT}", str(error), "Run again with --force for that decoder's step."
        ) from error


def load(inp: Input, device: str, snapshot: Snapshot = "final") -> AnyDecoder:
    """The decoder of an artifact of `decoder` or `released`; FormatError where its tensors do not fit its card."""
    card = read_card(inp)
    if isinstance(card, AdmCard):
        return rcdm_format.load(inp, card, device, snapshot)
    tensors = load_tensors(inp.read(WEIGHTS))
    standard = {name: tensors.pop(name) for name in list(tensors) if name.startswith(STANDARD)}
    if snapshot == "halfway":
        tensors |= load_tensors(inp.read(HALFWAY))
    network = DecoderNetwork(card.network, list(card.taps.values()), card.size)
    try:
        rest = [card.rest[name] for name in (*card.taps, "null")] if isinstance(card.rest, dict) else [card.rest]
        network.residual_std.copy_(torch.tensor(rest))
        network.load_state_dict(tensors)
        means = {tap: standard[f"{STANDARD}{tap}/mean"].to(device) for tap in card.taps}
        scales = {tap: standard[f"{STANDARD}{tap}/scale"].to(device) for tap in card.taps}
    except (RuntimeError, KeyError) as error:
        raise FormatError(
            f"tensors that {CARD} describes", str(error), "Run again with --force for that decoder's step."
        ) from error
    network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return TrainedDecoder(card, network, means, scales, device)
