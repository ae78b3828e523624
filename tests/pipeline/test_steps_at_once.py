"""Independent steps beside each other: what begins when, what a failure stops, and that nothing comes out different."""

import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from cluster.executor import ALONE, Call, Claim, OnDone, OnProgress, Outcome
from cluster.inline import Inline
from pipeline.errors import BusyError, SeveralFailedError, StepFailedError, StoreError, UsageError, exit_code
from pipeline.events import Event, read_events
from pipeline.lease import Lease
from pipeline.plan import plan
from pipeline.run import run
from pipeline.step import Step
from pipeline.store import Store
from pipeline.studies import latest
from stages.contract import Estimate, Inputs, Output, Part, Stage, Summary
from stages.errors import InputError
from tests.faults.arithmetic import Counting, Numbers, Squares
from tests.faults.faulty import MemoryRoot
from tests.faults.truth import finished, undisturbed


class Several(Inline):
    """Takes several steps at once, whose calls take turns; `before` is called with each call's id."""

    def __init__(self, before: Callable[[str], None] = lambda name: None) -> None:
        super().__init__()
        self.before = before
        self.orders: dict[str, int] = {}
        """Of each step's parts; its merge comes later, and before all parts of others."""

    @property
    def steps_at_once(self) -> int:
        return 8

    def run(self, calls: Any, on_done: OnDone, gpu: bool = False, claim: Claim = ALONE) -> None:
        def watched() -> Any:
            for call in calls:
                self.before(call.id)
                yield call

        self.orders.setdefault(claim.name, claim.order)
        super().run(watched(), on_done, gpu, claim)

    def gang(
        self,
        call: Call,
        ranks: int,
        on_progress: OnProgress | None = None,
        least: int | None = None,
        claim: Claim = ALONE,
    ) -> Outcome:
        self.orders[claim.name] = claim.order
        self.before(call.id)
        return super().gang(call, ranks, on_progress, least, claim)


class Meeting:
    """Holds the first call of each of some steps until all of them have begun one."""

    def __init__(self, *steps: str) -> None:
        self._barrier = threading.Barrier(len(steps))
        self._waiting = set(steps)

    def __call__(self, call: str) -> None:
        step = call.partition("/")[0]
        if step in self._waiting:
            self._waiting.discard(step)
            self._barrier.wait(timeout=60)


def graph() -> list[Step]:
    """Two chains of numbers, squares and a training, and a third fan-out of the first numbers."""
    return [
        Step("numbers", Numbers(parts=2)),
        Step("squares", Squares(), {"numbers": "numbers"}),
        Step("counting", Counting(), {"squares": "squares"}),
        Step("cubes", Squares(power=3), {"numbers": "numbers"}),
        Step("other.numbers", Numbers(first=5, parts=3)),
        Step("other.squares", Squares(), {"numbers": "other.numbers"}),
        Step("other.counting", Counting(), {"squares": "other.squares"}),
    ]


class Faulty(Stage):
    """Fails in the parts that it is given."""

    name = "faulty"
    version = 1
    bitwise = True

    bad: tuple[int, ...] = (1,)
    parts: int = 4

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        return Estimate(rows=0, size_bytes=0, cpu_seconds=0)

    def split(self, inputs: Inputs) -> list[Part]:
        return [Part(index=i) for i in range(self.parts)]

    def work(self, part: Part, state: Any, inputs: Inputs, out: Output) -> Summary:
        out.put(f"{part.index}.bin", b"1")
        if part.index in self.bad:
            raise InputError("a picture", f"poem {part.index}", "Give pictures.")
        return {}


@pytest.fixture
def root() -> MemoryRoot:
    """A store in memory that nobody has used."""
    return MemoryRoot()


@pytest.fixture
def store(root: MemoryRoot) -> Store:
    """As one process sees it."""
    return root.process()[0]


def states(steps: list[Step], store: Store) -> dict[str, str]:
    """Step -> state."""
    return {state.name: state.state for state in plan(steps, store)}


def kinds(heard: list[Event], step: str) -> list[str]:
    """What was said of a step, without its parts."""
    return [event.kind for event in heard if event.step == step and event.kind not in ("part_done", "progress")]


