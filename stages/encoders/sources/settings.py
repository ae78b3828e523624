"""Where an encoder of the user's comes from: settings of each kind of source, and the taps that are known of it.

A source says how the network is built and where its weights are. Everything here is known without building anything,
so a study is checked before any library is imported.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, field_validator

from stages.contract import Added, External, Function, Settings, Unkeyed
from stages.encoders.spec import Colour, Preprocessing
from stages.external.files import absolute, local
from stages.images.framing import Interpolation

Pool = Literal["auto", "cls", "mean"]
"""How tokens or positions become one vector: the first token, the mean of the patches, or what the network is meant
for (its own pooling where it has one, else its class token, else the mean)."""

WEIGHTS_WHY = "its bytes are in the key by their digest"
IMAGENET = Preprocessing(
    size=224, resize=256, interpolation="bilinear", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
"""What most networks of the ImageNet tradition were evaluated with."""


class Override(Settings):
    """What a study changes of the preprocessing that comes with the network; None: as it comes."""

    size: PositiveInt | None = None
    """Side of the square that the network sees; alone, it scales `resize` in proportion."""
    resize: PositiveInt | Literal["square"] | None = None
    """Shorter side before the centre is cut out; `square`: the centre square is resized to `size`."""
    squash: bool | None = None
    """Both sides are resized to the size, whatever the proportions of the image."""
    interpolation: Interpolation | None = None
    """Of the resizing."""
    rounding: Literal["even", "down"] | None = None
    """Of half a pixel of margin when the centre is cut out: torchvision's `even`, or `down` as in transformers."""
    halve: Annotated[bool, Added(when_absent=False)] = False
    """No library's own does."""
    channels: Annotated[Literal["rgb", "bgr"] | None, Added(when_absent=None)] = None
    """Order in which the network is given the normalised channels."""
    mean: Colour | None = None
    """Subtracted from pixels in [0, 1]: red, green, blue."""
    std: Colour | None = None
    """Divides what is left: red, green, blue."""

    def on(self, found: Preprocessing) -> Preprocessing:
        """`found` with what is set here. Raises ValueError where the cut would be larger than what it is cut from."""
        changes: dict[str, Any] = {
            name: value for name, value in self.model_dump().items() if value is not None and name != "resize"
        }
        size = changes.get("size", found.size)
        if self.resize == "square":
            changes["resize"] = None
        elif self.resize is not None:
            changes["resize"] = self.resize
        elif found.resize is not None:
            changes["resize"] = round(found.resize * size / found.size)
        return Preprocessing.model_validate(found.model_dump() | changes)


PRESETS: Mapping[str, dict[str, Any]] = {
    "imagenet": IMAGENET.model_dump(),
    # The released RCDM code shows its encoders what its denoiser sees: [-1, 1], at 224 pixels without a margin, framed
    # as guided-diffusion does.
    "rcdm": {"size": 224, "resize": 224, "squash": False, "interpolation": "bicubic", "rounding": "down", "halve": True}
    | {"mean": (0.5,) * 3, "std": (0.5,) * 3},
}


def _preset(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in PRESETS:
        raise ValueError(f"expected fields or one of the presets {', '.join(PRESETS)}; found {value!r}")
    return PRESETS[value]


Overrides = Annotated[Override, BeforeValidator(_preset)]
"""`Override`, or the name of a preset."""


class Tap(Settings):
    """A submodule whose output is read, or several, and how positions become one vector for each image."""

    module: Annotated[str, Field(min_length=1)] | None = None
    """Dotted name, as in the network's state dict: `layer3`, `blocks.5`, `encoder.layer.2`. None where there are
    `layers`."""
    layers: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Added(when_absent=())] = ()
    """Names of several submodules in the place of `module`, for example the last blocks of a transformer."""
    combine: Annotated[Literal["mean", "sum"], Added(when_absent="mean")] = "mean"
    """How the vectors of `layers` become one."""
    pool: Literal["auto", "cls", "mean", "registers", "flatten"] = "auto"
    """`registers`: the mean of the tokens between the class token and the patches. `flatten` keeps every position. Each
    of `layers` is pooled before they are combined."""

    def model_post_init(self, context: object) -> None:
        """Refuses a tap that reads nothing, and layers that cannot be combined."""
        if (self.module is None) == (not self.layers):
            found = "neither" if self.module is None else "both"
            raise ValueError(f"expected module, or layers, which are several submodules; found {found}")
        if self.layers and (len(self.layers) < 2 or len(set(self.layers)) < len(self.layers)):
            raise ValueError(
                f"expected two different layers or more; found {', '.join(self.layers)}. One alone is a module"
            )
        if self.module is not None and self.combine == "sum":
            raise ValueError("expected combine beside layers; found it beside module")

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of all submodules that are read."""
        return self.layers if self.module is None else (self.module,)

    @property
    def words(self) -> str:
        """What is read, in a line."""
        read = ", ".join(self.modules)
        return f"{f'{self.combine} of {read}' if self.layers else read}@{self.pool}"


TAP_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
RESERVED = ("backbone", "projector")


def _tap_fields(value: Any) -> Any:
    """`[layer3@mean, …]` or `{early: layer1@mean}` as `{name: {module, pool}}`."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list | tuple):
        value = {str(entry).partition("@")[0]: entry for entry in value}
    if not isinstance(value, dict):
        return value
    found = {}
    for name, entry in value.items():
        if isinstance(entry, str):
            module, _, pool = entry.partition("@")
            entry = {"module": module} | ({"pool": pool} if pool else {})
        found[name] = entry
    return found


