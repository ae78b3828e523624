"""Reading a network at several taps in one forward pass: a trunk gives `backbone`, hooks give named submodules."""

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stages.errors import InputError

if TYPE_CHECKING:
    from stages.encoders.sources.settings import Tap

TOKENS = ("cls", "registers")
"""Ways of pooling that need tokens."""
CHANNELS_FIRST = (nn.Conv2d, nn.BatchNorm2d, nn.InstanceNorm2d, nn.GroupNorm, nn.AdaptiveAvgPool2d, nn.MaxPool2d)
"""Modules of torch that give maps [B, C, H, W]."""
LISTED = 40
"""Names that a message lists before it only counts."""


class Trunk(nn.Module, ABC):
    """A network of any library, wrapped to give one vector per image."""

    network: nn.Module
    """The library's own module: names in state dicts and in `taps` are its names."""
    prefix_tokens: int | None = None
    """Tokens that stand before those of the patches, where neither the network nor its input says how many."""
    channels_last: bool | None = None
    """Whether maps inside the network are [B, H, W, C]; None: the network does not declare it."""

    @abstractmethod
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised images [B, 3, H, W] to name -> [B, D]: `backbone`, and what else the network gives by name."""

    @abstractmethod
    def library(self, x: Tensor) -> dict[str, Tensor]:
        """What the library's own forward pass gives of that, called as its users call it, to compare with.

        Normalised images [B, 3, H, W] to name -> [B, D]; without a name where the library has no such output.
        """

    def patches(self, height: int, width: int) -> int | None:
        """Tokens that stand for patches of an image of this size; None: not known, or no tokens."""
        return None

    def prepare(self, modules: frozenset[str]) -> None:
        """Called with the submodules that will be read: a trunk may have to run some that it would skip."""
        return


class Tapped(nn.Module):
    """A trunk read at its own taps and at submodules, all in one pass."""

    def __init__(self, trunk: Trunk, own: Sequence[str], taps: "Mapping[str, Tap]") -> None:
        """`own` are the taps that the trunk gives by itself, `taps` those to be read from submodules beside them."""
        super().__init__()
        self.trunk = trunk
        self._own = tuple(own)
        self._taps = dict(taps)
        self._read: dict[tuple[str, str], Tensor] = {}
        self._shape = torch.Size()
        self.windowed: set[str] = set()
        """Taps of which a submodule has given several rows for each image."""
        inner = {name: module for name, module in trunk.network.named_modules() if name}
        self._inner = tuple(inner)
        hooked = [(name, tap, module) for name, tap in taps.items() for module in tap.modules if module in inner]
        trunk.prepare(frozenset(module for _, _, module in hooked))
        for name, tap, module in hooked:
            inner[module].register_forward_hook(partial(self._keep, name, tap, module))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised images [B, 3, H, W] to tap -> [B, D].

        Raises InputError where a tap names nothing that the network has, runs and returns, with the names that exist.
        """
        self._read, self._shape = {}, x.shape
        given = self.trunk(x)
        for name, vectors in given.items():
            if vectors.ndim == 0 or len(vectors) != len(x):
                raise _rows_error(vectors, len(x), f"output {name!r}", "Change what the network returns.")
        found = {name: given[name] for name in self._own}
        for name, tap in self._taps.items():
            found[name] = _combined(name, tap, [self._vectors(name, module, given) for module in tap.modules])
        self._read = {}
        if empty := [name for name, vectors in found.items() if not vectors.shape[1]]:
            raise InputError("taps of one number or more", f"none at {', '.join(empty)}", "Leave them out.")
        return found

    def library(self, x: Tensor) -> dict[str, Tensor]:
        """What the library's own forward pass gives, see `Trunk.library`, and the taps whose submodules it runs."""
        self._read, self._shape = {}, x.shape
        found = dict(self.trunk.library(x))
        for name, tap in self._taps.items():
            vectors = [self._read[name, module] for module in tap.modules if (name, module) in self._read]
            if len(vectors) == len(tap.modules):
                found[name] = _combined(name, tap, vectors)
        self._read = {}
        return found

    def _vectors(self, name: str, module: str, given: Mapping[str, Tensor]) -> Tensor:
        """What one submodule of a tap gave, [B, D]: kept by its hook, or an output of the trunk by that name."""
        if (name, module) in self._read:
            return self._read[name, module]
        if module in self._inner:
            raise InputError(
                f"tap {name!r} to be a submodule that the forward pass runs",
                f"{module!r}, which it does not",
                "Name another one under `taps` of that encoder.",
            )
        if module in given:
            return given[module]
        raise _unknown(name, module, [*given, *self._inner])

    def _keep(self, name: str, tap: "Tap", submodule: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if (name, submodule) in self._read:
            raise InputError(
                f"tap {name!r} to be a submodule that the forward pass runs once",
                f"{submodule!r}, which it runs several times",
                "Name the submodule that holds it under `taps` of that encoder.",
            )
        # Pooled here and now: a later layer may overwrite its input in place.
        where, trunk, images = f"tap {name!r}", self.trunk, self._shape[0]
        tensor = tensor_of(output, where)
        last = _channels_last(module, trunk.channels_last)
        if tensor.ndim > 0 and len(tensor) == images:
            patches = trunk.patches(*self._shape[-2:])
            vectors = pool(tensor, tap.pool, patches, trunk.prefix_tokens, where, last)
        elif tensor.ndim > 0 and len(tensor) > 0 and len(tensor) % images == 0 and tap.pool not in TOKENS:
            self.windowed.add(name)
            vectors = pool_windows(tensor, images, tap.pool, where, last)
        else:
            remedy = f"{submodule!r} works on windows, on positions or on tokens first: name the block that holds it."
            raise _rows_error(tensor, images, where, remedy)
        self._read[name, submodule] = vectors


def _combined(name: str, tap: "Tap", vectors: Sequence[Tensor]) -> Tensor:
    """The vectors [B, D] of a tap's submodules as one."""
    if len(vectors) == 1:
        return vectors[0]
    if len({x.shape[1:] for x in vectors}) > 1:
        widths = ", ".join(f"{module} {x[0].numel()}" for module, x in zip(tap.modules, vectors, strict=True))
        raise InputError(
            f"layers of tap {name!r} that give vectors of one width",
            widths,
            "Name layers of one stage of the network, or read each at a tap of its own.",
        )
    # A sum in half precision would lose digits.
    stacked = torch.stack([x.float() for x in vectors])
    return stacked.sum(0) if tap.combine == "sum" else stacked.mean(0)


def tensor_of(output: Any, where: str) -> Tensor:
    """The tensor in what a module returned: itself, a last hidden state among outputs, or the first of several."""
    if isinstance(output, Mapping):
        output = output.get("last_hidden_state", next(iter(output.values()), None))
    elif isinstance(output, list | tuple) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise InputError(f"{where} to give a tensor", type(output).__name__, "Name another submodule under `taps`.")
    return output


def pool(
    x: Tensor, how: str, patches: int | None, prefix: int | None, where: str, channels_last: bool | None = None
) -> Tensor:
    """One vector per image: [B, D], tokens [B, N, D] or a map [B, C, H, W] or [B, H, W, C] to [B, D'].

    Of N tokens the last `patches` stand for patches. Where that is None, `prefix` tokens stand before them, and where
    that is None too, none or one: whichever leaves a square. Images are square, so the two equal sides of a map are its
    positions; `channels_last` decides where that leaves it open. Raises InputError where `how` asks for a class token
    or registers that are not there, and where nothing says which sides of a map are its positions.
    """
    if x.is_complex():
        raise InputError(f"{where} to give real numbers", f"{x.dtype}", "Return `abs()` or `torch.view_as_real`.")
    if x.ndim == 2:
        # What is kept must not be what the next layer works on in place.
        return x.clone()
    if how == "flatten":
        return x.flatten(1).clone()
    if x.ndim == 4 and how not in TOKENS:
        return x.mean(_positions(x, where, channels_last))
    if x.ndim != 3:
        kinds = "tokens [B, N, D]" if how in TOKENS else "one vector per image, tokens [B, N, D] or a map [B, C, H, W]"
        raise InputError(f"{where} to give {kinds}", f"shape {list(x.shape)}", "Change its `pool` or its `module`.")
    before = x.shape[1] - patches if patches is not None and patches <= x.shape[1] else prefix
    if before is None:
        before = next((few for few in (0, 1) if math.isqrt(x.shape[1] - few) ** 2 == x.shape[1] - few), -1)
    if not 0 <= before < x.shape[1]:
        raise InputError(
            f"{where} to give tokens of a square of patches, with none or one before them",
            f"{x.shape[1]} tokens",
            "Say `prefix_tokens` where the encoder has that field, or set `pool: flatten`.",
        )
    if how == "cls" and before == 0:
        raise InputError(f"{where} to have a class token", f"{x.shape[1]} patches", "Set `pool: mean`.")
    if how == "registers":
        if before < 2:
            raise InputError(
                f"{where} to have registers between the class token and the patches",
                f"{before} tokens before the patches",
                "Set `pool: mean` or `cls`; say `prefix_tokens` where the encoder has that field.",
            )
        return x[:, 1:before].mean(1)
    return x[:, 0].clone() if before > 0 and how != "mean" else x[:, before:].mean(1)


def pool_windows(x: Tensor, images: int, how: str, where: str, channels_last: bool | None = None) -> Tensor:
    """One vector per image of windows: rows [B * W, …], the W windows of an image one after the other, to [B, D].

    The mean over all positions of all windows, also those that a network has padded; with `flatten` all of them.
    """
    if how == "flatten":
        return x.reshape(images, -1).clone()
    # Windows have no class token, so all of their tokens are positions.
    means = pool(x, "mean", None, 0, where, channels_last)
    return means.reshape(images, -1, means.shape[1]).mean(1)


def _positions(x: Tensor, where: str, channels_last: bool | None) -> tuple[int, int]:
    """The two axes of a map that are its positions."""
    first, last = x.shape[2] == x.shape[3], x.shape[1] == x.shape[2]
    if first != last:
        return (1, 2) if last else (2, 3)
    if channels_last is None:
        raise InputError(
            f"{where} to give a map whose shape shows which sides are positions: [B, C, H, H] or [B, H, H, C]",
            f"shape {list(x.shape)}",
            "Set `pool: flatten`, which keeps every position, name another submodule, or change the size of the images "
            "(`preprocessing: {size: …}`).",
        )
    return (1, 2) if channels_last else (2, 3)


def _channels_last(module: nn.Module, declared: bool | None) -> bool | None:
    """Whether the output of a module has its channels last; `declared` is what its network declares of its maps."""
    if type(module) in (nn.Linear, nn.LayerNorm):
        return True
    return False if isinstance(module, CHANNELS_FIRST) else declared


def _rows_error(x: Tensor, images: int, where: str, remedy: str) -> InputError:
    """For a tensor whose first side is not the images of the batch."""
    rows = len(x) if x.ndim else 0
    return InputError(
        f"{where} to give one row for each image",
        f"shape {list(x.shape)} for a batch of {images}: {rows} rows",
        remedy,
    )


def projector_taps(projector: nn.Sequential, x: Tensor) -> dict[str, Tensor]:
    """A projector read layer by layer: [B, D] to `projector.0`, …, `projector` (its last); none where it is empty.

    A layer is a linear map with the normalisation and activation that follow it.
    """
    taps: dict[str, Tensor] = {}
    layer = 0
    for module in projector:
        if isinstance(module, nn.Linear):
            if layer > 0:
                taps[f"projector.{layer - 1}"] = x
            layer += 1
        x = module(x)
    return taps | ({"projector": x} if layer else {})


def _unknown(tap: str, module: str, known: Sequence[str]) -> InputError:
    inside = [name for name in known if name.endswith(f".{module}")]
    near = inside or difflib.get_close_matches(module, known, n=1)
    # A network has hundreds of submodules: where there are too many, those inside others are only counted.
    shown = list(known) if len(known) <= LISTED else [name for name in known if "." not in name][:LISTED]
    more = f" and {len(known) - len(shown)} inside them" if len(shown) < len(known) else ""
    return InputError(
        f"a submodule for tap {tap!r}: {', '.join(shown)}{more}",
        repr(module),
        f"Did you mean {near[0]!r}?" if near else "Correct `taps` of that encoder in the study.",
    )
