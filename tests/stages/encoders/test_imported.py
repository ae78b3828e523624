"""Encoders from every ecosystem's own files give what that ecosystem's own code gives, and keep giving it."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import checkpoint_filter_fn
from torchvision import models

from stages.encoders.card import CARD
from stages.encoders.encoder import probe_batch
from stages.encoders.imported import PIECE_BYTES, build
from stages.encoders.sources.hf import rebuild
from stages.encoders.sources.timm import TimmTrunk
from stages.encoders.sources.torchvision import IMAGE_SIZE, POSITIONS, _image_size
from stages.encoders.sources.torchvision import rebuild as rebuilt
from stages.encoders.stage import Imported
from stages.errors import FormatError, InputError
from stages.images.framing import Framing
from tests.artifacts import FolderArtifact, MemoryArtifact
from tests.stages.encoders.files import (
    VIT_PROCESSOR,
    card,
    encoder,
    hf_folder,
    imported,
    normalised,
    photo,
    saved,
    shuffled_norms,
)

IMAGES = probe_batch(32)
OLD = Path(__file__).parents[2] / "data" / "formats" / "v1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def vit(folder: Path) -> tuple[str, Any]:
    """A vision transformer of timm in a safetensors file, and the network itself."""
    torch.manual_seed(0)
    network = timm.create_model("test_vit", img_size=32)
    save_file(network.state_dict(), folder / "vit.safetensors")
    return str(folder / "vit.safetensors"), network.eval()


def fields(vit: tuple[str, Any], **more: Any) -> dict[str, Any]:
    return {"kind": "timm", "name": "test_vit", "weights": vit[0], "options": {"img_size": 32}} | more


@torch.no_grad()
def test_a_vision_transformer_of_timm_gives_what_timm_gives(vit: tuple[str, Any]) -> None:
    artifact = imported(
        **fields(
            vit, taps={"early": "blocks.1@mean", "patches": "blocks.1@flatten", "token": "blocks.1", "logits": "head"}
        )
    )
    found = encoder(artifact)
    assert found.taps == {"backbone": 64, "early": 64, "patches": 5 * 64, "token": 64, "logits": 1000}
    given = found.embed(IMAGES)
    _, network = vit
    x = normalised(IMAGES, found)
    tokens = network.blocks[1](network.blocks[0](network.norm_pre(network.pos_drop(_embedded(network, x)))))
    features = network.forward_features(x)
    expected = {
        "backbone": network.forward_head(features, pre_logits=True),
        "early": tokens[:, 1:].mean(1),
        "patches": tokens.flatten(1),
        "token": tokens[:, 0],
        "logits": network(x),
    }
    for tap, vectors in expected.items():
        np.testing.assert_allclose(given[tap], vectors.numpy(), rtol=1e-4, atol=1e-5, err_msg=tap)


@torch.no_grad()
def test_the_last_blocks_of_timm_are_combined_as_its_intermediate_layers(vit: tuple[str, Any]) -> None:
    blocks = ["blocks.2", "blocks.3", "blocks.4"]
    taps = {
        "tokens": {"layers": blocks, "pool": "cls"},
        "patches": {"layers": blocks, "combine": "sum", "pool": "mean"},
    }
    found = encoder(imported(**fields(vit, taps=taps)))
    assert found.taps == {"backbone": 64, "tokens": 64, "patches": 64}
    given, x = found.embed(IMAGES), normalised(IMAGES, found)
    layers = vit[1].get_intermediate_layers(x, n=[2, 3, 4], return_prefix_tokens=True)
    tokens = torch.stack([prefix[:, 0] for _, prefix in layers]).mean(0)
    patches = torch.stack([patch.mean(1) for patch, _ in layers]).sum(0)
    np.testing.assert_allclose(given["tokens"], tokens.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(given["patches"], patches.numpy(), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_layers_of_transformers_are_combined_as_its_hidden_states(folder: Path) -> None:
    path, network = hf_folder(folder, "vit", VIT_PROCESSOR)
    layers = [name for name, module in network.named_modules() if type(module).__name__ == "ViTLayer"]
    assert len(layers) == 2
    found = encoder(imported(kind="hf", path=str(path), taps={"both": {"layers": layers, "pool": "cls"}}))
    hidden = network(pixel_values=normalised(IMAGES, found), output_hidden_states=True).hidden_states
    expected = torch.stack(hidden[1:])[:, :, 0].mean(0)
    np.testing.assert_allclose(found.embed(IMAGES)["both"], expected.numpy(), rtol=1e-3, atol=1e-4)


def _embedded(network: Any, x: torch.Tensor) -> torch.Tensor:
    tokens: torch.Tensor = network._pos_embed(network.patch_embed(x))
    return tokens


@torch.no_grad()
def test_position_embeddings_of_another_size_are_resampled_as_timm_does_it(vit: tuple[str, Any]) -> None:
    found = encoder(imported(**fields(vit, options={"img_size": 48}, preprocessing={"size": 48})))
    library = timm.create_model("test_vit", img_size=48).eval()
    library.load_state_dict(checkpoint_filter_fn(vit[1].state_dict(), library))
    library.reset_classifier(0)
    images = probe_batch(48)
    np.testing.assert_allclose(
        found.embed(images)["backbone"], library(normalised(images, found)).numpy(), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(InputError, match=r"weights of ResNet, in timm's layout|weights that it does not have"):
        imported(kind="timm", name="test_resnet", weights=vit[0])


def test_a_vision_transformer_of_torchvision_is_built_for_the_size_that_its_file_was_trained_with() -> None:
    for name, positions, size in (("vit_b_16", 1 + 24**2, 384), ("vit_b_32", 1 + 7**2, 224)):
        assert _image_size(name, {POSITIONS: torch.zeros(1, positions, 768)}) == size
    assert _image_size("resnet18", {}) is None
    with torch.device("meta"):
        trunk = rebuilt({"kind": "torchvision", "name": "vit_b_16", "classes": 7, IMAGE_SIZE: 384})
    assert trunk.network.state_dict()[POSITIONS].shape == (1, 1 + 24**2, 768)


def test_a_network_of_timm_that_does_not_classify_is_refused() -> None:
    with pytest.raises(InputError, match=r"a network of timm that classifies.*Take `features_only` out of `options`"):
        imported(kind="timm", name="test_resnet", untrained=True, options={"features_only": True})


@torch.no_grad()
def test_how_tokens_become_a_vector_can_be_set(vit: tuple[str, Any]) -> None:
    mean, token = (encoder(imported(**fields(vit, pool=pool))) for pool in ("mean", "cls"))
    features = vit[1].forward_features(normalised(IMAGES, mean))
    np.testing.assert_allclose(mean.embed(IMAGES)["backbone"], features[:, 1:].mean(1).numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(token.embed(IMAGES)["backbone"], features[:, 0].numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrapped", ["plain", "trainer", "lightning", "pieces"])
def test_weights_are_found_wherever_trainers_put_them(
    vit: tuple[str, Any], wrapped: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = vit[1].state_dict()
    more: dict[str, Any] = {}
    if wrapped == "plain":
        torch.save(state, folder / "vit.pth")
    elif wrapped == "trainer":
        torch.save({"epoch": 3, "state_dict": {f"module.{n}": t for n, t in state.items()}}, folder / "vit.pth")
    elif wrapped == "lightning":
        torch.save({"state_dict": {f"model._orig_mod.{n}": t for n, t in state.items()}}, folder / "vit.pth")
    else:
        lightning = {f"student.encoder.{n}": t for n, t in state.items()} | {"student.head.weight": torch.zeros(2)}
        torch.save({"state_dict": lightning}, folder / "vit.pth")
        more = {"inside": "state_dict.student.encoder"}
        # Weights are cut into files that one request can carry.
        monkeypatch.setattr("stages.encoders.imported.PIECE_BYTES", 100_000)
    artifact = imported(**fields((str(folder / "vit.pth"), None), **more))
    assert (len([name for name in artifact.names() if name.startswith("weights-")]) > 1) == (wrapped == "pieces")
    assert PIECE_BYTES == 2**28
    expected = encoder(imported(**fields(vit))).embed(IMAGES)["backbone"]
    np.testing.assert_array_equal(encoder(artifact).embed(IMAGES)["backbone"], expected)


@torch.no_grad()
@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_a_convolutional_network_of_timm_is_read_at_any_stage(name: str, folder: Path) -> None:
    torch.manual_seed(1)
    network: Any = shuffled_norms(timm.create_model(name, num_classes=7))
    save_file(network.state_dict(), folder / f"{name}.safetensors")
    tap = "layer3" if name == "test_resnet" else "stages.2"
    artifact = imported(
        kind="timm",
        name=name,
        weights=str(folder / f"{name}.safetensors"),
        taps=[f"{tap}@mean"],
        preprocessing={"size": 64},
    )
    found = encoder(artifact)
    images = probe_batch(64)
    given = found.embed(images)
    x = normalised(images, found)
    features = network.forward_features(x)
    np.testing.assert_allclose(given["backbone"], network.forward_head(features, pre_logits=True).numpy(), atol=1e-4)
    seen: dict[str, torch.Tensor] = {}
    network.get_submodule(tap).register_forward_hook(lambda m, i, o: seen.update(o=o))
    network(x)
    np.testing.assert_allclose(given[tap], seen["o"].mean((2, 3)).numpy(), atol=1e-4)
    assert found.preprocessing.resize == round(168 * 64 / 160)


@torch.no_grad()
@pytest.mark.parametrize("model", ["vit", "dinov2", "resnet", "clip", "mae", "ijepa"])
def test_a_folder_of_transformers_gives_what_transformers_gives(model: str, folder: Path) -> None:
    path, network = hf_folder(folder, model, VIT_PROCESSOR)
    artifact = imported(kind="hf", path=str(path))
    found = encoder(artifact)
    x = normalised(IMAGES, found)
    if model == "mae":
        network.config.mask_ratio = 0.0
    output = network(pixel_values=x)
    expected = {
        "vit": lambda: output.last_hidden_state[:, 0],
        "dinov2": lambda: output.pooler_output,
        "resnet": lambda: output.pooler_output.flatten(1),
        "clip": lambda: output.pooler_output,
        "mae": lambda: output.last_hidden_state[:, 0],
        "ijepa": lambda: output.last_hidden_state.mean(1),
    }[model]()
    np.testing.assert_allclose(found.embed(IMAGES)["backbone"], expected.numpy(), rtol=1e-3, atol=1e-4)
    assert found.preprocessing.mean == (0.5, 0.4, 0.3)


@torch.no_grad()
@pytest.mark.parametrize("model", ["vit", "dinov2", "clip", "mae", "ijepa"])
def test_a_transformer_sees_images_of_another_size_where_the_study_says_so(model: str, folder: Path) -> None:
    path, network = hf_folder(folder, model, VIT_PROCESSOR)
    found = encoder(imported(kind="hf", path=str(path), preprocessing={"size": 48}, pool="mean"))
    images = probe_batch(48)
    more = {} if model == "dinov2" else {"interpolate_pos_encoding": True}
    if model == "mae":
        network.config.mask_ratio = 0.0
    hidden = network(pixel_values=normalised(images, found), **more).last_hidden_state
    assert hidden.shape[1] == 36 + (model != "ijepa")
    expected = hidden[:, -36:].mean(1).numpy()
    np.testing.assert_allclose(found.embed(images)["backbone"], expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_the_part_that_sees_is_taken_out_of_a_model_that_also_reads(folder: Path) -> None:
    text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 9}
    text |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    _, vision = hf_folder(folder, "clip")
    # The width of the shared space stands beside both parts; that of the vision part alone is often the default.
    parts = vision.config.to_dict() | {"projection_dim": 512}
    config = transformers.CLIPConfig(vision_config=parts, text_config=text, projection_dim=8)
    torch.manual_seed(2)
    network = transformers.CLIPModel(config).eval()
    path = saved(folder / "whole-clip", network, VIT_PROCESSOR)
    taps = {"shared": "visual_projection", "pooled": "vision_model.post_layernorm"}
    artifact = imported(kind="hf", path=str(path), taps=taps)
    found = encoder(artifact)
    assert found.taps == {"backbone": 8, "shared": 8, "pooled": 16}
    x = normalised(IMAGES, found)
    pooled = network.vision_model(pixel_values=x).pooler_output
    given = found.embed(IMAGES)
    users = network.get_image_features(pixel_values=x).pooler_output
    np.testing.assert_allclose(given["backbone"], users.numpy(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(given["pooled"], pooled.numpy(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(given["shared"], network.visual_projection(pooled).numpy(), rtol=1e-3, atol=1e-4)
    assert any(name.startswith("text_model.") for name in card(artifact)["unused"])


def test_a_stored_clip_whose_backbone_was_read_before_the_projection_stays_so(folder: Path) -> None:
    _, vision = hf_folder(folder, "clip")
    network = transformers.CLIPVisionModelWithProjection(vision.config)
    path = saved(folder / "projected-clip", network, VIT_PROCESSOR)
    artifact = imported(kind="hf", path=str(path))
    recipe = card(artifact)["recipe"]
    now, before = rebuild(recipe), rebuild({key: value for key, value in recipe.items() if key != "projected"})
    x = torch.zeros(2, 3, 32, 32)
    assert (now(x)["backbone"].shape, before(x)["backbone"].shape) == ((2, 8), (2, 16))


def test_a_head_that_no_tap_needs_may_be_missing_and_one_that_a_tap_needs_may_not(folder: Path) -> None:
    path, vit = hf_folder(folder, "vit", VIT_PROCESSOR)
    classifier = transformers.ViTForImageClassification(vit.config)
    path = saved(folder / "classifier", classifier, VIT_PROCESSOR)
    artifact = imported(kind="hf", path=str(path))
    assert card(artifact)["zeroed"] == ["pooler.dense.bias", "pooler.dense.weight"]
    with pytest.raises(InputError, match=r"no weights for pooler\.dense\.bias, pooler\.dense\.weight.*random"):
        imported(kind="hf", path=str(path), taps={"pooled": "pooler"})


def test_a_configuration_with_fewer_layers_than_the_weights_is_refused(tmp_path: Path) -> None:
    path, _ = hf_folder(tmp_path, "vit", VIT_PROCESSOR)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    with pytest.raises(InputError, match=r"config\.json in .* found weights of layers that it does not have: .*\.1\."):
        imported(kind="hf", path=str(path))


def change(path: Path, name: str, **fields: Any) -> None:
    found = json.loads((path / name).read_text())
    (path / name).write_text(json.dumps(found | fields))


def shards(path: Path, *names: str) -> None:
    """Names in the index the files of weights of a folder, the first of which holds all of them."""
    (path / "model.safetensors").rename(path / "model-1.safetensors")
    index = {"metadata": {}, "weight_map": {str(number): name for number, name in enumerate(names)}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def damaged(path: Path) -> None:
    shards(path)
    (path / "model.safetensors.index.json").write_text("[]")


def integers(path: Path, scaled: bool) -> None:
    state = load_file(path / "model.safetensors")
    kind = torch.float8_e4m3fn if scaled else torch.int8
    more = {"layernorm.weight_scale_inv": torch.ones(1)} if scaled else {}
    save_file({name: tensor.to(kind) for name, tensor in state.items()} | more, path / "model.safetensors")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "lost": (lambda path: shards(path, "model-1.safetensors", "model-2.safetensors"), r"none of these: model-2\.safe"),
    "outside": (lambda path: shards(path, "../other.safetensors"), r"none of these: \.\./other\.safetensors\. Bring"),
    "index": (lambda path: damaged(path), r"an index of weights in .*found TypeError"),
    "adapter": (lambda path: (path / "adapter_config.json").write_text("{}"), r"found an adapter .*Merge them"),
    "distributed": (
        lambda path: shutil.copy(path / "model.safetensors", path / "shard-00001-model-00001-of-00001.safetensors"),
        "found files of a distributed checkpoint",
    ),
    "elsewhere": (
        lambda path: change(path, "config.json", transformers_weights="a/b.safetensors"),
        r"names a/b\.safetensors",
    ),
    "shapes": (
        lambda path: change(path, "config.json", num_channels=1),
        r"projection\.weight \[16, 3, 8, 8\] instead of \[16, 1, 8, 8\]",
    ),
    "integers": (lambda path: integers(path, scaled=False), r"weights that are real numbers; found I8 for .*weight"),
    "float8": (lambda path: integers(path, scaled=True), r"float8, which layernorm\.weight_scale_inv multiply"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_folder_of_transformers_that_holds_other_weights_than_meant_is_refused(kind: str, tmp_path: Path) -> None:
    breaks, found = BROKEN[kind]
    path, _ = hf_folder(tmp_path, "vit", VIT_PROCESSOR)
    breaks(path)
    with pytest.raises(InputError, match=found):
        build(Imported.model_validate({"kind": "hf", "path": str(path)}))


def test_a_configuration_chooses_neither_code_of_the_hub_nor_the_form_of_outputs(tmp_path: Path) -> None:
    path, _ = hf_folder(tmp_path, "vit", VIT_PROCESSOR)
    change(path, "config.json", attn_implementation="somebody/attention", return_dict=False)
    assert encoder(imported(kind="hf", path=str(path))).taps == {"backbone": 16}


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_pointer_of_git_lfs_in_a_folder_of_transformers_is_named(name: str, tmp_path: Path) -> None:
    path, _ = hf_folder(tmp_path, "vit", VIT_PROCESSOR)
    (path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 300\n")
    with pytest.raises(InputError, match=rf"{name} .*found a pointer of Git LFS.*git lfs pull"):
        imported(kind="hf", path=str(path))


def test_an_embedding_that_is_not_the_librarys_own_is_refused(
    vit: tuple[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(self: TimmTrunk, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"backbone": self.network.forward_features(x).mean(1)}

    monkeypatch.setattr(TimmTrunk, "forward", other)
    with pytest.raises(InputError, match=r"library's own forward pass gives.*a relative difference at backbone by"):
        imported(**fields(vit))


@torch.no_grad()
@pytest.mark.parametrize("classes", [1000, 5, 0])
def test_a_state_dict_of_torchvision_is_read_with_its_classifier_or_without(classes: int, folder: Path) -> None:
    torch.manual_seed(4)
    network = shuffled_norms(models.resnet18(num_classes=classes or 10))
    state = {n: t for n, t in network.state_dict().items() if classes or not n.startswith("fc.")}
    torch.save(state, folder / "resnet18.pth")
    taps = ["layer2@mean", *(["fc"] if classes else [])]
    artifact = imported(
        kind="torchvision", name="resnet18", weights=str(folder / "resnet18.pth"), taps=taps, preprocessing={"size": 32}
    )
    found = encoder(artifact)
    assert found.taps == {"backbone": 512, "layer2": 128} | ({"fc": classes} if classes else {})
    x = normalised(IMAGES, found)
    logits = network(x)
    network.fc = torch.nn.Identity()
    given = found.embed(IMAGES)
    np.testing.assert_allclose(given["backbone"], network(x).numpy(), rtol=1e-3, atol=1e-4)
    if classes:
        np.testing.assert_allclose(given["fc"], logits.numpy(), rtol=1e-3, atol=1e-4)


CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width, both):
        super().__init__()
        self.both = both
        self.conv = nn.Conv2d(3, width, 3)
        self.head = nn.Linear(width, 4)
        self.act, self.spare = nn.ReLU(), nn.Identity()
    def forward(self, x):
        h = self.act(self.act(self.conv(x)))
        z = self.head(h.mean((2, 3)))
        return {"backbone": h, "projection": z} if self.both else h

def make(width=6, both=False):
    return Net(width, both)

def make_noisy(width=6):
    class Noisy(Net):
        def forward(self, x):
            return super().forward(nn.functional.dropout(x, 0.5, training=True))
    return Noisy(width, False)

def make_dropping():
    class Always(nn.Dropout):
        def train(self, mode=True):
            return super().train(True)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), Always(0.5))

def make_crowded():
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, track_running_stats=False), nn.ReLU())

def make_drawn():
    net = Net(6, False)
    net.register_buffer("basis", torch.randn(6), persistent=False)
    net.register_forward_hook(lambda m, i, o: o * net.basis.view(1, -1, 1, 1))
    return net

def make_nothing():
    return 3
"""


