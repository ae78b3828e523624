"""Importing an encoder, and the files it is kept in: `network.json` and `weights-00000.safetensors` ….

`network.json` says how the network is built again, how it sees images, which taps it has and where it comes from;
the last file of weights also holds the embeddings of the probe batch, against which every later load is checked.
"""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from stages.contract import Input, Output, Summary
from stages.encoders.agreement import library_embedding, pixel_difference, require_agreement
from stages.encoders.card import CARD, ImportedCard, parse_card
from stages.encoders.determinism import SEEDS, differing, digests, require_deterministic, seeded, zero_unneeded
from stages.encoders.encoder import NetworkEncoder, Vectors, probe_batch, require_same
from stages.encoders.format import PROBE, digest
from stages.encoders.sources import code, hf, published, timm, torchvision
from stages.encoders.sources.build import Built, reason
from stages.encoders.sources.guard import unattended
from stages.encoders.sources.settings import Hf, Override, PublishedEncoder, Timm, Torch, Torchvision
from stages.encoders.spec import Preprocessing
from stages.encoders.taps import Tapped, Trunk
from stages.encoders.weights import few, versioned
from stages.errors import FormatError, InputError, StageError, without_credentials
from stages.training import provenance
from stages.training.precision import Precision

if TYPE_CHECKING:
    from stages.encoders.stage import Imported

UNKNOWN = ""
"""Digest of weights that are still being checked."""
PIECE_BYTES = 2**28
"""Weights are cut into files of about this size: one must go into one request."""


def run(stage: "Imported", out: Output) -> Summary:
    """Loads the encoder of `stage` twice, compares, checks and writes it; returns the summary."""
    with unattended():
        built, seen, encoder, zeroed, probes = _checked(stage)
    own = stage.source.taps()
    weights = built.trunk.network.state_dict()
    pieces = 0
    for data in _pieces(weights, probes):
        out.put(_piece(pieces), data)
        pieces += 1
    card = ImportedCard(
        source=without_credentials(stage.source.model_dump(mode="json")),
        recipe=built.recipe,
        own_taps=own,
        named_taps=stage.taps,
        taps=encoder.taps,
        preprocessing=seen,
        precision=stage.precision,
        augmentations=stage.augmentations,
        weights_sha256=digest(weights),
        files=built.files,
        unused=tuple(built.unused),
        zeroed=tuple(zeroed),
        pieces=pieces,
        versions=provenance.versions(),
    )
    card = parse_card(out.put(CARD, card.model_dump_json(indent=1).encode()))
    return {
        "taps": card.taps,
        "weights_sha256": card.weights_sha256,
        "files": card.files,
        "parameters": sum(tensor.numel() for tensor in built.trunk.network.parameters()),
        "preprocessing": card.preprocessing.model_dump(mode="json"),
        "precision": card.precision,
        "unused": len(card.unused),
        "zeroed": len(card.zeroed),
        "versions": card.versions,
    }


def _checked(stage: "Imported") -> tuple[Built, Preprocessing, NetworkEncoder, list[str], Vectors]:
    """The network of `stage` with its weights, how it sees images, the encoder that it becomes, names that were set to
    zero, and embeddings of the probe batch. Raises InputError where a check fails.
    """
    before, first_digests, first_weights, seen = _first(stage)
    with seeded(_seed(stage, SEEDS[1])):
        built = build(stage)
    if _same_objects(first_weights, built.trunk.network):
        raise InputError(
            "a new network each time it is built",
            "the same one: what changes in it for one encoder would change for all",
            "Build the network inside the function, which may not be cached.",
        )
    unequal = differing(first_digests, digests(built.trunk.network))
    untapped = library_embedding(built.trunk, seen)
    tapped = Tapped(built.trunk, stage.source.taps(), stage.taps)
    encoder = encoder_of(tapped, seen, stage.precision, "cpu", UNKNOWN)
    with _forward_passes(seen):
        probe = probe_batch(seen.size)
        zeroed = zero_unneeded(built, encoder, probe, unequal)
        probes = require_deterministic(encoder, built.trunk.network, probe, before, tapped.windowed)
        require_agreement(encoder, tapped, untapped)
    return built, seen, encoder, zeroed, probes


