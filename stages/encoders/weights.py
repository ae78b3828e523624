"""Files of weights, read without running anything that stands in them, and what they become in a network."""

import argparse
import importlib
import pickle
import re
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from stages.errors import InputError

AVERAGED = ("state_dict_ema", "model_ema")
"""Entries under which timm's and others' trainers keep the average of the weights over training. As timm does, they
are preferred to the last weights that stand beside them."""
TEACHER, STUDENT = "teacher", "student"
"""Two networks of one kind in a checkpoint. The first is taken: it is the average of the second, as in DINO, whose own
evaluation takes it."""
WRAPPERS = (*AVERAGED, "state_dict", "model_state_dict", "model", "network", TEACHER, "module")
"""Entries of a checkpoint under which trainers keep a network's weights, where `inside` is empty."""
AVERAGES = ("ema", "ema_state_dict", "ema_model", "model_ema_state_dict", "shadow_params")
"""Further names of averages: where one stands beside other weights, the study says which are meant."""
OPTIMIZERS = ("optim", "opt", "scaler", "scheduler")
"""Beginnings of entries whose tensors are no weights."""
PARALLEL = "module"
"""What DistributedDataParallel puts before every name of what it wraps."""
INSIDE_NAMES = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"))
"""What torch.compile, FSDP, activation checkpointing and DeepSpeed put into the names of what they wrap."""
AVERAGED_COUNT = "n_averaged"
"""What torch's AveragedModel has beside the names of its `module.`."""
DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")
"""Names of torchvision's published DenseNets, from before a name could hold no dot."""
FAILURE = 300
"""Characters of a failure that a message has."""
COUNTED = "num_batches_tracked"
"""A buffer that no output depends on; old files lack it."""
LFS = b"version https://git-lfs"
"""How a pointer of Git LFS begins: a checkout without `git lfs pull` has it instead of the file."""
HDF5 = b"\x89HDF\r\n\x1a\n"
"""How an HDF5 file begins."""
ARCHIVES = {
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ\x00": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstandard archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
}
"""How compressed archives begin."""
TAR = (257, b"ustar")
"""Where in a tar its kind stands."""
PICKLE = b"\x80"
"""How a pickle begins, which `torch.save` wrote before it wrote zip archives."""
HEAD_BYTES = 512
"""Of a file, to judge its kind."""
TABLE = "data.pkl"
"""Entry in which `torch.save` says which tensors stand where."""
EXPORTED = ("archive_format", "serialized_exported_program.json")
"""Entries of the files of torch.export."""
REFUSED = re.compile(r"(?:GLOBAL |got <class ')([A-Za-z_]\w*(?:\.\w+)*)")
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
        from safetensors.torch import load_file

        try:
            return load_file(path)
        # It raises errors of its own, and of Python where the header names what torch does not have.
        except Exception as error:
            raise _unreadable(path, f"a damaged safetensors file ({_first_line(error)})") from error
    if not head.startswith(PICKLE) and not is_zipfile(path):
        raise _unreadable(path, "a file of another kind, or one without its beginning or end")
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
    # The length with which safetensors begins has bytes of text too, but not these alone.
    text = b"" if b"\0" in head else head.lstrip(b"\xef\xbb\xbf \r\n\t")
    archive = next((name for beginning, name in ARCHIVES.items() if head.startswith(beginning)), "")
    found, remedy = "", ""
    if not head.strip(b"\0"):
        found = "nothing but zeros" if head else "an empty file"
        remedy = "Bring it here again: the last attempt was broken off."
    elif head.startswith(LFS):
        found, remedy = "a pointer of Git LFS, which stands for them", "Fetch them: `git lfs pull`."
    elif text.startswith(b"<"):
        found, remedy = "a web page", "Download the file itself: the URL led to a page about it, or to a login."
    elif text.startswith(b"{"):
        found = "JSON, as of a configuration or of an index of several files"
        remedy = "Name a file of weights; a folder with its index is read by `kind: hf`."
    elif head.startswith(HDF5):
        found, remedy = "an HDF5 file", "Convert it to safetensors with the library that wrote it."
    elif archive or head[TAR[0] :].startswith(TAR[1]):
        found, remedy = archive or "a tar archive", "Unpack it, and name the file within."
    elif is_zipfile(path):
        names = _names(path)
        if all(name.endswith(".npy") for name in names):
            found = "a NumPy archive (npz)"
            remedy = "Save its arrays as tensors with safetensors.numpy.save_file."
        elif any(name.endswith("/constants.pkl") for name in names):
            found, remedy = "a TorchScript file, which is a program", f"{STATE} where its program may run."
        elif any(name.rpartition("/")[2] in EXPORTED for name in names):
            found, remedy = "a file of torch.export, which is a program", f"{STATE} of the module it was exported from."
        elif not any(name.rpartition("/")[2] == TABLE for name in names):
            found, remedy = f"a zip archive of {few(names)}", "Unpack it, and name the file within."
    if found:
        raise InputError(f"{path.name} to hold weights", found, remedy)


