"""`lineage`, `invalidate` and `gc` as a person meets them, on a copy of a finished study."""

import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.cli import main
from pipeline.lease import Lease
from pipeline.store import open_store
from pipeline.studies import latest, point
from tests.finished import MICRO, Finished


@pytest.fixture
def root(finished: Finished, tmp_path: Path) -> Path:
    """A store of its own in which the study is finished."""
    shutil.copytree(finished.store, tmp_path / "store", copy_function=os.link)
    return tmp_path / "store"


def repscope(root: Path, *words: str, code: int = 0) -> Result:
    """Runs a command in this process; the exit code must be `code`."""
    done = CliRunner().invoke(main, [*words, "--store", str(root)])
    assert done.exit_code == code, done.output
    return done


def states(root: Path) -> dict[str, str]:
    """Step -> state."""
    found = json.loads(repscope(root, "status", str(MICRO), "--json").stdout)
    return {state["name"]: state["state"] for state in found}


def test_lineage_goes_up_to_the_images_and_down_to_the_page(root: Path) -> None:
    text = repscope(root, "lineage", "micro", "decoder").stdout
    above, _, below = text.partition("\n\n")
    assert [line.split()[0] for line in above.splitlines()[1:]] == [
        "listing",
        "shards",
        "encoder.simclr",
        "embeddings.simclr",
        "embeddings.oracle",
    ]
    assert str(root / "artifacts" / "decoder") in below
    record = json.loads(repscope(root, "lineage", str(MICRO), "samples.sources", "--json").stdout)
    assert record["step"]["inputs"]["decoder"] == "decoder"
    assert {"listing", "encoder.simclr", "decoder", "ask.sources"} <= {made["step"] for made in record["up"]}
    assert [made["step"] for made in record["down"]] == ["samples.sources.simclr", "kept", "faithfulness", "report"]
    assert "one of the steps listing, shards" in repscope(root, "lineage", "micro", "decodr", code=2).stderr


def test_invalidate_shows_what_depends_on_a_step_and_closes_it_only_when_told(root: Path) -> None:
    store = open_store(str(root))
    pointer = latest(store, "micro")
    assert pointer is not None
    point(store, "another", "run", {"own": pointer.steps["faithfulness"], "page": pointer.steps["report"]})
    shown = repscope(root, "invalidate", "micro", "faithfulness").stdout
    assert "made from it: report" in shown
    assert "in the study another: own, page" in shown
    assert "Nothing was closed: say --yes" in shown
    assert set(states(root).values()) == {"done"}
    assert (
        "Closed. To make it anew: repscope run micro"
        in repscope(root, "invalidate", "micro", "faithfulness", "--yes").stdout
    )
    found = states(root)
    assert (found["faithfulness"], found["kept"]) == ("missing", "done")


def test_a_step_that_a_run_is_at_work_on_is_not_closed(root: Path) -> None:
    store = open_store(str(root))
    pointer = latest(store, "micro")
    assert pointer is not None
    folder = pointer.steps["kept"].folder.split("/")[2]
    lease = Lease(store, f"kept/{folder}", "another")
    lease.acquire("fail", print)
    with lease:
        assert "run another" in repscope(root, "invalidate", "micro", "kept", "--yes", code=5).stderr
    assert set(states(root).values()) == {"done"}


def test_gc_prints_bytes_by_kind_and_deletes_only_when_told(root: Path) -> None:
    train = next((root / "artifacts" / "decoder").glob("*/g0000/train"))
    size_bytes = (
        sum(path.stat().st_size for path in train.rglob("*") if path.is_file())
        - (train / "decision.json").stat().st_size
    )
    text = repscope(root, "gc", "all", "--grace", "0").stdout
    assert "artifacts: nothing" in text
    assert f"{train}  to be deleted: its training is finished" in text
    assert "Nothing was changed: say --delete" in text
    found = json.loads(repscope(root, "gc", "checkpoints", "--grace", "0", "--json").stdout)
    assert size_bytes in {entry["size_bytes"] for entry in found}
    assert any(train.rglob("state.json"))
    assert "checkpoints: deleted " in repscope(root, "gc", "checkpoints", "--grace", "0", "--delete").stdout
    assert [path.name for path in train.rglob("*") if path.is_file()] == ["decision.json"]
    assert set(states(root).values()) == {"done"}
    assert "checkpoints: nothing" in repscope(root, "gc", "checkpoints", "--grace", "0").stdout


def test_gc_wants_a_kind_and_a_store(root: Path, tmp_path: Path) -> None:
    assert "KIND" in repscope(root, "gc", code=2).stderr
    assert "kinds of artifacts, checkpoints, leases, probes or all" in repscope(root, "gc", "logs", code=2).stderr
    assert "expected a store at" in repscope(tmp_path / "nothing", "gc", "all", code=2).stderr
