"""Vision models of transformers: read as `save_pretrained` writes them, never with code of their own."""

import inspect
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn

from stages.encoders.sources.build import Built, library, reason
from stages.encoders.sources.guard import confined
from stages.encoders.spec import Preprocessing
from stages.encoders.taps import Trunk, pool
from stages.encoders.weights import LFS, few, read, require_real, require_weights
from stages.errors import InputError
from stages.external.files import Fetched, fetched_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from stages.encoders.agreement import Transform
    from stages.encoders.sources.settings import Hf

FILES = ("config.json", ".safetensors", ".safetensors.index.json", "pytorch_model.bin", ".bin.index.json")
"""Endings of what is fetched of a folder; transformers reads `.bin` files without unpickling code."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Files of weights, in the order in which transformers looks for them; the index of several files follows each."""
INDEX = ".index.json"
ADAPTER = "adapter_config.json"
"""What peft writes beside weights that change those of another model."""
DISTRIBUTED = re.compile(r"shard-\d+-model-\d+-of-\d+\.safetensors")
"""Files that transformers prefers to all others."""
ATTENTIONS = (None, "eager", "sdpa")
"""Ways to compute attention that torch has itself."""
CONVNEXT_SQUASHES = 384
"""Side from which ConvNeXt's image processor resizes without cutting."""
LEVIT_MARGIN = 256 / 224
"""How much longer than `shortest_edge` LeViT's image processor leaves the shorter side."""
TOWERS = ("VisionModelWithProjection", "VisionModel")
"""Endings of the classes that are the vision part of a model of images and text; the first that exists is read."""
WITH_PROJECTION = "visual_projection"
"""Submodule that maps to the space shared with text."""
OWN_CODE = "trust_remote_code"
"""What transformers' messages name where a model or an image processor needs code of its own."""
POOLED = (
    "align_vision_model",
    "altclip_vision_model",
    "blip_vision_model",
    "chinese_clip_vision_model",
    "clip_vision_model",
    "clipseg_vision_model",
    "groupvit_vision_model",
    "metaclip_2_vision_model",
    "owlv2_vision_model",
    "owlvit_vision_model",
    "siglip2_vision_model",
    "siglip_vision_model",
)
"""Models whose own pooling of tokens is trained; that of others may stand at random initialisation."""


