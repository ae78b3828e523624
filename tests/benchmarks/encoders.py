"""Every family of the libraries, imported as a user would, against the library's own forward pass.

    python -m tests.benchmarks.encoders --library timm --minutes 20

Each network has random weights, with shuffled normalisations, in a file as its library writes it. The file goes through
the step `encoder` and is loaded again; then `backbone` of two images is compared with what the library gives. Rows are
appended to a file of JSON lines as they come: an interrupted sweep goes on where it stopped, and a network at which the
process ended is not tried again. `tests.benchmarks.encoders_page` prints docs/results/encoders.md from that file.

timm: the smallest member of each family. torchvision: all classifiers. transformers: every model that reads images, at
a tiny configuration, and the vision parts of models of images and text. processors: every image processor of
transformers at its defaults, pixels only.
"""

import argparse
import gc
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stages.encoders.agreement import pixel_difference
from stages.encoders.encoder import NetworkEncoder, probe_batch
from stages.encoders.sources import hf, torchvision
from stages.errors import StageError
from tests.stages.encoders.files import encoder, imported, normalised, saved, shuffled_norms

ROWS = Path(tempfile.gettempdir()) / "repscope-encoders.jsonl"
SIZES = (64, 128, 224, 256, 299)
"""Sides of images that are tried in turn until the library itself takes one."""
TOLERANCE = 1e-3
LARGEST = 150_000_000
"""Parameters of the largest network that is tried: a file of 600 MB, of which three copies stand in memory."""
SMALL = ("atto", "femto", "pico", "nano", "xxs", "xx_small", "xs", "tiny", "_ti_", "mini", "_s_", "small", "medium")
"""Words for a size in timm's names, from the smallest."""
CANDIDATES = 5
"""Members of a family whose parameters are counted."""
WORDS = {
    "same": "same",
    "differs": "differs",
    "refused": "refused",
    "error": "an error that is not ours",
    "ended": "ended the process",
    "apart": "the library itself does not embed images alone, or not at a tiny configuration",
    "large": "not tried: too large for this machine",
}
FAILED = ("refused", "differs", "error", "ended")
"""Outcomes of networks that were tried and are not the same."""


class ApartError(Exception):
    """The library itself does not embed images alone with this network, or it cannot be built here."""


class TooLargeError(Exception):
    """The network is too large for this machine."""


DAMPING = 1.4
"""Of the signal between layers: what is more than the variance of the noise that a normalisation is given."""
Row = dict[str, Any]
Try = Callable[[str, Path], Row]


def compared(found: NetworkEncoder, expected: Callable[[Tensor], Tensor]) -> Row:
    """How far `backbone` of two images is from what the library gives."""
    images = probe_batch(found.preprocessing.size)[:2]
    with torch.no_grad():
        theirs = expected(normalised(images, found)).flatten(1).float().numpy()
    return _distance(found.embed(images)["backbone"], theirs)


