"""A store that somebody has tampered with leads nobody out of it, and what was put there is no hit."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.inline import Inline
from pipeline.artifact import StoredInput
from pipeline.collect import KINDS, collect, collectable
from pipeline.errors import StoreError, UsageError
from pipeline.events import read_events, runs_of
from pipeline.following import Follower
from pipeline.lease import Lease
from pipeline.manifest import Head, Manifest, Ref, read_record, write_record
from pipeline.plan import plan
from pipeline.reading import OpenStore
from pipeline.run import run
from pipeline.store import RECORD_VALUES, open_store
from stages.errors import FormatError
from tests.faults.arithmetic import graph
from tests.faults.faulty import MemoryRoot

GRAPH = graph(parts=2)[:1]
SECRET = b"[1, 2, 3, 4]"
"""Of the same bytes as the first numbers are, so that it differs from them by its folder alone."""


def made(folder: Path) -> Path:
    """The folder of numbers in a local store, beside a file that is no part of the store."""
    (folder / "secret").write_bytes(SECRET)
    return Path(run(GRAPH, open_store(str(folder / "store")), Inline).url("numbers"))


def opened(numbers: Path) -> StoredInput:
    """The numbers as another step would read them."""
    manifest = Manifest.model_validate_json((numbers / "manifest.json").read_bytes())
    store = open_store(str(numbers.parents[3]))
    ref = Ref(store=store.url, stage="numbers", key=manifest.key, generation=0, digest=manifest.digest)
    return StoredInput(ref, store)


@pytest.mark.parametrize("name", ["../../../../../secret", "/etc/hostname", "a/../../b"])
def test_names_in_a_manifest_that_lead_out_of_the_store_are_refused(tmp_path: Path, name: str) -> None:
    numbers = made(tmp_path)
    document = json.loads((numbers / "manifest.json").read_text())
    document["objects"][name] = document["objects"]["numbers-00000.json"]
    (numbers / "manifest.json").write_text(json.dumps(document))
    found = opened(numbers)
    assert name in found.names()
    with pytest.raises(UsageError, match="object names of letters"):
        found.read(name)


def test_a_link_in_the_place_of_an_object_is_read_as_damage_and_made_again(tmp_path: Path) -> None:
    numbers = made(tmp_path)
    (tmp_path / "secret").write_bytes(SECRET + b" ")
    (numbers / "numbers-00000.json").unlink()
    (numbers / "numbers-00000.json").symlink_to(tmp_path / "secret")
    with pytest.raises(FormatError, match="It is damaged"):
        opened(numbers).read("numbers-00000.json")
    store = open_store(str(tmp_path / "store"))
    assert plan(GRAPH, store)[0].state == "BROKEN"
    again = Path(run(GRAPH, store, Inline).url("numbers"), "numbers-00000.json")
    assert again.read_bytes() == SECRET
    assert not again.is_symlink()
    assert (tmp_path / "secret").read_bytes() == SECRET + b" "


HUGE_BYTES = 300_000_000
READER = """
import json, resource, sys
from pipeline.errors import PipelineError
from pipeline.events import read_events
from pipeline.manifest import Head, Manifest, Receipt, read_record, survey
from pipeline.plan import plan
from pipeline.store import open_store
from pipeline.studies import latest
from pipeline.verify import checkpoints
from tests.faults.test_hostile import GRAPH, peak_bytes

store, names = open_store(sys.argv[1]), json.loads(sys.argv[2])
classes = {"manifest.json": Manifest, "artifact.json": Head, "00000.json": Receipt}
reads = {name: lambda name=name: read_record(store, name, classes[name.rpartition("/")[2]]) for name in names[:3]}
reads[names[3]] = lambda: latest(store, "one")
reads[names[4]] = lambda: read_events(store, "run")
reads["plan"] = lambda: plan(GRAPH, store)
before, found = peak_bytes(), {}
for name, read in reads.items():
    try:
        read()
    except PipelineError as error:
        found[name] = str(error)
