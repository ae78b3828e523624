"""At every call to the store in turn something goes wrong: a second run then makes what an undisturbed run makes.

Of the six crashes at each call two are drawn by a seed; `python -m tests.benchmarks.crashes` tries all of them.
"""

import random
import time
from contextlib import suppress
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.inline import Inline
from pipeline.errors import PipelineError, exit_code
from pipeline.plan import plan
from pipeline.step import Step
from tests.faults.arithmetic import Numbers, Squares, graph
from tests.faults.faulty import CRASHES, Crash, DeadError, FaultyObject, MemoryRoot, calls_of
from tests.faults.truth import finished, go, go_counted, receipts, undisturbed

GRAPH = graph(parts=2, steps=3)
SHARDS = 6
"""The calls are dealt to this many tests, so that several processes can share the work."""


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other at once: no server needs the time."""
    monkeypatch.setattr("cluster.retry.PAUSE_SECONDS", 0.0)
    monkeypatch.setattr("pipeline.store.PAUSE_SECONDS", 0.0)


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
    assert kinds == {"create", "read", "list", "head", "delete"}
    assert len(calls()) > 80


def recovers(root: MemoryRoot, steps: list[Step], truth: dict[str, dict[str, bytes]], crash: str) -> None:
    """Runs again in a new process, and checks that all is as in an undisturbed run and that no part was done again."""
    store, _ = root.process()
    for name, objects in finished(root, steps, store).items():
        assert objects == truth[name], f"half-written {name} is a hit after: {crash}"
    before = receipts(root)
    done = go_counted(steps, store)
    assert before.isdisjoint(done), f"parts with a receipt were done again after: {crash}"
    assert len(done) == len(set(done)), f"parts were done twice after: {crash}"
    assert receipts(root) == before | set(done)
    assert finished(root, steps, store) == truth, crash
    assert go(steps, store).run_id is None


def sampled(calls: int, seed: int = 0) -> list[tuple[int, Crash]]:
    """A third of the crashes that can be at so many calls: two at each."""
    draw = random.Random(seed)
    return [(at, crash) for at in range(calls) for crash in draw.sample(CRASHES, 2)]


def crash_at(at: int, crash: Crash) -> None:
    """One crash of the study at one call, and what a second run makes of it."""
    root = MemoryRoot()
    store, backend = root.process(crash, at)
    with suppress(DeadError, PipelineError):
        go(GRAPH, store)
    assert backend.calls > at
    recovers(root, GRAPH, expected(), f"{crash} {calls()[at]} (call {at})")


@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_run_after_a_fault_at_any_call_makes_what_an_undisturbed_run_makes(shard: int) -> None:
    for at, crash in sampled(len(calls()))[shard::SHARDS]:
        crash_at(at, crash)


class AtOnce(Inline):
    """Takes several steps at once."""

    @property
    def steps_at_once(self) -> int:
        return 4


BRANCHES = [*GRAPH, Step("cubes", Squares(power=3), {"numbers": "numbers"}), Step("others", Numbers(first=9, parts=2))]


def crash_in_branches(call: str, nth: int, crash: Crash, seed: int, truth: dict[str, dict[str, bytes]]) -> bool:
    """One crash while several steps are at work, and what a second run makes of it; whether it came to the crash."""
    root = MemoryRoot()
    backend = FaultyObject(root.backend, crash, call, nth, seed)
    with suppress(DeadError, PipelineError):
        go(BRANCHES, root.seen_through(backend), AtOnce)
    recovers(root, BRANCHES, truth, f"{crash} {call} (time {nth} of seed {seed})")
    return backend.failed


def test_a_run_after_a_fault_at_an_object_while_several_steps_are_at_work_makes_the_same() -> None:
    truth, log = undisturbed(BRANCHES, AtOnce)
    points = [(call, nth, crash) for call, nth in calls_of(log) for crash in CRASHES]
    drawn = random.Random(1).sample(points, 48)
    came = [crash_in_branches(*point, seed, truth) for seed, point in enumerate(drawn)]
    assert sum(came) > 40


@settings(max_examples=40, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(
    faults=st.lists(
        st.tuples(st.sampled_from(CRASHES), st.integers(0, 89)),
        min_size=2,
        max_size=5,
    )
)
def test_faults_upon_faults_change_nothing(faults: list[tuple[Crash, int]]) -> None:
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


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_run_whose_clock_is_hours_off_goes_on_with_what_is_there(hours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    root = MemoryRoot()
    store, _ = root.process("die before", len(calls()) // 2)
    with suppress(DeadError):
        go(GRAPH, store)
    right = time.time
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: right() + 3600 * hours)
        recovers(root, GRAPH, expected(), f"a clock {hours} hours off")


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
