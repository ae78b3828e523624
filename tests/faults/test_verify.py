"""What is damaged is found, and named with the remedy that loses least, which then repairs it."""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline import verify as module
from pipeline.errors import StepFailedError
from pipeline.store import Store, open_store
from pipeline.studies import latest
from pipeline.verify import Fault, verify
from tests.faults.arithmetic import graph
from tests.faults.faulty import MemoryRoot
from tests.faults.truth import finished as contents
from tests.faults.truth import go, undisturbed
from tests.finished import Finished, repscope

GRAPH = graph(parts=6)


def faults(store: Store, study: str, deep: bool) -> list[Fault]:
    """The faults of the newest run of a study."""
    pointer = latest(store, study)
    assert pointer is not None
    return [fault for verified in verify(store, pointer.steps, deep) for fault in verified.faults]


def flip(data: bytes) -> bytes:
    """One bit changed in the middle."""
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def truncate(data: bytes) -> bytes:
    """The first half."""
    return data[: len(data) // 2]


def delete(data: bytes) -> None:
    """Nothing."""


Damage = Callable[[bytes], bytes | None]


def damage(path: Path, how: Damage) -> None:
    """Damages a file, not another that is linked to it."""
    content = how(path.read_bytes())
    path.unlink()
    if content is not None:
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("pattern", "how", "deep", "problem", "remedy"),
    [
        ("shards/*/g0000/shard-00001.tar", flip, True, "has other bytes", "Delete that object alone"),
        ("kept/*/g0000/results.parquet", flip, True, "has other bytes", "Delete that object alone"),
        (
            "embeddings/*/g0000/embeddings.zarr/pixels/plain/c/0/0",
            flip,
            True,
            "other bytes",
            "Delete that object alone",
        ),
        ("decoder/*/g0000/decoder.safetensors", flip, True, "has other bytes", "Delete that object alone"),
        ("pretrain/*/g0000/train/*/step-*16/model.safetensors", flip, True, "bytes of model", "Delete that folder"),
        ("pretrain/*/g0000/train/*/step-*16/state.json", truncate, False, "is damaged", "Delete that folder"),
        ("shards/*/g0000/shard-00001.tar", delete, False, "is missing", "only the part that wrote it"),
        ("listing/*/g0000/listing.parquet", truncate, False, "bytes, not", "only the part that wrote it"),
        ("probes/*/g0000/manifest.json", truncate, False, "a damaged one", "only their merge is done again"),
        ("probes/*/g0000/manifest.json", delete, False, "is missing", "only their merge is done again"),
    ],
)
def test_each_damage_to_a_study_is_found_and_named_with_its_remedy(
    finished: Finished, tmp_path: Path, pattern: str, how: Damage, deep: bool, problem: str, remedy: str
) -> None:
    root = tmp_path / "store"
    shutil.copytree(finished.store, root, copy_function=os.link)
    path = sorted((root / "artifacts").glob(pattern))[0]
    store = open_store(str(root))
    damage(path, how)
    (fault,) = faults(store, "micro", deep)
    assert Path(fault.where) in (path, path.parent)
    assert problem in fault.problem
    assert remedy in fault.remedy
    if deep:
        assert faults(store, "micro", deep=False) == []


def test_any_byte_of_a_manifest_that_a_reader_goes_by_is_missed_by_nobody(finished: Finished, tmp_path: Path) -> None:
    root = tmp_path / "store"
    shutil.copytree(finished.store, root, copy_function=os.link)
    (path,) = (root / "artifacts" / "faithfulness").glob("*/g0000/manifest.json")
    store = open_store(str(root))
    whole = path.read_bytes()
    for word in (b'"sha256": "', b'"size": ', b'"key": "', b'"summary": ', b'"fields": '):
        at = whole.index(word) + len(word)
        damage(path, lambda data, at=at: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])  # type: ignore[misc]
        (fault,) = faults(store, "micro", deep=False)
        assert fault.where == str(path)
        assert "only their merge is done again" in fault.remedy
        damage(path, lambda data: whole)


@pytest.mark.parametrize(
    ("ending", "how"),
    [
        ("numbers-00003.json", flip),
        ("text/00004.txt", truncate),
        ("text/00004.txt", delete),
        ("index.json", flip),
        ("manifest.json", flip),
        ("manifest.json", truncate),
        ("manifest.json", delete),
    ],
)
def test_the_remedy_repairs_the_study_and_costs_one_part_at_most(ending: str, how: Damage) -> None:
    place = MemoryRoot()
    store, _ = place.process()
    go(GRAPH, store)
    name = next(name for name in place.objects("artifacts/numbers") if name.endswith(f"g0000/{ending}"))
    content = how(place.backend.read(name))
    place.backend.delete(name)
    if content is not None:
        place.backend.create(name, content)
    store, _ = place.process()
    (fault,) = faults(store, "arithmetic", deep=True)
    if "Delete" in fault.remedy:
        place.backend.delete(fault.where.removeprefix(f"{place.url}/"))
    store, _ = place.process()
    result = go(GRAPH, store)
    assert sum(step.parts_run for step in result.steps) <= 1
    assert faults(store, "arithmetic", deep=True) == []
    assert contents(place, GRAPH, store) == undisturbed(GRAPH)[0]


def test_objects_are_read_in_blocks_and_never_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 5)
    place = MemoryRoot()
    store, _ = place.process()
    go(GRAPH, store)
    store, backend = place.process()
    assert faults(store, "arithmetic", deep=True) == []
    whole = [call for call in backend.log if call.startswith("read ") and "/artifacts" in f"/{call[5:]}"]
    assert all(call.endswith(("manifest.json", "state.json")) for call in whole)
    blocks = [call for call in backend.log if call.startswith("read_range") and call.endswith("numbers-00000.json")]
    assert len(blocks) == -(-len(b"[1, 2, 3, 4]") // 5)


def test_the_command_ends_with_6_and_one_message_that_says_what_to_do(finished: Finished, tmp_path: Path) -> None:
    root = tmp_path / "store"
    shutil.copytree(finished.store, root, copy_function=os.link)
    (page,) = (root / "artifacts" / "report").glob("*/g0000/report.html")
    damage(page, flip)
    done = repscope("verify", finished.study, "--deep", "--store", root, code=6)
    assert done.stderr.count("\n") == 1
    assert f"report: {page} has other bytes than were written" in done.stderr
    assert "Delete that object alone, then run the study again" in done.stderr
    assert f"repscope run {finished.study} --store {root}" in done.stderr
    assert "1 wrong" in done.stdout
    assert "18 steps" in done.stdout


def test_a_run_that_meets_a_damaged_object_names_it_and_the_same_remedy() -> None:
    place = MemoryRoot()
    store, _ = place.process()
    go(GRAPH[:1], store)
    name = next(name for name in place.objects("artifacts/numbers") if name.endswith("numbers-00003.json"))
    content = flip(place.backend.read(name))
    place.backend.delete(name)
    place.backend.create(name, content)
    store, _ = place.process()
    with pytest.raises(StepFailedError, match=rf"{name}.*Delete it alone from the store"):
        go(GRAPH, store)
    with suppress(StepFailedError):
        go(GRAPH, store)
    assert place.backend.read(name) == content
