"""What every kind of source gives back when it is built: the network, how it sees images, and how to build it again."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pickle import UnpicklingError
from types import ModuleType
from typing import TYPE_CHECKING, Any

from stages.encoders.spec import Preprocessing
from stages.encoders.taps import Trunk
from stages.encoders.weights import pickled
from stages.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass
class Built:
    """A network with its weights."""

    trunk: Trunk
    preprocessing: Preprocessing | None
    """How it is meant to see images; None: see `unknown`."""
    recipe: dict[str, Any]
    """What builds the same network again, without its weights: plain JSON."""
    missing: list[str] = field(default_factory=list)
    """Names of weights that no file gave: as initialised."""
    unused: list[str] = field(default_factory=list)
    """Names in the file that the network lacks."""
    files: dict[str, str] = field(default_factory=dict)
    """sha256 of each file that was read, by name."""
    unknown: str = "none that is known comes with the network"
    """Why there is no preprocessing, for a message."""
    transform: "Callable[[NDArray[np.uint8]], NDArray[np.float32]] | None" = None
    """The library's own preprocessing, to compare with: an image [H, W, 3] to what its network sees, [3, H', W']."""


def library(name: str, extra: str) -> ModuleType:
    """An optional library. Raises InputError with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"the library {name}, for this kind of encoder", str(error), f"Install it: pip install 'repscope[{extra}]'"
        ) from error


def reason(error: BaseException) -> str:
    """What a library or the user's code reports, on one line and not too long."""
    if isinstance(error, UnpicklingError):
        # torch's own message advises to let the file run its code.
        refused = pickled(error)
        what = f" ({refused})" if refused else ""
        return f"a file that holds more than tensors and plain data{what}, which is never run"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}".rstrip(".")