class HfTrunk(Trunk):
    """`backbone`: the projection to the space shared with text, or what the model's own pooling gives where that is
    trained, else a class token or the mean of patches.
    """

    network: Any

    def __init__(self, network: Any, how: str, projected: bool) -> None:
        """`projected`: whether `backbone` is behind the projection, where there is one."""
        super().__init__()
        self.network = network
        self._how = how
        self._projected = projected and hasattr(network, WITH_PROJECTION)
        # Outputs are read by name, whatever the configuration asks for.
        network.config.return_dict = True
        if network.config.model_type == "vit_mae":
            network.config.mask_ratio = 0.0

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised images [B, 3, H, W] to `backbone`."""
        network, arguments = self.network, self._arguments(x)
        if network.config.model_type == "vit_mae":
            # The noise that would shuffle the patches is a ramp: they stay in their order.
            patches = self.patches(x.shape[-2], x.shape[-1]) or 1
            arguments["noise"] = torch.linspace(0, 1, patches, device=x.device).expand(len(x), -1)
        if not hasattr(network, WITH_PROJECTION) or self._projected:
            return {"backbone": self._pooled(network(pixel_values=x, **arguments), x)}
        output = network.vision_model(pixel_values=x, **arguments)
        network.visual_projection(output.pooler_output)
        return {"backbone": self._pooled(output, x)}

    def library(self, x: Tensor) -> dict[str, Tensor]:
        """What the model returns for images alone; its own pooling where that has no weights."""
        output = self.network(pixel_values=x, **self._arguments(x))
        pooled, pooler = getattr(output, "pooler_output", None), getattr(self.network, "pooler", None)
        unlearnt = isinstance(pooler, nn.Module) and not list(pooler.parameters())
        if self._how == "auto" and unlearnt and isinstance(pooled, Tensor):
            return {"backbone": pooled.flatten(1)}
        return {"backbone": self._pooled(output, x)}

    def _arguments(self, x: Tensor) -> dict[str, Any]:
        """Position embeddings are resampled, as the model does it, where images have another size than its own."""
        own = getattr(self.network.config, "image_size", None) or x.shape[-1]
        own = tuple(own) if isinstance(own, list | tuple) else (own, own)
        return {"interpolate_pos_encoding": True} if own != x.shape[-2:] and _interpolates(self.network) else {}

    def _pooled(self, output: Any, x: Tensor) -> Tensor:
        """`backbone` [B, D] in what the model returned for x."""
        if self._how == "auto" and self._projected:
            projection: Tensor = output.image_embeds
            return projection
        hidden, pooled = output.last_hidden_state, getattr(output, "pooler_output", None)
        own = hidden.ndim == 4 or self.network.config.model_type in POOLED
        if self._how == "auto" and own and pooled is not None:
            flat: Tensor = pooled.flatten(1)
            return flat
        patches = self.patches(x.shape[-2], x.shape[-1])
        # Maps of transformers are [B, C, H, W].
        return pool(hidden, self._how, patches, self.prefix_tokens, "backbone", False)

    def patches(self, height: int, width: int) -> int | None:
        """From the configuration, where the model keeps one token per patch to its end."""
        config = self.network.config
        side = getattr(config, "patch_size", None)
        if not isinstance(side, int) or hasattr(config, "depths"):
            return None
        return height // side * (width // side)


def build(source: "Hf") -> Built:
    """The model in a folder. Raises InputError where it is none of transformers' own, or its files do not fit."""
    transformers = library("transformers", "hf")
    with _quiet(transformers):
        if source.pretrained:
            built, commit = _built(transformers, source, source.path)
            built.files = {"commit": commit or source.revision}
            return built
        with fetched_folder(source.path, FILES) as folder:
            if not {"config.json"} <= set(folder.sha256):
                raise InputError(
                    f"config.json and weights in {source.path}, as save_pretrained writes them",
                    ", ".join(folder.sha256) or "no such file",
                    "Name the folder that holds them.",
                )
            used = [] if source.untrained else _used(source.path, folder)
            for name in folder.sha256:
                if not name.endswith(".json"):
                    require_weights(folder.path / name)
                elif (folder.path / name).read_bytes().startswith(LFS):
                    raise InputError(f"{name} in {source.path}", "a pointer of Git LFS", "Fetch it: `git lfs pull`.")
            built, _ = _built(transformers, source, folder.path)
            require_real(_dtypes([folder.path / name for name in used]), built.unused)
            built.files = dict(folder.sha256)
            return built


def _used(path: str, folder: Fetched) -> list[str]:
    """Names of the files of weights that transformers reads. Raises InputError where they are not all in the folder,
    whose files are known by their digests.
    """
    if ADAPTER in folder.sha256:
        raise InputError(
            f"a whole model in {path}",
            f"an adapter ({ADAPTER}), whose weights change those of another model",
            "Merge them: `merge_and_unload()` of peft, then save_pretrained.",
        )
    if distributed := [name for name in folder.sha256 if DISTRIBUTED.match(name)]:
        raise InputError(
            f"a model in {path} as save_pretrained writes it",
            f"files of a distributed checkpoint, which would be read in its place: {few(distributed)}",
            "Load it yourself, and save it with save_pretrained.",
        )
    # As transformers looks for them.
    used = next((name for whole in WEIGHTS for name in (whole, f"{whole}{INDEX}") if name in folder.sha256), "")
    if not used.endswith(INDEX):
        return [used] if used else []
    try:
        named = set(map(str, json.loads((folder.path / used).read_text())["weight_map"].values()))
    # Anything may stand in a damaged file.
    except Exception as error:
        raise InputError(f"an index of weights in {used} of {path}", reason(error), "Bring it here again.") from error
    if lost := sorted(named - set(folder.sha256)):
        raise InputError(
            f"the files that {used} names, in {path} itself",
            f"none of these: {few(lost)}",
            "Bring all of them into the folder, and name none outside of it.",
        )
    return sorted(named)


