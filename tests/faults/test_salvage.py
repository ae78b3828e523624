"""What is intact of a damaged generation is carried over: only what was lost is made again."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from cluster.inline import Inline
from pipeline import worker
from pipeline.events import Event
from pipeline.manifest import close_generation
from pipeline.plan import plan
from pipeline.run import RunResult, run
from pipeline.store import Store, open_store
from tests.faults.arithmetic import graph
from tests.faults.faulty import DeadError, MemoryRoot
from tests.faults.truth import finished, go, undisturbed

PARTS = 12
GRAPH = graph(parts=PARTS)


def lose(place: MemoryRoot, ending: str, stage: str = "numbers") -> str:
    """Deletes an object of an artifact; its name."""
    name = next(name for name in place.objects(f"artifacts/{stage}") if name.endswith(ending))
    place.backend.delete(name)
    return name


def flip(place: MemoryRoot, ending: str, stage: str = "numbers") -> None:
    """Changes one byte of an object of an artifact."""
    name = next(name for name in place.objects(f"artifacts/{stage}") if name.endswith(ending))
    data = place.backend.read(name)
    place.backend.delete(name)
    place.backend.create(name, bytes([data[0], data[1] ^ 1]) + data[2:])


def run_parts(result: RunResult) -> dict[str, int]:
    """How many parts were run, by step."""
    return {step.name: step.parts_run for step in result.steps}


@pytest.fixture
def place() -> MemoryRoot:
    """A store in which the study is finished."""
    place = MemoryRoot()
    store, _ = place.process()
    go(GRAPH, store)
    return place


def test_of_many_parts_only_the_one_that_lost_an_object_is_made_again(place: MemoryRoot) -> None:
    lose(place, "numbers-00007.json")
    store, _ = place.process()
    result = go(GRAPH, store)
    assert run_parts(result) == {"numbers": 1, "squares": 0, "counting": 0}
    assert result.url("numbers").endswith("/g0001")
    assert finished(place, GRAPH, store) == undisturbed(GRAPH)[0]


def test_an_object_whose_bytes_have_changed_is_not_carried_over(place: MemoryRoot) -> None:
    lose(place, "text/00003.txt")
    flip(place, "numbers-00005.json")
    store, _ = place.process()
    assert run_parts(go(GRAPH, store))["numbers"] == 2
    assert finished(place, GRAPH, store) == undisturbed(GRAPH)[0]


def test_a_lost_object_of_the_merge_costs_no_part(place: MemoryRoot) -> None:
    lose(place, "index.json")
    store, _ = place.process()
    assert run_parts(go(GRAPH, store)) == {"numbers": 0, "squares": 0, "counting": 0}
    assert finished(place, GRAPH, store) == undisturbed(GRAPH)[0]


def test_a_lost_receipt_of_a_damaged_generation_costs_its_part_alone(place: MemoryRoot) -> None:
    lose(place, "parts/00002.json")
    lose(place, "numbers-00007.json")
    store, _ = place.process()
    assert run_parts(go(GRAPH, store))["numbers"] == 2


def test_an_object_that_is_lost_before_the_commit_is_made_again_alone() -> None:
    place = MemoryRoot()
    _, calls = undisturbed(GRAPH)
    committing = next(at for at, call in enumerate(calls) if call.startswith("create") and "manifest.json" in call)
    store, _ = place.process("die before", committing)
    with suppress(DeadError):
        go(GRAPH, store)
    lose(place, "text/00003.txt")
    store, _ = place.process()
    assert run_parts(go(GRAPH, store)) == {"numbers": 1, "squares": PARTS, "counting": 1}
    assert finished(place, GRAPH, store) == undisturbed(GRAPH)[0]


def test_a_training_that_lost_its_file_goes_on_from_its_last_checkpoint(place: MemoryRoot) -> None:
    lose(place, "g0000/value.json", "counting")
    store, _ = place.process()
    heard: list[Event] = []
    run(GRAPH, store, Inline, listener=heard.append)
    assert [event.kind for event in heard if event.kind == "progress"] == []
    assert finished(place, GRAPH, store) == undisturbed(GRAPH)[0]


def test_of_a_training_a_damaged_checkpoint_is_passed_over(place: MemoryRoot) -> None:
    lose(place, "g0000/value.json", "counting")
    flip(place, "step-000000004/value.json", "counting")
    store, _ = place.process()
    heard: list[Event] = []
    run(GRAPH, store, Inline, listener=heard.append)
    assert [event.fields["done"] for event in heard if event.kind == "progress"] == [4]
    assert finished(place, GRAPH, store) == undisturbed(GRAPH)[0]


def test_a_local_store_links_and_each_generation_is_a_plain_folder(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    run(GRAPH, store, Inline)
    before = Path(plan(GRAPH, store)[0].url)
    (before / "numbers-00007.json").unlink()
    run(GRAPH, store, Inline)
    after = Path(plan(GRAPH, store)[0].url)
    assert (after / "numbers-00001.json").samefile(before / "numbers-00001.json")
    assert not any(path.is_symlink() for path in after.rglob("*"))
    for path in before.rglob("*.json"):
        os.unlink(path)
    assert {state.state for state in plan(GRAPH, store)} == {"done"}


def forced(store: Store, place: MemoryRoot) -> RunResult:
    """A run that makes the step anew."""
    return run(GRAPH, store, Inline, force=["numbers"])


def invalidated(store: Store, place: MemoryRoot) -> RunResult:
    """A run after somebody has closed the generation by hand."""
    close_generation(store, "numbers", plan(GRAPH, store)[0].key, 0, "by hand")
    return run(GRAPH, store, Inline)


def by_other_code(store: Store, place: MemoryRoot) -> RunResult:
    """A run with other code than that which made the damaged generation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.drift.Code.digest", lambda code, stage: "0" * 64)
        worker._code_digest.cache_clear()
        try:
            return run(GRAPH, store, Inline)
        finally:
            worker._code_digest.cache_clear()


@pytest.mark.parametrize("again", [forced, invalidated, by_other_code])
def test_nothing_is_carried_over_where_all_was_to_be_made_anew(
    place: MemoryRoot, again: Callable[[Store, MemoryRoot], RunResult]
) -> None:
    lose(place, "numbers-00007.json")
    store, _ = place.process()
    assert run_parts(again(store, place))["numbers"] == PARTS


def test_a_process_that_dies_while_it_carries_over_leaves_nothing_that_is_wrong() -> None:
    small = graph(parts=2)[:1]
    truth, _ = undisturbed(small)

    def damaged() -> MemoryRoot:
        place = MemoryRoot()
        store, _ = place.process()
        go(small, store)
        lose(place, "numbers-00001.json")
        return place

    store, backend = damaged().process()
    go(small, store)
    copies = [at for at, call in enumerate(backend.log) if call.startswith("copy")]
    assert len(copies) == 2
    for at in range(copies[0] - 3, copies[-1] + 3):
        for fault in ("die before", "die after", "lose the answer"):
            place = damaged()
            store, _ = place.process(fault, at)
            with suppress(DeadError, Exception):
                go(small, store)
            store, _ = place.process()
            result = go(small, store)
            assert run_parts(result)["numbers"] <= 1
            assert finished(place, small, store) == truth
