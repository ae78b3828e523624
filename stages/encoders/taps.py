"""Reading a network at several taps in one forward pass: a trunk gives `backbone`, hooks give named submodules."""

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from stages.errors import InputError

if TYPE_CHECKING:
    from stages.encoders.sources.settings import Tap

TOKENS = ("cls", "registers")
"""Ways of pooling that need tokens."""
LISTED = 40
"""Names that a message lists before it only counts."""


class Trunk(nn.Module, ABC):
    """A network of any library, wrapped to give one vector per image."""

    network: nn.Module
    """The library's own module: names in state dicts and in `taps` are its names."""
    prefix_tokens: int | None = None
    """Tokens that stand before those of the patches, where neither the network nor its input says how many."""

    @abstractmethod
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised images [B, 3, H, W] to name -> [B, D]: `backbone`, and what else the network gives by name."""

    def library(self, x: Tensor) -> Tensor | None:
        """`backbone` [B, D] by the library's own forward pass, to compare with; None where it has no such output."""
        given: dict[str, Tensor] = self(x)
        return given["backbone"]

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
        self._read: dict[str, Tensor] = {}
        self._shape = (0, 0)
        inner = {name: module for name, module in trunk.network.named_modules() if name}
        self._inner = tuple(inner)
        hooked = {name: tap for name, tap in taps.items() if tap.module in inner}
        trunk.prepare(frozenset(tap.module for tap in hooked.values()))
        for name, tap in hooked.items():
            inner[tap.module].register_forward_hook(partial(self._keep, name, tap))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised images [B, 3, H, W] to tap -> [B, D].

        Raises InputError where a tap names nothing that the network has, runs and returns, with the names that exist.
        """
        self._read, self._shape = {}, (x.shape[-2], x.shape[-1])
        given = self.trunk(x)
        found = {name: given[name] for name in self._own}
        for name, tap in self._taps.items():
            if name in self._read:
                found[name] = self._read[name]
            elif tap.module in self._inner:
                raise InputError(
                    f"tap {name!r} to be a submodule that the forward pass runs",
                    f"{tap.module!r}, which it does not",
                    "Name another one under `taps` of that encoder.",
                )
            elif tap.module in given:
                found[name] = given[tap.module]
            else:
                raise _unknown(name, tap.module, [*given, *self._inner])
        self._read = {}
        return found

    def _keep(self, name: str, tap: "Tap", module: nn.Module, inputs: Any, output: Any) -> None:
        if name in self._read:
            raise InputError(
                f"tap {name!r} to be a submodule that the forward pass runs once",
                f"{tap.module!r}, which it runs several times",
                "Name the submodule that holds it under `taps` of that encoder.",
            )
        # Pooled here and now: a later layer may overwrite its input in place.
        patches = self.trunk.patches(*self._shape)
        tensor = tensor_of(output, f"tap {name!r}")
        self._read[name] = pool(tensor, tap.pool, patches, self.trunk.prefix_tokens, f"tap {name!r}")


def tensor_of(output: Any, where: str) -> Tensor:
    """The tensor in what a module returned: itself, a last hidden state among outputs, or the first of several."""
    if isinstance(output, Mapping):
        output = output.get("last_hidden_state", next(iter(output.values()), None))
    elif isinstance(output, list | tuple) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise InputError(f"{where} to give a tensor", type(output).__name__, "Name another submodule under `taps`.")
    return output


def pool(x: Tensor, how: str, patches: int | None, prefix: int | None, where: str) -> Tensor:
    """One vector per image: [B, D], tokens [B, N, D] or a map [B, C, H, W] or [B, H, W, C] to [B, D'].

    Of N tokens the last `patches` stand for patches. Where that is None, `prefix` tokens stand before them, and where
    that is None too, none or one: whichever leaves a square. A map whose first two sides are equal and differ from the
    third has its channels last. Raises InputError where `how` asks for a class token or registers that are not there.
    """
    if x.ndim == 2:
        # What is kept must not be what the next layer works on in place.
        return x.clone()
    if how == "flatten":
        return x.flatten(1).clone()
    if x.ndim == 4 and how not in TOKENS:
        return x.mean((1, 2) if x.shape[1] == x.shape[2] != x.shape[3] else (2, 3))
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