@pytest.fixture(scope="module")
def code(folder: Path) -> tuple[str, str]:
    """A file of code, and weights for its `make`."""
    (folder / "nets.py").write_text(CODE)
    names: dict[str, Any] = {}
    exec(CODE, names)
    torch.manual_seed(6)
    save_file(names["make"]().state_dict(), folder / "net.safetensors")
    return str(folder / "nets.py"), str(folder / "net.safetensors")


def own(code: tuple[str, str], function: str, **more: Any) -> dict[str, Any]:
    return {"kind": "torch", "factory": f"{code[0]}:{function}", "preprocessing": {"size": 16}} | more


def test_a_network_of_the_users_own_code_gives_a_map_or_named_outputs(code: tuple[str, str]) -> None:
    single = encoder(imported(**own(code, "make", weights=code[1], taps={"out": "head"})))
    assert single.taps == {"backbone": 6, "out": 4}
    several = encoder(
        imported(**own(code, "make", weights=code[1], options={"both": True}, taps={"named": "projection"}))
    )
    assert several.taps == {"backbone": 6, "named": 4}
    images = probe_batch(16)
    one, two = single.embed(images), several.embed(images)
    np.testing.assert_array_equal(one["backbone"], two["backbone"])
    np.testing.assert_array_equal(one["out"], two["named"])
    assert single.preprocessing.mean == (0.485, 0.456, 0.406)