def test_branches_run_beside_each_other_and_come_out_as_one_after_the_other(root: MemoryRoot, store: Store) -> None:
    heard: list[Event] = []
    meetings = [Meeting("numbers", "other.numbers"), Meeting("squares", "cubes")]

    def before(call: str) -> None:
        for meeting in meetings:
            meeting(call)

    result = run(graph(), store, lambda: Several(before), study="both", listener=heard.append)
    assert finished(root, graph(), store) == undisturbed(graph())[0]
    assert [step.name for step in result.steps] == [step.name for step in graph()]
    assert result.run_id is not None
    kept = read_events(store, result.run_id)
    assert [(event.kind, event.step) for event in kept] == [(event.kind, event.step) for event in heard]
    assert [event.time for event in heard] == sorted(event.time for event in heard)
    assert run(graph(), store, Several, study="both").run_id is None


def test_the_step_with_the_longest_chain_behind_it_goes_first(store: Store) -> None:
    executor = Several()
    run(graph(), store, lambda: executor)
    assert executor.orders["squares"] < executor.orders["cubes"]
    assert executor.orders["other.numbers"] < executor.orders["cubes"]


def test_two_steps_of_one_key_are_made_once_by_whichever_begins(store: Store) -> None:
    steps = [
        Step("numbers", Numbers()),
        Step("kept", Squares(), {"numbers": "numbers"}),
        Step("faithful", Squares(), {"numbers": "numbers"}),
        Step("counting", Counting(), {"squares": "faithful"}),
    ]
    heard: list[Event] = []
    result = run(steps, store, Several, listener=heard.append)
    assert result.url("kept") == result.url("faithful")
    assert {event.step for event in heard if event.kind == "part_done"} == {"numbers", "kept", "counting"}


def test_a_failure_lets_what_has_begun_end_and_begins_nothing_more(store: Store) -> None:
    steps = [
        Step("bad", Faulty(bad=(0,))),
        Step("after", Squares(), {"numbers": "bad"}),
        Step("numbers", Numbers(parts=4)),
        Step("cubes", Squares(power=3), {"numbers": "numbers"}),
    ]
    heard: list[Event] = []
    failed = threading.Event()

    def listen(event: Event) -> None:
        heard.append(event)
        if event.kind == "step_failed":
            failed.set()

    meeting = Meeting("bad", "numbers")

    def before(call: str) -> None:
        meeting(call)
        if call == "numbers/0":
            # It has begun before the other fails, and ends after.
            assert failed.wait(60)

    with pytest.raises(StepFailedError, match="poem 0") as caught:
        run(steps, store, lambda: Several(before), listener=listen)
    assert (caught.value.step, exit_code(caught.value)) == ("bad", 3)
    assert [event.fields["part"] for event in heard if event.kind == "part_done"] == [0]
    assert kinds(heard, "numbers") == ["step_started", "step_left"]
    assert kinds(heard, "after") == kinds(heard, "cubes") == ["step_skipped"]
    assert states(steps[2:3], store) == {"numbers": "partial"}
    assert not [name for name in leases(store) if not name.endswith((".released", ".json"))]


def leases(store: Store) -> list[str]:
    """Objects of leases."""
    return [entry.name for entry in store.entries("leases")]


def test_with_keep_going_all_goes_on_that_does_not_need_what_failed(store: Store) -> None:
    steps = [
        Step("bad", Faulty(bad=(1, 2))),
        Step("after", Squares(), {"numbers": "bad"}),
        Step("worse", Faulty(bad=(0,), parts=1)),
        *graph(),
    ]
    heard: list[Event] = []
    with pytest.raises(SeveralFailedError) as caught:
        run(steps, store, Several, keep_going=True, listener=heard.append)
    assert exit_code(caught.value) == 3
    assert all(f"poem {part}" in str(caught.value) for part in (0, 1, 2))
    assert sorted(error.step for error in caught.value.errors if isinstance(error, StepFailedError)) == [
        "bad",
        "bad",
        "worse",
    ]
    found = states(steps, store)
    assert {found[step.name] for step in graph()} == {"done"}
    bad = next(state for state in plan(steps, store) if state.name == "bad")
    assert (bad.state, bad.parts_done, bad.parts) == ("partial", 2, 4)
    assert next(event for event in heard if event.kind == "step_skipped").step == "after"


