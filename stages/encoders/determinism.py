"""Determinism checks: weights left to chance, dropout that stays on, and statistics over the batch are named."""

import hashlib
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stages.encoders.encoder import NetworkEncoder, Vectors, distances
from stages.encoders.sources.build import Built
from stages.encoders.weights import NAMED, few
from stages.errors import InputError

SEEDS = (11, 23)
"""Global seeds of the two loads: what is left to chance comes out differently."""

CONSTANT = 1e-6
"""Largest difference between embeddings that are one, relative to their largest number."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Python, NumPy and torch draw from `seed` inside, and go on afterwards as if nothing had been drawn."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def digests(network: nn.Module) -> dict[str, str]:
    """Short sha256 of every parameter and buffer, by name."""
    return {name: _digest(tensor) for name, tensor in _tensors(network).items()}


def differing(first: Mapping[str, str], second: Mapping[str, str]) -> list[str]:
    """Names of parameters and buffers that two loads do not share."""
    return [name for name in (*first, *(set(second) - set(first))) if first.get(name) != second.get(name)]


def zero_unneeded(built: Built, encoder: NetworkEncoder, probe: NDArray[np.uint8], unequal: Sequence[str]) -> list[str]:
    """Sets weights that no file gave and no tap depends on to zero; returns their names.

    `unequal` are names whose values two loads do not share, `probe` is uint8 [B, H, W, 3]. Raises InputError where a
    tap depends on one of them, or on weights that the file lacks: they stand at random initialisation.
    """
    tensors = _tensors(built.trunk.network)
    suspects = [name for name in dict.fromkeys([*built.missing, *unequal]) if name in tensors]
    if not suspects:
        return []
    at_fault = _depended_on(encoder, built.trunk.network, suspects, probe)
    if at_fault:
        lacking = [name for name in at_fault if name in built.missing]
        others = [name for name in at_fault if name not in built.missing]
        found = [f"no weights for {few(lacking)}: they stand at random initialisation"] if lacking else []
        found += [f"other values of {few(others)} each time the network is made"] if others else []
        raise InputError(
            "the same network each time it is loaded",
            "; ".join(found),
            "Give a file with all its weights (`inside` says where in it), or code that draws nothing at random.",
        )
    for name in suspects:
        tensors[name].data.zero_()
    return suspects


def _depended_on(
    encoder: NetworkEncoder, network: nn.Module, names: Sequence[str], probe: NDArray[np.uint8]
) -> list[str]:
    """Those of `names` that an embedding depends on: it is no number where they are none, or another one where they are
    other integers.
    """
    tensors = _tensors(network)
    first = encoder.embed(probe[:1])

    def reach(poisoned: Sequence[str]) -> bool:
        kept = {name: tensors[name].detach().clone() for name in poisoned}
        for name in poisoned:
            data = tensors[name].data
            if data.is_floating_point() or data.is_complex():
                data.fill_(float("nan"))
            else:
                data.copy_(data == 0)
        try:
            reached = bool(distances(first, encoder.embed(probe[:1]), encoder.tolerance))
        # A network may refuse to go on with what is no number, or no index.
        except Exception:
            reached = True
        for name in poisoned:
            tensors[name].data.copy_(kept[name])
        return reached

    if not reach(names):
        return []
    # One by one only as many as a message names: each costs a forward pass.
    return [name for name in names[: 4 * NAMED] if reach([name])] + list(names[4 * NAMED :])


def require_deterministic(
    encoder: NetworkEncoder,
    network: nn.Module,
    probe: NDArray[np.uint8],
    before: Vectors,
    windowed: Collection[str] = (),
) -> Vectors:
    """The embeddings of the probe batch, uint8 [B, H, W, 3]: the same again, in another load and image by image.

    `before` are those of another load, `windowed` the taps that give several rows for an image. Raises InputError where
    an embedding is not finite, naming the weights that are not, and where two differ by more than the encoder's
    tolerance, naming the submodules whose output differed.
    """
    tolerance = encoder.tolerance
    first, second = encoder.embed(probe), encoder.embed(probe)
    if taps := [tap for tap, vectors in first.items() if not np.isfinite(vectors).all()]:
        real = {name: tensor for name, tensor in _tensors(network).items() if tensor.is_floating_point()}
        weights = [name for name, tensor in real.items() if not tensor.isfinite().all()]
        raise InputError(
            "embeddings that are finite",
            f"NaN or infinity at {few(taps)}, and {f'in the weights {few(weights)}' if weights else 'in no weight'}",
            "Use a file whose weights are all finite." if weights else "Check `preprocessing`, and the forward pass.",
        )
    if taps := [tap for tap, vectors in first.items() if _same(vectors)]:
        zero = [tap for tap in taps if not first[tap].any()]
        raise InputError(
            "embeddings that differ between images",
            f"one embedding of all images at {few(taps)}{f' (zero at {few(zero)})' if zero else ''}",
            "Check that the weights are those of a trained network; leave such a tap out.",
        )
    if far := distances(first, second, tolerance):
        raise InputError(
            f"the same embeddings of the same images a second time, within {tolerance:g}",
            f"a relative difference at {far}; different outputs for the same input: "
            f"{few(_nondeterministic(encoder, network, probe)) or 'no submodule alone'}",
            "Take chance out of the forward pass: dropout that stays on in evaluation, noise, random masks.",
        )
    if far := distances(first, before, tolerance):
        raise InputError(
            f"the same embeddings of the same images in another load, within {tolerance:g}",
            f"a relative difference at {far}, although all parameters and buffers that they depend on are the same",
            "Register what else the network computes with (register_buffer, submodules outside of lists), and keep "
            "nothing of the images it has seen.",
        )
    alone = [encoder.embed(image[None]) for image in probe]
    joined = {tap: np.concatenate([vectors[tap] for vectors in alone]) for tap in first}
    if far := distances({tap: vectors for tap, vectors in first.items() if tap not in windowed}, joined, tolerance):
        raise InputError(
            f"the same embedding of an image in any batch, within {tolerance:g}",
            f"a relative difference at {far}; normalised over the batch: {few(_over_batch(network)) or 'unknown'}",
            "Give the network normalisation with statistics of its own (track_running_stats), in evaluation mode.",
        )
    if far := distances({tap: vectors for tap, vectors in first.items() if tap in windowed}, joined, tolerance):
        raise InputError(
            "the rows of each image one after the other, where a tap gives several for an image",
            f"other embeddings of an image alone than beside others: a relative difference at {far}",
            "Its submodule works on positions or on tokens first: name the block that holds it.",
        )
    return first


def _nondeterministic(encoder: NetworkEncoder, network: nn.Module, probe: NDArray[np.uint8]) -> list[str]:
    """Submodules whose output differed between two passes although their input was the same; the innermost of each."""
    passes: list[dict[str, tuple[str, str]]] = []
    for _ in range(2):
        digests_of: dict[str, tuple[str, str]] = {}
        hooks = [
            module.register_forward_hook(partial(_record, digests_of, name))
            for name, module in network.named_modules()
            if name
        ]
        encoder.embed(probe)
        for hook in hooks:
            hook.remove()
        passes.append(digests_of)
    one, two = passes
    found = [name for name in one if name in two and one[name][0] == two[name][0] and one[name][1] != two[name][1]]
    return [name for name in found if not any(other.startswith(f"{name}.") for other in found)]


def _record(digests_of: dict[str, tuple[str, str]], name: str, module: nn.Module, given: Any, output: Any) -> None:
    digests_of[name] = (_digest_of(given), _digest_of(output))


def _same(vectors: NDArray[np.float32]) -> bool:
    """Whether the embeddings of all images are one, but for rounding."""
    return bool(np.abs(vectors - vectors[0]).max() <= CONSTANT * np.abs(vectors).max())


def _over_batch(network: nn.Module) -> list[str]:
    norm = nn.modules.batchnorm._NormBase
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, norm) and (module.training or module.running_mean is None)
    ]


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers; those that are one under each of their names."""
    return {
        **dict(network.named_parameters(remove_duplicate=False)),
        **dict(network.named_buffers(remove_duplicate=False)),
    }


def _digest_of(value: Any) -> str:
    """Digest of all tensors in what a module was given or returned."""
    total = hashlib.sha256()
    waiting = [value]
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, Tensor):
            total.update(_digest(entry).encode())
        elif isinstance(entry, Mapping):
            waiting += entry.values()
        elif isinstance(entry, list | tuple):
            waiting += entry
    return total.hexdigest()


def _digest(tensor: Tensor) -> str:
    data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode() + data).hexdigest()[:16]