def test_code_may_be_a_module_that_is_installed(code: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(code[0]).parent))
    fields = own(code, "make", weights=code[1]) | {"factory": "nets:make"}
    assert encoder(imported(**fields)).taps == {"backbone": 6}
    with pytest.raises(InputError, match=r"a function nets:made"):
        imported(**fields | {"factory": "nets:made"})
    with pytest.raises(InputError, match=r"expected nets:make_nothing to return a torch\.nn\.Module; found int"):
        imported(**fields | {"factory": "nets:make_nothing"})


def test_layers_without_weights_are_refused_by_name(code: tuple[str, str], folder: Path, vit: tuple[str, Any]) -> None:
    with pytest.raises(InputError, match=r"other values of conv\.weight, conv\.bias each time"):
        imported(**own(code, "make"))
    part = {name: tensor for name, tensor in vit[1].state_dict().items() if not name.startswith("blocks.3.")}
    save_file(part, folder / "part.safetensors")
    with pytest.raises(InputError, match=r"no weights for blocks\.3\..*random initialisation"):
        imported(**fields((str(folder / "part.safetensors"), None)))


def test_weights_of_one_value_are_missed_too(folder: Path) -> None:
    """A BatchNorm is made with ones and zeros: two loads agree, and the file still lacks it."""
    torch.manual_seed(1)
    state = timm.create_model("test_resnet").state_dict()
    save_file({n: t for n, t in state.items() if not n.startswith("layer1.0.bn1.")}, folder / "bare.safetensors")
    with pytest.raises(InputError, match=r"no weights for layer1\.0\.bn1\.weight, layer1\.0\.bn1\.bias"):
        imported(kind="timm", name="test_resnet", weights=str(folder / "bare.safetensors"), preprocessing={"size": 32})


