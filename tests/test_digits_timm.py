"""Real images and a network from elsewhere: handwritten digits seen by a transformer of timm, from file to page."""

import json
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch
import zarr
from safetensors.torch import save_file

from tests.digits import write_digits
from tests.finished import STUDIES, repscope


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the steps of the study, run from a file of weights."""
    folder = tmp_path_factory.mktemp("digits-timm")
    write_digits(folder / "images", count=400)
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", img_size=32).state_dict(), folder / "vit.safetensors")
    study = folder / "digits.yaml"
    text = (STUDIES / "digits_timm.yaml").read_text()
    study.write_text(text.replace("IMAGES", str(folder / "images")).replace("WEIGHTS", str(folder / "vit.safetensors")))
    words = (study, "--store", folder / "store")
    repscope("run", *words, "--executor", "inline", HF_HUB_OFFLINE="1")
    # The weights are in the store: what is made later needs neither the file nor timm's download.
    states = json.loads(repscope("status", *words, "--json", "--check").stdout)
    return {state["name"]: Path(state["url"]) for state in states}


def test_the_table_says_which_network_made_it(digits: dict[str, Path]) -> None:
    card = json.loads((digits["encoder.vit"] / "network.json").read_text())
    assert card["taps"] == {"backbone": 64, "blocks.2": 64}
    assert card["preprocessing"]["resize"] == 33
    table = zarr.open_group(digits["embeddings.vit"] / "embeddings.zarr", mode="r")
    assert table["blocks.2/flip"].shape == (400, 64)  # type: ignore[union-attr]
    assert json.loads(str(table.attrs["fingerprint"]))["weights_sha256"] == card["weights_sha256"]


def test_every_tap_of_the_network_is_asked_about(digits: dict[str, Path]) -> None:
    results = pd.read_parquet(digits["kept"] / "results.parquet")
    kept = results[results.metric == "kept"]
    assert set(kept.encoder + ":" + kept.tap) == {"vit:backbone", "vit:blocks.2"}
    assert {"class", "contrast", "centre_x"} <= set(kept.subject)
    assert "vit:blocks.2" in (digits["report"] / "report.html").read_text()
    moved = pd.read_parquet(digits["invariance"] / "results.parquet")
    assert not moved.empty
