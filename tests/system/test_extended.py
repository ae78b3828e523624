"""A finished study is extended by further taps: what is made, what is painted with, and what the page says."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from stages.images import pixels
from tests.finished import Finished, repscope

NEW = {
    "embeddings.other", "probes.1", "extension.1", "ask.sources.1", "samples.sources.1", "samples.sources.1.other",
    "samples.halfway.1", "ask.invariance.1", "samples.invariance.1", "kept", "faithfulness", "invariance", "report",
}  # fmt: skip


@pytest.fixture(scope="module")
def extended(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The micro study, finished, and then run once more with an extension."""
    folder = tmp_path_factory.mktemp("extended")
    study = yaml.safe_load(finished.study.read_text())
    study["encoders"]["other"] = {"kind": "untrained", "architecture": {"widths": [8], "blocks": [1]}}
    study["extensions"] = [{"taps": ["other:backbone", "oracle:pixels"], "num_images": 96, "sketch_images": 512}]
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    store = folder / "store"
    shutil.copytree(finished.store, store)
    done = repscope("run", folder / "study.yaml", "--store", store, "--executor", "inline", "--json")
    return Finished(folder / "study.yaml", store, json.loads(done.stdout))


def test_nothing_is_made_but_the_extension_its_samples_and_the_answers(extended: Finished) -> None:
    assert set(extended.run["made"]) == NEW


def test_new_taps_are_answered_beside_the_old_ones(extended: Finished) -> None:
    states = json.loads(repscope("status", extended.study, "--store", extended.store, "--json").stdout)
    results = {
        state["name"]: pd.read_parquet(Path(state["url"]) / "results.parquet")
        for state in states
        if state["name"] in ("kept", "faithfulness", "invariance")
    }
    new = {("other", "backbone"), ("oracle", "pixels")}
    for name, metric, seen in (("kept", "kept", new), ("faithfulness", "mrr", {("other", "backbone")})):
        rows = results[name][results[name].metric == metric]
        assert seen <= set(zip(rows.encoder, rows.tap, strict=True))
        assert ("simclr", "backbone") in set(zip(rows.encoder, rows.tap, strict=True))
    rows = results["kept"]
    assert {"probe", "kept rise"} <= set(rows[rows.encoder == "other"].metric)
    assert new <= set(zip(results["invariance"].encoder, results["invariance"].tap, strict=True))


def test_the_page_marks_the_new_taps(extended: Finished) -> None:
    page = Path(extended.run["report"]).read_text()
    assert "Extension 1" in page
    assert "other:backbone and oracle:pixels (+1)" in page


def test_show_paints_old_and_new_taps_each_with_its_decoder(extended: Finished, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    rng = np.random.default_rng(0)
    image.write_bytes(pixels.encode_png(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)))
    output = repscope(
        "show", extended.study, image, "--store", extended.store, "--samples", "1", "--out", tmp_path / "shown.png"
    ).stdout
    taps = [line.split()[0] for line in output.splitlines()[1:-1]]
    assert taps == ["simclr:backbone", "simclr:projector", "oracle:pixels", "other:backbone"]
