"""Files of weights, read without running anything that stands in them, and what they become in a network."""

import argparse
import importlib
import pickle
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import ZipFile, is_zipfile

import numpy as np
import torch
from torch import Tensor, nn

from stages.errors import InputError

AVERAGED = ("state_dict_ema", "model_ema")
"""Entries under which timm's and others' trainers keep the average of the weights over training. As timm does, they
are preferred to the last weights that stand beside them."""
WRAPPERS = (*AVERAGED, "state_dict", "model_state_dict", "model", "network", "teacher", "module")
"""Entries of a checkpoint under which trainers keep a network's weights, where `inside` is empty."""
AVERAGES = ("ema", "ema_state_dict", "ema_model", "model_ema_state_dict", "shadow_params")
"""Further names of averages: where one stands beside other weights, the study says which are meant."""
PREFIXES = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""
AVERAGED_COUNT = "n_averaged"
"""What torch's AveragedModel has beside the names of its `module.`."""
COUNTED = "num_batches_tracked"
"""A buffer that no output depends on; old files lack it."""
LFS = b"version https://git-lfs"
"""How a pointer of Git LFS begins: a checkout without `git lfs pull` has it instead of the file."""
HDF5 = b"\x89HDF\r\n\x1a\n"
"""How an HDF5 file begins."""
GZIP = b"\x1f\x8b"
"""How a gzip archive begins."""
HEAD_BYTES = 512
"""Of a file, to judge its kind."""
EXPORTED = ("archive_format", "serialized_exported_program.json")
"""Entries of the files of torch.export."""
REFUSED = re.compile(r"(?:GLOBAL |got <class ')([A-Za-z_]\w*(?:\.\w+)+)")
"""Where torch names the object that it refuses."""
NO_PICKLE = "Unsupported operand"
"""What torch reports of bytes that are none of its own."""
STATE = "Save `state_dict()` with safetensors.torch.save_file"
NAMED = 6
"""Names that a message lists before it only counts."""

INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
# Plain data that checkpoints of well-known trainers carry beside their tensors.
PLAIN: list[Any] = [argparse.Namespace, np.dtype, np.ndarray]
PLAIN += [
    (getattr(importlib.import_module("numpy._core.multiarray"), name), f"numpy.{core}.multiarray.{name}")
    for name in ("scalar", "_reconstruct")
    for core in ("core", "_core")
]
PLAIN += [type(np.dtype(name)) for name in ("bool", "str", "float16", "float32", "float64", *INTEGERS)]


def read(path: Path) -> Any:
    """What a file of weights holds: nested dicts with tensors. Raises InputError where it is neither safetensors nor a
    file of `torch.save` that can be read without running code.
    """
    require_weights(path)
    with path.open("rb") as file:
        head = file.read(9)
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
        refused = pickled(error)
        if NO_PICKLE in str(error):
            raise _unreadable(path, "a file of another kind") from error
        what = f"an object of {refused}" if refused else _first_line(error)
        module = ", as in a whole module" if refused.startswith("torch.nn.") else ""
        raise _unreadable(path, f"more than tensors and plain data ({what}{module})") from error
    # A file that is something else makes the reader fail in any way that bytes can be wrong.
    except Exception as error:
        raise _unreadable(path, _first_line(error) or type(error).__name__) from error


