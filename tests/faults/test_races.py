"""Two runs at once, without a lease that would keep them apart, in many orders; and workers that finish too late."""

import random
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import pytest

from cluster.executor import ALONE, Call, Claim, OnDone
from cluster.inline import Inline
from pipeline import worker
from pipeline.backends import MAX_OBJECT_BYTES, Backend, Entry
from pipeline.errors import StepFailedError, UsageError
from pipeline.plan import plan
from pipeline.run import RunResult, run
from pipeline.step import Step
from pipeline.store import Store, share
from stages.contract import Inputs, Output, Part, Stage, Summary
from tests.faults.arithmetic import graph
from tests.faults.faulty import DeadError, MemoryRoot
from tests.faults.truth import contents, finished, go, undisturbed

GRAPH = graph(parts=2, steps=2)


@cache
def expected() -> dict[str, dict[str, bytes]]:
    """What an undisturbed run makes."""
    return undisturbed(GRAPH)[0]


class Turnstile:
    """Lets one of two threads do its next call to the store at a time, in an order drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._condition = threading.Condition()
        self._waiting: set[str] = set()
        self._running = {"a", "b"}
        self._turn = ""

    def pass_(self) -> None:
        """Waits until it is this thread's turn. Threads of nobody (leases) pass."""
        name = threading.current_thread().name
        if name not in ("a", "b"):
            return
        with self._condition:
            self._waiting.add(name)
            self._draw()
            self._condition.wait_for(lambda: self._turn == name)
            self._turn = ""
            self._waiting.discard(name)

    def leave(self) -> None:
        """This thread makes no more calls."""
        with self._condition:
            self._running.discard(threading.current_thread().name)
            self._draw()

    def _draw(self) -> None:
        """The next turn is drawn once all that run wait, so that the order depends on the seed alone."""
        if self._turn == "" and self._running and self._waiting >= self._running:
            self._turn = self._random.choice(sorted(self._running))
            self._condition.notify_all()


class ContestedBackend:
    """A backend behind a turnstile on which leases keep nobody out: whoever lists them sees none."""

    def __init__(self, inner: Backend, turnstile: Turnstile) -> None:
        self._inner = inner
        self._turnstile = turnstile

    def create(self, name: str, data: bytes) -> None:
        self._turnstile.pass_()
        if not name.startswith("leases/"):
            self._inner.create(name, data)

    def copy(self, source: str, target: str) -> None:
        self._turnstile.pass_()
        self._inner.copy(source, target)

    def read(self, name: str, most_bytes: int = MAX_OBJECT_BYTES) -> bytes:
        self._turnstile.pass_()
        return self._inner.read(name, most_bytes)

    def read_range(self, name: str, start: int, length: int) -> bytes:
        self._turnstile.pass_()
        return self._inner.read_range(name, start, length)

    def head(self, name: str) -> Entry:
        self._turnstile.pass_()
        return self._inner.head(name)

    def entries(self, folder: str) -> list[Entry]:
        self._turnstile.pass_()
        return self._inner.entries(folder)

    def folders(self, folder: str) -> list[str]:
        self._turnstile.pass_()
        return self._inner.folders(folder)

    def delete(self, name: str) -> None:
        self._turnstile.pass_()
        self._inner.delete(name)


