"""Classifiers of torchvision: `backbone` is what the last layer is given."""

from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torchvision import models

from stages.encoders.sources.build import Built, reason
from stages.encoders.sources.guard import confined
from stages.encoders.sources.settings import IMAGENET
from stages.encoders.spec import Preprocessing, require
from stages.encoders.taps import Trunk, pool
from stages.encoders.weights import Filled, fill, read, state_of
from stages.errors import InputError
from stages.external.files import fetched

if TYPE_CHECKING:
    from stages.encoders.sources.settings import Torchvision

CLASSIFIERS = ("fc", "classifier", "heads", "head")
"""What torchvision calls the last layer, or the few last."""


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

    def _keep(self, module: nn.Module, given: tuple[Tensor, ...]) -> None:
        self._given = pool(given[0], "auto", None, self.prefix_tokens, "backbone")


def build(source: "Torchvision") -> Built:
    """The classifier that a source names. Raises InputError where torchvision does not know it."""
    # Segmentation and detection are left out: they download the weights of a backbone even where none are asked for.
    require("network of torchvision", source.name, models.list_models(module=models))
    filled, files, classes = Filled(), {}, None
    if source.weights is not None:
        with fetched(source.weights, source.sha256) as file:
            state, files = state_of(read(file.path), source.inside), file.sha256
        classes = _classes(source.name, state)
        network = _created(source.name, classes)
        filled = fill(network, state, source.ignore)
    elif source.pretrained:
        network = _downloaded(source.name)
        classes = 1000
    else:
        network = _created(source.name, None)
    recipe = {"kind": "torchvision", "name": source.name, "classes": classes}
    return Built(TorchvisionTrunk(network), preprocessing_of(source), recipe, filled.missing, filled.unused, files)


def rebuild(recipe: dict[str, Any]) -> Trunk:
    """The same network at random weights."""
    return TorchvisionTrunk(_created(recipe["name"], recipe["classes"]))


def _classifier(network: nn.Module) -> str:
    return next(name for name in CLASSIFIERS if hasattr(network, name))


def _created(name: str, classes: int | None) -> nn.Module:
    """The network with as many classes; None: without a classifier."""
    if classes is not None:
        network: nn.Module = models.get_model(name, weights=None, num_classes=classes)
        return network
    network = models.get_model(name, weights=None)
    setattr(network, _classifier(network), nn.Identity())
    return network


def _classes(name: str, state: dict[str, Tensor]) -> int | None:
    """How many classes the classifier in a file has; None: there is none in it."""
    with torch.device("meta"):
        head = _classifier(models.get_model(name, weights=None))
    matrices = [tensor for key, tensor in state.items() if key.startswith(f"{head}.") and tensor.ndim in (2, 4)]
    return len(matrices[-1]) if matrices else None


def _downloaded(name: str) -> nn.Module:
    try:
        # torchvision reads what it has downloaded before without comparing its sha256 again.
        with confined(download=True):
            network: nn.Module = models.get_model(name, weights="DEFAULT")
    except (OSError, RuntimeError, UnpicklingError) as error:
        raise InputError(
            f"torchvision's weights of {name}, downloaded, as tensors",
            reason(error),
            "Name a file under `weights` where this machine cannot download, and delete a damaged download.",
        ) from error
    return network


def preprocessing_of(source: "Torchvision") -> Preprocessing:
    """That of the weights torchvision has for the network: the newest where it downloads them, else the first."""
    known = list(models.get_model_weights(source.name))
    if not known:
        return IMAGENET
    chosen: Any = models.get_model_weights(source.name)["DEFAULT"] if source.pretrained else known[0]
    found: Any = chosen.transforms()
    return Preprocessing(
        size=found.crop_size[0],
        resize=found.resize_size[0],
        interpolation=found.interpolation.value,
        mean=tuple(found.mean),
        std=tuple(found.std),
    )
