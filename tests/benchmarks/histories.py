"""Many random histories of a store, of which the tests draw some: the shortest one that breaks a promise, if any does.

python -m tests.benchmarks.histories [HISTORIES] [SEED]
"""

import os
import sys
import tempfile
import time

from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.faults.history import History

STEPS = 25


def main(histories: int = 1000, number: int = 0) -> None:
    """Prints what was tried; raises what was found."""
    started, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        many = settings(
            max_examples=histories,
            stateful_step_count=STEPS,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        run_state_machine_as_test(seed(number)(History), settings=many)
    print(
        f"{histories} histories of up to {STEPS} steps with seed {number}: nothing found, "
        f"{time.perf_counter() - started:.0f} s, {time.process_time() - cpu:.0f} s of CPU"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
