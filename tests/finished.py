"""A finished study for tests: every step of `tests/data/studies/micro.yaml`, run as a person runs it."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STUDIES = Path(__file__).parent / "data" / "studies"
MICRO = STUDIES / "micro.yaml"


@dataclass(frozen=True)
class Finished:
    """The paths of a study and its store, and the output of the run that made it."""

    study: Path
    store: Path
    run: dict[str, Any]


def repscope(*words: str | Path, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line in a process of its own; the exit code must be `code`."""
    command = [str(Path(sys.executable).with_name("repscope")), *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment
    )
    assert done.returncode == code, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done


def run_micro(folder: Path, executor: str, words: Sequence[str] = ()) -> Finished:
    """Runs the micro study to its end with a store in `folder`."""
    store = folder / "store"
    done = repscope("run", MICRO, "--store", store, "--executor", executor, "--json", *words)
    return Finished(MICRO, store, json.loads(done.stdout))
