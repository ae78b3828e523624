"""A store holds what it promises after any history: runs, edits, damage, garbage collection and clocks in any order.

`python -m tests.benchmarks.histories` tries many more.
"""

import threading
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.faults.faulty import DeadError
from tests.faults.history import History
from tests.faults.model import Death

TestHistory = History.TestCase
TestHistory.settings = settings(
    max_examples=25,
    stateful_step_count=12,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def history() -> Iterator[History]:
    """A history of given steps, after a first run."""
    history = History()
    history.begin("one")
    yield history
    history.teardown()


def test_a_part_that_other_code_has_half_written_is_made_again_where_drift_is_accepted(history: History) -> None:
    history.start_anew("one")
    history.server.fresh({threading.current_thread().name: Death("die after", 0, "/sum-0.json")}, 0.0)
    with pytest.raises(DeadError):
        history.one_run("one")
    history.edit_code("sums", 1)
    history.run_to_the_end("one", accept_drift=True)


def test_what_a_merge_of_other_code_has_written_is_made_again_where_drift_is_accepted(history: History) -> None:
    name = f"{history.pointed()['one']['sums']}/manifest.json"
    history.root.backend.delete(name)
    history.harmed[name] = "lose"
    history.edit_code("sums", 1)
    history.run_to_the_end("one", accept_drift=True)
