"""What a run does and what it leaves: hits, force, damage, staleness, sharing, refusals. Counted by events."""

import json
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from cluster.executor import ALONE, Call, Claim, OnDone, OnProgress, Outcome
from cluster.inline import Inline
from pipeline.errors import StepFailedError, UsageError, exit_code
from pipeline.events import Event, read_events, run_ids, runs_of
from pipeline.plan import plan
from pipeline.run import RunResult, run
from pipeline.step import Step
from pipeline.store import Store, open_store
from pipeline.studies import history, latest
from stages.contract import Context, Estimate, Gang, Inputs, Output, Part, Stage, Summary
from stages.errors import InputError
from tests.faults.arithmetic import Numbers, Squares, graph


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A local store that nobody has used."""
    return open_store(str(tmp_path / "store"))


def go(steps: list[Step], store: Store, **options: Any) -> tuple[RunResult, list[Event]]:
    """A run, and its events."""
    heard: list[Event] = []
    return run(steps, store, Inline, listener=heard.append, **options), heard


def worked(events: list[Event]) -> list[str]:
    """Names of the steps of which parts were run, once for each part."""
    return [event.step for event in events if event.kind == "part_done"]


def artifact(store: Store, name: str, steps: list[Step]) -> Path:
    """The folder of a step's newest generation."""
    return Path(next(state.url for state in plan(steps, store) if state.name == name))


def everything(store: Store) -> list[str]:
    """All names in a store."""
    folders = ("artifacts", "runs", "studies", "leases", "probes")
    return [entry.name for folder in folders for entry in store.entries(folder)]


def states(store: Store, steps: list[Step]) -> dict[str, str]:
    """Step -> state."""
    return {state.name: state.state for state in plan(steps, store)}


def test_a_first_run_does_everything_and_a_second_nothing(store: Store) -> None:
    first, events = go(graph(), store)
    assert worked(events) == ["numbers"] * 3 + ["squares"] * 3 + ["counting"]
    assert [step.outcome for step in first.steps] == ["made"] * 3
    assert first.summary("squares") == {"total": sum(n * n for n in range(1, 13))}
    second, events = go(graph(), store)
    assert worked(events) == []
    assert [event.kind for event in events] == ["run_started", "step_hit", "step_hit", "step_hit", "run_done"]
    assert second.run_id is None
    assert [step.url for step in second.steps] == [step.url for step in first.steps]
    assert second.summary("squares") == first.summary("squares")


def test_a_finished_run_writes_nothing_and_starts_no_executor(store: Store) -> None:
    go(graph(), store, study="sums")
    before = sorted(
        entry.name for folder in ("artifacts", "runs", "studies", "leases") for entry in store.entries(folder)
    )

    def no_executor() -> Inline:
        raise AssertionError("nothing is to be executed")

    run(graph(), store, no_executor, study="sums")
    after = sorted(
        entry.name for folder in ("artifacts", "runs", "studies", "leases") for entry in store.entries(folder)
    )
    assert after == before


def test_a_changed_field_runs_its_step_and_what_follows(store: Store) -> None:
    go(graph(), store)
    _, events = go(graph(power=3), store)
    assert worked(events) == ["squares"] * 3 + ["counting"]
    _, events = go(graph(), store)
    assert worked(events) == []


def test_a_field_that_cannot_change_the_answer_runs_nothing(store: Store) -> None:
    go([Step("numbers", Numbers())], store)
    _, events = go([Step("numbers", Numbers(indent=4))], store)
    assert worked(events) == []


def test_two_steps_with_one_key_are_one_artifact_and_run_once(store: Store) -> None:
    steps = [
        Step("numbers", Numbers()),
        Step("kept.sources", Squares(), {"numbers": "numbers"}),
        Step("faithfulness.sources", Squares(), {"numbers": "numbers"}),
    ]
    result, events = go(steps, store)
    assert worked(events) == ["numbers"] * 3 + ["kept.sources"] * 3
    assert result.url("kept.sources") == result.url("faithfulness.sources")
    assert [step.name for step in result.steps] == [step.name for step in steps]
    assert states(store, steps) == {step.name: "done" for step in steps}


def test_force_opens_the_next_generation_and_equal_bytes_leave_what_follows_valid(store: Store) -> None:
    go(graph(), store)
    result, events = go(graph(), store, force=["numbers"])
    assert worked(events) == ["numbers"] * 3
    assert result.url("numbers").endswith("g0001")
    assert (artifact(store, "numbers", graph()).parent / "g0000" / "tombstone.json").exists()
    assert set(states(store, graph()).values()) == {"done"}


def test_force_of_an_unknown_step_is_refused(store: Store) -> None:
    with pytest.raises(UsageError, match="nubmers"):
        go(graph(), store, force=["nubmers"])
    assert store.entries("artifacts") == []