def _distance(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> Row:
    if ours.shape != theirs.shape:
        return {"outcome": "differs", "why": f"{ours.shape[1]} numbers instead of {theirs.shape[1]}"}
    far = float(np.linalg.norm(ours - theirs) / max(float(np.linalg.norm(theirs)), 1e-12))
    return {"outcome": "same" if far <= TOLERANCE else "differs", "difference": float(f"{far:.2g}"), "why": ""}


@torch.no_grad()
def alive(network: nn.Module, size: int, argument: str = "") -> Any:
    """Shuffles a network's normalisations, and gives those over the batch the statistics of some noise.

    Otherwise the signal may fade from layer to layer, until all images have one embedding. Returns an output;
    `argument` is the name of that for images.
    """
    shuffled_norms(network)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d)]
    noise, momenta = torch.rand(4, 3, size, size), [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    run = partial(network, **{argument: noise}) if argument else partial(network, noise)
    run()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        # With the variance itself, rounding would grow from layer to layer: to 2 % in an EfficientNet.
        variance = norm.running_var
        if variance is None:
            continue
        variance.clamp_(min=float(variance.mean()) / 10).mul_(DAMPING)
    network.eval()
    return run()


def _counted(network: nn.Module, most: int = LARGEST) -> int:
    total = sum(tensor.numel() for tensor in network.parameters())
    if total > most:
        raise TooLargeError(f"{total / 1e6:.0f} million parameters")
    return total


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
    row: Row = {"family": type(network).__module__.rpartition(".")[2], "size": size, "parameters": _counted(network)}
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
            _counted(network)
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
    _counted(plain)
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

    return {"size": size, "parameters": _counted(network)} | compared(found, expected)


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
    row: Row = {"family": network.config.model_type, "size": size, "parameters": _counted(network)}
    saved(folder, network)
    seen = {"size": size, "resize": size, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    found = encoder(imported(kind="hf", path=str(folder), preprocessing=seen))
    images = probe_batch(size)[:2]
    with torch.no_grad():
        output = network(pixel_values=normalised(images, found))
    ours = found.embed(images)["backbone"]
    rows = {what: _distance(ours, vectors.flatten(1).numpy()) for what, vectors in _outputs(network, output)}
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
                _counted(cls(config), MOST)
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


LIBRARIES: dict[str, tuple[Callable[[], Iterator[str]], Try]] = {
    "timm": (timm_names, try_timm),
    "torchvision": (torchvision_names, try_torchvision),
    "transformers": (transformers_names, try_transformers),
    "processors": (processor_names, try_processor),
}


def tried(library: str, name: str) -> Row:
    """The row of one network."""
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        try:
            row = LIBRARIES[library][1](name, Path(folder))
        except StageError as error:
            row = {"outcome": "refused", "why": f"expected {error.expected}; found {error.found}"}
        except ApartError as error:
            row = {"outcome": "apart", "why": str(error)}
        except TooLargeError as error:
            row = {"outcome": "large", "why": str(error)}
        # A sweep goes on, and counts it.
        except Exception as error:
            row = {"outcome": "error", "why": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    gc.collect()
    return {"library": library, "name": name, "seconds": round(time.process_time() - start, 1)} | row


def read_rows(path: Path) -> dict[tuple[str, str], Row]:
    """The last row of each network; one that was begun and has no other ended the process."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return {(row["library"], row["name"]): row for row in map(json.loads, lines)}


def sweep(library: str, path: Path, seconds: float, only: str, again: bool) -> None:
    """Tries the networks of a library that match `only` and have no row yet, until the time is over.

    `again`: also those whose row is one of a failure.
    """
    stop, done = time.monotonic() + seconds, read_rows(path)
    with path.open("a") as file:
        listed = done.get((library, "*"))
        names = listed["names"] if listed else list(LIBRARIES[library][0]())
        if listed is None:
            file.write(json.dumps({"library": library, "name": "*", "names": names}) + "\n")
        for name in names:
            before = done.get((library, name))
            if not re.search(only, name) or (before and not (again and before["outcome"] in FAILED)):
                continue
            if time.monotonic() > stop:
                return
            file.write(
                json.dumps({"library": library, "name": name, "outcome": "ended", "why": "", "seconds": 0}) + "\n"
            )
            file.flush()
            row = tried(library, name)
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(f"{library} {name}: {WORDS[row['outcome']]} {row.get('difference', '')} {row['why']}", flush=True)


def main() -> None:
    """Runs the sweep."""
    parser = argparse.ArgumentParser(description="Encoders of the libraries against the libraries themselves.")
    parser.add_argument("--library", choices=LIBRARIES, action="append", help="one of them; all by default")
    parser.add_argument("--minutes", type=float, default=60, help="for each library")
    parser.add_argument("--only", default="", help="names that match this expression")
    parser.add_argument("--again", action="store_true", help="try those again that were not the same")
    parser.add_argument("--rows", type=Path, default=ROWS, help=f"the file of rows, {ROWS} by default")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for library in given.library or LIBRARIES:
        sweep(library, given.rows, 60 * given.minutes, given.only, given.again)


if __name__ == "__main__":
    main()
