"""Published checkpoints: synthetic files in the layout of each method's authors, small where that is possible."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

from stages.encoders.encoder import probe_batch
from stages.encoders.sources.published import PublishedNetwork, layers_of, renumbered, separated
from stages.encoders.sources.settings import HEADS, PublishedEncoder
from stages.errors import InputError
from tests.stages.encoders.files import State, card, encoder, imported, mlp, normalised, shuffled_norms, vissl

DINO_LAST = {"weight_g": 1, "weight_v": 4, "weight": 4}
"""Width of what is left of the last layer: two under weight normalisation, one without, as RCDM's own loader has it."""


def dino(trunk: State, head: nn.Sequential) -> dict[str, Any]:
    state = {f"module.backbone.{n}": t for n, t in trunk.items()}
    state |= {f"module.head.mlp.{n}": t for n, t in head.state_dict().items()}
    last = {f"module.head.last_layer.{n}": torch.ones(9, wide) for n, wide in DINO_LAST.items()}
    return {"student": state | last, "teacher": state | last, "epoch": 800, "args": Namespace(arch="resnet50")}


def vicreg(trunk: State, head: nn.Sequential) -> dict[str, Any]:
    state = {f"module.backbone.{n}": t for n, t in trunk.items()}
    return {"epoch": 1000, "model": state | {f"module.projector.{n}": t for n, t in head.state_dict().items()}}


def barlow(trunk: State, head: nn.Sequential) -> dict[str, Any]:
    """As the authors' own code writes it: the loss normalises the last embeddings."""
    document = vicreg(trunk, head)
    statistics = nn.BatchNorm1d(4, affine=False).state_dict()
    document["model"] |= {f"module.bn.{n}": t for n, t in statistics.items()}
    return document


def swav(trunk: State, head: nn.Sequential) -> dict[str, Any]:
    state = trunk | {f"projection_head.{n}": t for n, t in head.state_dict().items()}
    return {f"module.{n}": t for n, t in (state | {"prototypes.weight": torch.ones(9, 4)}).items()}


def supervised(trunk: State, head: nn.Sequential) -> dict[str, Any]:
    return trunk | {"fc.weight": torch.ones(10, len(trunk["layer4.1.bn2.weight"])), "fc.bias": torch.ones(10)}


Layout = Callable[[State, nn.Sequential], dict[str, Any]]
PUBLISHED: dict[str, tuple[Layout, list[int], dict[str, Any]]] = {
    "simclr": (vissl, [2048, 2048, 128], {"norm": False, "act": nn.ReLU}),
    "barlow": (vissl, [2048, 8192, 8192, 8192], {"norm": True, "act": nn.ReLU, "bias": False, "last_bias": False}),
    "vicreg": (vicreg, [2048, 8192, 8192, 8192], {"norm": True, "act": nn.ReLU, "last_bias": False}),
    "dino": (dino, [2048, 4096, 256], {"norm": True, "act": nn.GELU}),
    "swav": (swav, [2048, 2048, 128], {"norm": True, "act": nn.ReLU}),
    "supervised": (supervised, [2048], {"norm": False, "act": nn.ReLU}),
}


