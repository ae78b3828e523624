"""Networks and image processors of the libraries: their names, and each one imported and compared with the library.

timm: the smallest member of each family. torchvision: all classifiers. transformers: every model that reads images, at
a tiny configuration, and the vision parts of models of images and text. processors: every image processor of
transformers at its defaults, pixels only.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.encoders.sources import torchvision
from tests.benchmarks.encoder_comparison import SIZES, ApartError, Row, TooLargeError, alive, compared, counted
from tests.benchmarks.encoder_transformers import (
    processor_names,
    transformers_names,
    try_processor,
    try_transformers,
)
from tests.stages.encoders.files import encoder, imported

SMALL = ("atto", "femto", "pico", "nano", "xxs", "xx_small", "xs", "tiny", "_ti_", "mini", "_s_", "small", "medium")
"""Words for a size in timm's names, from the smallest."""
CANDIDATES = 5
"""Members of a family whose parameters are counted."""
Try = Callable[[str, Path], Row]


def timm_names() -> Iterator[str]:
    """The smallest member of each family of timm, among those that their names suggest."""
    import timm

    def key(name: str) -> tuple[int, list[int]]:
        rank = next((n for n, word in enumerate(SMALL) if word in f"{name}_"), len(SMALL))
        return rank, [int(number) for number in re.findall(r"\d+", name)]

    families: list[tuple[int, str]] = []
    for module in timm.list_modules():
        sizes: dict[str, int] = {}
        for name in sorted(timm.list_models(module=module), key=key)[:CANDIDATES]:
            try:
                with torch.device("meta"):
                    network = timm.create_model(name)
            # Some draw their weights in ways that need memory.
            except Exception:
                continue
            sizes[name] = sum(tensor.numel() for tensor in network.parameters())
        members = timm.list_models(module=module)
        if members:
            smallest = min(sizes, key=lambda name: sizes[name]) if sizes else members[0]
            families.append((sizes.get(smallest, 0), smallest))
    yield from (name for _, name in sorted(families))


def try_timm(name: str, folder: Path) -> Row:
    """A network of timm from a file of its weights."""
    import timm

    network, size, options = _of_timm(timm, name)
    torch.save(network.state_dict(), folder / "weights.pth")
    row: Row = {"family": type(network).__module__.rpartition(".")[2], "size": size, "parameters": counted(network)}
    found = encoder(
        imported(
            kind="timm",
            name=name,
            weights=str(folder / "weights.pth"),
            options=options,
            preprocessing={"size": size, "resize": size},
        )
    )
    library: Any = network
    library.reset_classifier(0)
    return row | compared(found, library)


def _of_timm(timm: Any, name: str) -> tuple[nn.Module, int, dict[str, Any]]:
    """The network, the side of the smallest images that it takes, and the options that it was made with."""
    own = timm.get_pretrained_cfg(name)
    size = own.input_size[-1] if own is not None else SIZES[-1]
    why = ""
    for side, options in [*((s, o) for s in SIZES if s < size for o in ({}, {"img_size": s})), (size, {})]:
        fixed = bool(own is not None and own.fixed_input_size)
        if side < size and fixed != bool(options):
            continue
        try:
            torch.manual_seed(0)
            network: nn.Module = timm.create_model(name, **options)
            counted(network)
            alive(network, side)
        except TooLargeError:
            raise
        # Of networks that take one size only, timm reports others in any way.
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            continue
        return network, side, options
    raise ApartError(why)


def torchvision_names() -> Iterator[str]:
    """All classifiers of torchvision, the smallest first."""
    from torchvision import models

    def parameters(name: str) -> int:
        return min((int(w.meta["num_params"]) for w in models.get_model_weights(name)), default=0)

    yield from sorted(models.list_models(module=models), key=parameters)


def try_torchvision(name: str, folder: Path) -> Row:
    """A classifier of torchvision from a file of its weights."""
    torch.manual_seed(0)
    size = SIZES[0]
    plain = torchvision._outline(name)
    counted(plain)
    options = {"image_size": size} if hasattr(plain, "image_size") else {}
    network: Any = torchvision._plain(name, **options)
    if hasattr(network, "transform_input"):
        network.transform_input = False
    for size in SIZES:
        try:
            alive(network, size)
        # Some need larger images, and say so in any way.
        except Exception:
            continue
        break
    torch.save(network.state_dict(), folder / "weights.pth")
    # Written out, because the weights are none of torchvision's own.
    seen = {"size": size, "resize": size, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    found = encoder(imported(kind="torchvision", name=name, weights=str(folder / "weights.pth"), preprocessing=seen))
    handed: list[Tensor] = []
    classifier = getattr(network, torchvision._classifier(network))
    classifier.register_forward_pre_hook(lambda module, given: handed.append(given[0]))

    def expected(x: Tensor) -> Tensor:
        network(x)
        return handed[-1].mean((2, 3)) if handed[-1].ndim == 4 else handed[-1]

    return {"size": size, "parameters": counted(network)} | compared(found, expected)


LIBRARIES: dict[str, tuple[Callable[[], Iterator[str]], Try]] = {
    "timm": (timm_names, try_timm),
    "torchvision": (torchvision_names, try_torchvision),
    "transformers": (transformers_names, try_transformers),
    "processors": (processor_names, try_processor),
}
