"""Collecting garbage: what is reached stays, whoever reads, runs or dies meanwhile."""

from contextlib import suppress

import pytest

from cluster.inline import Inline
from pipeline.artifact import StoredInput
from pipeline.collect import KINDS, collect, collectable
from pipeline.errors import MissingError, StoreError
from pipeline.events import Event
from pipeline.lease import Lease
from pipeline.plan import plan
from pipeline.run import run
from pipeline.store import Store
from pipeline.studies import latest
from pipeline.verify import verify
from tests.faults.arithmetic import graph
from tests.faults.faulty import DeadError, MemoryRoot
from tests.faults.truth import finished, go, undisturbed

OLD, NEW = graph(power=2), graph(power=3)
HOUR = 3600.0


@pytest.fixture
def place() -> MemoryRoot:
    """A store in which a study was run, changed and run again, more than half an hour ago."""
    place = MemoryRoot()
    store, _ = place.process()
    go(OLD, store)
    go(NEW, store)
    return place


def sound(store: Store) -> bool:
    """Whether the newest run of the study is whole."""
    pointer = latest(store, "arithmetic")
    assert pointer is not None
    return not any(verified.faults for verified in verify(store, pointer.steps, deep=True))


def states(store: Store) -> dict[str, set[str]]:
    """How the steps of both studies stand."""
    return {name: {state.state for state in plan(steps, store)} for name, steps in (("old", OLD), ("new", NEW))}


def test_what_the_newest_runs_reach_stays_and_the_rest_goes(place: MemoryRoot) -> None:
    store, _ = place.process()
    before = place.objects("artifacts")
    kept = finished(place, NEW, store)
    found = collectable(store, ["artifacts"], 0.0)
    assert place.objects("artifacts") == before
    assert {entry.folder.split("/")[1] for entry in found} == {"squares", "counting"}
    collect(store, found)
    assert finished(place, NEW, store) == kept
    assert states(store)["new"] == {"done"}
    assert sound(store)
    left = place.objects("artifacts").keys()
    gone = before.keys() - left
    assert sum(len(before[name]) for name in gone) == sum(entry.size_bytes for entry in found)
    assert sorted(name.rpartition("/")[2] for name in left - before.keys()) == ["tombstone.json"] * 2
    assert collectable(store, ["artifacts"], 0.0) == []
    go(OLD, store)
    assert states(store)["old"] == {"done"}


def test_an_artifact_is_closed_first_and_deleted_after_the_grace_period(place: MemoryRoot) -> None:
    store, _ = place.process()
    old = next(state for state in plan(OLD, store) if state.name == "squares")
    collect(store, collectable(store, ["artifacts"], HOUR / 2))
    assert place.objects(old.url.removeprefix(f"{place.url}/"))
    assert {state.state for state in plan(OLD, store)} == {"done", "missing"}
    # What this process has closed, it has closed just now; for the next process that was an hour ago.
    assert collectable(store, ["artifacts"], HOUR / 2) == []
    store, _ = place.process()
    collect(store, collectable(store, ["artifacts"], HOUR / 2))
    left = place.objects(old.url.removeprefix(f"{place.url}/"))
    assert [name.rpartition("/")[2] for name in left] == ["tombstone.json"]
    assert states(store)["new"] == {"done"}


def test_what_is_younger_than_the_grace_period_stays(place: MemoryRoot) -> None:
    store, _ = place.process()
    assert collectable(store, KINDS, 2 * HOUR) == []


def test_every_study_in_the_store_is_reached(place: MemoryRoot) -> None:
    store, _ = place.process()
    run(OLD, store, Inline, study="another")
    assert collectable(store, ["artifacts"], 0.0) == []


def test_a_run_that_is_under_way_loses_nothing(place: MemoryRoot) -> None:
    store, _ = place.process()
    third = graph(first=5)
    collected: list[str] = []

    def meanwhile(event: Event) -> None:
        if event.kind in ("part_done", "progress", "step_done"):
            found = collectable(store, KINDS, 0.0) if event.kind != "step_done" else collectable(store, KINDS, 60.0)
            collected.extend(entry.folder for entry in found)
            collect(store, found)

    result = run(third, store, Inline, study="third", listener=meanwhile)
    assert any("squares" in folder for folder in collected)
    assert {step.outcome for step in result.steps} == {"made"}
    assert {state.state for state in plan(third, store)} == {"done"}
    assert states(store)["new"] == {"done"}
    assert sound(store)