def _dtypes(files: Sequence[Path]) -> dict[str, str]:
    """Types of the numbers in files of weights, by name."""
    from safetensors import safe_open

    found: dict[str, str] = {}
    for file in files:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as tensors:
                found |= {name: tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
        else:
            found |= {name: str(value.dtype) for name, value in read(file).items() if isinstance(value, Tensor)}
    return found


def rebuild(recipe: dict[str, Any]) -> Trunk:
    """The same network at random weights."""
    transformers = library("transformers", "hf")
    with _quiet(transformers), confined():
        config = transformers.AutoConfig.for_model(**recipe["config"])
        # Recipes say nothing of a projection where `backbone` was read before it.
        return HfTrunk(getattr(transformers, recipe["class"])(config), recipe["pool"], recipe.get("projected", False))


def _built(transformers: Any, source: "Hf", location: str | Path) -> tuple[Built, str | None]:
    """The model at `location`, a folder or an id of the hub, and the commit of an id."""
    offline, revision = not source.pretrained, source.revision if source.pretrained else None
    missing: list[str] = []
    unused: list[str] = []
    misfits: list[str] = []
    with confined(download=source.pretrained):
        with _one_message(source.path):
            config = transformers.AutoConfig.from_pretrained(
                location, revision=revision, local_files_only=offline, trust_remote_code=False
            )
        if offline and "/" in str(named := getattr(config, "transformers_weights", None)):
            raise InputError(f"weights in {source.path} itself", f"config.json, which names {named}", "Move it there.")
        commit = getattr(config, "_commit_hash", None)
        cls, config = _class(transformers, source.path, config)
        for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
            if part is not None and part._attn_implementation not in ATTENTIONS:
                # Others may be code from the hub. All give the same numbers up to rounding.
                part._attn_implementation = None
        with _one_message(source.path):
            if source.untrained:
                network = cls(config)
            else:
                network, info = cls.from_pretrained(
                    location,
                    config=config,
                    dtype=torch.float32,
                    output_loading_info=True,
                    revision=revision,
                    local_files_only=offline,
                    trust_remote_code=False,
                    weights_only=True,
                    ignore_mismatched_sizes=True,
                )
                missing, unused = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
                misfits = [f"{name} {list(file)} instead of {list(own)}" for name, file, own in info["mismatched_keys"]]
        if misfits:
            raise InputError(
                f"weights in {source.path} of the shapes that its config.json has",
                few(sorted(misfits)),
                "Bring back the config.json that was saved with these weights.",
            )
        _require_all_layers(source.path, network, unused)
        found, unknown, transform = _preprocessing(transformers, source, location)
    recipe = {
        "kind": "hf",
        "class": cls.__name__,
        "config": json.loads(config.to_json_string(use_diff=False)),
        "pool": source.pool,
        "projected": True,
    }
    trunk = HfTrunk(network, source.pool, projected=True)
    return Built(trunk, found, recipe, missing, unused, unknown=unknown, transform=transform), commit


def _require_all_layers(path: str, network: Any, unused: Sequence[str]) -> None:
    """Raises InputError where the files hold layers like those of the network that the configuration does not have."""

    def alike(name: str) -> str:
        return re.sub(r"\d+", "#", name.removeprefix(f"{network.base_model_prefix}."))

    layers = {alike(name) for name in network.state_dict() if re.search(r"\.\d+\.", name)}
    if more := [name for name in unused if alike(name) in layers]:
        raise InputError(
            f"config.json in {path} to have all layers of its weights",
            f"weights of layers that it does not have: {few(more)}",
            "Bring back the config.json that was saved with these weights.",
        )


def _class(transformers: Any, path: str, config: Any) -> tuple[Any, Any]:
    """The class of the vision part of a model, and its configuration."""
    if hasattr(config, "vision_config"):
        stem = type(config).__name__.removesuffix("Config")
        for tower in filter(None, (getattr(transformers, f"{stem}{ending}", None) for ending in TOWERS)):
            if tower.config_class is not type(config.vision_config):
                continue
            if hasattr(config, "projection_dim"):
                # As the whole model has it: that of its vision part often stands at the default.
                config.vision_config.projection_dim = config.projection_dim
            return tower, config.vision_config
    named = getattr(transformers, (config.architectures or [""])[0], None)
    cls = transformers.MODEL_MAPPING.get(type(config), None)
    if named is not None and named.__name__.endswith(TOWERS) and (cls is None or config.model_type in POOLED):
        cls = named
    if cls is None or getattr(cls, "main_input_name", "") != "pixel_values":
        raise InputError(f"a vision model in {path}", config.model_type, "Name a model that reads pixels alone.")
    return cls, config


def _preprocessing(
    transformers: Any, source: "Hf", location: str | Path
) -> "tuple[Preprocessing | None, str, Transform | None]":
    """What the model's image processor does, or None and why: there is none, or it does more than resize, cut and
    normalise; and the image processor itself, to compare with.
    """
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(
            location,
            revision=source.revision if source.pretrained else None,
            local_files_only=not source.pretrained,
            trust_remote_code=False,
        )
        found = _framed(processor)
    # A damaged file may make transformers raise anything, and an encoder can do without its image processor.
    except Exception as error:
        if OWN_CODE in str(error):
            return None, "its image processor is code that comes with it, which is never run", None
        return None, f"its image processor cannot be read ({reason(error)})", None
    unknown = f"its image processor {type(processor).__name__} does other than resize, cut and normalise"

    def transform(image: "NDArray[np.uint8]") -> "NDArray[np.float32]":
        pixels: NDArray[np.float32] = processor(images=Image.fromarray(image), return_tensors="np")["pixel_values"][0]
        return pixels

    return found, unknown, transform


def _framed(processor: Any) -> Preprocessing | None:
    """An image processor as a preprocessing; None where it does other than resize, cut and normalise."""

    def of(name: str) -> Any:
        return getattr(processor, name, None)

    size, crop = dict(of("size") or {}), dict(of("crop_size") or {}) if of("do_center_crop") else {}
    shorter, height = size.get("shortest_edge"), size.get("height")
    # EfficientNet's processor may map pixels to [-1, 1] before it normalises.
    offset = 1 if of("rescale_offset") else 0
    scale = round(255 * (of("rescale_factor") or 0), 3)
    plain = of("do_resize") and of("do_rescale") and scale in ((1, 2) if offset else (1,))
    if not plain or of("resample") is None or height != size.get("width") or len(set(crop.values())) > 1:
        return None
    if crop and "height" not in crop:
        return None
    framing: dict[str, int | bool | None]
    if shorter is not None and type(processor).__name__.startswith("Levit"):
        framing = {"size": crop.get("height", shorter), "resize": int(LEVIT_MARGIN * shorter)}
    elif shorter is not None and of("crop_pct") is not None and crop:
        # PoolFormer's: `shortest_edge` is what would remain, and `crop_size` is what does.
        framing = {"size": crop["height"], "resize": int(shorter / of("crop_pct"))}
    elif shorter is not None and of("crop_pct") is not None:
        # ConvNeXt's processor, which ResNets use too: `shortest_edge` is what remains after the cut.
        wide = shorter >= CONVNEXT_SQUASHES
        framing = {"size": shorter, "resize": None if wide else int(shorter / of("crop_pct")), "squash": wide}
    elif shorter is not None and crop:
        framing = {"size": crop["height"], "resize": shorter}
    elif shorter is None and height is not None:
        framing = {"size": crop.get("height", height), "resize": height, "squash": True}
    else:
        return None
    side, resize = framing["size"], framing["resize"]
    if side is None or (resize is not None and resize < side):
        # A cut that is larger than the image: the processor pads it.
        return None
    mean, std = (_three(of("image_mean")), _three(of("image_std"))) if of("do_normalize") else ((0.0,) * 3, (1.0,) * 3)
    # EfficientNet's processor may divide a second time.
    again = _three(of("image_std")) if of("include_top") else (1.0,) * 3
    return Preprocessing.model_validate(
        {
            "interpolation": Image.Resampling(int(of("resample"))).name.lower(),
            "rounding": "down",
            "mean": tuple((m + offset) / scale for m in mean),
            "std": tuple(s * t / scale for s, t in zip(std, again, strict=True)),
            "channels": "bgr" if of("do_flip_channel_order") else "rgb",
        }
        | framing
    )


def _three(given: Any) -> tuple[float, ...]:
    """One number for each channel, where a processor may have one for all."""
    numbers = tuple(given) if isinstance(given, list | tuple) else (given,)
    return numbers * 3 if len(numbers) == 1 else numbers


def _interpolates(network: nn.Module) -> bool:
    return "interpolate_pos_encoding" in inspect.signature(network.forward).parameters


@contextmanager
def _one_message(path: str) -> Iterator[None]:
    """Errors of transformers as one of ours."""
    try:
        yield
    # A damaged file may make transformers raise anything.
    except Exception as error:
        if OWN_CODE in str(error):
            raise InputError(
                f"a vision model of transformers at {path}",
                "a model that needs code which comes with it; such code is never run",
                "Install that code yourself and write `kind: torch` with a function that builds the network.",
            ) from error
        raise InputError(
            f"a vision model of transformers at {path}",
            reason(error),
            "Name a folder that save_pretrained wrote, or an id with `pretrained: true` where downloads are possible.",
        ) from error


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without transformers' bars and reports: our own messages report what matters."""
    logging = transformers.utils.logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
