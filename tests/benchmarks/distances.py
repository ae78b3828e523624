"""What ranking samples among a large gallery takes: CPU seconds and peak memory.

`python -m tests.benchmarks.distances [samples gallery width]`; by default 10 000 samples among 50 000 images of 512
features, as in the paper's protocol.
"""

import resource
import sys
import time
from collections.abc import Callable

import numpy as np

from stages.questions import measures


def main(samples: int = 10_000, gallery: int = 50_000, width: int = 512) -> None:
    """Prints a line for each of ranks, nearest other images and the unit of distance."""
    rng = np.random.Generator(np.random.Philox(0))
    images = rng.standard_normal((gallery, width))
    rows = np.arange(samples)
    queries = images[rows] + 0.5 * rng.standard_normal((samples, width))
    work: dict[str, Callable[[], object]] = {
        "ranks": lambda: measures.ranks(queries, images, rows),
        "nearest other": lambda: measures.nearest_other(images, rows),
        "unit": lambda: measures.random_pair(images),
    }
    for name, call in work.items():
        begun = time.process_time()
        call()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{name:14} {time.process_time() - begun:7.1f} s of CPU, peak so far {peak:.2f} GiB", flush=True)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