def test_work_that_was_interrupted_stays_for_the_grace_period() -> None:
    place = MemoryRoot()
    _, calls = undisturbed(OLD)
    store, _ = place.process("die before", len(calls) // 2)
    with suppress(DeadError):
        go(OLD, store)
    store, _ = place.process()
    assert collectable(store, ["artifacts"], 2 * HOUR) == []
    assert collectable(store, ["artifacts"], HOUR / 2) != []


def test_checkpoints_of_finished_trainings_go_and_the_study_is_whole(place: MemoryRoot) -> None:
    store, _ = place.process()
    found = collectable(store, ["checkpoints"], HOUR / 2)
    assert {entry.folder.split("/")[1] for entry in found} == {"counting"}
    collect(store, found)
    assert not [name for name in place.objects("artifacts") if "/step-" in name]
    assert states(store) == {"old": {"done"}, "new": {"done"}}
    assert sound(store)


def test_leases_that_are_over_go_and_those_that_are_held_stay(place: MemoryRoot) -> None:
    store, _ = place.process()
    lease = Lease(store, "numbers/held", "run")
    lease.acquire("fail", print)
    store.create("probes/left", b"")
    with lease:
        collect(store, collectable(store, ["leases", "probes"], 0.0))
        assert {name.split("/")[2] for name in place.objects("leases")} == {"held"}
    assert place.objects("probes") == {}
    assert go(NEW, store).run_id is None


def test_a_process_that_dies_while_it_deletes_leaves_nothing_that_is_wrong() -> None:
    def changed() -> MemoryRoot:
        place = MemoryRoot()
        store, _ = place.process()
        run(graph(parts=1, power=2, steps=1), store, Inline, study="arithmetic")
        run(graph(parts=1, power=3, steps=1), store, Inline, study="arithmetic")
        return place

    store, backend = changed().process()
    collect(store, collectable(store, ["artifacts"], 0.0))
    for at in (at for at, call in enumerate(backend.log) if call.startswith(("create artifacts", "delete artifacts"))):
        for fault in ("die before", "die after"):
            place = changed()
            store, _ = place.process(fault, at)
            with suppress(DeadError):
                collect(store, collectable(store, ["artifacts"], 0.0))
            store, _ = place.process()
            assert sound(store)
            collect(store, collectable(store, ["artifacts"], 0.0))
            assert collectable(store, ["artifacts"], 0.0) == []
            assert {s.state for s in plan(graph(parts=1, power=3, steps=1), store)} == {"done"}
            assert "BROKEN" not in {s.state for s in plan(graph(parts=1, power=2, steps=1), store)}


@pytest.mark.parametrize("name", ["studies/arithmetic/000002.json", "runs/{run}/plan.json"])
def test_nothing_is_deleted_where_what_is_reached_cannot_be_read(place: MemoryRoot, name: str) -> None:
    store, _ = place.process()
    pointer = latest(store, "arithmetic")
    assert pointer is not None
    name = name.format(run=pointer.run)
    place.backend.delete(name)
    place.backend.create(name, b"")
    with pytest.raises(StoreError, match=r"found a damaged one .* (Delete|delete)"):
        collectable(store, KINDS, 2 * HOUR)


def test_a_reader_that_loses_an_object_gets_one_message(place: MemoryRoot) -> None:
    store, _ = place.process()
    run(OLD, store, Inline, study="reader")
    pointer = latest(store, "reader")
    assert pointer is not None
    reader = StoredInput(pointer.steps["squares"], store)
    assert reader.read("total.json")
    for entry in store.entries("studies/reader"):
        store.delete(entry.name)
    collect(store, collectable(store, ["artifacts"], 0.0))
    gone = r"total\.json, which the manifest lists; found that it is gone.*run it"
    with pytest.raises(MissingError, match=gone):
        reader.read("total.json")
    with pytest.raises(MissingError, match=gone):
        reader.read_range("total.json", 0, 1)
