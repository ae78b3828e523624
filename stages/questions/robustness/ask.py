"""What the ask does: attacks the sources at every tap of a network, embeds them and writes conditions."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.attributes import Attribute
from stages.contract import Input, Inputs, Output, Summary
from stages.embeddings.format import Table
from stages.encoders import format as trained
from stages.encoders.encoder import NetworkEncoder
from stages.encoders.spec import require
from stages.errors import InputError
from stages.images.pixels import to_unit
from stages.images.sets import open_images
from stages.questions.asks.stage import ENCODER
from stages.questions.asks.work import PLAIN, by_encoder, chosen, encoder_of, table_of
from stages.questions.format import Condition, put_conditions
from stages.questions.robustness import attacks
from stages.questions.robustness.attacks import LinearProbe
from stages.questions.turns import in_turns
from stages.readers.data import rows_of, table_attributes
from stages.readers.score import Numbers
from stages.samples.format import digits
from stages.training.precision import unrounded

if TYPE_CHECKING:
    from stages.questions.robustness.stage import Attacked

Vectors = NDArray[np.float32]

ATTACKS, ABOUT = "attacks", "attacks.json"
"""Embeddings of attacked images stand in `attacks/<encoder>/<tap>.safetensors`; rows, strengths, what is known of the
encoders, whose attacks were transferred and what was left out in the other."""
PGD, FGSM, SIGNS = "pgd", "fgsm", "signs"
"""Tensors of that file beside `PLAIN` [N, D]: float32 [E, N, D], by eps."""
TRANSFER, CORRECT = "transfer", "correct"
"""PGD of other encoders at the middle eps, float32 [T, N, D]; and whether the probe is right without an attack and
under PGD against it, float32 [1 + E, N], NaN where the label is not known."""
BATCH = 32
"""Images that are attacked at once: a backward pass keeps every layer."""
PROBE_ROWS = 10_000
"""Train images that a linear probe is fitted to, at most."""


def variant(attack: str, eps: float) -> str:
    """Name of a condition, and subject of a row: the attack and its eps in 255ths."""
    return f"{attack} {eps:g}"


@dataclass(frozen=True)
class _Labels:
    """A class attribute, and its values by row, float64, NaN where unknown."""

    attribute: Attribute
    values: NDArray[np.float64]


@dataclass(frozen=True)
class _Tap:
    """A tap of a network as a function of pixels."""

    encoder: NetworkEncoder
    tap: str
    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, encoder: NetworkEncoder, table: Table, tap: str) -> "_Tap":
        """Standardised as everything that measures distances does."""
        statistics = table.statistics(tap)
        mean, scale = (torch.from_numpy(x).to(encoder.device) for x in (statistics.mean, statistics.scale))
        return cls(encoder, tap, mean, scale)

    def embed(self, images: Tensor) -> Tensor:
        """float32 [B, 3, H, W] in [0, 1], at the encoder's size, to [B, D]; passes gradients on."""
        return self.encoder.forward(images)[self.tap]

    def standardised(self, images: Tensor) -> Tensor:
        """The same in units of each feature's standard deviation."""
        return (self.embed(images) - self.mean) / self.scale

    def vectors(self, images: Tensor) -> Vectors:
        """Embeddings of many images."""
        with torch.no_grad():
            found = [self.embed(batch.to(self.encoder.device)).cpu() for batch in torch.split(images, BATCH)]
        return torch.cat(found).numpy()


@dataclass(frozen=True)
class _Attacked:
    """A tap under attack: the tensors that are written, and the pixels under PGD at the middle eps."""

    tensors: dict[str, Vectors]
    middle: Tensor


