"""What the store's protocol promises when bytes or code change, answers fail, or two runs are at one artifact."""

import json
import re
import secrets
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Literal

import pytest

from cluster.executor import Call, GangContext, Outcome
from cluster.inline import Inline
from pipeline import events, worker
from pipeline.artifact import StoredCheckpoints
from pipeline.backends import MAX_OBJECT_BYTES
from pipeline.errors import (
    AccessError,
    BusyError,
    ExistsError,
    PipelineError,
    StepFailedError,
    UnansweredError,
    exit_code,
)
from pipeline.events import Event
from pipeline.lease import Lease
from pipeline.manifest import read_receipts
from pipeline.plan import plan
from pipeline.run import run
from pipeline.step import Step
from pipeline.store import Store, share
from stages.contract import Context, Estimate, Gang, Inputs, Output, Summary
from stages.errors import FormatError
from tests.faults.arithmetic import graph
from tests.faults.faulty import DeadError, FaultyBackend, MemoryRoot
from tests.faults.truth import finished, go, undisturbed

GRAPH = graph(parts=2, steps=3)


def test_a_flipped_byte_of_an_input_is_refused_and_repaired_by_deleting_that_object() -> None:
    root = MemoryRoot()
    store, _ = root.process()
    go(GRAPH, store)
    truth = finished(root, GRAPH, store)
    name = next(name for name in root.objects("artifacts/numbers") if name.endswith("/numbers-00001.json"))
    data = root.backend.read(name)
    root.backend.delete(name)
    root.backend.create(name, bytes([data[0], data[1] ^ 1]) + data[2:])
    store, _ = root.process()
    with pytest.raises(StepFailedError, match=rf"{name}.*Delete it alone from the store"):
        run(GRAPH, store, Inline, force=["squares"])
    root.backend.delete(name)
    store, _ = root.process()
    mended = run(GRAPH, store, Inline, study="arithmetic")
    assert mended.steps[0].parts_run == 1
    assert finished(root, GRAPH, store) == truth


def test_a_worker_reads_the_manifest_of_an_input_once_for_all_parts() -> None:
    store, backend = MemoryRoot().process()
    go(graph(parts=5), store)
    manifest = re.compile(r"read artifacts/numbers/\w+/g0000/manifest\.json")
    reads = [call for call in backend.log if manifest.fullmatch(call)]
    store, backend = MemoryRoot().process()
    go(graph(parts=1), store)
    assert len(reads) == len([call for call in backend.log if manifest.fullmatch(call)])


def test_a_part_costs_three_requests_beside_its_objects() -> None:
    logs = {}
    for parts in (2, 12):
        store, backend = MemoryRoot().process()
        go(graph(parts=parts)[:1], store)
        logs[parts] = [call for call in backend.log if "/events/" not in call and " leases/" not in call]
    # Each part has two objects; its receipt is looked for, created, and read when the parts are merged.
    assert len(logs[12]) - len(logs[2]) == 10 * (2 + 3)
    assert len([call for call in logs[12] if call.endswith("/parts/00011.json")]) == 3


def test_receipts_of_a_remote_store_are_read_together_and_in_order() -> None:
    root = MemoryRoot()
    store, _ = root.process()
    go(GRAPH[:1], store)
    folder = plan(GRAPH, store)[0].url.removeprefix(f"{root.url}/")
    before = read_receipts(store, folder, 2)
    both = threading.Barrier(2, timeout=30)

    class Remote(FaultyBackend):
        def read(self, name: str, most_bytes: int = MAX_OBJECT_BYTES) -> bytes:
            both.wait()
            return super().read(name, most_bytes)

    far = Store(Remote(root.backend), "s3://bucket/store")
    assert read_receipts(far, folder, 2) == before
    assert [receipt.part for receipt in before] == [0, 1]


class Conflicting(FaultyBackend):
    """Answers the first request to create an object as if a rival's were under way, which then fails."""

    refused = 0

    def create(self, name: str, data: bytes) -> None:
        if name.endswith("/index.json") and self.refused < 2:
            self.refused += 1
            raise ExistsError(f"the name {name} to be free", "409 ConditionalRequestConflict", "Again.")
        super().create(name, data)


def test_a_name_that_is_taken_by_no_object_is_tried_again() -> None:
    root = MemoryRoot()
    backend = Conflicting(root.backend)
    store = Store(backend, root.url)
    share(store)
    go(GRAPH[:1], store)
    assert backend.refused == 2
    assert finished(root, GRAPH[:1], store)["numbers"]["index.json"]


class Expiring(FaultyBackend):
    """Refuses every request once the credentials have expired."""

    expired = False

    def create(self, name: str, data: bytes) -> None:
        if self.expired:
            raise AccessError("to be allowed to use s3://bucket", "ExpiredToken", "Renew the credentials.")
        super().create(name, data)


def test_expired_credentials_end_a_run_with_one_message_and_exit_code_3() -> None:
    root = MemoryRoot()
    backend = Expiring(root.backend)
    store = Store(backend, root.url)
    share(store)

    def expire(event: Event) -> None:
        backend.expired = backend.expired or event.kind == "part_done"

    with pytest.raises(PipelineError, match=r"ExpiredToken.*Renew the credentials") as caught:
        run(GRAPH, store, Inline, listener=expire)
    assert exit_code(caught.value) == 3
    backend.expired = False
    go(GRAPH, store)
    assert {state.state for state in plan(GRAPH, store)} == {"done"}


class Deaf(FaultyBackend):
    """Takes no event before `heals` is set."""

    heals = False

    def create(self, name: str, data: bytes) -> None:
        if "/events/" in name and not self.heals:
            raise UnansweredError(f"an answer about {name}", "a reset", "Again.")
        super().create(name, data)