def build(stage: "Imported") -> Built:
    """The network of a stage's source, with its weights, on the CPU. Raises InputError where it cannot be stored."""
    with unattended():
        match stage.source:
            case Timm() as source:
                built = timm.build(source)
            case Hf() as source:
                built = hf.build(source)
            case Torchvision() as source:
                built = torchvision.build(source)
            case Torch() as source:
                built = code.build(source)
            case PublishedEncoder() as source:
                built = published.build(source)
    _require_tensors(built.trunk.network)
    return built


def _require_tensors(network: nn.Module) -> None:
    """Raises InputError where the state of a network is more than tensors with numbers in them, or less than all."""
    remedy = "Change the network: what it keeps beside its weights is not stored."
    try:
        state = dict(network.state_dict())
    # It may be the user's own.
    except Exception as error:
        raise InputError("a network whose `state_dict()` gives its weights", reason(error), remedy) from error
    others = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if others:
        found = ", ".join(f"{name} ({type(state[name]).__name__})" for name in others)
        raise InputError("a network whose `state_dict()` has tensors alone", found, remedy)
    if lazy := [name for name, tensor in state.items() if is_lazy(tensor)]:
        raise InputError(
            "a network whose weights have their sizes",
            f"{few(lazy)} without: they are those of lazy layers",
            "Run it once inside the function, or name a file under `weights`.",
        )
    if empty := [name for name, tensor in state.items() if tensor.is_meta]:
        raise InputError(
            "a network with numbers in its weights",
            f"{few(empty)} on the device meta, which have none",
            "Build it on the CPU, or name a file under `weights`.",
        )


def _same_objects(weights: Sequence["weakref.ref[nn.Parameter]"], network: nn.Module) -> bool:
    """Whether a network has one of these parameters, as far as they still exist."""
    known = {id(weight) for reference in weights if (weight := reference()) is not None}
    return any(id(weight) in known for weight in network.parameters())


def rebuild(card: ImportedCard) -> Trunk:
    """The network of a card, with any weights."""
    recipe = card.recipe
    if recipe["kind"] == "torch" and "code" not in recipe:
        # Recipes had no digest of their file before; the card had it, among all files that were read.
        file = Path(recipe["factory"].rpartition(":")[0]).name
        recipe = recipe | ({"code": card.files[file]} if file in card.files else {})
    kinds = {
        "timm": timm.rebuild,
        "hf": hf.rebuild,
        "torchvision": torchvision.rebuild,
        "torch": code.rebuild,
        "released": published.rebuild,
    }
    with unattended():
        return kinds[recipe["kind"]](recipe)


def preprocessing(override: Override, found: Preprocessing | None, unknown: str = Built.unknown) -> Preprocessing:
    """What comes with a network, as the study changes it.

    Raises InputError where nothing comes, for the reason `unknown`, and the study lacks size, mean or std.
    """
    if found is None:
        if override.size is None or override.mean is None or override.std is None:
            raise InputError(
                f"`preprocessing` with size, mean and std, since {unknown}",
                override.model_dump_json(exclude_defaults=True),
                "Write them into the study, or `preprocessing: imagenet`: the network then sees images as the study "
                "says, not as its library shows them.",
            )
        found = Preprocessing(size=override.size)
    try:
        return override.on(found)
    except ValidationError as error:
        raise InputError("a preprocessing that fits together", str(error), "Correct `preprocessing`.") from error


def agreed(override: Override, built: Built) -> Preprocessing:
    """`preprocessing` of a network, whose own is only used where it agrees with the library's transform."""
    found, unknown = built.preprocessing, built.unknown
    written_out = None not in (override.size, override.mean, override.std)
    if found is not None and built.transform is not None and not written_out:
        try:
            difference = pixel_difference(found, built.transform)
        # The transform is the library's, and what it raises for an image is a difference too.
        except Exception as error:
            difference = f"its own preprocessing fails ({reason(error)})"
        if difference:
            found, unknown = None, f"the library's own preprocessing is none that is known here: {difference}"
    return preprocessing(override, found, unknown)


def encoder_of(
    tapped: Tapped, seen: Preprocessing, precision: Precision, device: str, weights_sha256: str
) -> NetworkEncoder:
    """A network as an encoder. Raises InputError for a tap that it has not, and where its forward pass fails."""
    with _forward_passes(seen):
        return NetworkEncoder(tapped, seen, device, precision, weights_sha256)


