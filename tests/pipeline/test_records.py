"""The records of a generation: read by later versions, refused from newer ones, named where damaged."""

import json
from pathlib import Path

import pytest

from cluster.inline import Inline
from pipeline import worker
from pipeline.errors import (
    BusyError,
    FullError,
    OutdatedError,
    PipelineError,
    RootError,
    StepFailedError,
    StoreError,
    UsageError,
    VerificationError,
    exit_code,
)
from pipeline.events import read_events
from pipeline.lease import Lease
from pipeline.manifest import Decision, Head, Manifest, Object, Receipt, Tombstone, parse_record, survey
from pipeline.run import run
from pipeline.store import open_store
from stages.errors import ConflictError, FormatError, InputError
from stages.training.precision import computed
from tests.faults.arithmetic import graph
from tests.faults.faulty import MemoryRoot
from tests.finished import Finished

DATA = Path(__file__).parents[1] / "data" / "formats" / "v1" / "artifact"


def test_an_artifact_of_format_1_stays_readable() -> None:
    store = open_store(str(DATA))
    found = survey(store, "numbers", "ab" * 32)
    assert found.standing == "committed"
    assert found.manifest is not None
    assert found.manifest.objects == {"numbers-00000.json": Object.of(b"[1, 2]")}
    assert found.manifest.summary == {"count": 2}
    assert found.manifest.digest == "be394e34a9bf158a9ab00ee57a61d80bf0517099d70de76fec3acee916239194"
    head = parse_record(store.read(f"{found.folder}/artifact.json"), "artifact.json", Head)
    assert head.parts == 1
    receipt = parse_record(store.read(f"{found.folder}/parts/00000.json"), "receipt", Receipt)
    assert receipt.objects == found.manifest.objects
    closed = store.read("artifacts/numbers/" + "ab" * 8 + "/g0000/tombstone.json")
    assert parse_record(closed, "tombstone.json", Tombstone).reason == "forced"


def test_a_newer_record_is_refused_with_a_message() -> None:
    with pytest.raises(StoreError, match=r"format 2\. Update repscope"):
        parse_record(b'{"format": 2}', "manifest.json", Manifest)


@pytest.mark.parametrize("data", [b"", b"not json", b"[]", b"{}", b'{"format": 1}', b'{"format": 1, "reason": 5}'])
def test_a_damaged_record_is_told(data: bytes) -> None:
    with pytest.raises(StoreError, match=r"tombstone\.json; found a damaged one.*Delete that object alone"):
        parse_record(data, "artifacts/x/tombstone.json", Tombstone)


@pytest.mark.parametrize(
    ("name", "cls", "lost"),
    [
        ("manifest.json", Manifest, "only their merge is done again"),
        ("parts/00012.json", Receipt, "only that part is done again"),
        ("train/decision.json", Decision, "goes on from its last checkpoint"),
        ("artifact.json", Head, "what is complete stays"),
    ],
)
def test_of_an_empty_record_the_remedy_says_what_is_lost_with_it(name: str, cls: type[Manifest], lost: str) -> None:
    with pytest.raises(StoreError, match=rf"g0000/{name}; found a damaged one .*Delete that object alone.*{lost}"):
        parse_record(b"", f"artifacts/x/ab/g0000/{name}", cls)


def test_an_empty_record_of_a_lease_keeps_nobody_out() -> None:
    store, _ = MemoryRoot().process()
    store.create("leases/x/ab/e0001.json", b"")
    lease = Lease(store, "x/ab", "run")
    lease.acquire("fail", print)
    assert [entry.name for entry in store.entries("leases/x")] == ["leases/x/ab/e0001.json", "leases/x/ab/e0002.json"]


def test_damaged_events_cost_nothing_but_these_lines() -> None:
    store, _ = MemoryRoot().process()
    store.create("runs/r/events/000000-1.jsonl", b'{"kind": "run_st')
    with pytest.raises(
        StoreError, match=r"runs/r/events/000000-1\.jsonl; found damaged ones .*Delete that object alone"
    ):
        read_events(store, "r")


def test_a_record_keeps_what_a_later_minor_version_adds_out_of_the_way() -> None:
    text = {"format": 1, "reason": "r", "owner": {"host": "h", "pid": 1, "run": "x"}, "created": 0, "more": 1}
    assert parse_record(json.dumps(text).encode(), "tombstone.json", Tombstone).reason == "r"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PipelineError, 1),
        (UsageError, 2),
        (RootError, 2),
        (InputError, 2),
        (FormatError, 3),
        (ConflictError, 3),
        (StoreError, 3),
        (FullError, 3),
        (StepFailedError, 3),
        (OutdatedError, 4),
        (BusyError, 5),
        (VerificationError, 6),
    ],
)
def test_every_error_has_its_exit_code_and_one_form_of_message(error: type[PipelineError], code: int) -> None:
    raised = error("this", "that", "Do so.")
    assert exit_code(raised) == code
    assert str(raised) == "expected this; found that. Do so."


def test_other_rooms_and_signals_have_theirs() -> None:
    from cluster.errors import ClusterError, PortInUseError, ResourceError

    assert exit_code(PortInUseError("a", "b", "c")) == 2
    assert exit_code(ResourceError("a", "b", "c")) == 2
    assert exit_code(ClusterError("a", "b", "c")) == 3
    assert exit_code(KeyboardInterrupt()) == 130
    assert exit_code(RuntimeError("a mistake of ours")) == 1


def test_a_manifest_has_the_versions_of_all_that_worked_not_only_of_who_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = iter([{"python": "3", "torch": "2"}, {"python": "3", "zarr": "1"}, {"python": "3"}])
    monkeypatch.setattr(worker, "_versions", lambda: next(seen))
    store = open_store(str(tmp_path / "store"))
    run(graph(parts=2)[:1], store, Inline)
    manifest = json.loads(next((tmp_path / "store").glob("artifacts/numbers/*/g0000/manifest.json")).read_bytes())
    assert manifest["versions"] == {"python": "3", "torch": "2", "zarr": "1"}


def test_receipts_and_manifest_say_what_networks_computed_in(finished: Finished) -> None:
    found = {}
    for stage in ("listing", "pretrain", "readers", "decoder", "samples", "embeddings", "kept"):
        found[stage] = set[str]()
        for folder in (finished.store / "artifacts" / stage).glob("*/g0000"):
            manifest = json.loads((folder / "manifest.json").read_bytes())
            receipts = [json.loads(path.read_bytes())["arithmetic"] for path in folder.glob("parts/*.json")]
            assert {precision for receipt in receipts for precision in receipt} == set(manifest["arithmetic"])
            found[stage] |= set(manifest["arithmetic"])
    here = computed("bfloat16", "cpu")
    # Beside its training, a `pretrain` step embeds its probe batch in float32.
    assert found == {
        "listing": set(),
        "pretrain": {here, "float32"},
        "readers": {here},
        "decoder": {here},
        "samples": {here},
        "embeddings": {"float32"},
        "kept": set(),
    }


def test_records_from_before_do_not_say_what_was_computed_in() -> None:
    folder = "artifacts/numbers/" + "ab" * 8 + "/g0001"
    store = open_store(str(DATA))
    assert parse_record(store.read(f"{folder}/parts/00000.json"), "receipt", Receipt).arithmetic == ()
    assert parse_record(store.read(f"{folder}/manifest.json"), "manifest", Manifest).arithmetic == ()
