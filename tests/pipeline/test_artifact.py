"""What a stage touches: adoption, inputs, Zarr stores on inputs, training checkpoints."""

import hashlib
import itertools
from pathlib import Path

import pytest

from pipeline.artifact import StoredCheckpoints, StoredInput, StoredOutput
from pipeline.errors import MissingError, StepFailedError, StoreError
from pipeline.manifest import Manifest, Object, Owner, Ref, write_record
from pipeline.store import Store
from stages.errors import ConflictError, FormatError
from tests.faults.faulty import MemoryRoot

ELSEWHERE = Owner(host="other-host", pid=77)


def output(store: Store, *, bitwise: bool) -> StoredOutput:
    """An output in a generation that another host has opened."""
    return StoredOutput(store, "artifacts/x/ab/g0000", bitwise, ELSEWHERE)


def test_what_is_put_is_in_the_store_and_in_the_table_of_contents(tmp_path: Path) -> None:
    store, _ = MemoryRoot().process()
    out = output(store, bitwise=True)
    (tmp_path / "file").write_bytes(b"from a file")
    assert out.put("a/b.bin", b"1234") == b"1234"
    assert out.put("c.bin", tmp_path / "file") == b"from a file"
    assert out.objects["a/b.bin"] == Object(size=4, sha256=hashlib.sha256(b"1234").hexdigest())
    assert store.read("artifacts/x/ab/g0000/c.bin") == b"from a file"
    assert out.adopted == []


def test_equal_bytes_are_adopted() -> None:
    store, _ = MemoryRoot().process()
    output(store, bitwise=True).put("a", b"1")
    out = output(store, bitwise=True)
    assert out.put("a", b"1") == b"1"
    assert out.adopted == ["a"]


def test_other_bytes_of_a_bitwise_stage_are_a_conflict_that_names_both_hosts() -> None:
    store, _ = MemoryRoot().process()
    output(store, bitwise=True).put("a", b"1")
    with pytest.raises(ConflictError, match=rf"{Owner.here().host}.*other-host \(process 77\).*--force"):
        output(store, bitwise=True).put("a", b"2")


def test_other_bytes_of_another_stage_are_read_back_and_checked() -> None:
    store, _ = MemoryRoot().process()
    output(store, bitwise=False).put("a", b"1")
    out = output(store, bitwise=False)
    seen: list[bytes] = []
    assert out.put("a", b"2", check=seen.append) == b"1"
    assert seen == [b"1"]
    assert out.objects["a"] == Object.of(b"1")

    def refuse(data: bytes) -> None:
        raise FormatError("two rows", "one", "Make it anew.")

    with pytest.raises(FormatError):
        output(store, bitwise=False).put("a", b"2", check=refuse)


def test_a_lost_answer_is_resolved_by_what_is_in_the_store() -> None:
    shared = MemoryRoot()
    store, backend = shared.process("lose the answer", 0)
    out = output(store, bitwise=True)
    assert out.put("a", b"1") == b"1"
    assert backend.log == ["create artifacts/x/ab/g0000/a"] * 2 + ["read artifacts/x/ab/g0000/a"]


def test_a_part_reads_back_what_it_has_put_and_nothing_of_another_part() -> None:
    store, _ = MemoryRoot().process()
    output(store, bitwise=True).put("other", b"1")
    out = output(store, bitwise=True)
    out.put("own", b"2")
    assert out.read("own") == b"2"
    with pytest.raises(MissingError, match="mistake in the stage"):
        out.read("other")


def test_what_the_parts_have_put_is_read_by_the_merge_and_held_against_their_receipts() -> None:
    shared = MemoryRoot()
    store, _ = shared.process()
    part = output(store, bitwise=True)
    part.put("rows/0", b"right")
    out = StoredOutput(store, "artifacts/x/ab/g0000", True, ELSEWHERE, part.objects)
    assert out.read("rows/0") == b"right"
    assert out.objects == {}
    shared.backend.delete("artifacts/x/ab/g0000/rows/0")
    shared.backend.create("artifacts/x/ab/g0000/rows/0", b"wrong")
    with pytest.raises(FormatError, match=r"sha256.*damaged.*Delete it alone"):
        out.read("rows/0")


