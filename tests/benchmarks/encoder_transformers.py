"""Models of transformers that read images, at a tiny configuration, and its image processors at their defaults."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.encoders.agreement import pixel_difference
from stages.encoders.encoder import probe_batch
from stages.encoders.sources import hf
from tests.benchmarks.encoder_comparison import SIZES, ApartError, Row, TooLargeError, alive, counted, distance
from tests.stages.encoders.files import encoder, imported, normalised, saved


def transformers_names() -> Iterator[str]:
    """Classes of transformers that read images, and the vision parts of models of images and text."""
    import transformers

    names: list[str] = []
    for config in transformers.MODEL_MAPPING:
        try:
            cls = transformers.MODEL_MAPPING[config]
            if getattr(cls, "main_input_name", "") == "pixel_values":
                names.append(cls.__name__)
        # Classes of libraries that are not installed.
        except (ImportError, ValueError):
            continue
        stem = config.__name__.removesuffix("Config")
        if "vision_config" in (getattr(config, "sub_configs", None) or {}):
            names += [f"{stem}{ending}" for ending in hf.TOWERS if hasattr(transformers, f"{stem}{ending}")][:1]
    yield from dict.fromkeys(names)


def try_transformers(name: str, folder: Path) -> Row:
    """A model of transformers at a tiny configuration, from a folder of `save_pretrained`."""
    import transformers

    network, size = _tiny(getattr(transformers, name))
    row: Row = {"family": network.config.model_type, "size": size, "parameters": counted(network)}
    saved(folder, network)
    seen = {"size": size, "resize": size, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    found = encoder(imported(kind="hf", path=str(folder), preprocessing=seen))
    images = probe_batch(size)[:2]
    with torch.no_grad():
        output = network(pixel_values=normalised(images, found))
    ours = found.embed(images)["backbone"]
    rows = {what: distance(ours, vectors.flatten(1).numpy()) for what, vectors in _outputs(network, output)}
    best = min(rows, key=lambda what: rows[what].get("difference", np.inf))
    equal = [what for what, other in rows.items() if other["outcome"] == "same"]
    return row | rows[best] | {"why": f"{equal[0]}" if equal else f"nearest to {best}"}


def _outputs(network: Any, output: Any) -> Iterator[tuple[str, Tensor]]:
    """Embeddings that users of transformers take from what a model returns."""
    hidden = getattr(output, "last_hidden_state", None)
    if getattr(output, "image_embeds", None) is not None:
        yield "image_embeds", output.image_embeds
    if getattr(output, "pooler_output", None) is not None:
        yield "pooler_output", output.pooler_output
    if hidden is not None and hidden.ndim == 4:
        yield "mean of the map", hidden.mean((2, 3))
    elif hidden is not None:
        # A first token is the class token only where the model has one.
        if any(re.search(r"cls|class_(token|embedding)", tensor) for tensor in network.state_dict()):
            yield "class token", hidden[:, 0]
        yield "mean of the tokens", hidden.mean(1)
        patches = hf.HfTrunk(network, "mean", False).patches(*_image_sides(network))
        if patches is not None and patches < hidden.shape[1]:
            yield "mean of the patches", hidden[:, -patches:].mean(1)


def _image_sides(network: Any) -> tuple[int, int]:
    own = getattr(network.config, "image_size", SIZES[0])
    return (own, own) if isinstance(own, int) else (own[0], own[1])


TINY: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "mlp_dim": 64,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "num_layers": 2,
    "hidden_dim": 64,
    "out_hidden_size": 32,
    "d_model": 32,
    "num_patches": 16,
    "num_position_embeddings": 16,
    "encoder_layers": 2,
    "encoder_ffn_dim": 64,
    "encoder_attention_heads": 2,
    "decoder_layers": 1,
    "decoder_ffn_dim": 64,
    "decoder_attention_heads": 2,
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 64,
    "projection_dim": 24,
    "width_coefficient": 0.25,
    "depth_coefficient": 0.25,
}
"""Fields of configurations that make a network small, and to what."""
INITIAL = "initializer_range"
"""Field of configurations: the standard deviation of initial weights."""
MOST = 40_000_000
"""Parameters of the largest configuration that counts as tiny."""
LEVELS = (
    (*TINY, "depths", "layers", "hidden_sizes", "image_size", INITIAL),
    (*TINY, "depths", "layers", "image_size", INITIAL),
    ("num_hidden_layers", "depths", "layers", "image_size", INITIAL),
    ("num_hidden_layers", "depths", "layers", INITIAL),
    (),
)
"""Fields that are made small together, from all to none, until the library itself takes a configuration."""


def _tiny(cls: Any) -> tuple[Any, int]:
    """A small model of a class, and the side of the images that it takes."""
    plain, why = cls.config_class(), ""
    for level in LEVELS:
        changes = {field: value for field in level if (value := _smaller(plain, field)) is not None}
        try:
            config = cls.config_class(**changes)
            with torch.device("meta"):
                counted(cls(config), MOST)
        except TooLargeError as error:
            raise ApartError(why or str(error)) from error
        # Fields that do not fit together are reported in any way.
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            continue
        own = getattr(config, "image_size", None)
        own = own[0] if isinstance(own, list | tuple) else own
        for size in [own] if isinstance(own, int) else SIZES[:3]:
            try:
                torch.manual_seed(0)
                network = cls(config)
                output = alive(network, size, "pixel_values")
            except Exception as error:
                why = f"{type(error).__name__}: {error}"
                continue
            if getattr(output, "encoder_last_hidden_state", None) is not None:
                raise ApartError("it returns the queries of a decoder")
            if not list(_outputs(network, output)):
                raise ApartError(f"it returns {', '.join(map(str, output.keys()))}")
            return network, size
    raise ApartError(" ".join(why.split())[:200])


def _smaller(config: Any, field: str) -> Any:
    """What a field is set to; None: the configuration has no such field, or it stays."""
    own = getattr(config, field, None)
    if field in ("depths", "layers") and isinstance(own, list | tuple):
        return [1] * len(own)
    if field == "hidden_sizes" and isinstance(own, list | tuple):
        return [max(16, size // 8 // 8 * 8) for size in own]
    if field == "image_size" and own is not None:
        return SIZES[0] if isinstance(own, int) else [SIZES[0]] * len(own)
    if field == "num_heads" and isinstance(own, list | tuple):
        return [TINY[field]] * len(own)
    if field == INITIAL and own is not None:
        # Some start at 1e-10, where all images have one embedding.
        return 0.05
    return TINY[field] if field in TINY and type(own) is type(TINY[field]) else None


def processor_names() -> Iterator[str]:
    """Every image processor of transformers, once: many models share one."""
    import transformers
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    names: list[str] = []
    for entry in IMAGE_PROCESSOR_MAPPING_NAMES.values():
        name = entry.get("torchvision") or entry.get("pil") if isinstance(entry, dict) else next(filter(None, entry))
        if name is not None and hasattr(transformers, name):
            names.append(name)
    yield from dict.fromkeys(names)


def try_processor(name: str, folder: Path) -> Row:
    """An image processor at its defaults: the pixels of one image against those that the network would be given."""
    import transformers
    from PIL import Image

    processor = getattr(transformers, name)()

    def transform(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        pixels: NDArray[np.float32] = processor(images=Image.fromarray(image), return_tensors="np")["pixel_values"][0]
        return pixels

    seen = hf._framed(processor)
    if seen is None:
        return {"outcome": "refused", "why": "it does other than resize, cut and normalise"}
    difference = pixel_difference(seen, transform)
    return {"outcome": "refused" if difference else "same", "why": difference}
