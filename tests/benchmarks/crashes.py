"""All crashes at all calls to the store, of which the tests draw some: one line for each that is not recovered from.

python -m tests.benchmarks.crashes
"""

import sys
import time

from tests.faults.faulty import CRASHES, calls_of
from tests.faults.test_crashes import BRANCHES, AtOnce, calls, crash_at, crash_in_branches
from tests.faults.truth import undisturbed


def main() -> int:
    """Prints what was tried and what failed."""
    started, tried, failed = time.perf_counter(), 0, 0

    def attempt(what: str, action: object, *arguments: object) -> None:
        nonlocal tried, failed
        tried += 1
        assert callable(action)
        try:
            action(*arguments)
        except AssertionError as error:
            failed += 1
            print(f"{what}: {error}", flush=True)

    for at in range(len(calls())):
        for crash in CRASHES:
            attempt(f"{crash} call {at}", crash_at, at, crash)
    truth, log = undisturbed(BRANCHES, AtOnce)
    for call, nth in calls_of(log):
        for crash in CRASHES:
            attempt(f"{crash} {call} {nth}", crash_in_branches, call, nth, crash, tried, truth)
    print(f"{tried} crashes, {failed} not recovered from, {time.perf_counter() - started:.0f} s")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
