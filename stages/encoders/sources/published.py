"""Published checkpoints of self-supervised methods: a ResNet and its projector, each in the layout of its authors.

    simclr, barlow   classy_state_dict.base_model.model (VISSL): trunk `_feature_blocks.`, heads `0.clf.0.`, `1.clf.0.`
    barlow, vicreg   model: `module.backbone.`, `module.projector.`; `bn` of Barlow Twins is dropped
    dino             teacher: `module.backbone.`, `module.head.mlp.`; `head.last_layer` is dropped
    swav             `module.`, `module.projection_head.`; `prototypes` is dropped
    supervised       torchvision's own state dict; `fc` is dropped

Projectors of the published ResNet-50: SimCLR and SwAV 2048-128, Barlow Twins and VICReg 8192-8192-8192, DINO 4096-256.

Widths, biases and normalisation are read from the file, the activation is the method's.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torchvision import models

from stages.encoders.sources.build import Built
from stages.encoders.sources.settings import HEADS, IMAGENET
from stages.encoders.taps import Trunk, projector_taps
from stages.encoders.weights import few, fill, read, unwrapped
from stages.errors import InputError
from stages.external.files import fetched

if TYPE_CHECKING:
    from stages.encoders.sources.settings import PublishedEncoder

State = dict[str, Tensor]
ACTIVATIONS = {"dino": nn.GELU}
"""Between the layers of a projector; ReLU for the others."""
VISSL = ("classy_state_dict", "base_model", "model")
FILES = {
    "simclr": "VISSL's simclr_rn50_1000ep… model_final_checkpoint_phase999.torch",
    "barlow": "VISSL's barlow_twins_32gpus_4node_imagenet1k_1000ep_resnet50.torch, or checkpoint.pth of their own code",
    "vicreg": "resnet50_fullckpt.pth",
    "dino": "dino_resnet50_pretrain_full_checkpoint.pth",
    "swav": "swav_800ep_pretrain.pth.tar",
    "supervised": "torchvision's resnet50-0676ba61.pth",
}
"""A published file of each layout, for messages; docs/guide/published.md says where they are."""
DROPPED: Mapping[str, tuple[str, ...]] = {"barlow": ("bn.",), "vicreg": (), "dino": ("head.last_layer.",)}
"""What a loss has of its own: Barlow Twins normalises the last embeddings, DINO compares them with prototypes."""
DINO_RESIZES = "bicubic"
"""DINO's evaluation resizes so; that of the others bilinearly."""


class PublishedTrunk(Trunk):
    """A ResNet without classifier, and a projector on top of it."""

    def __init__(self, network: "PublishedNetwork") -> None:
        super().__init__()
        self.network: PublishedNetwork = network

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised images [B, 3, H, W] to `backbone`, `projector.0`, …, `projector`."""
        backbone = self.network.backbone(x)
        return {"backbone": backbone} | projector_taps(self.network.projector, backbone)

    def library(self, x: Tensor) -> dict[str, Tensor]:
        """What torchvision's network gives, and its projector as a whole."""
        backbone, projector = self.network.backbone(x), self.network.projector
        return {"backbone": backbone, "projector": projector(backbone)} if len(projector) else {"backbone": backbone}


class PublishedNetwork(nn.Module):
    """`backbone` and `projector`, by these names."""

    def __init__(self, recipe: Mapping[str, Any]) -> None:
        super().__init__()
        self.backbone: nn.Module = models.get_model(recipe["name"], weights=None)
        self.backbone.fc = nn.Identity()
        layers: list[nn.Module] = []
        for number, layer in enumerate(recipe["projector"]):
            layers.append(nn.Linear(layer["width_in"], layer["width"], bias=layer["bias"]))
            if layer["norm"]:
                layers.append(nn.BatchNorm1d(layer["width"], affine=layer["affine"]))
            if number < len(recipe["projector"]) - 1:
                layers.append(ACTIVATIONS.get(recipe["method"], nn.ReLU)())
        self.projector = nn.Sequential(*layers)


def build(source: "PublishedEncoder") -> Built:
    """The encoder in a published file. Raises InputError where the file has another layout or lacks the projector."""
    assert source.weights is not None
    with fetched(source.weights, source.sha256) as file:
        trunk, head, unused = separated(source.method, _entry_of(read(file.path), source.inside))
        files = file.sha256
    projector = layers_of(source.method, head)
    recipe = {"kind": "released", "method": source.method, "name": source.name, "projector": projector}
    network = PublishedNetwork(recipe)
    named = {f"backbone.{name}": tensor for name, tensor in trunk.items()} | renumbered(network.projector, head)
    filled = fill(network, named, source.ignore)
    seen = IMAGENET.model_copy(update={"interpolation": DINO_RESIZES}) if source.method == "dino" else IMAGENET
    return Built(PublishedTrunk(network), seen, recipe, filled.missing, [*unused, *filled.unused], files)


def rebuild(recipe: dict[str, Any]) -> Trunk:
    """The same network at random weights."""
    return PublishedTrunk(PublishedNetwork(recipe))


