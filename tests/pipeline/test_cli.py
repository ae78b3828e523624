"""The command line as a person meets it: what it says, what it leaves, how it ends."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.finished import MICRO, Finished, repscope


def test_a_finished_study_has_every_step_done_and_a_page(finished: Finished) -> None:
    assert finished.run["made"][0] == "listing"
    assert finished.run["made"][-1] == "report"
    page = Path(finished.run["report"])
    assert page.read_text().startswith("<!doctype html>")
    assert all(headline for headline in finished.run["headlines"])


def test_an_inline_run_needs_no_ray(finished: Finished) -> None:
    """A manifest names the libraries that were loaded; a machine without Ray can then run inline, too."""
    manifests = [json.loads(path.read_text()) for path in finished.store.rglob("manifest.json")]
    assert any("torch" in manifest["versions"] for manifest in manifests)
    assert not any("ray" in manifest["versions"] for manifest in manifests)


def test_a_checkout_that_is_not_installed_has_the_same_commands() -> None:
    command = [sys.executable, "-m", "pipeline.cli", "--help"]
    root = Path(__file__).parents[2]
    help_text = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    assert help_text.partition("\n")[0] == "Usage: python -m pipeline.cli [OPTIONS] COMMAND [ARGS]..."
    assert help_text.partition("\n")[2] == repscope("--help").stdout.partition("\n")[2]


def test_running_it_again_does_nothing_and_says_so(finished: Finished) -> None:
    again = repscope("run", finished.study, "--store", finished.store, "--executor", "inline")
    assert "Nothing to do: all" in again.stdout
    assert finished.run["report"] in again.stdout
    record = json.loads(repscope("run", finished.study, "--store", finished.store, "--json").stdout)
    assert record["run"] is None
    assert record["made"] == []


def test_status_and_plan_agree_that_all_is_done(finished: Finished) -> None:
    states = json.loads(repscope("status", finished.study, "--store", finished.store, "--json", "--check").stdout)
    assert {state["state"] for state in states} == {"done"}
    assert "are done" in repscope("plan", finished.study, "--store", finished.store).stdout


def test_a_deleted_object_is_seen_and_made_again(finished: Finished, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(finished.store, store)
    page = store / Path(finished.run["report"]).relative_to(finished.store)
    page.unlink()
    checked = repscope("status", finished.study, "--store", store, "--check", code=4)
    assert "report BROKEN" in checked.stderr
    mended = json.loads(repscope("run", finished.study, "--store", store, "--executor", "inline", "--json").stdout)
    assert mended["made"] == ["report"]
    assert Path(mended["report"]).read_bytes() == Path(finished.run["report"]).read_bytes()


def test_a_changed_field_recomputes_what_depends_on_it_only(finished: Finished, tmp_path: Path) -> None:
    study = tmp_path / "changed.yaml"
    study.write_text(MICRO.read_text().replace("faithfulness: {}", "faithfulness: {seed: 1}"))
    states = json.loads(repscope("plan", study, "--store", finished.store, "--json").stdout)
    assert [state["name"] for state in states if state["state"] != "done"] == ["faithfulness", "report"]
    output = repscope("explain", study, "faithfulness", "--store", finished.store).stdout
    assert "fields.seed: now 1, there 0" in output


def test_show_paints_an_image_of_ones_own(finished: Finished, tmp_path: Path) -> None:
    import numpy as np

    from stages.images.image_file import decode
    from stages.images.pixels import encode_png

    image, out = tmp_path / "mine.png", tmp_path / "shown.png"
    image.write_bytes(encode_png(np.full((50, 40, 3), 90, dtype=np.uint8)))
    words = ("show", finished.study, image, "--store", finished.store, "--samples", "3", "--out", out)
    found = json.loads(repscope(*words, "--json").stdout)
    assert [row["tap"] for row in found["rows"]][:2] == ["simclr:backbone", "simclr:projector"]
    assert all(1 <= row["rank"] <= found["gallery"] + 1 for row in found["rows"])
    tile = 32 * 4 + 2
    assert decode(out.read_bytes()).shape == (2 * tile, 4 * tile, 3)
    refused = repscope(*words, "--tap", "simclr:projektor", code=2)
    assert "simclr:backbone, simclr:projector" in refused.stderr
    page = tmp_path / "shown.html"
    both = repscope("show", finished.study, image, out, "--store", finished.store, "--samples", "2", "--out", page)
    assert f"{page}: 2 images and 2 samples each at" in both.stdout
    assert "mine.png" in page.read_text()


def test_log_and_report_tell_of_the_newest_run(finished: Finished, tmp_path: Path) -> None:
    log = repscope("log", finished.study, "--store", finished.store).stdout
    assert "step_done" in log
    assert "executor=inline" in log
    assert repscope("report", finished.study, "--store", finished.store).stdout.strip() == finished.run["report"]
    repscope("report", finished.study, "--store", finished.store, "--out", tmp_path / "page.html")
    assert (tmp_path / "page.html").read_bytes() == Path(finished.run["report"]).read_bytes()


def test_init_writes_a_study_that_can_be_planned_and_overwrites_nothing(tmp_path: Path) -> None:
    target = tmp_path / "mine.yaml"
    repscope("init", "scenes", target)
    assert "19 of 19 steps" not in repscope("init", "scenes", target, code=2).stderr
    assert "steps to do" in repscope("plan", target, "--store", tmp_path / "store").stdout
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("faithfulness: {}", "faithfulnes: {}"), "did you mean 'faithfulness'?"),
        (("num_images: 2048", "num_image: 2048"), "unknown field 'readers.num_image' (did you mean 'num_images'?)"),
        (
            ("kind: oracle", "kind: orakel"),
            "kind to be one of pretrain, untrained, oracle, timm, hf, torchvision, torch",
        ),
        (("simclr:projector", "simclr:projecter"), "did you mean 'projector'?"),
        (("simclr:projector", "simclrr:projector"), "did you mean 'simclr'?"),
        (("count: 768", "count: -1"), "dataset.listing.source"),
        (("study: micro", "study: Micro Study"), "expected study to match"),
        (("study: micro", "study: !!python/object:os.system x"), "plain YAML without tags"),
        (("dataset:", "datasets:"), "did you mean 'dataset'?"),
    ],
)
def test_a_wrong_field_is_named_with_what_was_meant(change: tuple[str, str], expected: str, tmp_path: Path) -> None:
    study = tmp_path / "wrong.yaml"
    text = MICRO.read_text()
    assert change[0] in text
    study.write_text(text.replace(*change))
    message = repscope("plan", study, "--store", tmp_path / "store", code=2).stderr
    assert expected in message
    assert "Traceback" not in message


@pytest.mark.parametrize("name", ["nowhere.yaml", "scene"])
def test_a_study_that_is_not_there_names_the_recipes(name: str, tmp_path: Path) -> None:
    message = repscope("plan", name, "--store", tmp_path / "store", code=2).stderr
    assert "scenes" in message
    assert "repscope init" in message


def test_a_missing_or_empty_folder_of_images_is_reported_before_anything_runs(tmp_path: Path) -> None:
    study = tmp_path / "mine.yaml"
    repscope("init", "folder", study)
    study.write_text(study.read_text().replace("./images", str(tmp_path / "images")))
    words = ("run", study, "--store", tmp_path / "store", "--executor", "inline")
    assert str(tmp_path / "images") in repscope(*words, code=2).stderr
    (tmp_path / "images").mkdir()
    message = repscope(*words, code=2).stderr
    assert "expected" in message
    assert "Traceback" not in message
    assert not list((tmp_path / "store").glob("artifacts/*/*/g*/manifest.json"))


def test_a_bad_image_stops_the_run_by_name_and_leaves_nothing_taken_for_done(tmp_path: Path) -> None:
    import numpy as np

    from stages.images.pixels import encode_png

    for number in range(8):
        folder = tmp_path / "images" / ("even", "odd")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(encode_png(np.full((16, 16, 3), number * 9, dtype=np.uint8)))
    (tmp_path / "images" / "odd" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    study = tmp_path / "mine.yaml"
    repscope("init", "folder", study)
    study.write_text(study.read_text().replace("./images", str(tmp_path / "images")))
    flags = ["--ranks", "1", "--accept-drift", "--on-busy", "fail", "--force", "listing", "--force", "report"]
    flags += ["--until", "report", "--keep-going"]
    message = repscope("run", study, "--store", tmp_path / "store", "--executor", "inline", *flags, code=3).stderr
    assert "torn.png" in message
    # All but forcing what has been begun anew already: that would give up what is complete of it.
    command = f"repscope run {study} --store {tmp_path / 'store'} --executor inline --ranks 1 --force report"
    assert f"To go on from here: {command} --until report --keep-going --accept-drift --on-busy fail\n" in message
    assert "Traceback" not in message
    assert not list((tmp_path / "store").glob("artifacts/*/*/g*/manifest.json"))


def test_a_store_that_cannot_be_written_is_reported_at_once(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    message = repscope("run", MICRO, "--store", blocked, "--executor", "inline", code=2).stderr
    assert str(blocked) in message
    assert "Traceback" not in message