def _names(path: Path) -> list[str]:
    """Names of the entries of a zip archive. Raises InputError where one is damaged, which torch does not notice."""
    try:
        with ZipFile(path) as archive:
            names = archive.namelist()
            table = next((name for name in names if name.rpartition("/")[2] == TABLE), None)
            # Where torch was told to leave checksums out, none is right, that of the table neither.
            if table is not None and _sound(archive, table) and (damaged := archive.testzip()) is not None:
                raise _unreadable(path, f"a damaged file ({damaged} has another checksum)")
    except (BadZipFile, EOFError) as error:
        raise _unreadable(path, f"a damaged file ({_first_line(error)})") from error
    return names


def _sound(archive: ZipFile, name: str) -> bool:
    try:
        archive.read(name)
    except BadZipFile:
        return False
    return True


def pickled(error: BaseException) -> str:
    """Dotted name of the object for which torch refused a pickle; empty where its message names none."""
    named = REFUSED.search(str(error))
    return "" if named is None else named[1]


def state_of(document: Any, inside: str = "") -> dict[str, Tensor]:
    """The state dict in what a file holds.

    `inside` says where: dotted names of entries, then the beginning that all names share. Empty: it is searched
    under the entries that trainers use, or in the only one with weights; what wrappers of modules put into names is
    taken away. Raises InputError where the file holds other weights by the same names, and nothing says which are
    meant.
    """
    if inside:
        beginning = f"{inside.strip('.')}."
        found = {name.removeprefix(beginning): t for name, t in _flat(document) if name.startswith(beginning)}
    else:
        found = _searched(document)
    if not found:
        entries = sorted({name.partition(".")[0] for name, _ in _flat(document)})
        where = f"{document.__class__.__name__} with {', '.join(entries[:NAMED]) or 'no tensor'}"
        raise InputError(f"tensors by name{f' under {inside!r}' if inside else ''}", where, "Correct `inside`.")
    return unwrapped(found)


def _searched(document: Any) -> dict[str, Tensor]:
    """The tensors by name in what a file holds, under the entries that trainers use."""
    entry: Any = document
    path: list[str] = []
    # Numbers that a trainer keeps as tensors may stand beside an entry.
    while isinstance(entry, Mapping) and (name := _entry(entry)) is not None:
        averages = [n for n in AVERAGES if n != name and isinstance(entry.get(n), Mapping | list) and entry[n]]
        if averages:
            raise _several([".".join([*path, each]) for each in (name, *averages)])
        entry, path = entry[name], [*path, name]
    found = _tensors(entry)
    if not set(path) & set(AVERAGED):
        known = (".".join(path), ".".join(STUDENT if name == TEACHER else name for name in path))
        others = [where for where, weights in _sets(document) if where not in known and _rival(found, weights)]
        if others:
            raise _several([known[0] or "the names at the top", *others])
    return found


def _entry(document: Mapping[Any, Any]) -> str | None:
    """The entry under which a checkpoint keeps a network's weights; None: they are what it holds by itself."""
    entries = [
        name for name, value in document.items() if isinstance(name, str) and isinstance(value, Mapping) and value
    ]
    if known := [name for name in WRAPPERS if name in entries and next(_flat(document[name]), None)]:
        return known[0]
    with_weights = [name for name in entries if _tensors(document[name]) and not name.startswith(OPTIMIZERS)]
    return with_weights[0] if len(with_weights) == 1 and not _tensors(document) else None