@pytest.mark.parametrize("damage", ["delete", "cut", "empty"])
def test_a_damaged_object_is_seen_and_made_anew_in_the_next_generation(store: Store, damage: str) -> None:
    go(graph(), store)
    path = artifact(store, "squares", graph()) / "total-00001.json"
    if damage == "delete":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] if damage == "cut" else b"")
    found = {state.name: state for state in plan(graph(), store)}
    assert found["squares"].state == "BROKEN"
    assert "total-00001.json" in found["squares"].reason
    assert found["counting"].state == "STALE"
    _, events = go(graph(), store)
    assert worked(events) == ["squares"]
    assert artifact(store, "squares", graph()).name == "g0001"
    assert set(states(store, graph()).values()) == {"done"}


def test_what_was_made_from_other_bytes_is_stale_and_made_anew(store: Store) -> None:
    go(graph(), store)
    folder = artifact(store, "numbers", graph())
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["summary"]["note"] = "as if an unrepeatable stage had been run again"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert states(store, graph()) == {"numbers": "done", "squares": "STALE", "counting": "STALE"}
    _, events = go(graph(), store)
    assert worked(events) == ["squares"] * 3
    assert set(states(store, graph()).values()) == {"done"}


def test_unfinished_work_from_other_inputs_is_not_continued(store: Store) -> None:
    go(graph(), store)
    squares = artifact(store, "squares", graph())
    (squares / "manifest.json").unlink()
    folder = artifact(store, "numbers", graph())
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["summary"]["note"] = "other"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    _, events = go(graph(), store)
    assert worked(events) == ["squares"] * 3
    assert artifact(store, "squares", graph()).name == "g0001"


def test_a_receipt_whose_object_is_gone_does_not_count(store: Store) -> None:
    go(graph(), store)
    folder = artifact(store, "numbers", graph())
    (folder / "manifest.json").unlink()
    (folder / "text" / "00001.txt").unlink()
    _, events = go(graph(), store)
    assert worked(events) == ["numbers"]
    assert artifact(store, "numbers", graph()).name == "g0001"
    assert set(states(store, graph()).values()) == {"done"}


def test_a_generation_without_its_first_record_is_closed(store: Store) -> None:
    go(graph(), store)
    folder = artifact(store, "numbers", graph())
    (folder / "manifest.json").unlink()
    (folder / "artifact.json").unlink()
    assert states(store, graph())["numbers"] == "BROKEN"
    go(graph(), store)
    assert artifact(store, "numbers", graph()).name == "g0001"


class Elsewhere(Inline):
    """Works on another machine, where the path of the store is another folder."""

    def run(self, calls: Iterable[Call], on_done: OnDone, gpu: bool = False, claim: Claim = ALONE) -> None:
        there = (
            replace(call, payload=call.payload | {"store": f"{call.payload['store']}-of-another"}) for call in calls
        )
        super().run(there, on_done, gpu, claim)


def test_a_worker_that_has_another_folder_than_the_driver_says_so(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.worker.LOOK_SECONDS", (0.0,))
    with pytest.raises(StepFailedError, match=r"expected the store .*; found another folder.*every machine reaches"):
        run(graph(), store, Elsewhere)


class Failing(Stage):
    """Fails as its fields say."""

    name = "failing"
    version = 1
    bitwise = True

    how: str

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        return Estimate(rows=0, size_bytes=0, cpu_seconds=0)

    def split(self, inputs: Inputs) -> list[Part]:
        if self.how == "split":
            raise RuntimeError("no parts today")
        return [Part(index=i) for i in range(3)]

    def work(self, part: Part, state: Any, inputs: Inputs, out: Output) -> Summary:
        out.put(f"{part.index}.bin", b"1")
        if self.how == "input" and part.index == 1:
            raise InputError("a picture", "a poem", "Give pictures.")
        if self.how == "bug" and part.index == 1:
            raise RuntimeError("one off")
        return {"nan": float("nan")} if self.how == "summary" else {}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            "input",
            f"part 1 of paint failed on {socket.gethostname()}: expected a picture; found a poem. Give pictures.",
        ),
        ("bug", f"found RuntimeError on {socket.gethostname()}: one off. What is complete is kept"),
        ("summary", "plain JSON"),
        ("split", "no parts today"),
    ],
)
def test_a_failing_stage_is_reported_with_step_part_and_cause(store: Store, how: str, message: str) -> None:
    heard: list[Event] = []
    with pytest.raises(StepFailedError, match="paint") as caught:
        run([Step("paint", Failing(how=how))], store, Inline, listener=heard.append)
    assert message in str(caught.value)
    assert exit_code(caught.value) == 3
    assert caught.value.step == "paint"
    assert heard[-1].kind == "run_failed"
    if how in ("input", "bug"):
        assert caught.value.part == 1
        assert "Traceback" in caught.value.traceback
        state = plan([Step("paint", Failing(how=how))], store)[0]
        assert (state.state, state.parts_done, state.parts) == ("partial", 1, 3)


def test_a_graph_that_is_none_is_refused(store: Store) -> None:
    with pytest.raises(UsageError, match="two steps 'numbers'"):
        go([Step("numbers", Numbers()), Step("numbers", Numbers(first=2))], store)
    with pytest.raises(UsageError, match="'nothing'"):
        go([Step("squares", Squares(), {"numbers": "nothing"})], store)


