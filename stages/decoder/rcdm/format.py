"""A decoder whose network is an ADM U-Net in discrete time: its files, and the decoder ready to paint.

decoder-00.safetensors …   weights, in as many files as it takes to keep each below a store's limit
decoder.json               tap, network, schedule, and which files the weights stand in
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load as load_tensors
from safetensors.torch import save
from torch import Tensor

from stages.contract import Input
from stages.decoder.card import CARD, FORMAT, Point, Snapshot
from stages.decoder.rcdm.network import Adm
from stages.decoder.rcdm.published import assembled
from stages.decoder.rcdm.spec import AdmSettings, AdmTraining
from stages.diffusion import denoisers, discrete
from stages.diffusion.noise import Noise
from stages.diffusion.samplers import Denoiser
from stages.errors import FormatError, InputError
from stages.training.precision import arithmetic

PIECE_BYTES = 1 << 29
"""Bytes of weights in one file, at most: a store takes no object above 1 GiB."""


class AdmCard(BaseModel):
    """`decoder.json` of a decoder with an ADM U-Net."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    architecture: Literal["adm"] = "adm"
    taps: dict[str, int]
    """`encoder:tap` to width, one of them."""
    conditions: Literal["raw"] = "raw"
    """Embeddings enter as they are, not standardised."""
    size: int
    """Side of the images, pixels."""
    network: AdmSettings
    schedule: Literal["linear", "cosine"]
    steps: int
    """Steps of the schedule."""
    precision: Literal["bfloat16", "float32"]
    """Of the network's arithmetic."""
    weights: dict[Snapshot, tuple[str, ...]]
    """The files that hold the weights, by what they are of."""
    published_sha256: str = ""
    """Of the published file that the weights are from; empty where they were trained here."""
    training: AdmTraining | None = None
    """None where they are published; then what follows is empty."""
    seed: int = 0
    num_images: int = 0
    train_images: int = 0
    curve: tuple[Point, ...] = ()
    """Loss over training; the held-out loss is that of the averaged weights."""
    still_falling: dict[str, bool] = {}
    """By tap, whether the held-out loss was still falling at the end; empty where the curve is too short."""
    finished: str = ""
    """Day on which the training ended (UTC, `2026-11-22`)."""
    versions: dict[str, str] = {}
    """Of Python and the libraries that it was trained with."""


@dataclass(frozen=True)
class AdmDecoder:
    """A decoder with an ADM U-Net, on a device."""

    card: AdmCard
    network: Adm
    device: str

    @property
    def taps(self) -> Mapping[str, int]:
        """`encoder:tap` to width."""
        return self.card.taps

    def denoiser(self, tap: str) -> Denoiser:
        """D(x, sigma, h) of the tap `encoder:tap`; h [B, D] are raw embeddings.

        Raises InputError for an unknown tap, and for embeddings of another width.
        """
        # The published code keeps its estimates of the image within [-1, 1] in every step.
        return denoisers.discrete(self._estimating(tap), self._schedule, clip=True)

    def mean(self, tap: str) -> Callable[[Tensor], Tensor]:
        """Zero for all embeddings h [B, D], as its authors start: nothing in this network gives E[image | h] alone."""
        return lambda h: torch.zeros((), device=self.device)

    def published(self, tap: str, steps: int) -> Callable[[Noise, Tensor], Tensor]:
        """How the published code samples: images [B, 3, S, S] of noise and raw embeddings [B, D].

        Ancestrally with the learned variance, at `steps` of the schedule's steps, evenly spaced. Raises InputError as
        `denoiser` does, and for more steps than the schedule has.
        """
        if not 1 <= steps <= self.card.steps:
            raise InputError(
                expected=f"1 to {self.card.steps} steps, as many as this decoder's schedule has",
                found=str(steps),
                remedy="Change `samples.steps`.",
            )
        network = self._estimating(tap)
        schedule = discrete.respaced(self._schedule, discrete.evenly(steps, self.card.steps))
        return lambda noise, h: discrete.ancestral(network, schedule, noise, h)

    @property
    def _schedule(self) -> discrete.Schedule:
        return discrete.SCHEDULES[self.card.schedule](self.card.steps)

    def _estimating(self, tap: str) -> discrete.Network:
        """F(x_t, t, h), in the network's precision and without gradients."""
        if tap not in self.taps:
            raise InputError(
                expected=f"the decoder's tap, {', '.join(self.taps)}",
                found=tap,
                remedy="Name that one: a decoder of this kind has no other.",
            )

        @torch.no_grad()
        def estimated(x: Tensor, t: Tensor, h: Tensor) -> Tensor:
            if h.shape[1] != self.taps[tap]:
                raise InputError(
                    expected=f"embeddings of width {self.taps[tap]}, as this decoder was trained with",
                    found=f"{h.shape[1]} at {tap}",
                    remedy="Name the encoder and the tap that the decoder was trained for.",
                )
            with arithmetic(self.card.precision, self.device):
                out: Tensor = self.network(x, t, h.to(self.device, torch.float32))
            return out

        return estimated

    def free(self) -> Denoiser:
        """Raises InputError: there is no denoiser without a condition, since none was ever dropped in training."""
        raise InputError(
            expected="a decoder that knows how to paint without a condition, for guidance",
            found="one that was trained with a condition for every image",
            remedy="Paint with guidance 1.",
        )


def pieces(tensors: Mapping[str, Tensor], name: str = "decoder") -> Iterator[tuple[str, bytes]]:
    """Name and bytes of the files that hold these tensors, one after another; equal tensors give equal bytes."""
    number, taken, size = 0, dict[str, Tensor](), 0
    for key in sorted(tensors):
        tensor = tensors[key].detach().to("cpu", torch.float32).contiguous()
        if taken and size + tensor.nbytes > PIECE_BYTES:
            yield f"{name}-{number:02d}.safetensors", save(taken)
            number, taken, size = number + 1, {}, 0
        taken[key] = tensor
        size += tensor.nbytes
    yield f"{name}-{number:02d}.safetensors", save(taken)


def load(inp: Input, card: AdmCard, device: str, snapshot: Snapshot) -> AdmDecoder:
    """The decoder of an artifact; FormatError where its tensors do not fit its card."""
    if snapshot not in card.weights:
        raise InputError(
            expected=f"a snapshot that the decoder has: {', '.join(card.weights)}",
            found=snapshot,
            remedy="A published decoder comes without that of half its training; paint from the final one.",
        )
    tensors: dict[str, Tensor] = {}
    for name in card.weights[snapshot]:
        tensors |= load_tensors(inp.read(name))
    (width,) = card.taps.values()
    try:
        network = assembled(card.network, width, tensors)
    except InputError as error:
        raise FormatError(
            f"tensors that {CARD} describes", error.found, "Run again with --force for that decoder's step."
        ) from error
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return AdmDecoder(card, network, device)
