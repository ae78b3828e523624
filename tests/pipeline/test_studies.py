"""Pointers: which artifacts a study's steps were, in the order of runs, without anybody's clock or path."""

import json
import os
import shutil
import warnings
from pathlib import Path

import pytest

import repscope
from cluster.inline import Inline
from pipeline.errors import StoreError, UsageError
from pipeline.reading import open_study
from pipeline.run import run
from pipeline.store import Store, open_store, share
from pipeline.studies import history, latest, point, read_pointer
from tests.faults.arithmetic import graph
from tests.faults.faulty import FaultyBackend, MemoryRoot
from tests.finished import MICRO, Finished
from tests.finished import repscope as command

OLD = "studies/sums/20261128T120000.000000Z-20261128T120000.000000Z-abcdef.json"


def test_the_highest_number_is_the_newest_whatever_a_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = MemoryRoot().process()
    run(graph(), store, Inline, study="sums")
    monkeypatch.setattr("time.time", lambda: 0.0)
    second = run(graph(power=3), store, Inline, study="sums")
    assert history(store, "sums") == ["studies/sums/000001.json", "studies/sums/000002.json"]
    newest = latest(store, "sums")
    assert newest is not None
    assert (newest.number, newest.run, newest.created) == (2, second.run_id, 0.0)


def test_a_number_that_another_run_takes_first_is_followed_by_the_next() -> None:
    root = MemoryRoot()
    store, _ = root.process()
    run(graph(), store, Inline, study="sums")
    first = latest(store, "sums")
    run(graph(power=3), store, Inline, study="sums")
    ours = latest(store, "sums")
    assert first is not None
    assert ours is not None
    theirs = first.steps

    class Slow(FaultyBackend):
        """A rival points to the first artifacts just before this process creates its pointer."""

        rival = True

        def create(self, name: str, data: bytes) -> None:
            if self.rival and name.startswith("studies/"):
                self.rival = False
                point(Store(root.backend, root.url), "other", "rival", theirs)
            super().create(name, data)

    slow = Store(Slow(root.backend), root.url)
    share(slow)
    point(slow, "other", "ours", ours.steps)
    pointers = [read_pointer(slow, name) for name in history(slow, "other")]
    assert [(pointer.number, pointer.run) for pointer in pointers] == [(1, "rival"), (2, "ours")]


def test_pointers_that_older_versions_wrote_stay_readable_and_are_the_oldest(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    run(graph(), store, Inline, study="sums")
    newest = latest(store, "sums")
    assert newest is not None
    steps = {name: ref.model_dump() | {"store": "file:///where/it/was"} for name, ref in newest.steps.items()}
    old = {"format": 1, "study": "sums", "run": "r", "created": 1.0, "steps": steps}
    (tmp_path / "store" / "studies" / "sums" / "000001.json").unlink()
    store.create(OLD, json.dumps(old).encode())
    found = latest(store, "sums")
    assert found is not None
    assert (found.number, found.steps) == (0, newest.steps)
    run(graph(power=3), store, Inline, study="sums")
    assert history(store, "sums") == [OLD, "studies/sums/000001.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"format": 2}',
        b'{"format": 2, "study": "s", "run": "r", "created": 0, "steps": {"a": {"folder": "artifacts/../../etc/g0000",'
        b' "key": "00", "digest": ""}}}',
    ],
)
def test_a_damaged_pointer_is_named_with_the_remedy(content: bytes) -> None:
    root = MemoryRoot()
    store, _ = root.process()
    store.create("studies/sums/000001.json", content)
    with pytest.raises(StoreError, match=r"studies/sums/000001\.json; found a damaged one .* Delete .* run the study"):
        latest(store, "sums")
    root.backend.delete("studies/sums/000001.json")
    store.create("studies/sums/000001.json", b'{"format": 3}')
    with pytest.raises(StoreError, match=r"format 3\. Update repscope"):
        latest(store, "sums")


def newer(finished: Finished, folder: Path) -> Path:
    """The store of a finished study in which a later run has left another answer."""
    shutil.copytree(finished.store, folder, copy_function=os.link)
    store = open_store(str(folder))
    pointer = latest(store, "micro")
    assert pointer is not None
    point(store, "micro", "later", pointer.steps | {"faithfulness": pointer.steps["kept"]})
    return folder


def test_a_file_opens_what_its_keys_say_and_its_name_the_newest_run(finished: Finished, tmp_path: Path) -> None:
    root = newer(finished, tmp_path / "store")
    words = ("faithfulness", "--store", root)
    by_file = command("path", finished.study, *words)
    assert "/artifacts/faithfulness/" in by_file.stdout
    assert "not its newest finished run (run later): faithfulness differ" in by_file.stderr
    by_name = command("path", "micro", *words)
    assert "/artifacts/kept/" in by_name.stdout
    assert by_name.stderr == ""
    with pytest.warns(UserWarning, match="not its newest finished run"):
        study = repscope.open(root).study(repscope.load(str(MICRO)))
    assert "/artifacts/faithfulness/" in study.path("faithfulness")


def test_a_file_that_was_not_run_opens_what_is_made_and_names_what_is_not(finished: Finished, tmp_path: Path) -> None:
    changed = tmp_path / "changed.yaml"
    changed.write_text(MICRO.read_text().replace("faithfulness: {}", "faithfulness: {seed: 1}"))
    study = open_study(str(changed), open_store(str(finished.store)))
    assert study.missing() == ("faithfulness", "report")
    assert "faithfulness, report differ" in study.notice
    assert study["simclr:backbone"].width == 16
    with pytest.raises(
        UsageError, match=r"report of micro with the settings of its file; found none in the store\. Run"
    ):
        study.artifact("report")


def test_a_file_whose_images_are_elsewhere_opens_the_newest_run_and_says_so(finished: Finished, tmp_path: Path) -> None:
    moved = tmp_path / "moved.yaml"
    gone = f"source: {{kind: folder, url: {tmp_path / 'gone'}}}"
    moved.write_text(MICRO.read_text().replace("source: {kind: scenes, count: 768, seed: 5}", gone))
    study = open_study(str(moved), open_store(str(finished.store)))
    assert "cannot be known here" in study.notice
    assert study.missing() == ()


def test_nothing_in_a_store_holds_its_path_so_a_copy_is_a_store(finished: Finished, tmp_path: Path) -> None:
    here = str(finished.store).encode()
    assert not [path for path in finished.store.rglob("*") if path.is_file() and here in path.read_bytes()]
    copy = tmp_path / "copy"
    shutil.copytree(finished.store, copy)
    again = json.loads(command("run", finished.study, "--store", copy, "--json").stdout)
    assert again["made"] == []
    assert again["report"].startswith(str(copy))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        study = repscope.open(copy).study(repscope.load(str(MICRO)))
    assert study.path("shards").startswith(str(copy))