def test_a_study_remembers_its_artifacts_and_their_history(store: Store) -> None:
    go(graph(), store, study="sums")
    go(graph(), store, study="sums")
    assert len(history(store, "sums")) == 1
    result, _ = go(graph(power=3), store, study="sums")
    assert len(history(store, "sums")) == 2
    newest = latest(store, "sums")
    assert newest is not None
    assert newest.run == result.run_id
    assert store.address(newest.steps["squares"].folder) == result.url("squares")
    assert latest(store, "nothing") is None


def test_a_run_is_recorded_with_what_it_did(store: Store) -> None:
    result, heard = go(graph(), store, study="sums")
    assert run_ids(store) == [result.run_id]
    assert result.run_id is not None
    kept = read_events(store, result.run_id)
    assert [event.kind for event in kept] == [event.kind for event in heard]
    done = next(event for event in kept if event.kind == "part_done")
    assert done.fields["executor"] == "inline"
    assert {"host", "pid", "seconds", "size_bytes", "adopted"} <= done.fields.keys()
    recorded = json.loads(store.read(f"runs/{result.run_id}/plan.json"))
    assert recorded["steps"]["squares"]["inputs"] == {"numbers": "numbers"}


def test_the_newest_run_is_that_by_the_clock_of_the_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    right = time.time
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: right() + 7200)
        run(graph(), store, Inline, study="s")
    last = run(graph(power=3), store, Inline, study="s")
    assert next(runs_of(store, "s")) == run_ids(store)[-1] == last.run_id


def test_receipts_and_manifest_say_who_made_what(store: Store) -> None:
    go(graph(), store)
    folder = artifact(store, "numbers", graph())
    receipt = json.loads((folder / "parts" / "00001.json").read_bytes())
    assert receipt["executor"] == "inline"
    assert receipt["owner"]["pid"] > 0
    assert receipt["summary"] == {"count": 4}
    assert sorted(receipt["objects"]) == ["numbers-00001.json", "text/00001.txt"]
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert manifest["document"]["fields"] == {"first": 1, "parts": 3, "per_part": 4}
    assert manifest["versions"]["python"]
    assert sorted(manifest["objects"]) == [
        "index.json",
        *[f"numbers-{i:05d}.json" for i in range(3)],
        *[f"text/{i:05d}.txt" for i in range(3)],
    ]


def test_nothing_in_the_store_is_a_pickle(store: Store, tmp_path: Path) -> None:
    go(graph(), store, study="sums")
    for path in (tmp_path / "store").rglob("*"):
        if path.is_file():
            assert not path.read_bytes().startswith(b"\x80")


class Asked(Gang):
    """Trains nothing; says what it was asked for by the name of its class."""

    version = 1
    bitwise = True

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        return Estimate(rows=1, size_bytes=1, cpu_seconds=1)

    def train(self, context: Context, inputs: Inputs, out: Output) -> Summary:
        return {}


class Together(Asked):
    """May run on several ranks."""

    name = "together"


class Alone(Asked):
    """Runs on one rank only."""

    name = "alone"
    max_ranks = 1


@pytest.mark.parametrize(("ranks", "expected"), [(None, [1, 1]), (1, [1, 1]), (4, [4, 1])])
def test_a_gang_has_the_ranks_that_are_named_or_one(store: Store, ranks: int | None, expected: list[int]) -> None:
    asked = []

    class Watching(Inline):
        def gang(
            self,
            call: Call,
            ranks: int,
            on_progress: OnProgress | None = None,
            least: int | None = None,
            claim: Claim = ALONE,
        ) -> Outcome:
            asked.append(ranks)
            return super().gang(call, 1, on_progress)

    run([Step(stage.name, stage) for stage in (Together(), Alone())], store, Watching, ranks=ranks)
    assert asked == expected


class OnCpus(Stage):
    """Says where it was set up."""

    name = "cpus"
    version = 1
    bitwise = True

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        return Estimate(rows=1, size_bytes=1, cpu_seconds=1)

    def setup(self, inputs: Inputs, device: str) -> str:
        return device

    def work(self, part: Part, state: str, inputs: Inputs, out: Output) -> Summary:
        return {"device": state}

    def merge(self, summaries: Sequence[Summary], inputs: Inputs, out: Output) -> Summary:
        return dict(summaries[0])


class OnGpu(OnCpus):
    """The same, where there is a GPU."""

    name = "gpu"
    gpu: ClassVar[bool] = True


def test_only_a_stage_that_says_so_is_given_a_gpu(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    class Watching(Inline):
        def run(self, calls: Iterable[Call], on_done: OnDone, gpu: bool = False, claim: Claim = ALONE) -> None:
            def watched() -> Iterable[Call]:
                for call in calls:
                    asked[call.id] = gpu
                    yield call

            super().run(watched(), on_done, gpu, claim)

    monkeypatch.setattr("pipeline.worker.device", lambda: "cuda:0")
    done = run([Step(stage.name, stage) for stage in (OnCpus(), OnGpu())], store, Watching)
    assert [done.summary(name)["device"] for name in ("cpus", "gpu")] == ["cpu", "cuda:0"]
    assert asked == {"cpus/0": False, "cpus/merge": False, "gpu/0": True, "gpu/merge": True}
