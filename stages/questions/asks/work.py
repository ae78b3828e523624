"""What the asks do: choose sources, load the encoders under study, embed what they are shown, write conditions."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from torch import Tensor

from stages.contract import Input, Inputs, Output, Summary
from stages.embeddings.format import Table, open_table
from stages.encoders import augment
from stages.encoders.encoder import Encoder, Fingerprint
from stages.encoders.load import load, trained_with, untrained
from stages.encoders.spec import EncoderSpec, Pretrained
from stages.errors import InputError
from stages.images.framing import Framing, fit
from stages.images.pixels import from_unit, to_unit
from stages.images.sets import Images, open_images
from stages.questions.asks.stage import DOWNSIZED, EMBEDDINGS, ENCODER
from stages.questions.asks.transforms import TRANSFORMS, transformed, untaught
from stages.questions.doses import TRAINED, trained_as
from stages.questions.format import Condition, put_conditions, split_tap
from stages.questions.turns import in_turns
from stages.readers.data import rows_of
from stages.readers.score import Numbers
from stages.samples.format import digits

if TYPE_CHECKING:
    from stages.questions.asks.stage import Sources, Transformed

PLAIN = "plain"
"""Variant of a condition that is the embedding of the image as it is."""

OWN = "own"
"""Variant whose transform was drawn from the encoder's own training augmentations."""

CROPS = "crops.safetensors"
LIGHT_CROP = 0.1
"""Share of the area that the light crop cuts away."""

MOVED, SHOWN, TRANSFORMED = "moved", "shown.safetensors", "transforms.json"
"""Embeddings of transformed images stand in `moved/<encoder>/<tap>.safetensors`, the transformed pixels of the painted
sources in `shown.safetensors`, and rows, variants and the augmentations that encoders were trained with in the last."""

TRAIN, MOVED_TRAIN = "train", "moved-train"
"""Rows of train images stand in `transforms.json` as the first, their embeddings, transformed, in
`moved-train/<encoder>/<tap>/<transform>.safetensors` as `VECTORS`."""
VECTORS = "embeddings"

UNTRAINED = "untrained."
"""Prefix of the same embeddings by the network before any training: of images as they are, under the encoder's own
augmentations, and under each transform that it was not trained with."""

BATCH = 256


def ask_sources(stage: "Sources", inputs: Inputs, out: Output, device: str) -> Summary:
    """Conditions: per tap, the stored embedding of each source. Beside them: a light crop of each source, embedded."""
    from safetensors.numpy import save

    rows = chosen(inputs["shards"], stage.count, stage.seed)
    images = open_images(inputs["shards"])
    conditions, vectors = [], {}
    crops: dict[str, NDArray[np.float32]] = {}
    for encoder, taps in by_encoder(stage.taps).items():
        table = table_of(inputs, encoder)
        for tap in taps:
            tap_id = f"{encoder}:{tap}"
            vectors[tap_id] = table.read(tap, PLAIN, rows)
            conditions += [Condition(encoder, tap, int(row), PLAIN, 0.0) for row in rows]
        seeing = encoder_of(inputs, encoder, table, device)
        if seeing is None:
            continue
        if stage.size is not None and seeing.preprocessing.framing != Framing(stage.size):
            shown = downsized_rows(rows, rows_of(inputs["shards"], "heldout"), stage.gallery, stage.seed)
            small = _downsized(seeing, images, shown, stage.size)
            for tap in taps:
                if tap in small:
                    name = f"{DOWNSIZED}/{encoder}/{tap}.safetensors"
                    out.put(name, save({"rows": shown, "embeddings": small[tap]}))
        light = partial(transformed, name="crop", strength=LIGHT_CROP, seed=stage.seed)
        cropped = _embed(seeing, images, rows, light)
        crops |= {f"{encoder}:{tap}": cropped[tap] for tap in taps if tap in cropped}
    put_conditions(out, conditions, vectors, digits(stage, inputs))
    _put_trained(stage.taps, inputs, out)
    out.put(CROPS, save(crops))
    return {"conditions": len(conditions), "sources": len(rows), "crops": sorted(crops)}