def test_what_is_drawn_when_a_network_is_made_is_found(code: tuple[str, str]) -> None:
    with pytest.raises(InputError, match=r"other values of basis each time"):
        imported(**own(code, "make_drawn", weights=code[1]))


def test_dropout_that_stays_on_is_found_and_named(code: tuple[str, str], folder: Path) -> None:
    names: dict[str, Any] = {}
    exec(CODE, names)
    torch.manual_seed(0)
    save_file(names["make_dropping"]().state_dict(), folder / "dropping.safetensors")
    fields = own(code, "make_dropping", weights=str(folder / "dropping.safetensors"))
    with pytest.raises(InputError, match=r"a second time.*different outputs for the same input: 2\."):
        imported(**fields)
    with pytest.raises(InputError, match=r"a second time.*no submodule alone"):
        imported(**own(code, "make_noisy", weights=code[1]))


def test_an_encoder_whose_embeddings_depend_on_the_batch_is_refused(code: tuple[str, str], folder: Path) -> None:
    names: dict[str, Any] = {}
    exec(CODE, names)
    torch.manual_seed(0)
    save_file(names["make_crowded"]().state_dict(), folder / "crowded.safetensors")
    with pytest.raises(InputError, match=r"in any batch.*normalised over the batch: 1\."):
        imported(**own(code, "make_crowded", weights=str(folder / "crowded.safetensors")))


