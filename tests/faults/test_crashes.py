"""A process dies at every call to the store in turn: a second run then makes what an undisturbed run makes."""

from contextlib import suppress
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import PipelineError, exit_code
from pipeline.plan import plan
from tests.faults.arithmetic import graph
from tests.faults.faulty import DeadError, Fault, MemoryRoot
from tests.faults.truth import finished, go, undisturbed

GRAPH = graph(parts=2, steps=3)
SHARDS = 6
"""The calls are dealt to this many tests, so that several processes can share the work."""


@cache
def truth() -> tuple[dict[str, dict[str, bytes]], list[str]]:
    """What an undisturbed run makes, and its calls."""
    return undisturbed(GRAPH)


def expected() -> dict[str, dict[str, bytes]]:
    """Step -> objects of an undisturbed run."""
    return truth()[0]


def calls() -> list[str]:
    """The calls of an undisturbed run."""
    return truth()[1]


def test_the_study_goes_through_every_kind_of_call() -> None:
    kinds = {call.split()[0] for call in calls()}
    assert kinds == {"create", "read", "list", "delete"}
    assert len(calls()) > 80


@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("fault", ["die before", "die after", "lose the answer"])
def test_a_run_after_a_fault_at_any_call_makes_what_an_undisturbed_run_makes(fault: Fault, shard: int) -> None:
    for at in range(shard, len(calls()), SHARDS):
        root = MemoryRoot()
        store, backend = root.process(fault, at)
        with suppress(DeadError, PipelineError):
            go(GRAPH, store)
        assert backend.calls > at
        store, _ = root.process()
        for name, objects in finished(root, GRAPH, store).items():
            assert objects == expected()[name], f"half-written {name} is a hit after: {fault} {calls()[at]} (call {at})"
        go(GRAPH, store)
        assert finished(root, GRAPH, store) == expected(), f"{fault} {calls()[at]} (call {at})"
        assert go(GRAPH, store).run_id is None


@settings(max_examples=40, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(
    faults=st.lists(
        st.tuples(st.sampled_from(["die before", "die after", "lose the answer"]), st.integers(0, 89)),
        min_size=2,
        max_size=5,
    )
)
def test_faults_upon_faults_change_nothing(faults: list[tuple[Fault, int]]) -> None:
    root = MemoryRoot()
    for fault, at in faults:
        store, _ = root.process(fault, at)
        with suppress(DeadError, PipelineError):
            go(GRAPH, store)
    store, _ = root.process()
    go(GRAPH, store)
    assert finished(root, GRAPH, store) == expected()


def test_a_disk_that_fills_gives_one_message_and_the_same_command_goes_on() -> None:
    # A log that cannot be written ends no run.
    creates = [at for at, call in enumerate(calls()) if call.startswith("create") and "/events/" not in call]
    for at in creates[:: len(creates) // 12]:
        root = MemoryRoot()
        store, _ = root.process("fill the disk", at)
        with suppress(PipelineError):
            go(GRAPH, store)
            raise AssertionError(f"a full disk at {calls()[at]} went unseen")
        store, _ = root.process()
        for name, objects in finished(root, GRAPH, store).items():
            assert objects == expected()[name]
        go(GRAPH, store)
        assert finished(root, GRAPH, store) == expected()


def test_a_full_disk_is_reported_with_its_remedy_and_exit_code_3() -> None:
    at = next(at for at, call in enumerate(calls()) if "/parts/" in call and call.startswith("create"))
    store, _ = MemoryRoot().process("fill the disk", at)
    with pytest.raises(PipelineError, match=r"No space left on device.*Free some space") as caught:
        go(GRAPH, store)
    assert exit_code(caught.value) == 3


def test_the_part_that_was_done_before_a_crash_is_not_done_again() -> None:
    root = MemoryRoot()
    at = max(
        at for at, call in enumerate(calls()) if call.startswith("create") and "squares" in call and "parts" in call
    )
    store, _ = root.process("die before", at)
    with suppress(DeadError):
        go(GRAPH, store)
    store, _ = root.process()
    states = {state.name: state for state in plan(GRAPH, store)}
    assert (states["squares"].state, states["squares"].parts_done, states["squares"].parts) == ("partial", 1, 2)
    assert [step.parts_run for step in go(GRAPH, store).steps] == [0, 1, 1]