def separated(method: str, document: Any) -> tuple[State, State, list[str]]:
    """A published file as weights of the trunk, weights of the head by (layer, part), and names that are dropped.

    Names of the trunk are torchvision's; those of the head `<number of a module>.<weight>`, where the modules are
    counted as the authors did. Raises InputError for another layout.
    """
    vissl = isinstance(document, Mapping) and VISSL[0] in document
    if method == "simclr" or (method == "barlow" and vissl):
        model = _at(method, document, VISSL)
        trunk = {name.replace("_feature_blocks.", ""): t for name, t in _tensors(method, model, "trunk").items()}
        head = {}
        for name, tensor in _tensors(method, model, "heads").items():
            found = re.fullmatch(r"(\d+)\.clf\.(\d+)\.(\w+)", name)
            if found is None:
                raise _layout(method, f"a head with {name}")
            # A head is a list of small stacks; far apart, their numbers keep the order.
            head[f"{int(found[1]) * 100 + int(found[2])}.{found[3]}"] = tensor
        return trunk, head, []
    if method in ("barlow", "vicreg", "dino"):
        entry, beginning = ("teacher", "head.mlp.") if method == "dino" else ("model", "projector.")
        state = unwrapped(_tensors(method, document, entry))
        if method == "dino":
            state = unwrapped({name.replace("module.", ""): tensor for name, tensor in state.items()})
        return _split(method, state, "backbone.", beginning, DROPPED[method])
    inner = document.get("state_dict", document) if isinstance(document, Mapping) else document
    state = unwrapped(_tensors(method, {"file": inner}, "file"))
    if method == "swav":
        return _split(method, state, "", "projection_head.", ("prototypes.",))
    return _split(method, state, "", None, ("fc.",))


def _split(
    method: str, state: State, trunk: str, head: str | None, dropped: tuple[str, ...]
) -> tuple[State, State, list[str]]:
    unused = [name for name in state if name.startswith(dropped)]
    heads = {} if head is None else {n.removeprefix(head): t for n, t in state.items() if n.startswith(head)}
    if head is not None and not heads:
        raise _layout(method, f"no {head}* among {few(list(state))}")
    others = {name: t for name, t in state.items() if name not in unused and not (head and name.startswith(head))}
    if not all(name.startswith(trunk) for name in others):
        raise _layout(method, few([name for name in others if not name.startswith(trunk)]))
    return {name.removeprefix(trunk): tensor for name, tensor in others.items()}, heads, unused


def layers_of(method: str, head: State) -> list[dict[str, Any]]:
    """The layers of a projector from the shapes of its weights."""
    modules: dict[int, dict[str, Tensor]] = {}
    for name, tensor in head.items():
        number, _, what = name.partition(".")
        modules.setdefault(int(number), {})[what] = tensor
    layers: list[dict[str, Any]] = []
    for _, tensors in sorted(modules.items()):
        if "running_mean" in tensors:
            layers[-1] |= {"norm": True, "affine": "weight" in tensors}
        else:
            wide, narrow = tensors["weight"].shape
            bias = "bias" in tensors
            layers.append({"width_in": narrow, "width": wide, "bias": bias, "norm": False, "affine": False})
    if len(layers) != HEADS[method]:
        raise _layout(method, f"a projector of {len(layers)} layers instead of {HEADS[method]}")
    return layers


def renumbered(projector: nn.Sequential, head: State) -> State:
    """The head's weights under the numbers that the modules have in ours."""
    theirs = sorted({int(name.partition(".")[0]) for name in head})
    ours = [str(number) for number, module in enumerate(projector) if module.state_dict()]
    assert len(theirs) == len(ours)
    numbers = dict(zip(map(str, theirs), ours, strict=True))
    renamed = {}
    for name, tensor in head.items():
        number, _, what = name.partition(".")
        renamed[f"projector.{numbers[number]}.{what}"] = tensor
    return renamed


def _entry_of(document: Any, inside: str) -> Any:
    for name in filter(None, inside.split(".")):
        if not isinstance(document, Mapping) or name not in document:
            raise InputError(f"an entry {inside!r} in the file", f"none called {name!r}", "Correct `inside`.")
        document = document[name]
    return document


def _at(method: str, document: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if not isinstance(document, Mapping) or name not in document:
            raise _layout(method, f"no entry {'.'.join(path)}")
        document = document[name]
    return document


def _tensors(method: str, document: Any, entry: str) -> State:
    found = _at(method, document, (entry,))
    if not isinstance(found, Mapping):
        raise _layout(method, f"{type(found).__name__} as {entry}")
    return {str(name): value for name, value in found.items() if isinstance(value, Tensor)}


def _layout(method: str, found: str) -> InputError:
    return InputError(
        f"a checkpoint of {method} in the layout of its authors, with its head, such as {FILES[method]}",
        found,
        "Check `method`; weights of a backbone alone are read by `kind: torchvision` or `kind: timm`.",
    )