def test_events_that_cannot_be_written_end_no_run_and_are_written_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "FLUSH_SECONDS", 0.0)
    root = MemoryRoot()
    backend = Deaf(root.backend)
    store = Store(backend, root.url)
    share(store)
    seen: list[Event] = []

    def heal(event: Event) -> None:
        seen.append(event)
        backend.heals = backend.heals or event.step == "counting"

    result = run(GRAPH, store, Inline, listener=heal)
    assert result.run_id is not None
    assert "log_delayed" in {event.kind for event in seen}
    written = events.read_events(store, result.run_id)
    expected = [(event.kind, event.step, event.fields) for event in seen if event.kind != "log_delayed"]
    kept = [(event.kind, event.step, event.fields) for event in written]
    assert [event for event in kept if event[0] != "progress"] == [e for e in expected if e[0] != "progress"]


class Training(Gang):
    """A training that costs nothing. No two attempts give the same."""

    version = 1
    bitwise = False

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        return Estimate(rows=1, size_bytes=1, cpu_seconds=0.1)


class Twofold(Training):
    """A training whose two files belong together."""

    name = "twofold"

    def train(self, context: Context, inputs: Inputs, out: Output) -> Summary:
        own = secrets.token_hex(4)
        out.put("weights.bin", own.encode())
        BETWEEN.pop()() if BETWEEN else None
        out.put("card.json", own.encode())
        context.report(1, 1, {})
        return {"of": own, "read": out.read("card.json").decode()}


BETWEEN: list[Callable[[], object]] = []
"""What a training does between its two files, once each."""


def test_files_of_two_trainings_of_one_generation_do_not_mix() -> None:
    class Recorder(Inline):
        def gang(self, call: Call, *others: Any, **more: Any) -> Outcome:
            context = GangContext(0, 1, "cpu", 1, send=lambda progress: None)
            BETWEEN.append(lambda: worker.train(call.payload, context))
            return super().gang(call, *others, **more)

    root = MemoryRoot()
    store, _ = root.process()
    steps = [Step("twofold", Twofold())]
    result = run(steps, store, Recorder)
    files = finished(root, steps, store)["twofold"]
    assert len(set(files.values())) == 1
    assert {value.encode() for value in result.summary("twofold").values()} == set(files.values())
    assert not [name for name in root.objects("artifacts") if "/files/" in name]


def test_a_training_that_was_decided_on_is_published_and_not_repeated() -> None:
    steps = [Step("twofold", Twofold())]
    _, calls = undisturbed(steps)
    decided = next(at for at, call in enumerate(calls) if call.startswith("create") and "decision.json" in call)
    for at in range(decided + 1, len(calls)):
        root = MemoryRoot()
        store, _ = root.process("die before", at)
        with suppress(DeadError):
            go(steps, store)
        record = next(data for name, data in root.objects("artifacts").items() if name.endswith("/decision.json"))
        store, _ = root.process()
        result = go(steps, store)
        assert result.summary("twofold") == json.loads(record)["receipt"]["summary"]
        assert set(finished(root, steps, store)["twofold"].values()) == {result.summary("twofold")["of"].encode()}


class Endless(Training):
    """A training that goes on until it is stopped."""

    name = "endless"

    def train(self, context: Context, inputs: Inputs, out: Output) -> Summary:
        BETWEEN.pop()()
        for step in range(100):
            context.report(step, step, {})
        raise AssertionError("nothing has stopped it")


def test_a_training_that_has_lost_its_lease_ends_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    root = MemoryRoot()
    store, _ = root.process()
    taken: list[Lease] = []
    acquire = Lease.acquire

    def remember(lease: Lease, on_busy: Literal["wait", "fail"], on_wait: Callable[[str], None]) -> None:
        taken.append(lease)
        acquire(lease, on_busy, on_wait)

    monkeypatch.setattr(Lease, "acquire", remember)

    def take() -> None:
        folder = next(name for name in root.objects("leases") if name.endswith("/e0001.json")).rpartition("/")[0]
        store.create(f"{folder}/e0002.json", b"{}")
        taken[0].beat()

    BETWEEN.append(take)
    with pytest.raises(BusyError, match="another run took it"):
        run([Step("endless", Endless())], store, Inline)


def test_a_heartbeat_that_fails_for_any_reason_is_followed_by_others() -> None:
    root = MemoryRoot()
    refused = threading.Event()
    again = threading.Event()

    class Refusing(FaultyBackend):
        def create(self, name: str, data: bytes) -> None:
            if ".beat-" in name:
                if not refused.is_set():
                    refused.set()
                    raise OSError("a reason that nobody has thought of")
                again.set()
            super().create(name, data)

    lease = Lease(Store(Refusing(root.backend), root.url), "x/y", "run", ttl_seconds=0.1)
    lease.acquire("fail", print)
    with lease:
        assert again.wait(30)


def test_a_damaged_checkpoint_is_refused_by_name() -> None:
    root = MemoryRoot()
    store, _ = root.process()
    StoredCheckpoints(store, "artifacts/x/ab/g0000").save(1, {"model": b"1234"})
    name = next(name for name in root.objects("artifacts") if name.endswith("/model"))
    root.backend.delete(name)
    root.backend.create(name, b"1235")
    checkpoint = StoredCheckpoints(store, "artifacts/x/ab/g0000").latest()
    assert checkpoint is not None
    with pytest.raises(
        FormatError, match=rf"{name}.*Delete the folder .*/step-000000001, then run again: the training goes on"
    ):
        checkpoint.read("model")