@pytest.mark.parametrize("name", ["manifest.json", "artifact.json", "tombstone.json", "parts/00001.json", "train/x"])
def test_a_stage_may_not_write_the_pipelines_records(name: str) -> None:
    store, _ = MemoryRoot().process()
    with pytest.raises(StoreError, match="a name of the stage's own"):
        output(store, bitwise=True).put(name, b"")


def committed(store: Store, objects: dict[str, bytes]) -> Ref:
    """An artifact with these objects."""
    out = output(store, bitwise=True)
    for name, data in objects.items():
        out.put(name, data)
    manifest = Manifest(
        stage="x",
        key="ab",
        document={},
        code="",
        inputs={},
        parts=1,
        objects=out.objects,
        summary={"rows": 3},
        seconds=1,
        versions={},
        owner=ELSEWHERE,
        executor="inline",
        created=0,
    )
    write_record(store, "artifacts/x/ab/g0000/manifest.json", manifest)
    return Ref(store=store.url, stage="x", key="ab", generation=0, digest=manifest.digest)


def test_an_input_is_its_manifest_and_its_objects() -> None:
    store, backend = MemoryRoot().process()
    source = StoredInput(committed(store, {"b": b"123456", "a/x": b""}))
    assert source.names() == ["a/x", "b"]
    assert source.size("b") == 6
    assert source.read("b") == b"123456"
    assert source.read_range("b", 2, 3) == b"345"
    assert source.summary == {"rows": 3}
    assert source.key == "ab"
    assert source.address("b") == f"{store.url}/artifacts/x/ab/g0000/b"
    assert len([call for call in backend.log if call.startswith("list")]) == 0
    with pytest.raises(MissingError, match="2 objects of other names"):
        source.read("nothing")
    with pytest.raises(FormatError, match="a range within the 6 bytes"):
        source.read_range("b", 4, 3)


def test_an_input_that_was_changed_since_is_refused() -> None:
    shared = MemoryRoot()
    store, _ = shared.process()
    ref = committed(store, {"b": b"123456"})
    with pytest.raises(StepFailedError, match="run the same command again"):
        StoredInput(ref.model_copy(update={"digest": "0" * 64})).names()
    shared.backend.delete("artifacts/x/ab/g0000/b")
    shared.backend.create("artifacts/x/ab/g0000/b", b"12")
    with pytest.raises(FormatError, match="damaged"):
        StoredInput(ref).read("b")


def test_arrays_are_read_by_zarr_itself_and_nothing_can_be_written() -> None:
    import numpy as np
    import zarr
    from zarr.core.buffer import Buffer

    memory: dict[str, Buffer] = {}
    root = zarr.open_group(store=zarr.storage.MemoryStore(memory), mode="w")
    array = root.create_array("tap/plain", shape=(100, 8), shards=(32, 8), chunks=(8, 8), dtype="float32")
    array[:] = np.arange(800, dtype=np.float32).reshape(100, 8)
    objects = {f"e.zarr/{name}": buffer.to_bytes() for name, buffer in memory.items()}
    store, _ = MemoryRoot().process()
    source = StoredInput(committed(store, {**objects, "rows": b""}))
    found = zarr.open_group(store=source.zarr("e.zarr"), mode="r")
    assert sorted(found.group_keys()) == ["tap"]
    read = found["tap/plain"]
    assert isinstance(read, zarr.Array)
    np.testing.assert_array_equal(read[:], array[:])
    rows = np.array([3, 97, 40], dtype=np.int64)
    np.testing.assert_array_equal(read.oindex[rows], np.asarray(array[:])[rows])
    with pytest.raises(ValueError, match="read-only"):
        zarr.open_group(store=source.zarr("e.zarr"), mode="w")