Taps = Annotated[dict[str, Tap], BeforeValidator(_tap_fields)]
"""Name -> submodule; also a list of `module@pool`."""


class EncoderSource(Settings):
    """What all kinds of sources have."""

    def external(self) -> Mapping[str, External]:
        """What is read outside the store when the encoder is imported."""
        return {}

    def taps(self) -> tuple[str, ...]:
        """The taps that every encoder of this source has, in the order of the forward pass."""
        return ("backbone",)

    def weights_bytes(self) -> int | None:
        """Size of the weights, for estimates; None where they do not lie on this machine."""
        return None

    def usual_size(self) -> int:
        """Side of the images that networks of this kind usually take, for estimates."""
        return 224


class FileSource(EncoderSource):
    """A source whose weights may be a file of their own."""

    weights: Annotated[str | None, Unkeyed(WEIGHTS_WHY)] = None
    """URL of a file of weights (safetensors, or what `torch.save` wrote, read without unpickling code)."""
    sha256: Annotated[str | None, Field(pattern="^[0-9a-f]{64}$"), Unkeyed(WEIGHTS_WHY)] = None
    """Of the file of weights: with it the file is not read to know its digest, and another file is refused."""
    inside: str = ""
    """Where in the file the network's weights stand, for example `teacher.backbone`; empty: found by itself."""
    ignore: tuple[str, ...] = ()
    """Beginnings of names in the file that the network has no use for."""

    @field_validator("weights")
    @classmethod
    def _absolute_weights(cls, url: str | None) -> str | None:
        return None if url is None else absolute(url)

    def weights_bytes(self) -> int | None:
        """Of the file of weights."""
        path = None if self.weights is None else local(self.weights)
        return path.stat().st_size if path is not None and path.is_file() else None

    def external(self) -> Mapping[str, External]:
        """The file of weights."""
        return {} if self.weights is None else {"weights": External(self.weights, self.sha256 or "content")}


class LibrarySource(FileSource):
    """A source that names a network in a library: its weights come from a file, the library, or nowhere."""

    pretrained: bool = False
    """True: the library downloads its own weights."""
    untrained: bool = False
    """True: the network stays at random initialisation, as a reference."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the random initialisation."""

    def model_post_init(self, context: object) -> None:
        """Refuses a network whose weights would be left to chance."""
        given = [name for name in ("weights", "pretrained", "untrained") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                "expected one of weights (a file), pretrained: true (the library's own) and untrained: true (a random "
                f"network, as a reference); found {' and '.join(given) or 'none, which would leave weights to chance'}"
            )


TIMM_SOURCES = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_model_args")
"""Arguments of `timm.create_model` that say where weights come from."""


class Timm(LibrarySource):
    """A network of timm; needs `pip install 'repscope[timm]'`."""

    kind: Literal["timm"] = "timm"
    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    """As timm lists it, for example `resnet50` or `vit_small_patch14_dinov2.lvd142m`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of `timm.create_model`, for example `{img_size: 96}`."""
    pool: Pool = "auto"
    """Of `backbone`."""

    @field_validator("options")
    @classmethod
    def _no_other_weights(cls, options: dict[str, Any]) -> dict[str, Any]:
        if found := [name for name in options if name in TIMM_SOURCES]:
            raise ValueError(
                "expected options of the network itself; found "
                f"{', '.join(found)}, which would load weights that the key does not know. Name the file under weights"
            )
        return options

    def usual_size(self) -> int:
        """As `options` say."""
        asked = self.options.get("img_size")
        return asked if isinstance(asked, int) else super().usual_size()


