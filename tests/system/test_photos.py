"""Encoders and images that nobody here made: trained weights as they are published, and photographs.

`make photos` puts both into the folder `photos`; examples/photos.py says what they are and under which licences.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

import repscope as python_api
from stages.images.image_file import decode
from tests.finished import repscope
from tests.photographs import FOLDER, MOBILENET, cutouts, neighbours_agree, recipe
from tests.stages.encoders.files import encoder, imported

pytestmark = [pytest.mark.system, pytest.mark.photos]

NAMED = {"chelsea.png": {281, 282, 285}, "coffee.png": {504, 967}, "rocket.jpg": {657, 744}}
"""ImageNet's numbers of tabby, tiger cat and Egyptian cat; of coffee mug and espresso; of missile and projectile."""

TRAINED_AT = {"preprocessing": {"size": 224, "resize": 224}}


@pytest.fixture(scope="module")
def photos() -> Path:
    """The folder that `make photos` fills."""
    if not (FOLDER / "complete").is_file():
        pytest.fail(f"expected photographs and weights in {FOLDER}; found none. Run `make photos`.")
    return FOLDER


def test_a_published_imagenet_classifier_names_what_is_on_photographs(photos: Path) -> None:
    found = encoder(imported(**recipe()["encoders"]["imagenet"] | TRAINED_AT))
    weights = load_file(photos / "efficientnet_lite0.safetensors")
    for name, expected in NAMED.items():
        (vector,) = found.embed(decode((photos / "known" / name).read_bytes())[None])["backbone"]
        scores = weights["classifier.weight"].numpy() @ vector + weights["classifier.bias"].numpy()
        assert int(scores.argmax()) in expected, name


def test_every_published_network_groups_cutouts_by_class_and_an_untrained_one_does_not(photos: Path) -> None:
    images, labels = cutouts(each=9)
    known = recipe()["encoders"]
    encoders = {"untrained": known["untrained"], "mobilenet": MOBILENET, "vit": known["vit"]}
    agree = {
        f"{name}:{tap}": neighbours_agree(vectors, labels)
        for name, fields in encoders.items()
        for tap, vectors in encoder(imported(**fields)).embed(images).items()
    }
    assert agree["untrained:backbone"] < 0.4
    assert agree["mobilenet:backbone"] > 0.55
    # It was fine-tuned to find what is salient, and its last blocks do that.
    assert agree["vit:block9"] > 0.45
    assert agree["vit:block9"] > max(agree["vit:block3"], agree["vit:block12"])


def test_the_recipe_in_a_small_size_finds_what_networks_keep_of_photographs(photos: Path, tmp_path: Path) -> None:
    study = recipe() | {"study": "photos-small"}
    study["dataset"]["listing"]["source"] |= {"count": 320, "size": 64}
    del study["encoders"]["untrained"]
    study["encoders"]["vit"]["taps"] = {"block9": "encoder.layer.8@mean"}
    study |= {"readers": {"num_images": 1024, "widths": [8, 16]}, "probes": {"epochs": 4}}
    study["decoder"] |= {
        "taps": ["imagenet:backbone", "vit:block9", "oracle:attributes"],
        "num_images": 2048,
        "network": {"patch": 4, "channels": [32, 64], "blocks": [1, 1], "width": 64, "sketch": [64, 128]},
        "training": {"sketch_images": 8192},
    }
    study |= {"sources": {"count": 32}, "samples": {"per_source": 2, "steps": 5, "sigma_max": 40}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    store = tmp_path / "store"
    done = repscope("run", tmp_path / "study.yaml", "--store", store, "--json", "--executor", "inline")

    found = python_api.open(store).study("photos-small")
    rows = found.rows()
    assert set(rows["class"].unique().to_pylist()) == {folder.name for folder in (photos / "cutouts").iterdir()}
    assert set(rows["background"].unique().to_pylist()) == {"nature", "things"}

    # What the store holds at a published network is what that network says of the stored photograph.
    for tap in ("imagenet:backbone", "vit:block9"):
        table = found[tap]
        (_, photograph), *_ = table.files([7])
        (stored,) = table.numpy([7])
        np.testing.assert_allclose(table.embed(photograph), stored, rtol=1e-3, atol=1e-3 * np.abs(stored).max())

    low = {(r["metric"], r["encoder"], r["subject"]): r["low"] for r in found.results().to_pylist()}
    known = {"class", "background", "x", "y", "scale", "rotation", "hue", "brightness"}
    assert known <= {subject for metric, _, subject in low if metric == "kept"}
    # Where samples or probes knew nothing of their image, the lower bound would be below 0. So short a training paints
    # the colour of the whole image, and tells held-out photographs apart by what it learned of others.
    assert low["kept", "imagenet", "mean_hue"] > 0.2
    assert low["kept", "vit", "mean_hue"] > 0.7
    assert low["kept", "oracle", "background"] > 0.2
    assert low["probe", "vit", "background"] > 0.4
    assert min(low["probe", "oracle", name] for name in known) > 0.9
    page = Path(json.loads(done.stdout)["report"]).read_text()
    assert "imagenet:backbone" in page
    assert "vit:block9" in page
