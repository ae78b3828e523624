"""Networks that the user's own code builds."""

import importlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from stages.encoders.sources.build import Built, reason
from stages.encoders.sources.guard import undisturbed
from stages.encoders.sources.settings import IMAGENET
from stages.encoders.taps import Trunk, pool
from stages.encoders.weights import Filled, fill, read, state_of
from stages.errors import InputError
from stages.external import code
from stages.external.files import fetched, sha256_of

if TYPE_CHECKING:
    from stages.encoders.sources.settings import Torch


class CodeTrunk(Trunk):
    """`backbone` is what the network returns, or the entry of that name."""

    def __init__(self, network: nn.Module, how: str, prefix_tokens: int | None) -> None:
        super().__init__()
        self.network = network
        self.prefix_tokens = prefix_tokens
        self._how = how

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised images [B, 3, H, W] to `backbone`, and the other entries of a dict that the network returns."""
        return self._pooled(self.network(x))

    def library(self, x: Tensor) -> dict[str, Tensor]:
        """The same: the network's own output is all there is."""
        return self._pooled(self.network(x))

    def _pooled(self, output: Any) -> dict[str, Tensor]:
        given = dict(output) if isinstance(output, Mapping) else {"backbone": output}
        if "backbone" not in given or not all(isinstance(value, Tensor) for value in given.values()):
            what = ", ".join(map(str, given)) if isinstance(output, Mapping) else type(output).__name__
            raise InputError(
                "the network to return a tensor, or a dict of tensors with `backbone`", what, "Change its code."
            )
        return {name: pool(value, self._how, None, self.prefix_tokens, name, False) for name, value in given.items()}


def build(source: "Torch") -> Built:
    """The network that the user's code builds. Raises InputError where it cannot, or the weights do not fit."""
    with nullcontext() if source.weights is not None else OwnChance():
        network, file = _created(source.factory, source.options)
    files = {} if file is None else {file.name: file.sha256}
    filled = Filled()
    if source.weights is not None:
        with fetched(source.weights, source.sha256) as weights:
            filled = fill(network, state_of(read(weights.path), source.inside), source.ignore)
            files |= weights.sha256
    recipe = {"kind": "torch"} | source.model_dump(mode="json", include={"factory", "options", "pool", "prefix_tokens"})
    recipe |= {} if file is None else {"code": file.sha256}
    trunk = CodeTrunk(network, source.pool, source.prefix_tokens)
    return Built(trunk, IMAGENET, recipe, filled.missing, filled.unused, files)


def rebuild(recipe: dict[str, Any]) -> Trunk:
    """The same network with whatever weights the code gives it. Raises InputError where its file is not here."""
    network, _ = _created(recipe["factory"], recipe["options"], recipe.get("code"))
    return CodeTrunk(network, recipe["pool"], recipe["prefix_tokens"])


@dataclass(frozen=True)
class _File:
    """A file of code: its name without folders, and its sha256."""

    name: str
    sha256: str


class OwnChance(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """What torch draws at random inside comes from a stream of its own, whatever seeds or generators the code sets.

    The stream begins where torch's stands. So weights that are left to chance differ between two loads, also where the
    code seeds itself, and those that it reads from a file do not.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._generator = torch.Generator().manual_seed(torch.initial_seed())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Runs an operation of torch, with another generator where it draws."""
        given = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **given)
        if given.get("generator") is not None:
            given["generator"] = self._generator
            return func(*args, **given)
        with torch.random.fork_rng(devices=()):
            torch.set_rng_state(self._generator.get_state())
            found = func(*args, **given)
            self._generator.set_state(torch.get_rng_state())
        return found


def _created(factory: str, options: Mapping[str, Any], sha256: str | None = None) -> tuple[nn.Module, _File | None]:
    """What the function returns, and its file where it was named by one: that with this sha256, if it is given.

    Raises InputError where it fails or returns no module, and where its file is not here.
    """
    location, _, name = factory.rpartition(":")
    file, path = None, Path(location)
    if location.endswith(".py"):
        sha256 = sha256 or code.expected(location)
        path = code.here(location) if sha256 is None else code.found(location, sha256)
        file = _File(path.name, sha256 or sha256_of(path))
    try:
        with undisturbed():
            module = importlib.import_module(location) if file is None else code.module(path, file.sha256)
        function = getattr(module, name)
    # A module of the user's may raise anything when it is imported, and one written as a script exits.
    except (Exception, SystemExit) as error:
        raise InputError(
            f"a function {factory}",
            reason(error),
            "Write `path/to/file.py:function`, or install the module wherever parts are worked on.",
        ) from error
    try:
        with undisturbed():
            network = function(**options)
    # The function is the user's own and may raise anything; one written for a script exits.
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{factory} to build a network with options {dict(options)}",
            reason(error),
            "Correct `options`, or that function; it runs wherever parts are worked on, and nobody answers it there.",
        ) from error
    if not isinstance(network, nn.Module):
        raise InputError(f"{factory} to return a torch.nn.Module", type(network).__name__, "Change that function.")
    return network, file
