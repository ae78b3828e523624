"""A published encoder under a published decoder: small files in the layouts of both, from the file to the samples."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
import zarr
from torch import nn
from torchvision import models

from stages.decoder.rcdm.published import skeleton
from stages.decoder.rcdm.spec import AdmSettings
from stages.images.sets import ARRAY, PIXELS, open_images
from stages.samples import format
from tests.artifacts import FolderArtifact
from tests.finished import STUDIES, repscope
from tests.stages.decoder.rcdm.reference import weight
from tests.stages.encoders.files import mlp, pil, rcdm_square, shuffled_norms, vissl

NETWORK = {
    "image_size": 32,
    "model_channels": 32,
    "num_res_blocks": 1,
    "attention_resolutions": [16, 8],
    "channel_mult": [1, 2, 2],
}
WIDTHS = {"backbone": 512, "projector": 16}


class Published:
    """SimCLR's file as VISSL wrote it, and an RCDM for each tap; a study of each, in one store."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(4)
        self.folder, self.store = folder, folder / "store"
        self.backbone = models.resnet18()
        self.backbone.fc = nn.Identity()
        shuffled_norms(self.backbone)
        self.head = mlp([512, 32, WIDTHS["projector"]], norm=False, act=nn.ReLU)
        torch.save(vissl(self.backbone.state_dict(), self.head), folder / "simclr.torch")
        for tap, width in WIDTHS.items():
            shapes = skeleton(AdmSettings.model_validate(NETWORK), width).state_dict()
            torch.save({n: weight(tap, n, tuple(t.shape)) for n, t in shapes.items()}, folder / f"{tap}.pt")

    def study(self, tap: str, decoder: str, preprocessing: Any = "rcdm") -> Path:
        """A study that asks of `tap` with the decoder that was made for the tap `decoder`."""
        path = self.folder / f"{decoder}.pt"
        document = yaml.safe_load((STUDIES / "published.yaml").read_text())
        document["study"] = f"{tap}-{decoder}"
        document["dataset"]["listing"] = {"source": {"kind": "scenes", "count": 48, "seed": 5}, "holdout": 0.25}
        document["encoders"] = {
            "net": {"kind": "released", "method": "simclr", "name": "resnet18"}
            | {"weights": str(self.folder / "simclr.torch"), "preprocessing": preprocessing}
        }
        document["decoder"] = {"kind": "released", "url": str(path), "taps": [f"net:{tap}"], "network": NETWORK}
        document["decoder"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        document["sources"] = {"count": 4}
        document["questions"] = {"faithfulness": {}}
        written = self.folder / f"{tap}-{decoder}.yaml"
        written.write_text(yaml.safe_dump(document, sort_keys=False))
        return written

    def artifact(self, study: Path, step: str) -> FolderArtifact:
        """What a finished study's step has left."""
        states = json.loads(repscope("status", study, "--store", self.store, "--json").stdout)
        (url,) = [state["url"] for state in states if state["name"] == step]
        return FolderArtifact(Path(url))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return Published(tmp_path_factory.mktemp("both"))


@torch.no_grad()
@pytest.mark.parametrize("tap", WIDTHS)
def test_trunk_and_head_are_shown_what_their_decoder_was_trained_with_and_painted(
    tap: str, published: Published
) -> None:
    study = published.study(tap, decoder=tap)
    run = repscope("run", study, "--store", published.store, "--executor", "inline", "--json")
    assert {"decoder", "samples.sources", "faithfulness", "report"} <= set(json.loads(run.stdout)["made"])
    asked = published.artifact(study, "ask.sources")
    conditions = format.read_conditions(asked)
    vectors = np.stack(format.read_vectors(asked, conditions))
    rows = conditions.column("source_row").to_numpy()
    images = open_images(published.artifact(study, "shards")).decode(rows, 32)
    squares = np.stack([np.array(rcdm_square(pil(image), 224)) for image in images])
    h = published.backbone(torch.from_numpy(squares).permute(0, 3, 1, 2) / 127.5 - 1)
    expected = published.head(h) if tap == "projector" else h
    assert vectors.shape == (4, WIDTHS[tap])
    np.testing.assert_allclose(vectors, expected.numpy(), rtol=1e-3, atol=1e-4)
    stored = published.artifact(study, "samples.sources").zarr(ARRAY)
    samples: Any = zarr.open_array(stored, path=PIXELS, mode="r")[:]
    assert (samples.shape, samples.dtype) == ((8, 32, 32, 3), np.uint8)
    assert samples.std() > 10


def test_the_decoder_of_another_tap_is_refused_before_an_image_is_read(published: Published, tmp_path: Path) -> None:
    study = published.study("projector", decoder="backbone")
    message = repscope("run", study, "--store", tmp_path / "store", "--executor", "inline", code=3).stderr
    assert "expected a tap of width 512, as the decoder was trained with; found net:projector of width 16" in message
    assert "this encoder's taps are backbone (512), projector.0 (32), projector (16)." in message
    assert {path.name for path in (tmp_path / "store" / "artifacts").iterdir()} == {"encoder", "released"}


@pytest.mark.parametrize("shown", [{}, "imagenet", {"resize": 224}])
def test_an_encoder_that_sees_images_otherwise_is_refused_by_the_plan(shown: Any, published: Published) -> None:
    study = published.study("backbone", "backbone", shown)
    message = repscope("plan", study, "--store", published.store, code=2).stderr
    assert (
        "expected preprocessing: rcdm at encoders.net, as published decoders were trained with; found another"
        in message
    )
    study.write_text(study.read_text().replace("decoder:\n", "decoder:\n  preprocessing: unchecked\n"))
    repscope("plan", study, "--store", published.store)