def test_keep_going_means_the_same_where_one_step_runs_at_a_time(store: Store) -> None:
    steps = [Step("bad", Faulty()), Step("numbers", Numbers())]
    with pytest.raises(StepFailedError, match="poem 1"):
        run(steps, store, Inline)
    assert states(steps, store) == {"bad": "partial", "numbers": "missing"}
    with pytest.raises(StepFailedError, match="poem 1"):
        run(steps, store, Inline, keep_going=True)
    assert states(steps, store) == {"bad": "partial", "numbers": "done"}
    assert plan(steps, store)[0].parts_done == 3


@pytest.mark.parametrize("executor", [Inline, Several])
def test_a_damaged_record_is_the_failure_of_its_step_alone(executor: type[Inline], root: MemoryRoot) -> None:
    store, _ = root.process()
    run(graph()[4:5], store, Inline)
    [manifest] = [name for name in root.objects("artifacts") if name.endswith("manifest.json")]
    root.backend.delete(manifest)
    root.backend.create(manifest, b"{")
    heard: list[Event] = []
    with pytest.raises(StoreError, match=rf"{manifest}; found a damaged one .*Delete that object alone"):
        run(graph(), store, executor, keep_going=True, listener=heard.append)
    assert set(states(graph()[:4], store).values()) == {"done"}
    assert kinds(heard, "other.numbers") == ["step_left"]
    assert kinds(heard, "other.squares") == ["step_skipped"]


def test_several_failures_have_the_exit_code_that_they_share() -> None:
    busy = BusyError("nobody", "somebody", "Wait.")
    assert exit_code(SeveralFailedError([busy, busy])) == 5
    assert exit_code(SeveralFailedError([busy, StepFailedError("a", "b", "c")])) == 3
    assert str(SeveralFailedError([busy, busy])).count("somebody") == 1


@pytest.mark.usefixtures("interruptible")
def test_a_signal_ends_all_steps_and_releases_their_leases(store: Store) -> None:
    heard: list[Event] = []

    def listen(event: Event) -> None:
        heard.append(event)
        if event.kind == "part_done" and event.step == "other.numbers":
            signal.raise_signal(signal.SIGINT)

    meeting = Meeting("numbers", "other.numbers")
    with pytest.raises(KeyboardInterrupt):
        run(graph(), store, lambda: Several(meeting), listener=listen)
    assert heard[-1].kind == "run_failed"
    names = leases(store)
    assert sum(name.endswith(".json") for name in names) == sum(name.endswith(".released") for name in names) == 2
    run(graph(), store, Several)
    assert set(states(graph(), store).values()) == {"done"}


def test_a_step_that_waits_for_another_run_gives_up_once_something_has_failed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.lease.POLL_SECONDS", 0.01)
    steps = [Step("numbers", Numbers()), Step("bad", Faulty())]
    other = Lease(store, "numbers/" + plan(steps, store)[0].key[:16], "another run")
    other.acquire("fail", print)
    heard: list[Event] = []
    waits = threading.Event()

    def listen(event: Event) -> None:
        heard.append(event)
        if event.kind == "step_waiting":
            waits.set()

    def before(call: str) -> None:
        assert waits.wait(60)

    # Whoever holds it is this process, which lives.
    with other, pytest.raises(StepFailedError, match="poem 1"):
        run(steps, store, lambda: Several(before), listener=listen)
    assert kinds(heard, "numbers") == ["step_waiting", "step_left"]


@pytest.mark.parametrize("executor", [Inline, Several])
def test_until_a_step_makes_it_and_what_it_needs(executor: type[Inline], store: Store) -> None:
    result = run(graph(), store, executor, study="both", until="squares")
    assert [step.name for step in result.steps] == ["numbers", "squares"]
    assert {name for name, state in states(graph(), store).items() if state == "done"} == {"numbers", "squares"}
    with pytest.raises(UsageError, match="--force of steps that squares needs; found counting"):
        run(graph(), store, executor, force=["counting"], until="squares")
    with pytest.raises(UsageError, match="--until to name a step"):
        run(graph(), store, executor, until="square")


def test_a_study_remembers_what_it_had_when_only_some_steps_are_made(store: Store) -> None:
    run(graph(), store, Inline, study="both")
    changed = [Step(step.name, Squares(power=4), step.inputs) if step.name == "cubes" else step for step in graph()]
    run(changed, store, Inline, study="both", until="squares", force=["squares"])
    newest = latest(store, "both")
    assert newest is not None
    # The cubes of before are not those of the study as it is now.
    assert newest.steps.keys() == {step.name for step in graph()} - {"cubes"}
    assert newest.steps["squares"].generation == 1