def ask_transformed(stage: "Transformed", inputs: Inputs, out: Output, device: str) -> Summary:
    """Embeds every transform of every source at every tap that reads pixels; a few of them are conditions as well."""
    from safetensors.numpy import save

    rows = chosen(inputs["shards"], stage.count, stage.seed)
    images = open_images(inputs["shards"])
    first = in_turns(inputs["shards"], rows)[: stage.paint]
    painted = rows[first]
    variants = [(name, strength) for name, transform in TRANSFORMS.items() for strength in transform.strengths]
    middle = [PLAIN, *TRANSFORMS, OWN]
    conditions: list[Condition] = []
    vectors: dict[str, NDArray[np.float32]] = {}
    shown: dict[str, NDArray[np.uint8]] = {}
    left_out: list[str] = []
    augmentations: dict[str, tuple[str, ...]] = {}
    taught = chosen(inputs["shards"], stage.train, stage.seed, "train") if stage.train else None
    for encoder, taps in by_encoder(stage.taps).items():
        table = table_of(inputs, encoder)
        seeing = encoder_of(inputs, encoder, table, device)
        blind = [tap for tap in taps if seeing is None or tap not in seeing.embed(_blank(seeing))]
        left_out += [f"{encoder}:{tap}" for tap in blind]
        taps = [tap for tap in taps if tap not in blind]
        if seeing is None or not taps:
            continue
        settings = _own_settings(inputs, encoder)
        own = _Own(settings or augment.Augmentations(), stage.seed, stage.draws)
        changes = [partial(transformed, name=name, strength=strength, seed=stage.seed) for name, strength in variants]
        plain = _embed(seeing, images, rows, lambda x, _: x)
        moved = [_embed(seeing, images, rows, change) for change in changes]
        drawn = [_embed(seeing, images, rows, partial(own.draw, number=d)) for d in range(stage.draws)]
        if taught is not None:
            for (name, strength), change in zip(variants, changes, strict=True):
                if strength == TRANSFORMS[name].painted:
                    _put_train(out, encoder, taps, name, _embed(seeing, images, taught, change))
            _put_train(out, encoder, taps, OWN, _embed(seeing, images, taught, partial(own.draw, number=0)))
        raw: dict[str, dict[str, NDArray[np.float32]]] = {}
        if settings is not None:
            augmentations[encoder] = settings.used()
            raw = _untrained(inputs[ENCODER + encoder], images, rows, own, untaught(settings.used()), device)
        for tap in taps:
            tensors = {
                PLAIN: plain[tap],
                "transformed": np.stack([m[tap] for m in moved]),
                OWN: np.stack([d[tap] for d in drawn]),
            }
            tensors |= {UNTRAINED + name: vectors[tap] for name, vectors in raw.items()}
            out.put(f"{MOVED}/{encoder}/{tap}.safetensors", save(tensors))
            by_variant = {PLAIN: plain[tap], OWN: drawn[0][tap]}
            for number, (name, strength) in enumerate(variants):
                if strength == TRANSFORMS[name].painted:
                    by_variant[name] = moved[number][tap]
            vectors[f"{encoder}:{tap}"] = np.concatenate([by_variant[name][first] for name in middle])
            for name in middle:
                strength = TRANSFORMS[name].painted if name in TRANSFORMS else 0.0
                conditions += [Condition(encoder, tap, int(row), name, strength) for row in painted]
        pixels = to_unit(images.decode(painted, seeing.preprocessing.framing))
        middles = (transformed(pixels, painted, name, TRANSFORMS[name].painted, stage.seed) for name in TRANSFORMS)
        shown[encoder] = np.stack([from_unit(x) for x in (pixels, *middles, own.draw(pixels, painted, 0))])
    if not conditions:
        raise InputError(
            "at least one tap that reads pixels",
            ", ".join(stage.taps) or "no taps",
            "Add such a tap to decoder.taps, or leave out this question.",
        )
    put_conditions(out, conditions, vectors, digits(stage, inputs))
    _put_trained(stage.taps, inputs, out)
    out.put(SHOWN, save(shown))
    about = {"rows": rows.tolist(), "variants": variants, "painted": middle, "left_out": left_out}
    about |= {"augmentations": augmentations} | ({} if taught is None else {TRAIN: taught.tolist()})
    out.put(TRANSFORMED, json.dumps(about).encode())
    return {"conditions": len(conditions), "sources": len(rows), "left_out": left_out}


def _put_train(
    out: Output, encoder: str, taps: Sequence[str], name: str, found: Mapping[str, NDArray[np.float32]]
) -> None:
    """Writes the embeddings of train images under a transform, tap by tap."""
    from safetensors.numpy import save

    for tap in taps:
        out.put(f"{MOVED_TRAIN}/{encoder}/{tap}/{name}.safetensors", save({VECTORS: found[tap]}))


def chosen(shards: Input, count: int, seed: int, split: Literal["train", "heldout"] = "heldout") -> Numbers:
    """Rows of a split at random, ascending: int64 [count] or fewer."""
    rows = rows_of(shards, split)
    order = np.random.Generator(np.random.Philox(key=[seed, len(rows)])).permutation(len(rows))
    return np.sort(rows[order[:count]])


def by_encoder(tap_ids: Sequence[str]) -> Mapping[str, list[str]]:
    """Tap ids (`encoder:tap`) as encoder -> taps; InputError where there is none."""
    if not tap_ids:
        raise InputError("taps to ask about", "none", "Name them as encoder:tap.")
    found: dict[str, list[str]] = {}
    for tap_id in tap_ids:
        encoder, tap = split_tap(tap_id)
        found.setdefault(encoder, []).append(tap)
    return found


def table_of(inputs: Inputs, encoder: str) -> Table:
    """The table of embeddings of an encoder; InputError where it is not among the inputs."""
    if EMBEDDINGS + encoder not in inputs:
        available = ", ".join(sorted(name.removeprefix(EMBEDDINGS) for name in inputs if name.startswith(EMBEDDINGS)))
        raise InputError(
            f"embeddings of {encoder!r}", f"those of {available or 'nothing'}", "Give them to the ask as an input."
        )
    return open_table(inputs[EMBEDDINGS + encoder])