@contextmanager
def _forward_passes(seen: Preprocessing) -> Iterator[None]:
    """What a network raises in its forward pass as one of our errors."""
    try:
        yield
    except StageError:
        raise
    # A network of the user's own may raise anything, and one written for a script exits.
    except (Exception, SystemExit) as error:
        raise InputError(
            f"a forward pass that takes one tensor of any number of images of {seen.size} x {seen.size} pixels, "
            "[B, 3, H, W]",
            reason(error),
            "Correct the network or its `options`; where it takes images of another size, `preprocessing: {size: …}`.",
        ) from error


def read(inp: Input, device: str) -> NetworkEncoder:
    """The imported encoder in an artifact of the `encoder` step.

    Raises FormatError where its weights are not those the card was written for, InputError where it no longer gives the
    embeddings it was stored with.
    """
    from safetensors.torch import load

    card = parse_card(inp.read(CARD))
    tensors: dict[str, Tensor] = {}
    for number in range(card.pieces):
        tensors |= load(inp.read(_piece(number)))
    stored = {name.removeprefix(PROBE): tensors.pop(name) for name in list(tensors) if name.startswith(PROBE)}
    found = digest(tensors)
    if found != card.weights_sha256:
        raise FormatError(
            expected=f"weights with sha256 {card.weights_sha256}",
            found=found,
            remedy="Run again with --force for the encoder's step.",
        )
    with seeded(SEEDS[0]):
        trunk = rebuild(card)
    try:
        nn.Module.load_state_dict(trunk.network, versioned(trunk.network, tensors))
    # Hooks of a network may raise anything.
    except Exception as error:
        raise InputError(
            expected="the network that the weights were stored for",
            found=" ".join(str(error).split())[:300],
            remedy=f"Use the library versions it was imported with: {card.versions}.",
        ) from error
    tapped = Tapped(trunk, card.own_taps, card.named_taps)
    encoder = encoder_of(tapped, card.preprocessing, card.precision, device, card.weights_sha256)
    embedded = encoder.embed(probe_batch(card.preprocessing.size))
    require_same({tap: values.numpy() for tap, values in stored.items()}, embedded, encoder.tolerance)
    return encoder


def untrained(inp: Input, device: str) -> NetworkEncoder:
    """The network of an artifact of the `encoder` step with the weights that its library draws."""
    card = parse_card(inp.read(CARD))
    with seeded(SEEDS[1]):
        trunk = rebuild(card)
    tapped = Tapped(trunk, card.own_taps, card.named_taps)
    return encoder_of(tapped, card.preprocessing, card.precision, device, UNKNOWN)


def _first(
    stage: "Imported",
) -> tuple[Vectors, dict[str, str], "list[weakref.ref[nn.Parameter]]", Preprocessing]:
    """What the second load is compared with: embeddings of the probe batch, a digest of every weight, and the
    parameters as objects; and how the network sees images.
    """
    with seeded(_seed(stage, SEEDS[0])):
        built = build(stage)
    seen = agreed(stage.preprocessing, built)
    weight_digests = digests(built.trunk.network)
    tapped = Tapped(built.trunk, stage.source.taps(), stage.taps)
    encoder = encoder_of(tapped, seen, stage.precision, "cpu", UNKNOWN)
    weights = [weakref.ref(weight) for weight in built.trunk.network.parameters()]
    with _forward_passes(seen):
        return encoder.embed(probe_batch(seen.size)), weight_digests, weights, seen


def _seed(stage: "Imported", seed: int) -> int:
    """A network that is meant to be random is drawn with its own seed, both times."""
    source = stage.source
    return source.seed if isinstance(source, Timm | Hf | Torchvision) and source.untrained else seed


def _pieces(weights: Mapping[str, Tensor], probes: Vectors) -> Iterator[bytes]:
    """safetensors files of about `PIECE_BYTES`, the embeddings of the probe batch in the last."""
    from safetensors.torch import save

    piece: dict[str, Tensor] = {}
    size = 0
    for name, tensor in weights.items():
        if piece and size + tensor.nbytes > PIECE_BYTES:
            yield save(piece)
            piece, size = {}, 0
        # A clone, because safetensors refuses tensors that share memory.
        piece[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        size += tensor.nbytes
    yield save(piece | {PROBE + tap: torch.from_numpy(vectors) for tap, vectors in probes.items()})


def _piece(number: int) -> str:
    return f"weights-{number:05d}.safetensors"
