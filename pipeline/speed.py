"""How fast this machine's CPUs are: what `plan` scales the seconds by that stages expect of themselves.

Stages say what they take on the machine that they were measured on. The trial by which a CPU's precision is chosen
(`stages.training.precision`) is made once here, in a process of its own because it imports torch, and kept in the
user's cache folder; `status` reads it and makes none.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache as memoised
from pathlib import Path

from pipeline import cache
from stages.training.precision import PRECISIONS, Precision

CACHE = "speed-1.json"
MEASURED: Mapping[Precision, float] = {"bfloat16": 0.37e-3, "float32": 0.88e-3}
"""Seconds of the trial on the machine that stages are taken to have been measured on: a Xeon with AMX, at its quietest.
Some were measured on a CPU with dot products in bfloat16 and no AMX, whose trial is not known."""
LIMITS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
"""Environment that keeps torch from using all instructions of a CPU."""
PATIENCE_SECONDS = 120.0
ROUNDS = 20
"""Of the trial: more than a choice takes, because here it counts by how much one is quicker."""
TRIAL = f"import json; from stages.training.precision import trial; print(json.dumps(trial({ROUNDS})))"


@dataclass(frozen=True)
class Speed:
    """What the trial of a CPU found, seconds by precision. `cpu` is its name, `trouble` why there was no trial."""

    cpu: str
    seconds: Mapping[Precision, float]
    trouble: str = ""

    @property
    def chosen(self) -> Precision:
        """What `bfloat16` comes to."""
        return "bfloat16" if self.seconds["bfloat16"] <= self.seconds["float32"] else "float32"

    def factor(self, precision: Precision) -> float:
        """How many times as long work takes as on the machine that it was measured on, where it was in `precision`.

        Half of the seconds of a network in bfloat16 were convolutions there; the others went into all that is between.
        """
        other = self.seconds["float32"] / MEASURED["float32"]
        if precision == "float32":
            return other
        return 0.5 * self.seconds[self.chosen] / MEASURED["bfloat16"] + 0.5 * other

    @property
    def basis(self) -> str:
        """What estimates rest on, as a sentence."""
        if self.trouble:
            return f"Seconds are those of {self.cpu}: this machine could not be tried ({self.trouble})."
        trained, other = (f"{self.factor(precision):.2g}" for precision in PRECISIONS)
        return (
            f"Estimated for this machine ({self.cpu}), where networks compute in {self.chosen}: {trained} times the "
            f"seconds of {REFERENCE.cpu} where that computes in bfloat16, {other} times elsewhere."
        )


REFERENCE = Speed("a Xeon of 2023 with AMX", MEASURED)
"""The machine that stages are taken to have been measured on."""


def cached() -> Speed | None:
    """What is known of this machine, or None: without a trial."""
    cpu = cpu_name()
    found = cache.load(CACHE).get(_cache_key(cpu))
    if isinstance(found, dict) and all(isinstance(found.get(name), float) and found[name] > 0 for name in PRECISIONS):
        return Speed(cpu, {precision: found[precision] for precision in PRECISIONS})
    return None


@memoised
def measured() -> Speed:
    """What is known of this machine, after a trial of some seconds where nothing is; `REFERENCE` where that fails."""
    found = cached()
    if found is not None:
        return found
    cpu = cpu_name()
    try:
        # As parts run: one thread.
        done = subprocess.run(
            [sys.executable, "-c", TRIAL],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            check=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        seconds = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        # A plan with rough seconds is better than none.
        lines = str(getattr(error, "stderr", None) or error).strip().splitlines()
        return replace(REFERENCE, trouble=lines[-1] if lines else type(error).__name__)
    cache.save(CACHE, cache.load(CACHE) | {_cache_key(cpu): seconds})
    return Speed(cpu, seconds)


def cpu_name() -> str:
    """The maker's name of this machine's CPU; its architecture where the system has none."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(errors="replace").splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _cache_key(cpu: str) -> str:
    """Under what the trial of a CPU is kept: all that may change it."""
    limits = [f"{name}={os.environ[name]}" for name in LIMITS if os.environ.get(name)]
    return " | ".join([cpu, f"torch {importlib.metadata.version('torch')}", *limits])