def encoder_of(inputs: Inputs, encoder: str, table: Table, device: str) -> Encoder | None:
    """The encoder that made a table; None where it is an artifact and not among the inputs."""
    spec: EncoderSpec = TypeAdapter(EncoderSpec).validate_python(table.attributes["encoder"])
    given = {"images": inputs["shards"]}
    if isinstance(spec, Pretrained):
        if ENCODER + encoder not in inputs:
            return None
        given[spec.input] = inputs[ENCODER + encoder]
    seeing = load(spec, given, device)
    made_by = Fingerprint.model_validate(table.attributes["fingerprint"])
    if differences := made_by.differences(seeing.fingerprint()):
        raise InputError(
            f"the encoder {encoder} that made the stored embeddings",
            differences,
            "Use the library versions that they were made with, or run again with --force for that embeddings step.",
        )
    return seeing


@dataclass(frozen=True)
class _Own:
    """Draws from an encoder's own training augmentations, several for each image."""

    settings: augment.Augmentations
    seed: int
    draws: int

    def draw(self, images: Tensor, rows: Numbers, number: int) -> Tensor:
        """Draw `number` of each image: float32 [B, 3, H, W] in [0, 1]."""
        return augment.apply(images, augment.draw(self.settings, self.seed, rows * self.draws + number))


def _own_settings(inputs: Inputs, encoder: str) -> augment.Augmentations | None:
    """What an encoder was trained with, where it is known; others get the default recipe, to be compared."""
    trained = inputs.get(ENCODER + encoder)
    return None if trained is None else trained_with(trained)


def _untrained(
    encoder: Input, images: Images, rows: Numbers, own: _Own, foreign: Sequence[str], device: str
) -> dict[str, dict[str, NDArray[np.float32]]]:
    """Embeddings by the untrained network, by what was done to the images and by tap."""
    seeing = untrained(encoder, device)
    found = {PLAIN: _embed(seeing, images, rows, lambda x, _: x)}
    draws = [_embed(seeing, images, rows, partial(own.draw, number=d)) for d in range(own.draws)]
    found[OWN] = {tap: np.stack([d[tap] for d in draws]) for tap in draws[0]}
    for name in foreign:
        change = partial(transformed, name=name, strength=TRANSFORMS[name].painted, seed=own.seed)
        found[name] = _embed(seeing, images, rows, change)
    return found


def _put_trained(taps: Sequence[str], inputs: Inputs, out: Output) -> None:
    """Writes what the encoders of the taps were trained with, of those that were pretrained here."""
    given = {name: inputs[ENCODER + name] for name in by_encoder(taps) if ENCODER + name in inputs}
    trained = {name: entry for name, artifact in given.items() if (entry := trained_as(artifact)) is not None}
    out.put(TRAINED, json.dumps(trained).encode())


def downsized_rows(sources: Numbers, heldout: Numbers, count: int, seed: int) -> Numbers:
    """The sources and other held-out rows at random, ascending: int64 [count] or fewer."""
    others = np.setdiff1d(heldout, sources)
    order = np.random.Generator(np.random.Philox(key=[seed, len(others)])).permutation(len(others))
    return np.sort(np.concatenate([sources, others[order[: max(0, count - len(sources))]]]))


def _downsized(encoder: Encoder, images: Images, rows: Numbers, size: int) -> dict[str, NDArray[np.float32]]:
    """Images embedded as samples of the same pixels would be: cut and resized to `size`, then framed by the encoder."""
    found: dict[str, list[NDArray[np.float32]]] = {}
    for batch in batches(rows):
        small = images.decode(batch, size)
        shown = np.stack([fit(image, encoder.preprocessing.framing) for image in small])
        for tap, vectors in encoder.embed(shown).items():
            found.setdefault(tap, []).append(vectors)
    return {tap: np.concatenate(parts) for tap, parts in found.items()}


def _blank(encoder: Encoder) -> NDArray[np.uint8]:
    return np.zeros((1, encoder.preprocessing.size, encoder.preprocessing.size, 3), dtype=np.uint8)


def _embed(
    encoder: Encoder, images: Images, rows: Numbers, change: Callable[[Tensor, Numbers], Tensor]
) -> dict[str, NDArray[np.float32]]:
    """Changed images at every tap that reads pixels: tap -> float32 [N, D]."""
    found: dict[str, list[NDArray[np.float32]]] = {}
    for batch in batches(rows):
        pixels = to_unit(images.decode(batch, encoder.preprocessing.framing))
        with torch.no_grad():
            shown = from_unit(change(pixels, batch))
        for tap, vectors in encoder.embed(shown).items():
            found.setdefault(tap, []).append(vectors)
    return {tap: np.concatenate(parts) for tap, parts in found.items()}


def batches(rows: Numbers) -> Iterator[Numbers]:
    """Rows in runs of at most `BATCH`."""
    for start in range(0, len(rows), BATCH):
        yield rows[start : start + BATCH]