def test_a_random_network_is_a_reference_only_where_it_is_asked_for() -> None:
    fields = {"kind": "timm", "name": "test_vit", "options": {"img_size": 32}, "untrained": True}
    one, same, other = (card(imported(**fields, seed=seed))["weights_sha256"] for seed in (0, 0, 1))
    assert one == same != other


def test_a_tap_that_does_not_exist_is_answered_with_those_that_do(vit: tuple[str, Any]) -> None:
    with pytest.raises(InputError, match=r"tap 'x': .*blocks.*found 'block\.1'.*Did you mean 'blocks\.1'\?"):
        imported(**fields(vit, taps={"x": "block.1"}))
    with pytest.raises(InputError, match=r"Did you mean 'blocks\.\d\.attn\.qkv'\?"):
        imported(**fields(vit, taps={"x": "attn.qkv"}))


def test_a_submodule_is_read_where_it_runs_once(code: tuple[str, str]) -> None:
    with pytest.raises(InputError, match=r"tap 'x' to be a submodule that the forward pass runs; found 'spare'"):
        imported(**own(code, "make", weights=code[1], taps={"x": "spare"}))
    with pytest.raises(InputError, match=r"tap 'x' to be a submodule that the forward pass runs once; found 'act'"):
        imported(**own(code, "make", weights=code[1], taps={"x": "act"}))