def require_weights(path: Path) -> None:
    """Raises InputError where a file is of a kind that holds no state dict, with what to do about it."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    text = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    found, remedy = "", ""
    if head.startswith(LFS):
        found, remedy = "a pointer of Git LFS, which stands for them", "Fetch them: `git lfs pull`."
    elif text.startswith((b"<!doctype", b"<html", b"<?xml")):
        found, remedy = "a web page", "Download the file itself: the URL led to a page about it, or to a login."
    elif text.startswith(b"{"):
        found = "JSON, as of a configuration or of an index of several files"
        remedy = "Name a file of weights; a folder with its index is read by `kind: hf`."
    elif head.startswith(HDF5):
        found, remedy = "an HDF5 file", "Convert it to safetensors with the library that wrote it."
    elif head.startswith(GZIP):
        found, remedy = "a gzip archive", "Unpack it, and name the file within."
    elif is_zipfile(path):
        with ZipFile(path) as archive:
            names = archive.namelist()
        if all(name.endswith(".npy") for name in names):
            found = "a NumPy archive (npz)"
            remedy = "Save its arrays as tensors with safetensors.numpy.save_file."
        elif any(name.endswith("/constants.pkl") for name in names):
            found, remedy = "a TorchScript file, which is a program", f"{STATE} where its program may run."
        elif any(name.rpartition("/")[2] in EXPORTED for name in names):
            found, remedy = "a file of torch.export, which is a program", f"{STATE} of the module it was exported from."
    if found:
        raise InputError(f"{path.name} to hold weights", found, remedy)


def pickled(error: BaseException) -> str:
    """Dotted name of the object for which torch refused a pickle; empty where its message names none."""
    named = REFUSED.search(str(error))
    return "" if named is None else named[1]


def state_of(document: Any, inside: str = "") -> dict[str, Tensor]:
    """The state dict in what a file holds.

    `inside` says where: dotted names of entries, then the beginning that all names share. Empty: it is searched
    under the entries that trainers use, and what wrappers of modules put before each name is taken away.
    """
    if inside:
        beginning = f"{inside}."
        found = {name.removeprefix(beginning): t for name, t in _flat(document) if name.startswith(beginning)}
    else:
        # Numbers that a trainer keeps as tensors may stand beside the entry.
        while isinstance(document, Mapping):
            inner = [name for name in WRAPPERS if isinstance(document.get(name), Mapping)]
            if not inner:
                break
            if averages := [name for name in AVERAGES if name in document]:
                raise InputError(
                    "one set of weights in the file, or `inside` to choose",
                    " and ".join([inner[0], *averages]),
                    f"Write `inside: {inner[0]}` or `inside: {averages[0]}`, and the name of the entry within it.",
                )
            document = document[inner[0]]
        found = dict(document) if isinstance(document, Mapping) else {}
        found = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if not found:
        entries = sorted({name.partition(".")[0] for name, _ in _flat(document)})
        where = f"{document.__class__.__name__} with {', '.join(entries[:NAMED]) or 'no tensor'}"
        raise InputError(f"tensors by name{f' under {inside!r}' if inside else ''}", where, "Correct `inside`.")
    return unwrapped(found)


def unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without what wrappers of modules put before every name."""
    found = {name: tensor for name, tensor in state.items() if name != AVERAGED_COUNT}
    if not all(name.startswith(PREFIXES) for name in found):
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

    Where no name is the network's own, but all of them stand in the file behind one beginning (`model.`, as
    in Lightning's checkpoints), those are meant. Raises InputError where shapes differ, or the file holds what the
    network lacks and `ignore` (beginnings of names) does not say so: then the file is another network's.
    """
    own = network.state_dict()
    if (plain := next(iter(unwrapped(own)), "")) and next(iter(own)) != plain:
        # The network itself is a wrapper, whose names were taken away from those of the file.
        wrapper = next(iter(own)).removesuffix(plain)
        state = {f"{wrapper}{name}": tensor for name, tensor in state.items()}
    beginnings = _beginnings(own, state)
    if len(beginnings) == 1:
        state = {name.removeprefix(beginnings[0]): tensor for name, tensor in state.items()}
    fitting = {name: tensor for name, tensor in state.items() if name in own}
    misfits = [
        f"{name} {list(tensor.shape)} instead of {list(own[name].shape)}"
        for name, tensor in fitting.items()
        if tensor.shape != own[name].shape
    ]
    if quantised := [
        name for name, t in fitting.items() if own[name].is_floating_point() and not t.is_floating_point()
    ]:
        raise InputError(
            "weights that are real numbers",
            f"{str(fitting[quantised[0]].dtype).removeprefix('torch.')} for {few(quantised)}",
            "Use the file before quantisation, or save what the numbers stand for as float32.",
        )
    unused = [name for name in state if name not in own]
    given = {_storage(own[name]) for name in fitting}
    # Of tensors that are one, safetensors' save_model keeps one name.
    missing = [
        name
        for name, tensor in own.items()
        if name not in state and not name.endswith(COUNTED) and _storage(tensor) not in given
    ]
    strange = [name for name in unused if not name.startswith(ignore)] if ignore else unused
    if misfits or strange:
        found = []
        if misfits:
            found.append(f"other shapes: {few(misfits)}")
        if strange:
            found.append(f"weights that it does not have: {few(strange)}")
        if missing:
            found.append(f"none for {few(missing)}")
        if beginnings[1:]:
            found.append(f"all of them under each of {few(beginnings)}")
        raise InputError(
            f"the weights of this network: {few(list(own))}",
            "; ".join(found),
            "Check that name and file belong together; `inside` says where its weights stand in the file, `ignore` "
            "which of them are not needed.",
        )
    network.load_state_dict(versioned(network, fitting), strict=False)
    return Filled(missing, unused)


def versioned(network: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A state dict with the versions of the network's modules: some of torchvision's read none without."""
    found: Any = OrderedDict(state)
    found._metadata = getattr(network.state_dict(), "_metadata", None)
    given: Mapping[str, Tensor] = found
    return given


def _beginnings(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """Beginnings of the file's names behind which all names of the network stand; none where some are its own."""
    names = [name for name in own if not name.endswith(COUNTED)]
    if not names or any(name in state for name in names):
        return []
    found = [name.removesuffix(names[0]) for name in state if name.endswith(f".{names[0]}")]
    return [beginning for beginning in found if all(f"{beginning}{name}" in state for name in names)]


def _storage(tensor: Tensor) -> tuple[Any, ...]:
    """What two tensors share where they are one: an empty one shares nothing."""
    where = tensor.data_ptr() or id(tensor)
    return (where, tuple(tensor.shape), tuple(tensor.stride()))


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