def names(shared: MemoryRoot) -> list[str]:
    """Steps of which objects are there, with how many."""
    steps = [name.split("/")[3] for name in shared.objects("g/train")]
    return [f"{step}:{len(list(group))}" for step, group in itertools.groupby(sorted(steps))]


def objects(step: int) -> dict[str, bytes]:
    """The files of a checkpoint."""
    return {"model.safetensors": bytes([step]) * 10, "optimiser.safetensors": bytes([step]) * 20}


def test_the_highest_complete_step_of_all_attempts_is_resumed() -> None:
    shared = MemoryRoot()
    store, _ = shared.process()
    first, second = StoredCheckpoints(store, "g"), StoredCheckpoints(store, "g")
    assert first.latest() is None
    first.save(5, objects(5))
    second.save(9, objects(9))
    first.save(7, objects(7))
    found = StoredCheckpoints(store, "g").latest()
    assert found is not None
    assert found.step == 9
    assert found.read("model.safetensors") == bytes([9]) * 10


def test_the_state_of_a_checkpoint_is_written_last() -> None:
    store, backend = MemoryRoot().process()
    StoredCheckpoints(store, "g").save(1, objects(1))
    written = [call.rpartition("/")[2] for call in backend.log]
    assert written == ["model.safetensors", "optimiser.safetensors", "state.json"]


def test_an_incomplete_checkpoint_is_passed_over() -> None:
    shared = MemoryRoot()
    store, _ = shared.process()
    checkpoints = StoredCheckpoints(store, "g")
    checkpoints.save(1, objects(1))
    checkpoints.save(2, objects(2))
    folder = f"g/train/{checkpoints.attempt}/step-000000002"
    for lost in ("optimiser.safetensors", "state.json"):
        data = shared.backend.read(f"{folder}/{lost}")
        shared.backend.delete(f"{folder}/{lost}")
        found = checkpoints.latest()
        assert found is not None
        assert found.step == 1
        shared.backend.create(f"{folder}/{lost}", data)
    for damaged in (
        *(b"", b"[]", b'{"step": 2}', b'{"step": 2, "files": {}, "sha256": [1]}'),
        *(b'{"step": "two", "files": {}}', b'{"step": NaN, "files": {}}', b'{"step": 2, "files": []}'),
    ):
        shared.backend.delete(f"{folder}/state.json")
        shared.backend.create(f"{folder}/state.json", damaged)
        found = checkpoints.latest()
        assert found is not None
        assert found.step == 1


def test_an_attempt_keeps_two_checkpoints_of_its_own_and_all_of_others() -> None:
    shared = MemoryRoot()
    store, _ = shared.process()
    StoredCheckpoints(store, "g").save(1, objects(1))
    checkpoints = StoredCheckpoints(store, "g")
    for step in (2, 3, 4, 5):
        checkpoints.save(step, objects(step))
    assert names(shared) == [f"step-{step:09d}:3" for step in (1, 4, 5)]


def test_a_crash_anywhere_in_saving_leaves_a_checkpoint_to_resume_from() -> None:
    from contextlib import suppress

    from tests.faults.faulty import DeadError

    for at in range(60):
        shared = MemoryRoot()
        store, backend = shared.process("die after", at)
        checkpoints = StoredCheckpoints(store, "g")
        saved = 0
        with suppress(DeadError):
            for step in range(1, 6):
                checkpoints.save(step, objects(step))
                saved = step
        store, _ = shared.process()
        found = StoredCheckpoints(store, "g").latest()
        assert (found.step if found else 0) in (saved, saved + 1)
        if found:
            assert found.read("optimiser.safetensors") == bytes([found.step]) * 20
        if backend.calls <= at:
            break
    else:
        raise AssertionError("more calls than expected")
