"""The sections by name: `python -m tests.benchmarks.gpu.sections NAME …` runs one."""

import sys
from collections.abc import Callable

from tests.benchmarks.gpu import card, checks, extraction, loops, networks, study
from tests.benchmarks.gpu.figures import Benchmark

RUNS: dict[str, Callable[[Benchmark], None]] = {
    "card": card.run,
    "checks": checks.run,
    "study": study.run,
    "networks": networks.run,
    "extraction": extraction.run,
    "memory": loops.memory,
    "rounding": loops.rounding,
    "ranks": loops.ranks,
}


def main(name: str, device: str, full: str, seconds: str, folder: str) -> None:
    """Runs one section in this process."""
    RUNS[name](Benchmark(device, full == "full", float(seconds), folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
