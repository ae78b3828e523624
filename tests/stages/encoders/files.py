"""Networks of every ecosystem at random initialisation, written to disk in that ecosystem's own format."""

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from stages.contract import Input
from stages.encoders.encoder import NetworkEncoder
from stages.encoders.load import load
from stages.encoders.spec import Pretrained
from stages.encoders.stage import Imported
from tests.artifacts import MemoryArtifact, run_stage

State = dict[str, Tensor]

PATCHED = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
"""A vision transformer of 4 x 4 patches."""


def photo(width: int, height: int) -> NDArray[np.uint8]:
    """A smooth image with some detail: uint8 [height, width, 3]."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (7 + 3 * c)) * np.cos(y / (5 + 2 * c)) for c in range(3)]
    levels: NDArray[np.uint8] = (127.5 + 100 * np.stack(waves, axis=2)).round().astype(np.uint8)
    return levels


def pil(image: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(image)


def rcdm_square(image: Image.Image, side: int) -> Image.Image:
    """The steps of guided-diffusion and RCDM: halved while that leaves `side`, bicubic to `side`, the middle."""
    while image.width // 2 >= side and image.height // 2 >= side:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    factor = side / min(image.size)
    image = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def imported(**fields: Any) -> MemoryArtifact:
    """The artifact of the `encoder` step for an encoder written as in a study."""
    return run_stage(Imported.model_validate(fields))


def encoder(artifact: Input) -> NetworkEncoder:
    """The encoder of an artifact, loaded as every later step does."""
    found = load(Pretrained(), {"encoder": artifact}, "cpu")
    assert isinstance(found, NetworkEncoder)
    return found


def card(artifact: MemoryArtifact) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(artifact.objects["network.json"])
    return found


def shuffled_norms(network: nn.Module) -> nn.Module:
    """Gives normalisations statistics and weights that are not those of a new network, so that losing one shows."""
    generator = torch.Generator().manual_seed(3)
    for name, tensor in network.state_dict().items():
        if tensor.ndim == 1 and tensor.is_floating_point():
            noise = 0.2 * torch.randn(tensor.shape, generator=generator)
            tensor.copy_(1 + noise.abs() if "var" in name or name.endswith("weight") else noise)
    return network.eval()


def mlp(
    widths: list[int], norm: bool, act: type[nn.Module], bias: bool = True, last_bias: bool = True
) -> nn.Sequential:
    """A head as most authors write it: linear layers, normalised and activated but for the last."""
    layers: list[nn.Module] = []
    for number, (narrow, wide) in enumerate(pairwise(widths)):
        last = number == len(widths) - 2
        layers.append(nn.Linear(narrow, wide, bias=last_bias if last else bias))
        if not last:
            layers += [nn.BatchNorm1d(wide)] * norm + [act()]
    return nn.Sequential(*layers)


def vissl(trunk: State, head: nn.Sequential) -> dict[str, Any]:
    """VISSL's layout: a head is a list of small stacks, one for each linear layer."""
    heads: State = {}
    stack = number = -1
    for module in head:
        if isinstance(module, nn.Linear):
            stack, number = stack + 1, 0
        heads |= {f"{stack}.clf.{number}.{name}": tensor for name, tensor in module.state_dict().items()}
        number += 1
    model = {"trunk": {f"_feature_blocks.{n}": t for n, t in trunk.items()}, "heads": heads}
    return {"classy_state_dict": {"base_model": {"model": model, "meters": {}}}, "phase_idx": 999}


def tiny() -> nn.Module:
    """The network of the imported encoder that stands in `tests/data/formats/v1`."""
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU())


def hf_folder(folder: Path, model: str, processor: Mapping[str, Any] | None = None) -> tuple[Path, Any]:
    """A folder of transformers with a tiny model of this kind; returns the folder and the model."""
    import transformers

    torch.manual_seed(5)
    wide = {"intermediate_size": 32}
    configs: dict[str, Any] = {
        "vit": lambda: transformers.ViTConfig(**PATCHED, **wide),
        "dinov2": lambda: transformers.Dinov2Config(**PATCHED, mlp_ratio=2),
        "resnet": lambda: transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
        ),
        "clip": lambda: transformers.CLIPVisionConfig(**PATCHED, **wide, projection_dim=8),
        "mae": lambda: transformers.ViTMAEConfig(**PATCHED, **wide),
        "ijepa": lambda: transformers.IJepaConfig(**PATCHED, **wide),
    }
    config = configs[model]()
    network = transformers.AutoModel.from_config(config)
    return saved(folder / model, network, processor), network.eval()


def saved(folder: Path, network: Any, processor: Mapping[str, Any] | None = None) -> Path:
    """Writes a model of transformers, without its progress bars and reports."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    network.save_pretrained(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(dict(processor)))
    return folder


VIT_PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 32, "width": 32},
    "resample": 2,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
}


def normalised(images: NDArray[np.uint8], found: NetworkEncoder) -> Tensor:
    """What the network sees of framed images: float32 [B, 3, H, W]."""
    seen = found.preprocessing
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(seen.mean).view(1, 3, 1, 1)) / torch.tensor(seen.std).view(1, 3, 1, 1)
