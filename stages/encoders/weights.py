"""Files of weights, read without running anything that stands in them, and what they become in a network."""

import argparse
import importlib
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from torch import Tensor, nn

from stages.errors import InputError

WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "teacher", "module")
"""Entries of a checkpoint under which trainers keep a network's weights, where `inside` is empty."""
PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""
COUNTED = "num_batches_tracked"
"""A buffer that no output depends on; old files lack it."""
LFS = b"version https://git-lfs"
"""How a pointer of Git LFS begins: a checkout without `git lfs pull` has it instead of the file."""
NAMED = 6
"""Names that a message lists before it only counts."""

# Plain data that checkpoints of well-known trainers carry beside their tensors.
PLAIN: list[Any] = [argparse.Namespace, np.dtype, np.ndarray]
PLAIN += [
    (getattr(importlib.import_module("numpy._core.multiarray"), name), f"numpy.{core}.multiarray.{name}")
    for name in ("scalar", "_reconstruct")
    for core in ("core", "_core")
]
PLAIN += [type(np.dtype(name)) for name in ("float32", "float64", "int32", "int64", "bool")]


def read(path: Path) -> Any:
    """What a file of weights holds: nested dicts with tensors. Raises InputError where it is neither safetensors nor a
    file of `torch.save` that can be read without running code.
    """
    with path.open("rb") as file:
        head = file.read(max(len(LFS), 9))
    if head == LFS:
        raise InputError(
            f"{path.name} to hold weights", "a pointer of Git LFS, which stands for them", "Fetch them: `git lfs pull`."
        )
    head = head[:9]
    if len(head) == 9 and head[8:] == b"{":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise _unreadable(path, f"a damaged safetensors file ({error})") from error
    try:
        with torch.serialization.safe_globals(PLAIN):
            return torch.load(path, map_location="cpu", mmap=is_zipfile(path), weights_only=True)
    except pickle.UnpicklingError as error:
        raise _unreadable(path, f"more than tensors and plain data ({_first_line(error)})") from error
    # A file that is something else makes the reader fail in any way that bytes can be wrong.
    except Exception as error:
        raise _unreadable(path, _first_line(error) or type(error).__name__) from error


def state_of(document: Any, inside: str = "") -> dict[str, Tensor]:
    """The state dict in what a file holds.

    `inside` says where: dotted names of entries, then the beginning that all names share. Empty: it is searched
    under the entries that trainers use, and what wrappers of modules put before each name is taken away.
    """
    if inside:
        beginning = f"{inside}."
        found = {name.removeprefix(beginning): t for name, t in _flat(document) if name.startswith(beginning)}
    else:
        while isinstance(document, Mapping) and not any(isinstance(value, Tensor) for value in document.values()):
            inner = [document[name] for name in WRAPPERS if isinstance(document.get(name), Mapping)]
            if not inner:
                break
            document = inner[0]
        found = dict(document) if isinstance(document, Mapping) else {}
        found = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if not found:
        entries = sorted({name.partition(".")[0] for name, _ in _flat(document)})
        where = f"{document.__class__.__name__} with {', '.join(entries[:NAMED]) or 'no tensor'}"
        raise InputError(f"tensors by name{f' under {inside!r}' if inside else ''}", where, "Correct `inside`.")
    return unwrapped(found)


def unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without what wrappers of modules put before every name."""
    found = dict(state)
    while prefix := next((p for p in PREFIXES if found and all(name.startswith(p) for name in found)), None):
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return found


@dataclass
class Filled:
    """What became of a file's weights in a network."""

    missing: list[str] = field(default_factory=list)
    """Names of the network that the file lacks: still as initialised."""
    unused: list[str] = field(default_factory=list)
    """Names of the file that the network lacks."""


def fill(network: nn.Module, state: Mapping[str, Tensor], ignore: tuple[str, ...] = ()) -> Filled:
    """Gives a network the weights of a file, cast to its own dtype.

    Raises InputError where shapes differ, or the file holds what the network lacks and `ignore` (beginnings
    of names) does not say so: then the file is another network's.
    """
    own = network.state_dict()
    fitting = {name: tensor for name, tensor in state.items() if name in own}
    misfits = [
        f"{name} {list(tensor.shape)} instead of {list(own[name].shape)}"
        for name, tensor in fitting.items()
        if tensor.shape != own[name].shape
    ]
    unused = [name for name in state if name not in own]
    missing = [name for name in own if name not in state and not name.endswith(COUNTED)]
    strange = [name for name in unused if not name.startswith(ignore)] if ignore else unused
    if misfits or strange:
        found = []
        if misfits:
            found.append(f"other shapes: {few(misfits)}")
        if strange:
            found.append(f"weights that it does not have: {few(strange)}")
        if missing:
            found.append(f"none for {few(missing)}")
        raise InputError(
            f"the weights of this network: {few(list(own))}",
            "; ".join(found),
            "Check that name and file belong together; `inside` says where its weights stand in the file, `ignore` "
            "which of them are not needed.",
        )
    network.load_state_dict(fitting, strict=False)
    return Filled(missing, unused)


def few(names: list[str]) -> str:
    """Some names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _flat(document: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(document, Tensor):
        yield prefix.removesuffix("."), document
    elif isinstance(document, Mapping):
        for name, value in document.items():
            yield from _flat(value, f"{prefix}{name}.")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


def _unreadable(path: Path, found: str) -> InputError:
    return InputError(
        f"{path.name} to be safetensors, or tensors as torch.save writes them",
        found,
        "Where you trust it: load it yourself and save `model.state_dict()` with safetensors.torch.save_file.",
    )