def race(
    root: MemoryRoot, seed: int, force: tuple[str, ...] = (), steps: Sequence[Step] = GRAPH
) -> tuple[RunResult, RunResult]:
    """Two runs of the study, call by call in an order drawn from the seed."""
    turnstile = Turnstile(seed)
    store = Store(ContestedBackend(root.backend, turnstile), root.url)
    share(store)
    results: dict[str, RunResult] = {}
    errors: list[BaseException] = []

    def contend() -> None:
        try:
            results[threading.current_thread().name] = run(steps, store, Inline, study="arithmetic", force=force)
        except BaseException as error:
            errors.append(error)
        finally:
            turnstile.leave()

    threads = [threading.Thread(target=contend, name=name) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results["a"], results["b"]


@pytest.mark.parametrize("seeds", [range(start, start + 20) for start in (0, 20, 40)])
def test_two_runs_at_once_without_a_lease_give_one_truth(seeds: range) -> None:
    for seed in seeds:
        root = MemoryRoot()
        a, b = race(root, seed)
        assert [step.url for step in a.steps] == [step.url for step in b.steps]
        store, _ = root.process()
        assert finished(root, GRAPH, store) == expected()
        assert {state.state for state in plan(GRAPH, store)} == {"done"}


def test_two_forced_runs_at_once_end_in_a_store_that_one_more_run_agrees_with() -> None:
    for seed in range(20):
        root = MemoryRoot()
        store, _ = root.process()
        go(GRAPH, store)
        with suppress(StepFailedError):
            race(root, seed, force=("squares",))
        store, _ = root.process()
        go(GRAPH, store)
        assert finished(root, GRAPH, store) == expected()
        assert {state.state for state in plan(GRAPH, store)} == {"done"}


class Recorder(Inline):
    """An executor that remembers its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def run(self, calls: Iterable[Call], on_done: OnDone, gpu: bool = False, claim: Claim = ALONE) -> None:
        def remembered() -> Iterable[Call]:
            for call in calls:
                self.calls.append(call)
                yield call

        super().run(remembered(), on_done, gpu, claim)


def functions() -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
    """What a worker runs, by the name in a call."""
    return {"pipeline.worker:work": worker.work, "pipeline.worker:merge": worker.merge}


def test_a_zombie_that_finishes_in_a_closed_generation_does_no_harm() -> None:
    root = MemoryRoot()
    store, _ = root.process()
    recorder = Recorder()
    run(GRAPH, store, lambda: recorder)
    run(GRAPH, store, Inline, force=["numbers"])
    before = {state.name: (state.url, contents(root, state)) for state in plan(GRAPH, store)}
    numbers = next(state for state in plan(GRAPH, store) if state.name == "numbers")
    assert numbers.url.endswith("g0001")
    for call in recorder.calls:
        functions()[call.function](call.payload)
    assert {state.name: (state.url, contents(root, state)) for state in plan(GRAPH, store)} == before
    assert {state.state for state in plan(GRAPH, store)} == {"done"}


def test_a_zombie_that_writes_into_an_emptied_closed_generation_cannot_commit_it() -> None:
    root = MemoryRoot()
    store, _ = root.process()
    recorder = Recorder()
    run(GRAPH, store, lambda: recorder)
    run(GRAPH, store, Inline, force=["numbers"])
    old = next(state for state in plan(GRAPH, store) if state.name == "numbers").url
    old = old.removeprefix(f"{root.url}/").replace("g0001", "g0000")
    for name in root.objects(old):
        if not name.endswith(("artifact.json", "tombstone.json")):
            root.backend.delete(name)
    for call in recorder.calls:
        if call.id.startswith("numbers/"):
            functions()[call.function](call.payload)
    assert f"{old}/manifest.json" in root.objects(old)
    states = {state.name: state for state in plan(GRAPH, store)}
    assert states["numbers"].url.endswith("g0001")
    assert states["numbers"].state == "done"


def test_a_part_that_runs_twice_is_done_once() -> None:
    root = MemoryRoot()
    store, _ = root.process()
    recorder = Recorder()
    run(GRAPH, store, lambda: recorder)
    before = root.objects("artifacts")
    for call in recorder.calls:
        functions()[call.function](call.payload)
    assert root.objects("artifacts") == before


def test_a_store_in_memory_is_refused_where_workers_are_other_processes() -> None:
    class Elsewhere(Inline):
        @property
        def name(self) -> str:
            return "ray"

    store, _ = MemoryRoot().process()
    with pytest.raises(UsageError, match="Use a folder or a bucket"):
        run(GRAPH, store, Elsewhere)


class Tapped(Stage):
    """Parts of two objects each, which differ from attempt to attempt."""

    name = "tapped"
    version = 1
    bitwise = False

    def split(self, inputs: Inputs) -> list[Part]:
        return [Part(index=index) for index in range(2)]

    def work(self, part: Part, state: None, inputs: Inputs, out: Output) -> Summary:
        own = secrets.token_hex(4).encode()
        for tap in ("a", "b"):
            out.put(f"{tap}/{part.index}", own)
        return {}

    def merge(self, summaries: Sequence[Summary], inputs: Inputs, out: Output) -> Summary:
        own = secrets.token_hex(4).encode()
        for tap in ("a", "b"):
            out.put(f"{tap}/merged", own)
        return {}


@pytest.mark.parametrize("seeds", [range(start, start + 20) for start in (0, 20)])
def test_objects_of_one_part_are_of_one_attempt_in_any_order_of_two_runs(
    seeds: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.artifact.FOLLOW_SECONDS", (0.0,) * 50)
    for seed in seeds:
        shared = MemoryRoot()
        race(shared, seed, steps=[Step("tapped", Tapped())])
        (newest,) = {name.rpartition("/")[0] for name in shared.objects("artifacts") if name.endswith("/manifest.json")}
        for index in ("0", "1", "merged"):
            assert len({shared.backend.read(f"{newest}/{tap}/{index}") for tap in ("a", "b")}) == 1


def test_a_part_of_which_a_dead_attempt_has_put_a_half_is_made_again_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.artifact.FOLLOW_SECONDS", (0.0,))
    steps = [Step("tapped", Tapped())]
    _, calls = undisturbed(steps)
    for at in (at for at, call in enumerate(calls) if re.search(r"create .*g0000/[ab]/", call)):
        shared = MemoryRoot()
        store, _ = shared.process("die after", at)
        with suppress(DeadError):
            go(steps, store)
        store, _ = shared.process()
        result = go(steps, store)
        (folder,) = {name.rpartition("/")[0] for name in shared.objects("artifacts") if name.endswith("/manifest.json")}
        for index in ("0", "1", "merged"):
            assert len({shared.backend.read(f"{folder}/{tap}/{index}") for tap in ("a", "b")}) == 1
        # A part that had its receipt was not made again.
        assert result.steps[0].parts_run <= 3
