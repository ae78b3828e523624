"""What `plan` and `explain` say of a study."""

import json
import threading
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from cluster.inline import Inline
from pipeline.backends import Entry, ObjectBackend
from pipeline.errors import UsageError
from pipeline.events import Event
from pipeline.plan import Difference, explain, plan
from pipeline.run import run
from pipeline.store import Store, open_store, share
from tests.faults.arithmetic import graph
from tests.faults.faulty import MemoryRoot


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A local store that nobody has used."""
    return open_store(str(tmp_path / "store"))


def test_before_the_first_run_everything_is_missing_and_estimated(store: Store, tmp_path: Path) -> None:
    states = plan(graph(), store)
    assert [(state.name, state.state, state.reason) for state in states] == [
        ("numbers", "missing", "never made"),
        ("squares", "missing", "never made; needs numbers"),
        ("counting", "missing", "never made; needs squares"),
    ]
    assert [(state.seconds, state.size_bytes, state.measured) for state in states] == [
        (0.1, 48, False),
        (0.2, 100, False),
        (0.5, 20, False),
    ]
    assert not (tmp_path / "store").exists()


def test_a_finished_step_says_what_it_took(store: Store) -> None:
    run(graph(), store, Inline)
    for state in plan(graph(), store):
        assert state.finished
        assert state.measured
        assert state.parts_done == state.parts
        assert state.generation == 0
        objects = json.loads((Path(state.url) / "manifest.json").read_bytes())["objects"]
        assert state.size_bytes == sum(entry["size"] for entry in objects.values())


def test_an_unfinished_step_says_what_is_left_by_what_was_measured(store: Store) -> None:
    run(graph(), store, Inline)
    folder = Path(plan(graph(), store)[0].url)
    (folder / "manifest.json").unlink()
    (folder / "parts" / "00002.json").unlink()
    for part, seconds in ((0, 10.0), (1, 20.0)):
        receipt = json.loads((folder / "parts" / f"0000{part}.json").read_bytes())
        (folder / "parts" / f"0000{part}.json").write_text(json.dumps({**receipt, "seconds": seconds}))
    state = plan(graph(), store)[0]
    assert (state.state, state.reason, state.parts_done, state.parts) == ("partial", "2 of 3 parts", 2, 3)
    assert (state.seconds, state.measured) == (15.0, True)


def test_a_finished_study_is_looked_at_with_two_calls_a_step_and_one_for_the_layout() -> None:
    root = MemoryRoot()
    store, _ = root.process()
    run(graph(), store, Inline)
    store, backend = root.process()
    plan(graph(), store)
    assert [call.split()[0] for call in backend.log] == ["read", *["list", "read"] * 3]


def test_explain_names_the_fields_that_changed(store: Store) -> None:
    assert explain("squares", graph(), store) == []
    run(graph(), store, Inline)
    folder = "artifacts/squares/" + plan(graph(), store)[1].key[:16] + "/g0000"
    assert explain("squares", graph(power=3), store) == [Difference("fields.power", 3, 2, folder)]
    found = explain("squares", graph(first=2), store)
    assert [difference.field for difference in found] == ["inputs.numbers"]
    assert explain("squares", graph(), store) == []
    with pytest.raises(UsageError, match="numbers, squares, counting"):
        explain("nothing", graph(), store)


def test_explain_compares_with_the_newest(store: Store) -> None:
    run(graph(power=5), store, Inline)
    run(graph(power=7), store, Inline)
    assert [(found.now, found.before) for found in explain("squares", graph(power=3), store)] == [(3, 7)]


class Together(ObjectBackend):
    """A backend that lists only once so many lists are waited for at the same time."""

    def __init__(self, lists: int) -> None:
        super().__init__(MemoryStore(), "far://together")
        self.barrier = threading.Barrier(lists)
        self.waits = False

    def entries(self, folder: str) -> list[Entry]:
        if self.waits and folder.startswith("artifacts/"):
            self.barrier.wait(30)
        return super().entries(folder)


def far(lists: int = 1) -> tuple[Store, Together]:
    """A store that says of itself that every answer takes its time."""
    backend = Together(lists)
    store = Store(backend, f"far://{id(backend)}")
    share(store)
    return store, backend


def test_the_steps_in_a_far_store_are_looked_at_all_at_once() -> None:
    store, backend = far(lists=3)
    run(graph(), store, Inline)
    backend.waits = True
    assert [state.state for state in plan(graph(), store)] == ["done"] * 3
    assert run(graph(), store, Inline).run_id is None


def test_once_something_was_done_in_a_far_store_the_steps_after_it_are_looked_at_anew() -> None:
    store, backend = far()
    run(graph(), store, Inline)
    squares = plan(graph(), store)[1].url.removeprefix(f"{store.url}/")

    def damage(event: Event) -> None:
        if (event.kind, event.step) == ("step_done", "numbers"):
            backend.delete(f"{squares}/total.json")

    result = run(graph(), store, Inline, force=["numbers"], listener=damage)
    assert [step.outcome for step in result.steps] == ["made", "made", "hit"]
