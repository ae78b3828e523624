"""Real images from files to a report: the handwritten digits, their class, and attributes of their pixels."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.digits import write_digits
from tests.finished import STUDIES, repscope


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the steps of the digits study."""
    folder = tmp_path_factory.mktemp("digits")
    assert write_digits(folder / "images") == 1797
    document = yaml.safe_load((STUDIES / "digits.yaml").read_text().replace("IMAGES", str(folder / "images")))
    # Nothing below asks how well the decoder paints.
    document["decoder"] |= {"num_images": 512, "training": {"sketch_images": 2048}}
    study = folder / "digits.yaml"
    study.write_text(yaml.safe_dump(document))
    words = (study, "--store", folder / "store")
    repscope("run", *words, "--executor", "inline")
    states = json.loads(repscope("status", *words, "--json", "--check").stdout)
    return {state["name"]: Path(state["url"]) for state in states}


def test_every_digit_is_in_the_index_with_its_class_and_a_side(digits: dict[str, Path]) -> None:
    index = pd.read_parquet(digits["shards"] / "index.parquet")
    assert len(index) == 1797
    assert (index.status == "ok").all()
    assert index["class"].nunique() == 10
    assert 0.1 < (index.split == "heldout").mean() < 0.25
    assert index.groupby("sha256").split.nunique().max() == 1


def test_the_class_and_the_pixel_attributes_are_asked_about_at_every_tap(digits: dict[str, Path]) -> None:
    results = pd.read_parquet(digits["kept"] / "results.parquet")
    kept = results[results.metric == "kept"]
    assert set(kept.encoder + ":" + kept.tap) == {"simclr:backbone", "simclr:projector", "untrained:backbone"}
    assert {"class", "contrast", "centre_x", "mean_brightness"} <= set(kept.subject)
    probes = results[(results.metric == "probe") & (results.tap == "backbone")].set_index(["encoder", "subject"])
    assert probes.loc[("simclr", "mean_brightness")].value > 0.5
    reader = results[(results.metric == "reader") & (results.subject == "class")]
    assert reader.value.iloc[0] > 0.5
    assert (kept.verdict != "").all()


def test_the_page_of_the_digits_says_what_was_studied(digits: dict[str, Path]) -> None:
    page = (digits["report"] / "report.html").read_text()
    assert "handwritten digits" in page
    assert "simclr:backbone" in page
    assert "class" in page
