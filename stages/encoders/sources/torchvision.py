"""Classifiers of torchvision: `backbone` is what the last layer is given."""

import math
import re
import warnings
from collections.abc import Mapping
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import models

from stages.encoders.sources.build import Built, reason
from stages.encoders.sources.guard import confined
from stages.encoders.sources.settings import IMAGENET
from stages.encoders.spec import Preprocessing, require
from stages.encoders.taps import Trunk, pool
from stages.encoders.weights import Filled, by_own_names, fill, read, state_of
from stages.errors import InputError
from stages.external.files import fetched

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from stages.encoders.agreement import Transform
    from stages.encoders.sources.settings import Torchvision

CLASSIFIERS = ("fc", "classifier", "heads", "head")
"""What torchvision calls the last layer, or the few last."""
HASH = re.compile(r"-([0-9a-f]{8,})\.pth$")
"""The end of the URL of torchvision's weights: the beginning of the sha256 of the file."""
WITH_AUX = ("googlenet", "inception_v3")
"""Networks with side branches that only run in training."""
IMAGE_SIZE = "image_size"
"""Argument and attribute of vision transformers: the one size of images that they take."""
POSITIONS = "encoder.pos_embedding"
"""Position embeddings of a vision transformer, [1, 1 + patches, D]."""
TURNS = "transform_input"
"""Attribute of networks whose code normalises its input once more where torchvision gives them its own weights."""


class TorchvisionTrunk(Trunk):
    """Reads what the classifier is given."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._given: Tensor | None = None
        getattr(network, _classifier(network)).register_forward_pre_hook(self._keep)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised images [B, 3, H, W] to `backbone`."""
        self.network(x)
        given, self._given = self._given, None
        assert given is not None
        return {"backbone": given}

    def library(self, x: Tensor) -> dict[str, Tensor]:
        """What the network gives without its classifier, pooled where the classifier is given a map."""
        name = _classifier(self.network)
        classifier = getattr(self.network, name)
        unclassified = _Unclassified()
        setattr(self.network, name, unclassified)
        try:
            output = self.network(x)
        finally:
            setattr(self.network, name, classifier)
        if not isinstance(output, Tensor) or unclassified.shape is None:
            return {}
        return {"backbone": pool(output.reshape(unclassified.shape), "auto", None, None, "backbone", False)}

    def _keep(self, module: nn.Module, given: tuple[Tensor, ...]) -> None:
        self._given = pool(given[0], "auto", None, self.prefix_tokens, "backbone")


