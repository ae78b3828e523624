"""What the store's protocol promises when bytes or code change, answers fail, or two runs are at one artifact."""

import re
import threading

import pytest

from cluster.inline import Inline
from pipeline import events
from pipeline.errors import AccessError, ExistsError, PipelineError, StepFailedError, UnansweredError, exit_code
from pipeline.events import Event
from pipeline.manifest import read_receipts
from pipeline.plan import plan
from pipeline.run import run
from pipeline.store import Store, share
from tests.faults.arithmetic import graph
from tests.faults.faulty import FaultyBackend, Place
from tests.faults.truth import finished, go

GRAPH = graph(parts=2, steps=3)


def test_a_flipped_byte_of_an_input_is_refused_and_forcing_its_step_repairs_it() -> None:
    place = Place()
    store, _ = place.process()
    go(GRAPH, store)
    truth = finished(place, GRAPH, store)
    name = next(name for name in place.objects("artifacts/numbers") if name.endswith("/numbers-00001.json"))
    data = place.backend.read(name)
    place.backend.delete(name)
    place.backend.create(name, bytes([data[0], data[1] ^ 1]) + data[2:])
    store, _ = place.process()
    with pytest.raises(StepFailedError, match=rf"{name}.*--force for the step of stage numbers"):
        run(GRAPH, store, Inline, force=["squares"])
    store, _ = place.process()
    run(GRAPH, store, Inline, study="arithmetic", force=["numbers"])
    assert finished(place, GRAPH, store) == truth


def test_a_worker_reads_the_manifest_of_an_input_once_for_all_parts() -> None:
    store, backend = Place().process()
    go(graph(parts=5), store)
    manifest = re.compile(r"read artifacts/numbers/\w+/g0000/manifest\.json")
    reads = [call for call in backend.log if manifest.fullmatch(call)]
    store, backend = Place().process()
    go(graph(parts=1), store)
    assert len(reads) == len([call for call in backend.log if manifest.fullmatch(call)])


def test_receipts_of_a_remote_store_are_read_together_and_in_order() -> None:
    place = Place()
    store, _ = place.process()
    go(GRAPH[:1], store)
    folder = plan(GRAPH, store)[0].url.removeprefix(f"{place.url}/")
    before = read_receipts(store, folder, 2)
    both = threading.Barrier(2, timeout=30)

    class Remote(FaultyBackend):
        def read(self, name: str) -> bytes:
            both.wait()
            return super().read(name)

    far = Store(Remote(place.backend), "s3://bucket/store")
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
    place = Place()
    backend = Conflicting(place.backend)
    store = Store(backend, place.url)
    share(store)
    go(GRAPH[:1], store)
    assert backend.refused == 2
    assert finished(place, GRAPH[:1], store)["numbers"]["index.json"]


class Expiring(FaultyBackend):
    """Refuses every request once the credentials have expired."""

    expired = False

    def create(self, name: str, data: bytes) -> None:
        if self.expired:
            raise AccessError("to be allowed to use s3://bucket", "ExpiredToken", "Renew the credentials.")
        super().create(name, data)


def test_expired_credentials_end_a_run_with_one_message_and_exit_code_3() -> None:
    place = Place()
    backend = Expiring(place.backend)
    store = Store(backend, place.url)
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
    place = Place()
    backend = Deaf(place.backend)
    store = Store(backend, place.url)
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