def _sets(document: Any, path: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every entry that holds tensors by name, with its dotted name."""
    if isinstance(document, Mapping):
        if found := _tensors(document):
            yield path, found
        for name, value in document.items():
            if not str(name).startswith(OPTIMIZERS):
                yield from _sets(value, f"{path}.{name}" if path else str(name))


def _rival(found: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two sets of weights could be those of one network, and are not the same."""
    one, two = unwrapped(found), unwrapped(other)
    shapes = {name: tensor.shape for name, tensor in one.items()}
    return shapes == {name: tensor.shape for name, tensor in two.items()} and not all(
        _equal(one[name], two[name]) for name in one
    )


def _equal(one: Tensor, two: Tensor) -> bool:
    """Whether two tensors have the same numbers, of which NaN is one; tensors that cannot be compared have not."""
    try:
        return one is two or bool(((one == two) | ((one != one) & (two != two))).all())
    except (RuntimeError, NotImplementedError):
        return False


def _several(names: Sequence[str]) -> InputError:
    return InputError(
        "one set of weights in the file, or `inside` to choose",
        " and ".join(names),
        f"Write {' or '.join(f'`inside: {name}`' for name in names[:2])}, with the names of entries within it if any.",
    )


def _tensors(document: Any) -> dict[str, Tensor]:
    """The tensors that a dict holds by name, and not those of dicts within it."""
    entries = document.items() if isinstance(document, Mapping) else ()
    return {str(name): value for name, value in entries if isinstance(value, Tensor)}


def unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without what wrappers of modules put into its names."""
    inner = {name: ".".join(part for part in name.split(".") if part not in INSIDE_NAMES) for name in state}
    before = f"{PARALLEL}."
    # AveragedModel counts beside its `module.`.
    bare = {name: short for name, short in inner.items() if name != AVERAGED_COUNT}
    if not all(short.startswith(before) for short in bare.values()):
        bare = inner
    while bare and all(short.startswith(before) for short in bare.values()):
        bare = {name: short.removeprefix(before) for name, short in bare.items()}
    # Two tensors of one name would be one of them.
    bare = bare if len(set(bare.values())) == len(bare) else {name: name for name in state}
    return {short: state[name] for name, short in bare.items()}


@dataclass
class Filled:
    """What became of a file's weights in a network."""

    missing: list[str] = field(default_factory=list)
    """Names of the network that the file lacks: still as initialised."""
    unused: list[str] = field(default_factory=list)
    """Names of the file that the network lacks."""


def fill(network: nn.Module, state: Mapping[str, Tensor], ignore: tuple[str, ...] = ()) -> Filled:
    """Gives a network the weights of a file, cast to its own dtype.

    Names are matched without what wrappers of modules put into them. Where none is the network's own, but all of its
    names stand in the file behind one beginning (`model.`, as in Lightning's checkpoints), those are meant. torch loads
    them, with the hooks by which modules read the names and layouts of older versions. Raises InputError where it
    cannot, or the file holds what the network lacks and `ignore` (beginnings of names) does not say so: then the file
    is another network's.
    """
    own = _tensors(network.state_dict())
    state, beginnings = _named(own, state)
    if quantised := [
        name
        for name, tensor in state.items()
        if name in own and own[name].is_floating_point() and not tensor.is_floating_point()
    ]:
        kind = str(state[quantised[0]].dtype).removeprefix("torch.")
        raise _not_real(f"{kind} for {few(quantised)}")
    failure = ""
    try:
        absent, unused = _loaded(network, state)
    # Hooks of a network may raise anything, and so may tensors that cannot be copied.
    except Exception as error:
        absent = [name for name in own if name not in state]
        unused = [name for name in state if name not in own]
        failure = _misfits(own, state) or f"what it cannot take: {' '.join(str(error).split())[:FAILURE]}"
    require_real({name: str(tensor.dtype) for name, tensor in state.items() if tensor.is_floating_point()}, unused)
    missing = _missing(network, absent)
    strange = [name for name in unused if not name.startswith(ignore)] if ignore else unused
    if failure or strange:
        found = [failure] if failure else []
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
    return Filled(missing, unused)


def by_own_names(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict by the names of a network, as far as it has them."""
    return _named(network.state_dict(), state)[0]


def _named(own: Iterable[str], state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """A state dict by the network's own names, as far as it has them, and the beginnings before all of these."""
    ours = {short: name for name, short in _short(own).items()}
    theirs = _short(state)
    beginnings = _beginnings(ours, theirs.values())
    beginning = beginnings[0] if len(beginnings) == 1 else ""
    # The other way round: the file is of a part of the network, as of a backbone in a module of the user's own.
    parts = [] if beginnings else _beginnings(theirs.values(), ours)
    part = parts[0] if len(parts) == 1 else ""
    named = {}
    for name, short in theirs.items():
        short = f"{part}{short.removeprefix(beginning)}"
        old = DENSENET.sub(r"\1\2.", short)
        named[ours.get(short) or ours.get(old) or name.removeprefix(beginning)] = state[name]
    return named, beginnings


def _short(names: Iterable[str]) -> dict[str, str]:
    """Names without what wrappers of modules put into them, by the whole names."""
    dropped = {PARALLEL, *INSIDE_NAMES}
    short = {name: ".".join(part for part in name.split(".") if part not in dropped) for name in names}
    return short if len(set(short.values())) == len(short) else {name: name for name in short}


def _loaded(network: nn.Module, state: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """Loads weights; returns the network's names that they lack and their names that the network lacks."""
    # Not a method of the network's own, which may take other arguments.
    load = nn.Module.load_state_dict
    found = load(network, versioned(network, state), strict=False)
    if found.unexpected_keys:
        try:
            # Without a version, modules take the names for those of their first.
            old = load(network, dict(state), strict=False)
        # Some refuse to.
        except Exception:
            old = found
        if len(old.unexpected_keys) < len(found.unexpected_keys):
            found = old
        else:
            load(network, versioned(network, state), strict=False)
    return list(found.missing_keys), list(found.unexpected_keys)


def _missing(network: nn.Module, absent: Collection[str]) -> list[str]:
    """Those of the names that a file lacks whose tensors it does not give under another name either.

    Of tensors that are one, safetensors' `save_model` keeps one name.
    """
    tensors = {
        **dict(network.named_parameters(remove_duplicate=False)),
        **dict(network.named_buffers(remove_duplicate=False)),
    }
    given = {_storage(tensor) for name, tensor in tensors.items() if name not in absent}
    return [
        name
        for name in absent
        if name in tensors and not name.endswith(COUNTED) and _storage(tensors[name]) not in given
    ]


def _misfits(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Which tensors of the file have another shape than in the network; empty: none."""
    shapes = {name: own[name].shape for name in state if name in own and not is_lazy(own[name])}
    names = [
        f"{name} {list(state[name].shape)} instead of {list(shape)}"
        for name, shape in shapes.items()
        if state[name].shape != shape
    ]
    return f"other shapes: {few(names)}" if names else ""


def require_real(dtypes: Mapping[str, str], unused: Iterable[str]) -> None:
    """Raises InputError where weights by these names are integers, or float8 that `unused` names scale.

    `dtypes` are as torch or safetensors call them. Integers by other names are buffers.
    """
    kinds = {name: dtype.removeprefix("torch.").lower() for name, dtype in dtypes.items()}
    integers = [
        name
        for name, kind in kinds.items()
        if name.endswith(("weight", "bias")) and not kind.startswith(("f", "bf", "complex"))
    ]
    if integers:
        raise _not_real(f"{dtypes[integers[0]]} for {few(integers)}")
    scales = [name for name in unused if "scale" in name]
    if scales and any(kind.startswith(("f8", "float8", "f4", "float4")) for kind in kinds.values()):
        raise _not_real(f"float8, which {few(scales)} multiply")


def _not_real(found: str) -> InputError:
    return InputError(
        "weights that are real numbers",
        found,
        "Use the file before quantisation, or save what the numbers stand for as float32.",
    )


def versioned(network: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A state dict with the versions of the network's modules: some of torchvision's read none without."""
    found: Any = OrderedDict(state)
    found._metadata = getattr(network.state_dict(), "_metadata", None)
    given: Mapping[str, Tensor] = found
    return given


def _beginnings(own: Iterable[str], names: Collection[str]) -> list[str]:
    """Beginnings of the file's names behind which all names of the network stand; none where some are its own."""
    needed = [name for name in own if not name.endswith(COUNTED)]
    if not needed or any(name in names for name in needed):
        return []
    known = frozenset(names)
    found = [name.removesuffix(needed[0]) for name in known if name.endswith(f".{needed[0]}")]
    return sorted(beginning for beginning in found if all(f"{beginning}{name}" in known for name in needed))


def _storage(tensor: Tensor) -> tuple[Any, ...]:
    """What two tensors share where they are one: an empty one, or one without a size yet, shares nothing."""
    if is_lazy(tensor) or not tensor.data_ptr():
        return (id(tensor),)
    return (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()))


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