class Hf(EncoderSource):
    """A vision model of transformers, as `save_pretrained` writes it; needs `pip install 'repscope[hf]'`."""

    kind: Literal["hf"] = "hf"
    path: Annotated[str, Field(min_length=1), Unkeyed(WEIGHTS_WHY)]
    """The model's folder, by path or URL; with `pretrained: true` its id on the hub."""
    pretrained: bool = False
    """True: `path` is an id, and transformers downloads it."""
    revision: str = "main"
    """Of an id: branch, tag or commit."""
    untrained: bool = False
    """True: of the folder only the configuration is used, and the network stays at random initialisation."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the random initialisation."""
    pool: Pool = "auto"
    """Of `backbone`."""

    def model_post_init(self, context: object) -> None:
        """Makes a local path absolute; refuses contradictions."""
        if self.pretrained and self.untrained:
            raise ValueError("expected pretrained or untrained; found both")
        if not self.pretrained:
            object.__setattr__(self, "path", absolute(self.path))

    def weights_bytes(self) -> int | None:
        """Of the files of weights in the folder, which may have them in two formats."""
        folder = None if self.pretrained else local(self.path)
        if folder is None or not folder.is_dir():
            return None
        sizes = [sum(file.stat().st_size for file in folder.glob(f"*{ending}")) for ending in (".safetensors", ".bin")]
        return max(sizes) or None

    def external(self) -> Mapping[str, External]:
        """The folder, or the id on the hub."""
        if self.pretrained:
            return {"hub": External(f"hf://{self.path}", f"{self.path}@{self.revision}")}
        return {"folder": External(self.path, "content")}


class Torchvision(LibrarySource):
    """A classifier of torchvision; `backbone` is what its last layer is given."""

    kind: Literal["torchvision"] = "torchvision"
    name: str = Field(pattern=r"^[A-Za-z0-9_]+$")
    """As `torchvision.models.list_models` has it, for example `resnet50`."""


class Torch(FileSource):
    """A network that the user's own code builds.

    The code returns an `nn.Module` that maps normalised images [B, 3, H, W] to [B, D], to tokens [B, N, D], to a map
    [B, C, H, W], or to a dict with such values, one of them `backbone`.
    """

    kind: Literal["torch"] = "torch"
    factory: Annotated[str, Field(pattern=r"^.+:[A-Za-z_][A-Za-z0-9_]*$"), Function()]
    """`package.module:function`, importable wherever parts are worked on, or `path/to/file.py:function`. A file is in
    the key by its sha256, and its path is not."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the function."""
    pool: Pool = "auto"
    """Of `backbone`."""
    prefix_tokens: Annotated[int, Field(ge=0)] | None = None
    """Tokens that stand before those of the patches; None: found, where there are none or one."""

    @field_validator("factory")
    @classmethod
    def _absolute_file(cls, factory: str) -> str:
        file, _, function = factory.rpartition(":")
        return f"{absolute(file)}:{function}" if file.endswith(".py") else factory

    def external(self) -> Mapping[str, External]:
        """The file of weights, and the file of code."""
        module = self.factory.rpartition(":")[0]
        code = {"code": External(module, "code")} if module.endswith(".py") else {}
        return {**super().external(), **code}


Method = Literal["simclr", "barlow", "vicreg", "dino", "swav", "supervised"]
HEADS: Mapping[str, int] = {"simclr": 2, "barlow": 3, "vicreg": 3, "dino": 2, "swav": 2, "supervised": 0}
"""Layers of each method's published projector."""


class PublishedEncoder(FileSource):
    """A published checkpoint of a self-supervised method on a ResNet, in the layout of its authors, with its head."""

    kind: Literal["released"] = "released"
    method: Method
    """How the checkpoint was trained; it determines the layout of the file and the head."""
    name: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2"] = "resnet50"
    """The backbone."""

    def model_post_init(self, context: object) -> None:
        """Refuses a checkpoint without a file."""
        if self.weights is None:
            raise ValueError("expected weights, the URL of the checkpoint; found none")

    def taps(self) -> tuple[str, ...]:
        """`backbone` and every layer of the method's projector."""
        layers = HEADS[self.method]
        return ("backbone", *(f"projector.{layer}" for layer in range(layers - 1)), *(["projector"] * (layers > 0)))


AnySource = Annotated[Timm | Hf | Torchvision | Torch | PublishedEncoder, Field(discriminator="kind")]
KINDS: Mapping[str, type[EncoderSource]] = {
    "timm": Timm,
    "hf": Hf,
    "torchvision": Torchvision,
    "torch": Torch,
    "released": PublishedEncoder,
}
FIRST_FIELD: Mapping[str, str] = {
    "timm": "name",
    "hf": "path",
    "torchvision": "name",
    "torch": "factory",
    "released": "method",
}
"""The field that the short form of each kind names first."""


def from_short(text: Any) -> dict[str, Any]:
    """`kind:what` or `kind:what@weights` as fields, for example `timm:resnet50@s3://bucket/resnet50.safetensors`.

    Raises ValueError where the kind is none of `KINDS`, or weights are given to `hf`, which has them in its folder.
    """
    kind, colon, name = text.partition(":") if isinstance(text, str) else ("", "", "")
    if not colon or kind not in KINDS or not name:
        raise ValueError(f"expected fields, or a short form such as timm:resnet50@weights.pth; found {text!r}")
    if kind == "hf":
        return {"kind": kind, "path": name}
    what, at, weights = name.partition("@")
    return {"kind": kind, FIRST_FIELD[kind]: what} | ({"weights": weights} if at else {})
