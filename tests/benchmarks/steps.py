"""What independent steps gain on two machines: a training of 25 s beside three fan-outs, against the training alone.

    python -m tests.benchmarks.steps

Ray's own Cluster gives two machines of 3 CPUs each on this one. The work sleeps, so that two cores are enough for six.
"""

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.step import Step
from stages.contract import Context, Estimate, Gang, Inputs, Output, Part, Stage, Summary
from tests.faults.nodes import NODE, SETTINGS

TRAINING_SECONDS = 25.0
PART_SECONDS = 1.5
PARTS, FANS = 12, 3
MACHINES, CPUS = 2, 3


class Fan(Stage):
    """Parts that take their time."""

    name = "fan"
    version = 1
    bitwise = True

    which: int

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        return Estimate(rows=PARTS, size_bytes=PARTS, cpu_seconds=PARTS * PART_SECONDS)

    def split(self, inputs: Inputs) -> list[Part]:
        return [Part(index=index) for index in range(PARTS)]

    def work(self, part: Part, state: Any, inputs: Inputs, out: Output) -> Summary:
        time.sleep(PART_SECONDS)
        out.put(f"{part.index}", b"1")
        return {}


class Training(Gang):
    """A training that takes its time."""

    name = "training"
    version = 1
    bitwise = False
    max_ranks = 1

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        return Estimate(rows=1, size_bytes=1, cpu_seconds=CPUS * TRAINING_SECONDS)

    def train(self, context: Context, inputs: Inputs, out: Output) -> Summary:
        for step in range(1, 101):
            time.sleep(TRAINING_SECONDS / 100)
            context.report(step, 100, {})
        out.put("weights", b"1")
        return {}


def main() -> None:
    """Prints seconds and their ratio."""
    os.environ.update(SETTINGS)
    import ray
    from ray.cluster_utils import Cluster

    from tests.benchmarks import steps as this

    scratch = tempfile.mkdtemp(prefix="steps-")
    os.environ["RAY_TMPDIR"] = scratch
    Path(scratch, "ray").mkdir()
    node = NODE | {"num_cpus": CPUS, "temp_dir": scratch}
    cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        for _ in range(MACHINES - 1):
            cluster.add_node(**node)
        resources: Callable[[], dict[str, float]] = ray.cluster_resources
        while resources().get("CPU", 0) < MACHINES * CPUS:
            time.sleep(0.1)
        training = Step("training", this.Training())
        fans = [Step(f"fan{which}", this.Fan(which=which)) for which in range(FANS)]
        alone, together = _seconds([training]), _seconds([*fans, training])
        work = TRAINING_SECONDS + FANS * PARTS * PART_SECONDS / (MACHINES * CPUS)
        print(f"training alone {alone:.1f} s; beside {FANS} fan-outs {together:.1f} s; ratio {together / alone:.2f}")
        print(f"one step after the other it would be {alone - TRAINING_SECONDS + work:.1f} s at best")
    finally:
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]


def _seconds(steps: Sequence[Step]) -> float:
    from cluster.on_ray import OnRay
    from pipeline.run import run
    from pipeline.store import open_store

    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        run(steps, open_store(folder), OnRay, ranks=None)
        return time.perf_counter() - started


if __name__ == "__main__":
    main()
