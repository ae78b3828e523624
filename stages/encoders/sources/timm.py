"""Networks of timm: built by name, with weights from a file, from timm, or at random."""

import copy
import difflib
import inspect
import math
import sys
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, get_args

from PIL import Image
from torch import Tensor, nn

from stages.encoders.sources.build import Built, library, reason
from stages.encoders.sources.guard import confined
from stages.encoders.spec import Preprocessing
from stages.encoders.taps import Trunk, pool
from stages.encoders.weights import Filled, by_own_names, fill, read, state_of
from stages.errors import InputError
from stages.external.files import fetched
from stages.images.framing import Interpolation

if TYPE_CHECKING:
    from stages.encoders.agreement import Transform
    from stages.encoders.sources.settings import Timm

NHWC = "NHWC"
"""What timm calls maps [B, H, W, C]."""


class TimmTrunk(Trunk):
    """`backbone` is what timm hands to its classifier, or another pooling of the same features."""

    def __init__(self, network: nn.Module, how: str) -> None:
        super().__init__()
        if not hasattr(network, "get_classifier"):
            raise InputError(
                "a network of timm that classifies",
                type(network).__name__,
                "Take `features_only` out of `options`: `taps` read submodules.",
            )
        self.network: Any = network
        self._how = how
        self._classify = self._prepared = False
        self.channels_last = True if getattr(network, "output_fmt", None) == NHWC else None

    def prepare(self, modules: frozenset[str]) -> None:
        """Runs the classifier too, where it is read."""
        self._prepared = True
        classifier = self.network.get_classifier()
        heads = {name for name, module in self.network.named_modules() if module is classifier}
        self._classify = any(name == head or name.startswith(f"{head}.") for name in modules for head in heads)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised images [B, 3, H, W] to `backbone`."""
        features = self.network.forward_features(x)
        pooled = self.network.forward_head(features, pre_logits=True)
        if self._classify:
            self.network.get_classifier()(pooled)
        chosen = pooled if self._how == "auto" else features
        patches = self.patches(x.shape[-2], x.shape[-1])
        return {"backbone": pool(chosen, self._how, patches, self.prefix_tokens, "backbone", bool(self.channels_last))}

    def library(self, x: Tensor) -> dict[str, Tensor]:
        """What timm's own forward pass gives without classes; nothing for another pooling."""
        if self._prepared:
            # Taps are read in a whole pass, of which `backbone` was read before.
            self.network(x)
        if self._prepared or self._how != "auto":
            return {}
        # A copy with the same tensors.
        tensors = (*self.network.parameters(), *self.network.buffers())
        unclassified: Any = copy.deepcopy(self.network, {id(tensor): tensor for tensor in tensors})
        unclassified.reset_classifier(0)
        return {"backbone": pool(unclassified(x), "auto", None, None, "backbone", False)}

    def patches(self, height: int, width: int) -> int | None:
        """From the patch embedding, where there is one and its tokens stay as they are."""
        side = getattr(getattr(self.network, "patch_embed", None), "patch_size", None)
        if side is None or getattr(self.network, "num_prefix_tokens", None) is None:
            return None
        down, across = (side, side) if isinstance(side, int) else side
        return int(height // down * (width // across))


def build(source: "Timm") -> Built:
    """The network that a source names. Raises InputError where timm does not know it or its weights do not fit."""
    timm = library("timm", "timm")
    if not timm.is_model(source.name):
        near = difflib.get_close_matches(source.name.partition(".")[0], timm.list_models(), n=3)
        meant = f"Did you mean {', '.join(near)}?" if near else "`timm.list_models()` has all of them."
        raise InputError("the name of a network of timm", repr(source.name), meant)
    filled, files = Filled(), {}
    if source.weights is None:
        network = _created(timm, source.name, source.pretrained, {"num_classes": 0} | source.options)
        recipe = {"kind": "timm", "name": source.name, "options": {"num_classes": 0} | source.options}
    else:
        with fetched(source.weights, source.sha256) as file:
            state, files = state_of(read(file.path), source.inside), file.sha256
        plain = _created(timm, source.name, False, dict(source.options))
        state = by_own_names(plain, state)
        heads = _classifiers(plain)
        classes = next((len(state[f"{head}.weight"]) for head in heads if f"{head}.weight" in state), 0)
        options = {"num_classes": classes} | source.options
        network = plain if classes == getattr(plain, "num_classes", -1) else _created(timm, source.name, False, options)
        filled = _fill(network, state, source.ignore)
        recipe = {"kind": "timm", "name": source.name, "options": options}
    recipe["pool"] = source.pool
    trunk = TimmTrunk(network, source.pool)
    seen, transform = _preprocessing(network, source.options)
    return Built(trunk, seen, recipe, filled.missing, filled.unused, files, transform=transform)


def rebuild(recipe: dict[str, Any]) -> Trunk:
    """The same network at random weights."""
    timm = library("timm", "timm")
    return TimmTrunk(_created(timm, recipe["name"], False, recipe["options"]), recipe["pool"])


def _created(timm: Any, name: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    try:
        with confined(download=pretrained):
            network: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
    except (OSError, RuntimeError, TypeError, ValueError, AssertionError, UnpicklingError) as error:
        what = f"{name} with its pretrained weights from timm" if pretrained else f"{name} with options {options}"
        remedy = "Name a file under `weights` where this machine cannot download." if pretrained else "Correct them."
        raise InputError(what, reason(error), remedy) from error
    return network


def _classifiers(network: nn.Module) -> tuple[str, ...]:
    named: Any = getattr(network, "default_cfg", {}).get("classifier") or ()
    return (named,) if isinstance(named, str) else tuple(named)


def _fill(network: nn.Module, state: dict[str, Tensor], ignore: tuple[str, ...]) -> Filled:
    """Weights as timm saved them, or in the layout of their authors or for images of another size.

    timm's own filter translates both: it resamples position embeddings.
    """
    translate = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    if translate is not None and shapes != {name: tensor.shape for name, tensor in state.items()}:
        arguments = (state, network)[: len(inspect.signature(translate).parameters)]
        try:
            state = translate(*arguments)
        # It may raise anything for weights of another network.
        except Exception as error:
            raise InputError(
                f"weights of {type(network).__name__}, in timm's layout or that of their authors",
                reason(error),
                "Check that name and file belong together; `inside` says where its weights stand in the file.",
            ) from error
    return fill(network, state, ignore)


def _preprocessing(network: nn.Module, options: dict[str, Any]) -> "tuple[Preprocessing | None, Transform | None]":
    """timm's data configuration as a preprocessing, and timm's own evaluation transform to compare it with.

    Both None where that is no resizing and cutting.
    """
    library_data = library("timm.data", "timm")
    asked = {"img_size": options["img_size"]} if isinstance(options.get("img_size"), int) else {}
    data = library_data.resolve_data_config(asked, model=network)
    size, mode = data["input_size"][-1], data.get("crop_mode") or "center"
    if mode not in ("center", "squash") or data["interpolation"] not in get_args(Interpolation):
        return None, None
    own = library_data.create_transform(**data, is_training=False)
    seen = Preprocessing(
        size=size,
        resize=math.floor(size / data["crop_pct"]),
        squash=mode == "squash",
        interpolation=data["interpolation"],
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
    )
    return seen, lambda image: own(Image.fromarray(image)).numpy()