print(json.dumps({"messages": found, "bytes": peak_bytes() - before}))
"""


def peak_bytes() -> int:
    """The most memory that this process has had."""
    import resource

    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_records_of_300_megabytes_are_refused_before_they_are_read(tmp_path: Path) -> None:
    numbers = made(tmp_path)
    root = tmp_path / "store"
    names = [
        *(str((numbers / name).relative_to(root)) for name in ("manifest.json", "artifact.json", "parts/00000.json")),
        "studies/one/000001.json",
        "runs/run/events/000000-1.jsonl",
    ]
    for name in names:
        (root / name).unlink(missing_ok=True)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with (root / name).open("wb") as file:
            file.truncate(HUGE_BYTES)
    reader = [sys.executable, "-c", READER, str(root), json.dumps(names)]
    done = subprocess.run(reader, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    found = json.loads(done.stdout)
    assert list(found["messages"]) == [*names, "plan"]
    for name, message in found["messages"].items():
        assert f"{HUGE_BYTES} bytes" in message
        assert "elete" in message
        assert name == "plan" or name in message
    assert found["bytes"] < HUGE_BYTES / 10


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[" * 1_000_000, "recursion limit"),
        ('{"format": 1, "objects": ' * 1000, "recursion limit"),
        ("[" + "[]," * RECORD_VALUES + "[]]", "where at most 2000000 can be"),
        ('{"format": 1, "parts": 1000000000000}', "less than or equal to 1000000"),
    ],
    ids=["arrays", "objects", "values", "parts"],
)
def test_a_record_that_would_become_large_in_memory_is_called_damaged(
    tmp_path: Path, content: str, problem: str
) -> None:
    numbers = made(tmp_path)
    document = json.loads((numbers / "artifact.json").read_text())
    if "parts" in content:
        content = json.dumps(document | json.loads(content))
    (numbers / "artifact.json").write_text(content)
    store = open_store(str(tmp_path / "store"))
    with pytest.raises(StoreError, match=rf"a damaged one \(.*{problem}.*Delete that object alone"):
        read_record(store, str((numbers / "artifact.json").relative_to(tmp_path / "store")), Head)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-1.0", "1e300", '"soon"'])
@pytest.mark.parametrize("field", ["created", "seconds"])
def test_a_time_that_is_none_is_called_damage(tmp_path: Path, field: str, value: str) -> None:
    numbers = made(tmp_path)
    text = (numbers / "manifest.json").read_text()
    document = json.dumps(json.loads(text) | {field: "VALUE"}).replace('"VALUE"', value)
    (numbers / "manifest.json").write_text(document)
    with pytest.raises(StoreError, match=r"a damaged one .*Delete that object alone"):
        plan(GRAPH, open_store(str(tmp_path / "store")))


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        '"run_done"',
        '{"kind": "run_done", "step": "", "time": NaN}',
        '{"kind": "run_done", "step": "", "time": "noon"}',
        '{"kind": "run_done", "step": "", "time": 1, "fields": []}',
        '{"kind": 5, "step": "", "time": 1}',
        '{"kind": "progress", "step": "a", "time": 1, "fields": {"done": "1", "total": 2, "metrics": {}}}',
        '{"kind": "run_started", "step": "", "time": 1, "fields": {"host": "h", "pid": []}}',
    ],
)
def test_events_of_other_kinds_than_their_readers_know_are_called_damaged(line: str) -> None:
    store, _ = MemoryRoot().process()
    store.create("runs/r/plan.json", b'{"steps": {}}')
    store.create("runs/r/events/000000-1.jsonl", line.encode())
    with pytest.raises(StoreError, match=r"damaged ones .*Delete that object alone"):
        read_events(store, "r")
    with pytest.raises(StoreError, match="damaged ones"):
        Follower(store, "r").poll()


@pytest.mark.parametrize(
    "changed",
    [{"ttl_seconds": 1e300}, {"ttl_seconds": "long"}, {"pid": "first"}, {"pid": None}, {"run": 7}, {"nonce": []}],
)
def test_a_lease_that_says_what_no_run_says_keeps_nobody_out(changed: dict[str, Any]) -> None:
    store, _ = MemoryRoot().process()
    record = {"nonce": "n", "run": "r", "host": os.uname().nodename, "pid": 1, "ttl_seconds": 60.0} | changed
    store.create("leases/numbers/ab/e0001.json", json.dumps(record).encode())
    Lease(store, "numbers/ab", "mine").acquire("fail", print)
    assert collectable(store, KINDS, 0.0) is not None


def test_what_stands_in_a_store_and_is_not_ours_is_in_nobodys_way(tmp_path: Path) -> None:
    numbers = made(tmp_path)
    root = tmp_path / "store"
    run(GRAPH, open_store(str(root)), Inline, study="one")
    for name in (
        *("leases/numbers/notes.json", f"{next((root / 'leases' / 'numbers').iterdir())}/notes.json"),
        *("studies/one/².json", "studies/one/notes.txt", "studies/of others/x", "adopted/one/mine/notes.json"),
        *(f"{numbers}/parts/².json", f"{numbers}/copy of it", f"{numbers.parent}/g²/x", f"{numbers.parent}/g7/x"),
        *("runs/mine/events/notes.jsonl", "runs/mine/notes"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("not ours")
    store = open_store(str(root))
    assert [state.state for state in plan(GRAPH, store)] == ["done"]
    assert run(GRAPH, store, Inline, study="one").run_id is None
    assert run(GRAPH, store, Inline, study="one", force=["numbers"]).steps[0].outcome == "made"
    assert read_events(store, "mine") == []
    assert next(runs_of(store, "nobody"), None) is None
    collect(store, collectable(store, KINDS, 0.0))
    assert OpenStore(store).studies() == ["one"]
    assert [state.state for state in plan(GRAPH, store)] == ["done"]


def test_a_record_that_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    numbers = made(tmp_path)
    store = open_store(str(tmp_path / "store"))
    head = Head.model_validate_json((numbers / "artifact.json").read_bytes())
    large = head.model_copy(update={"document": {"fields": "x" * (17 << 20)}})
    with pytest.raises(StoreError, match=r"at most 16777216 bytes for large/artifact.json.*larger parts"):
        write_record(store, "large/artifact.json", large)
    assert not store.entries("large")


def test_an_object_that_is_larger_than_its_manifest_says_is_damaged_and_not_read(tmp_path: Path) -> None:
    numbers = made(tmp_path)
    found = opened(numbers)
    os.truncate(numbers / "numbers-00000.json", HUGE_BYTES)
    before = peak_bytes()
    with pytest.raises(FormatError, match=rf"{HUGE_BYTES} bytes. It is damaged. Delete it alone"):
        found.read("numbers-00000.json")
    assert peak_bytes() - before < HUGE_BYTES / 10