def ask_attacked(stage: "Attacked", inputs: Inputs, out: Output, device: str) -> Summary:
    """Attacks every source at every tap of a network; the embeddings of a few of them are conditions as well."""
    from safetensors.numpy import save

    rows = chosen(inputs["shards"], stage.count, stage.seed)
    labels = _labels(inputs["shards"], stage.attribute)
    levels = (*stage.eps, stage.large)
    names = [PLAIN, *(variant(PGD, eps) for eps in levels), variant(SIGNS, stage.eps[len(stage.eps) // 2])]
    taps: dict[str, _Tap] = {}
    under: dict[str, _Attacked] = {}
    left_out: list[str] = []
    images = open_images(inputs["shards"])
    with unrounded("float32", deterministic=True):
        for name, wanted in by_encoder(stage.taps).items():
            table = table_of(inputs, name)
            encoder = encoder_of(inputs, name, table, device)
            if not isinstance(encoder, NetworkEncoder):
                left_out += [f"{name}:{tap}" for tap in wanted]
                continue
            pixels = to_unit(images.decode(rows, encoder.preprocessing.framing))
            for tap in wanted:
                at = _Tap.of(encoder, table, tap)
                probe = None if labels is None else _probe(at, table, inputs["shards"], labels, stage.seed)
                taps[f"{name}:{tap}"] = at
                under[f"{name}:{tap}"] = _attack(stage, at, pixels, rows, probe, labels)
        transfers = {tap_id: _alike(tap_id, taps) for tap_id in taps}
        for tap_id, others in transfers.items():
            if others:
                moved = np.stack([taps[tap_id].vectors(under[other].middle) for other in others])
                under[tap_id].tensors[TRANSFER] = moved
    if not taps:
        raise InputError(
            "at least one tap of a network",
            ", ".join(stage.taps) or "no taps",
            "Add a tap of an encoder with a network to decoder.taps, or leave out this question.",
        )
    first = in_turns(inputs["shards"], rows)[: stage.paint]
    conditions: list[Condition] = []
    painted: dict[str, Vectors] = {}
    for tap_id, at in taps.items():
        encoder_name = tap_id.partition(":")[0]
        tensors = under[tap_id].tensors
        out.put(f"{ATTACKS}/{encoder_name}/{at.tap}.safetensors", save(tensors))
        middle = tensors[SIGNS][len(stage.eps) // 2]
        variants = [tensors[PLAIN], *tensors[PGD], middle]
        painted[tap_id] = np.concatenate([vectors[first] for vectors in variants])
        strengths = (0.0, *levels, stage.eps[len(stage.eps) // 2])
        for kind, strength in zip(names, strengths, strict=True):
            conditions += [Condition(encoder_name, at.tap, int(r), kind, strength) for r in rows[first]]
    put_conditions(out, conditions, painted, digits(stage, inputs))
    encoders = {tap_id.partition(":")[0]: at.encoder for tap_id, at in taps.items()}
    about = {
        "rows": rows.tolist(),
        "eps": levels,
        "middle": len(stage.eps) // 2,
        "methods": {name: _method(inputs, name) for name in encoders},
        "trainings": {name: _training(inputs, name) for name in encoders},
        "framings": {name: repr(encoder.preprocessing.framing) for name, encoder in encoders.items()},
        "transfers": transfers,
        "attribute": None if labels is None else labels.attribute.name,
        "left_out": left_out,
    }
    out.put(ABOUT, json.dumps(about).encode())
    return {"conditions": len(conditions), "sources": len(rows), "left_out": left_out}


def _attack(
    stage: "Attacked",
    at: _Tap,
    images: Tensor,
    rows: Numbers,
    probe: LinearProbe | None,
    labels: _Labels | None,
) -> _Attacked:
    """Every attack on images float32 [N, 3, H, W], a batch at a time."""
    levels = (*stage.eps, stage.large)
    parts: list[dict[str, Vectors]] = []
    middles: list[Tensor] = []
    for start in range(0, len(rows), BATCH):
        numbers = rows[start : start + BATCH]
        x = images[start : start + BATCH].to(at.encoder.device)
        with torch.no_grad():
            plain = at.standardised(x)

        def movement(pixels: Tensor, plain: Tensor = plain) -> Tensor:
            return (at.standardised(pixels) - plain).square().sum(1)

        def drawn(stream: int, x: Tensor = x, numbers: Numbers = numbers) -> Tensor:
            return attacks.uniform(x.shape[1:], numbers, stage.seed, stream).to(x.device)

        starts = [drawn(number) for number in range(stage.restarts)]
        directions = drawn(attacks.SIGNS)
        found: dict[str, list[Tensor]] = {PGD: [], FGSM: [], SIGNS: []}
        for eps in (level / 255 for level in levels):
            found[PGD].append(attacks.pgd(movement, x, starts, eps, stage.steps))
            found[FGSM].append(attacks.fgsm(movement, x, starts[0], eps))
            found[SIGNS].append(attacks.signs(x, directions, eps))
        middles.append(found[PGD][len(stage.eps) // 2].cpu())
        part = {name: np.stack([at.vectors(pixels) for pixels in by_eps]) for name, by_eps in found.items()}
        part[PLAIN] = at.vectors(x)
        if probe is not None and labels is not None:
            part[CORRECT] = _correct(stage, at, x, starts[0], probe, labels.values[numbers])
        parts.append(part)
    axes = {name: 0 if name == PLAIN else 1 for name in parts[0]}
    tensors = {name: np.concatenate([part[name] for part in parts], axis=axis) for name, axis in axes.items()}
    return _Attacked(tensors, torch.cat(middles))


def _correct(
    stage: "Attacked", at: _Tap, x: Tensor, start: Tensor, probe: LinearProbe, values: NDArray[np.float64]
) -> Vectors:
    """Whether the probe is right about images, plain and under PGD against it: float32 [1 + E, B], NaN: no label.

    Its objective has a gradient at the image itself, so one start is enough.
    """
    unknown = np.isnan(values)
    labels = torch.from_numpy(np.nan_to_num(values).astype(np.int64)).to(x.device)

    def lead(pixels: Tensor) -> Tensor:
        return probe.lead(at.standardised(pixels), labels)

    shown = [x] + [attacks.pgd(lead, x, [start], eps / 255, stage.steps) for eps in (*stage.eps, stage.large)]
    with torch.no_grad():
        right = np.stack([(lead(pixels) < 0).cpu().numpy() for pixels in shown])
    return np.where(unknown, np.float32(np.nan), right.astype(np.float32))


def _labels(shards: Input, attribute: str | None) -> _Labels | None:
    """The class attribute of that name, or the first one; None where the dataset has none and none is named."""
    known = {found.name: found for found in table_attributes(shards) if found.kind == "class"}
    if attribute is None and not known:
        return None
    if attribute is not None:
        require("class attribute of the dataset", attribute, known)
    found = known[attribute] if attribute is not None else next(iter(known.values()))
    return _Labels(found, open_images(shards).values([found.name])[found.name])


def _probe(at: _Tap, table: Table, shards: Input, labels: _Labels, seed: int) -> LinearProbe:
    """Fitted to the stored embeddings of train images whose label is known."""
    train = rows_of(shards, "train")
    train = train[~np.isnan(labels.values[train])]
    if not len(train):
        raise InputError(
            f"train images with a known {labels.attribute.name}", "none", "Name another attribute under `attacked`."
        )
    order = np.random.Generator(np.random.Philox(key=[seed, len(train)])).permutation(len(train))
    train = np.sort(train[order[:PROBE_ROWS]])
    x = torch.from_numpy(table.statistics(at.tap).standardise(table.read(at.tap, PLAIN, train)).astype(np.float32))
    wanted = torch.from_numpy(labels.values[train].astype(np.int64))
    device = at.encoder.device
    return attacks.fit(x.to(device), wanted.to(device), len(labels.attribute.classes), seed)


def _alike(tap_id: str, taps: Mapping[str, _Tap]) -> list[str]:
    """Taps of that name of other encoders that frame images alike: what attacks the one can be shown to the other."""
    own = taps[tap_id]
    return [
        other
        for other, at in taps.items()
        if at.encoder is not own.encoder
        and at.tap == own.tap
        and at.encoder.preprocessing.framing == own.encoder.preprocessing.framing
    ]


def _method(inputs: Inputs, encoder: str) -> str:
    """What a trained encoder's card says that it was trained by; empty for all others, and for checkpoints."""
    artifact = inputs.get(ENCODER + encoder)
    if artifact is None or trained.CARD not in artifact.names():
        return ""
    card = trained.read_card(artifact)
    return "" if trained.IMAGES_SEEN in card.training else card.method


def _training(inputs: Inputs, encoder: str) -> dict[str, Any]:
    """What the card of an encoder that was trained here says of its training: its label, if any, and its seed."""
    artifact = inputs.get(ENCODER + encoder)
    if artifact is None or trained.CARD not in artifact.names():
        return {}
    settings = trained.read_card(artifact).training
    return {name: settings[name] for name in ("label", "seed") if name in settings}