def test_a_library_that_is_missing_is_answered_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for library, kind, extra in (("timm", {"kind": "timm", "name": "x"}, "timm"), ("transformers", HERE, "hf")):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(InputError, match=rf"the library {library}.*pip install 'repscope\[{extra}\]'"):
            imported(**kind | {"untrained": True})


HERE = {"kind": "hf", "path": "."}


def test_weights_that_cannot_be_downloaded_say_so() -> None:
    with pytest.raises(
        InputError, match=r"resnet10t with its pretrained weights from timm.*Name a file under `weights`"
    ):
        imported(kind="timm", name="resnet10t", pretrained=True)
    with pytest.raises(InputError, match="a vision model of transformers at nobody/nothing"):
        imported(kind="hf", path="nobody/nothing", pretrained=True)


def test_a_network_that_the_library_does_not_know_is_answered_with_its_kin() -> None:
    with pytest.raises(InputError, match=r"the name of a network of timm; found 'resnet51'\. Did you mean resnet\d"):
        imported(kind="timm", name="resnet51", untrained=True)
    with pytest.raises(InputError, match=r"network of torchvision: .*found 'resnet51'. Did you mean 'resnet\d"):
        imported(kind="torchvision", name="resnet51", untrained=True)
    with pytest.raises(InputError, match="images of 30 x 30 pixels"):
        imported(kind="timm", name="test_vit", untrained=True, preprocessing={"size": 30})


