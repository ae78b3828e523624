"""A store holds what it promises after any history: runs, edits, damage, garbage collection and clocks in any order.

`python -m tests.benchmarks.histories` tries many more.
"""

from hypothesis import HealthCheck, settings

from tests.faults.history import History

TestHistory = History.TestCase
TestHistory.settings = settings(
    max_examples=25,
    stateful_step_count=12,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