@torch.no_grad()
@pytest.mark.parametrize("method", PUBLISHED)
def test_a_published_layout_gives_the_backbone_and_every_layer_of_the_head(method: str, tmp_path: Path) -> None:
    layout, widths, settings = PUBLISHED[method]
    torch.manual_seed(8)
    backbone = models.resnet18()
    backbone.fc = nn.Identity()
    shuffled_norms(backbone)
    small = [512, *(max(4, width // 256) for width in widths[1:])]
    head = shuffled_norms(mlp(small, **settings))
    assert isinstance(head, nn.Sequential)
    torch.save(layout(backbone.state_dict(), head), tmp_path / "published.pth")
    artifact = imported(
        kind="released",
        method=method,
        name="resnet18",
        weights=str(tmp_path / "published.pth"),
        preprocessing={"size": 32},
        taps={"layer1": "backbone.layer1@mean"},
    )
    found = encoder(artifact)
    images = probe_batch(32)
    h = backbone(normalised(images, found))
    expected = {"backbone": h}
    layer = 0
    for module in head:
        if isinstance(module, nn.Linear) and layer > 0:
            expected[f"projector.{layer - 1}"] = h
        layer += isinstance(module, nn.Linear)
        h = module(h)
    if layer:
        expected["projector"] = h
    source = PublishedEncoder.model_validate({"method": method, "weights": "x.pth"})
    assert tuple(expected) == source.taps()
    given = found.embed(images)
    assert tuple(given) == (*source.taps(), "layer1")
    for tap, vectors in expected.items():
        np.testing.assert_allclose(given[tap], vectors.numpy(), rtol=1e-3, atol=1e-4, err_msg=tap)
    dropped = {"dino": 3, "swav": 1, "supervised": 2}.get(method, 0)
    assert len(card(artifact)["unused"]) == dropped
    assert found.preprocessing.interpolation == ("bicubic" if method == "dino" else "bilinear")


@pytest.mark.parametrize("method", PUBLISHED)
def test_the_published_resnet50_is_mapped_name_for_name(method: str) -> None:
    """At full size, without a byte of weights: file and network have the same names."""
    layout, widths, settings = PUBLISHED[method]
    with torch.device("meta"):
        backbone = models.resnet50()
        backbone.fc = nn.Identity()
        head = mlp(widths, **settings)
        trunk = backbone.state_dict()
        document = layout(trunk, head) if method != "supervised" else trunk | models.resnet50().state_dict()
        found, heads, dropped = separated(method, document)
        layers = layers_of(method, heads)
        network = PublishedNetwork({"method": method, "name": "resnet50", "projector": layers})
    named = {f"backbone.{n}": t for n, t in found.items()} | renumbered(network.projector, heads)
    own = network.state_dict()
    assert set(named) == set(own)
    assert {n: t.shape for n, t in named.items()} == {n: t.shape for n, t in own.items()}
    assert len(found) == 318
    assert [layer["width"] for layer in layers] == widths[1:]
    assert len(layers) == HEADS[method]
    assert all(name.startswith(("head.last_layer.", "prototypes.", "fc.")) for name in dropped)


def test_a_checkpoint_of_barlow_twins_own_code_is_read_as_well() -> None:
    head = mlp([8, 4, 4, 4], True, nn.ReLU, bias=False, last_bias=False)
    trunk, heads, dropped = separated("barlow", barlow({"conv1.weight": torch.ones(1)}, head))
    assert (list(trunk), len(heads)) == (["conv1.weight"], len(head.state_dict()))
    assert [layer["width"] for layer in layers_of("barlow", heads)] == [4, 4, 4]
    assert dropped == ["bn.running_mean", "bn.running_var", "bn.num_batches_tracked"]


def test_a_checkpoint_of_another_method_is_refused(tmp_path: Path) -> None:
    backbone = models.resnet18()
    backbone.fc = nn.Identity()
    torch.save(backbone.state_dict(), tmp_path / "plain.pth")
    for method, file, why in (
        ("simclr", "simclr_rn50_1000ep.*phase999.torch", "no entry classy_state_dict"),
        ("barlow", "barlow_twins_32gpus_4node.*torch", "no entry model"),
        ("vicreg", "resnet50_fullckpt.pth", "no entry model"),
        ("dino", "dino_resnet50_pretrain_full_checkpoint.pth", "no entry teacher"),
        ("swav", "swav_800ep_pretrain.pth.tar", "no projection"),
    ):
        message = rf"a checkpoint of {method} .*such as .*{file}.*{why}.*kind: torchvision"
        with pytest.raises(InputError, match=message):
            imported(kind="released", method=method, weights=str(tmp_path / "plain.pth"))
    torch.save(vicreg(backbone.state_dict(), mlp([512, 8, 8], True, nn.ReLU)), tmp_path / "two.pth")
    with pytest.raises(InputError, match="a projector of 2 layers instead of 3"):
        imported(kind="released", method="vicreg", name="resnet18", weights=str(tmp_path / "two.pth"))
    torch.save(vissl(backbone.state_dict(), mlp([512, 8, 8], False, nn.ReLU)), tmp_path / "small.pth")
    with pytest.raises(InputError, match=r"the weights of this network: .*; found"):
        imported(kind="released", method="simclr", name="resnet50", weights=str(tmp_path / "small.pth"))
