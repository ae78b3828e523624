"""Embeddings are compared with the library's own forward pass before anything is stored, tap by tap."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stages.encoders.agreement import library_embedding, require_agreement
from stages.encoders.imported import encoder_of
from stages.encoders.sources.hf import HfTrunk
from stages.encoders.sources.published import PublishedTrunk
from stages.encoders.sources.settings import Tap
from stages.encoders.spec import Preprocessing
from stages.encoders.taps import Tapped, Trunk
from stages.errors import InputError
from tests.benchmarks.encoders import tried
from tests.stages.encoders.files import VIT_PROCESSOR, hf_folder, imported, mlp, vissl

SEEN = Preprocessing(size=16)


class Doubled(Trunk):
    """Runs its block on other values than the library does; `backbone` is the same."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Conv2d(3, 4, 3))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        self.network(2 * x)
        return {"backbone": x.mean((2, 3))}

    def library(self, x: Tensor) -> dict[str, Tensor]:
        self.network(x)
        return {"backbone": x.mean((2, 3))}


def test_a_tap_that_is_not_what_the_librarys_own_pass_gives_there_is_refused_by_name() -> None:
    trunk = Doubled()
    untapped = library_embedding(trunk, SEEN)
    tapped = Tapped(trunk, ("backbone",), {"early": Tap(module="0", pool="mean")})
    encoder = encoder_of(tapped, SEEN, "float32", "cpu", "")
    with pytest.raises(InputError, match=r"library's own forward pass gives.*difference at early by"):
        require_agreement(encoder, tapped, untapped)


def test_an_embedding_of_transformers_that_its_own_model_does_not_give_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = hf_folder(tmp_path, "vit", VIT_PROCESSOR)

    def other(self: HfTrunk, x: Tensor) -> dict[str, Tensor]:
        return {"backbone": self.network(pixel_values=x).last_hidden_state[:, 1]}

    monkeypatch.setattr(HfTrunk, "forward", other)
    with pytest.raises(InputError, match=r"library's own forward pass gives.*difference at backbone by"):
        imported(kind="hf", path=str(path), taps=["layers.0@mean"])


def test_a_projector_that_is_read_in_another_way_than_it_runs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import models

    torch.manual_seed(0)
    backbone = models.resnet18()
    backbone.fc = nn.Identity()
    torch.save(vissl(backbone.state_dict(), mlp([512, 8, 8], norm=False, act=nn.ReLU)), tmp_path / "w.pth")
    plain = PublishedTrunk.forward

    def other(self: PublishedTrunk, x: Tensor) -> dict[str, Tensor]:
        return {name: vectors.relu() for name, vectors in plain(self, x).items()}

    monkeypatch.setattr(PublishedTrunk, "forward", other)
    with pytest.raises(InputError, match=r"library's own forward pass gives.*difference at projector by"):
        imported(
            kind="released", method="simclr", name="resnet18", weights=f"{tmp_path}/w.pth", preprocessing={"size": 32}
        )


CODE = """
import torch
from torch import nn

class Strided(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(48, 8)
    def forward(self, x):
        B, C, H, W = x.shape
        rows = torch.as_strided(x, (B, H // 4, 48), (C * H * W, 4 * W, 1))
        return self.linear(rows).mean(1)
"""


def test_a_network_of_the_users_own_that_embeds_differently_in_our_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "strided.py").write_text(CODE)
    names: dict[str, Any] = {}
    exec(CODE, names)
    torch.manual_seed(0)
    torch.save(names["Strided"]().state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"library's own forward pass gives.*difference at backbone by"):
        imported(
            kind="torch",
            factory=f"{tmp_path}/strided.py:Strided",
            weights=f"{tmp_path}/w.pth",
            preprocessing={"size": 16},
        )


@pytest.mark.parametrize(
    ("library", "name"),
    [
        ("timm", "test_mambaout"),
        ("torchvision", "mnasnet0_5"),
        ("torchvision", "squeezenet1_1"),
        ("transformers", "SwinModel"),
        ("transformers", "CLIPVisionModelWithProjection"),
        ("processors", "CLIPImageProcessor"),
    ],
)
def test_encoders_of_every_library_give_what_it_gives(library: str, name: str) -> None:
    row = tried(library, name)
    assert row["outcome"] == "same", row