class _Unclassified(nn.Module):
    """Stands in for a classifier: gives what it is given, and keeps its shape."""

    def __init__(self) -> None:
        super().__init__()
        self.shape: torch.Size | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x, as it is."""
        self.shape = x.shape
        return x


def build(source: "Torchvision") -> Built:
    """The classifier that a source names. Raises InputError where torchvision does not know it."""
    # Segmentation and detection are left out: they download the weights of a backbone even where none are asked for.
    require("network of torchvision", source.name, models.list_models(module=models))
    filled, files, classes, image_size = Filled(), {}, None, None
    if source.weights is not None:
        with fetched(source.weights, source.sha256) as file:
            state, files = state_of(read(file.path), source.inside), file.sha256
        state = by_own_names(_outline(source.name), state)
        classes, image_size = _classes(source.name, state), _image_size(source.name, state)
        network = _created(source.name, classes, image_size)
        filled = fill(network, state, source.ignore)
    elif source.pretrained:
        network = _downloaded(source.name)
        classes, image_size = 1000, getattr(network, IMAGE_SIZE, None)
    else:
        network = _created(source.name, None)
    if hasattr(network, TURNS):
        # It is part of the preprocessing instead: then no file of weights is read with it by mistake.
        setattr(network, TURNS, False)
    seen, unknown, transform = _seen(source, network, files)
    recipe = {"kind": "torchvision", "name": source.name, "classes": classes}
    recipe |= {} if image_size is None else {IMAGE_SIZE: image_size}
    trunk = TorchvisionTrunk(network)
    return Built(trunk, seen, recipe, filled.missing, filled.unused, files, unknown, transform)


def rebuild(recipe: dict[str, Any]) -> Trunk:
    """The same network at random weights."""
    return TorchvisionTrunk(_created(recipe["name"], recipe["classes"], recipe.get(IMAGE_SIZE)))


def _classifier(network: nn.Module) -> str:
    return next(name for name in CLASSIFIERS if hasattr(network, name))


def _created(name: str, classes: int | None, image_size: int | None = None) -> nn.Module:
    """The network with as many classes; None: without a classifier. `image_size` of one that knows one size only."""
    options = {} if image_size is None else {IMAGE_SIZE: image_size}
    if classes is not None:
        return _plain(name, num_classes=classes, **options)
    network = _plain(name, **options)
    setattr(network, _classifier(network), nn.Identity())
    return network


def _plain(name: str, **options: int) -> nn.Module:
    with warnings.catch_warnings():
        # GoogLeNet and Inception announce another random initialisation, whatever becomes of the weights.
        warnings.simplefilter("ignore", FutureWarning)
        network: nn.Module = models.get_model(name, weights=None, **options)
    return network


def _outline(name: str) -> nn.Module:
    """The network without weights, where torchvision can build it so."""
    try:
        with torch.device("meta"):
            return _plain(name)
    # RegNets calculate their widths with tensors.
    except NotImplementedError:
        return _plain(name)


def _classes(name: str, state: dict[str, Tensor]) -> int | None:
    """How many classes the classifier in a file has; None: there is none in it."""
    head = _classifier(_outline(name))
    matrices = [tensor for key, tensor in state.items() if key.startswith(f"{head}.") and tensor.ndim in (2, 4)]
    return len(matrices[-1]) if matrices else None


def _image_size(name: str, state: dict[str, Tensor]) -> int | None:
    """Side of the images that the position embeddings in a file are for; None: the network has none."""
    positions = state.get(POSITIONS)
    if positions is None or positions.ndim != 3:
        return None
    patch = getattr(_outline(name), "patch_size", None)
    # One stands for the class token.
    return None if patch is None else math.isqrt(positions.shape[1] - 1) * int(patch)


def _downloaded(name: str) -> nn.Module:
    try:
        # torchvision reads what it has downloaded before without comparing its sha256 again.
        with confined(download=True), warnings.catch_warnings():
            # With the side branches that their training used, as they are built again. GoogLeNet warns that these have
            # no weights of worth; they do not run in evaluation.
            warnings.simplefilter("ignore", UserWarning)
            more = {"aux_logits": True} if name in WITH_AUX else {}
            network: nn.Module = models.get_model(name, weights="DEFAULT", **more)
    except (OSError, RuntimeError, UnpicklingError) as error:
        raise InputError(
            f"torchvision's weights of {name}, downloaded, as tensors",
            reason(error),
            "Name a file under `weights` where this machine cannot download, and delete a damaged download.",
        ) from error
    return network


def preprocessing_of(weights: Any) -> Preprocessing:
    """That of an entry of torchvision's for weights."""
    found: Any = weights.transforms()
    return Preprocessing(
        size=found.crop_size[0],
        resize=found.resize_size[0],
        interpolation=found.interpolation.value,
        mean=tuple(found.mean),
        std=tuple(found.std),
    )


def _known_by(source: "Torchvision", files: Mapping[str, str]) -> Any:
    """torchvision's entry for the weights in use: its default where it downloads them, else the one that the sha256 of
    the file begins as; None for a file that is none of its own.
    """
    if source.pretrained:
        return models.get_model_weights(source.name)["DEFAULT"]
    for weights in models.get_model_weights(source.name):
        named = HASH.search(weights.url)
        if named is not None and any(digest.startswith(named[1]) for digest in files.values()):
            return weights
    return None


def _seen(
    source: "Torchvision", network: nn.Module, files: Mapping[str, str]
) -> "tuple[Preprocessing | None, str, Transform | None]":
    """How the network is meant to see images, or None and why; and torchvision's own transform to compare with."""
    known = list(models.get_model_weights(source.name))
    if not known:
        return IMAGENET, Built.unknown, None
    weights = _known_by(source, files)
    turns = hasattr(network, TURNS)
    if weights is None and not source.untrained:
        resizes = {str(preprocessing_of(entry)): entry for entry in known}
        if turns or len(resizes) > 1:
            each = ", ".join(f"{w.name} (resize {w.transforms().resize_size[0]})" for w in resizes.values())
            more = f"; its code turns their input ({TURNS}), as mean and std 0.5 do" if turns else ""
            return None, f"the file is none of torchvision's, whose weights of {source.name} are {each}{more}", None
    turned = turns and weights is not None
    weights = weights or known[0]
    seen = preprocessing_of(weights)
    own = weights.transforms()

    def transform(image: "NDArray[np.uint8]") -> "NDArray[np.float32]":
        pixels: Tensor = own(Image.fromarray(image))
        if turned:
            setattr(network, TURNS, True)
            pixels = getattr(network, f"_{TURNS}")(pixels[None])[0]
            setattr(network, TURNS, False)
        return pixels.numpy()

    if turned:
        # Inception's and GoogLeNet's code maps what its weights' transform normalised to (pixel - 0.5) / 0.5.
        seen = seen.model_copy(update={"mean": (0.5,) * 3, "std": (0.5,) * 3})
    return seen, Built.unknown, transform
