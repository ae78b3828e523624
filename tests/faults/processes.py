"""Drivers as processes of their own, for tests that kill them or what they stand on."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


def start(store: str | Path, executor: str, *gate: Path, **environment: str) -> subprocess.Popen[str]:
    """A driver of `tests.faults.driver`; its events and its message can be read from its pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.driver", str(store), executor, *map(str, gate)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | environment,
    )


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Waits until something is so; fails where the process ends before."""
    while not what():
        assert process.poll() is None, f"the process ended too early: {process.communicate()}"
        time.sleep(0.02)


def finish(process: subprocess.Popen[str]) -> tuple[int, list[str], str]:
    """Waits for the end: exit code, events as lines, and standard error."""
    out, errors = process.communicate()
    return process.returncode, out.splitlines(), errors