def test_a_tap_without_a_class_token_is_refused_where_one_is_asked_for(folder: Path) -> None:
    path, _ = hf_folder(folder, "ijepa", VIT_PROCESSOR)
    with pytest.raises(InputError, match=r"to have a class token; found 16 patches"):
        imported(kind="hf", path=str(path), pool="cls")


@pytest.mark.usefixtures("fast_in_bfloat16")
def test_half_precision_is_asked_for_and_keeps_within_its_tolerance(vit: tuple[str, Any]) -> None:
    full, half = encoder(imported(**fields(vit))), encoder(imported(**fields(vit, precision="bfloat16")))
    one, two = full.embed(IMAGES)["backbone"], half.embed(IMAGES)["backbone"]
    distance = np.linalg.norm(one - two) / np.linalg.norm(one)
    assert 1e-4 < distance < half.tolerance == 2e-2
    assert two.dtype == np.float32
    assert half.fingerprint().precision == "bfloat16"
    assert "precision" in full.fingerprint().differences(half.fingerprint())


def test_an_encoder_that_was_changed_in_the_store_is_refused(vit: tuple[str, Any]) -> None:
    artifact = imported(**fields(vit))
    name = "weights-00000.safetensors"
    data = bytearray(artifact.objects[name])
    data[-5000] ^= 1
    with pytest.raises((FormatError, InputError), match=r"sha256|probe batch"):
        encoder(MemoryArtifact(artifact.objects | {name: bytes(data)}))
    newer = artifact.objects[CARD].replace(b'"format":1', b'"format":2').replace(b'"format": 1', b'"format": 2')
    with pytest.raises(FormatError, match="format 2"):
        encoder(MemoryArtifact(artifact.objects | {CARD: newer}))


def test_an_imported_encoder_of_format_1_still_embeds() -> None:
    found = encoder(FolderArtifact(OLD / "imported"))
    assert found.taps == {"backbone": 4, "normal": 4}
    assert found.precision == "float32"
    assert found.preprocessing.framing == Framing(16, 18, interpolation="bilinear")


def test_an_image_of_any_shape_is_framed_as_the_encoder_wants_it(vit: tuple[str, Any]) -> None:
    found = encoder(imported(**fields(vit)))
    wide: NDArray[np.uint8] = photo(90, 60)[None]
    assert found.embed(wide)["backbone"].shape == (1, 64)
    assert (found.preprocessing.size, found.preprocessing.resize) == (32, 33)
