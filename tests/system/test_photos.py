"""Encoders and images that nobody here made: trained weights as they are published, and photographs.

`make photos` puts both into the folder `photos`; examples/photos.py says what they are and under which licences.
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file

from pipeline.study import RECIPES
from stages.images.image_file import decode
from tests.finished import repscope
from tests.photographs import FOLDER, HALVED, MOBILENET, cutouts, neighbours_agree
from tests.stages.encoders.files import encoder, imported

pytestmark = [pytest.mark.system, pytest.mark.photos]

NAMED = {"chelsea.png": {281, 282, 285}, "coffee.png": {504, 967}, "rocket.jpg": {657, 744}}
"""ImageNet's numbers of tabby, tiger cat and Egyptian cat; of coffee mug and espresso; of missile and projectile."""


@pytest.fixture(scope="module")
def photos() -> Path:
    """The folder that `make photos` fills."""
    if not (FOLDER / "complete").is_file():
        pytest.fail(f"expected photographs and weights in {FOLDER}; found none. Run `make photos`.")
    return FOLDER


@pytest.fixture(scope="module")
def recipe(photos: Path) -> dict[str, Any]:
    """The recipe, with the folder that is meant wherever the tests run."""
    text = (RECIPES / "photos.yaml").read_text().replace(": photos/", f": {photos}/")
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def test_a_published_imagenet_classifier_names_what_is_on_photographs(photos: Path, recipe: dict[str, Any]) -> None:
    found = encoder(imported(**recipe["encoders"]["imagenet"]))
    weights = load_file(photos / "efficientnet_lite0.safetensors")
    for name, expected in NAMED.items():
        (vector,) = found.embed(decode((photos / "known" / name).read_bytes())[None])["backbone"]
        scores = weights["classifier.weight"].numpy() @ vector + weights["classifier.bias"].numpy()
        assert int(scores.argmax()) in expected, name


def test_every_published_network_groups_cutouts_by_class_and_an_untrained_one_does_not(recipe: dict[str, Any]) -> None:
    images, labels = cutouts(each=9)
    encoders = {
        "untrained": recipe["encoders"]["untrained"],
        "mobilenet": MOBILENET,
        "vit": recipe["encoders"]["vit"],
    }
    agree = {
        f"{name}:{tap}": neighbours_agree(vectors, labels)
        for name, fields in encoders.items()
        for tap, vectors in encoder(imported(**fields | HALVED)).embed(images).items()
    }
    assert agree["untrained:backbone"] < 0.4
    assert agree["mobilenet:backbone"] > 0.55
    # It was fine-tuned to find what is salient, and its last blocks do that.
    assert agree["vit:block9"] > 0.45
    assert agree["vit:block9"] > max(agree["vit:block3"], agree["vit:block12"])


def test_the_recipe_runs_to_its_page_in_a_small_size(recipe: dict[str, Any], tmp_path: Path) -> None:
    study = recipe | {"study": "photos-small"}
    study["dataset"]["listing"]["source"] |= {"count": 192, "size": 64}
    del study["encoders"]["untrained"]
    for name in ("imagenet", "vit"):
        study["encoders"][name] |= HALVED
    study["encoders"]["vit"]["taps"] = {"block9": "encoder.layer.8@mean"}
    study |= {"readers": {"num_images": 1024, "widths": [8, 16]}, "probes": {"epochs": 2}}
    study["decoder"] |= {
        "taps": ["imagenet:backbone", "vit:block9", "oracle:attributes"],
        "num_images": 256,
        "network": {"channels": [16, 32], "blocks": [1, 1], "width": 32, "sketch": [32, 64]},
        "training": {"sketch_images": 1024},
    }
    study |= {"sources": {"count": 8}, "samples": {"per_source": 2, "steps": 4, "sigma_max": 40}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    words = (tmp_path / "study.yaml", "--store", tmp_path / "store", "--json")
    run = json.loads(repscope("run", *words, "--executor", "inline", OMP_NUM_THREADS="2").stdout)
    states = {state["name"]: state for state in json.loads(repscope("status", *words).stdout)}
    assert {state["state"] for state in states.values()} == {"done"}
    results = pd.read_parquet(Path(states["kept"]["url"]) / "results.parquet")
    kept = results[results.metric == "kept"]
    known = {"class", "background", "x", "y", "scale", "rotation", "hue", "brightness"}
    assert known <= set(kept.subject)
    assert set(kept.encoder) == {"imagenet", "vit", "oracle"}
    assert "vit:block9" in Path(run["report"]).read_text()
