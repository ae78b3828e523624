"""How soon random histories of a store find deliberate faults of the engine: the power of `tests.benchmarks.histories`.

One fault of `tests.benchmarks.engine_faults` after another is put in place. Then histories are drawn until one breaks a
promise, with several seeds, since how many it takes is chance.

python -m tests.benchmarks.mutants [HISTORIES] [SEEDS] [FAULT...]
"""

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.benchmarks.engine_faults import MUTANTS, Mutant
from tests.faults.history import History

STEPS = 25
TESTS = Path(__file__).parents[1]


def histories_until_found(mutant: Mutant | None, most: int, number: int) -> tuple[int | None, str]:
    """How many histories it takes until one breaks a promise (None: more than `most`), and which promise that is."""
    begun = 0
    found: list[tuple[int, BaseException]] = []

    class Counted(History):
        def __init__(self) -> None:
            nonlocal begun
            begun += 1
            super().__init__()

    many = settings(
        max_examples=most,
        stateful_step_count=STEPS,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    with pytest.MonkeyPatch.context() as patches, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        if mutant is not None:
            mutant.put(patches)
        try:
            run_state_machine_as_test(seed(number)(Counted), settings=many)
        except BaseException as error:
            # The last history is the one that was found, once more.
            found.append((begun - 1, error))
    if not found:
        return None, ""
    first = found[0][1]
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return found[0][0], f"{type(first).__name__}: {' '.join(str(first).split())[:160]}"


def is_found_by_its_test(mutant: Mutant) -> bool:
    """Whether the test of a fault fails with it."""
    # The modules of pytest's plugins are loaded already, of which it would warn.
    plain = ["-p", "no:randomly", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    words = [*plain, str(TESTS / mutant.test)]
    with pytest.MonkeyPatch.context() as patches, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        mutant.put(patches)
        return pytest.main(words) == pytest.ExitCode.TESTS_FAILED


def main(words: Sequence[str], most: int = 200, seeds: int = 1) -> None:
    """Prints how many histories each fault took; with `words`, each fault that has one of them in its name."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        for mutant in MUTANTS:
            if words and not any(word in mutant.put.__name__ or word in mutant.fault for word in words):
                continue
            started = time.process_time()
            results = [histories_until_found(mutant, most, number) for number in range(seeds)]
            counts = ", ".join("none" if count is None else str(count) for count, _ in results)
            seconds = time.process_time() - started
            print(f"{mutant.fault:<56} {counts:<16} {seconds:5.0f} s  {results[0][1]}", flush=True)
            if mutant.test:
                print(
                    f"    {mutant.test} {'finds' if is_found_by_its_test(mutant) else 'does not find'} it", flush=True
                )


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    main([word for word in sys.argv[1:] if not word.isdigit()], *numbers)
