"""A run on a cluster whose head has no CPU, that gains machines while it works, and loses one.

    python -m tests.faults.machines FOLDER

Ray's own Cluster gives the machines. The work waits for the file FOLDER/go, so that no change of the machines
comes too late. What was reported is in FOLDER/outcome.json.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.events import Event
from tests.faults.nodes import NODE, SETTINGS, start_head
from tests.faults.waiting import graph

PATIENCE_SECONDS = 240.0
"""What is awaited takes seconds; after so long it will not come."""


def main() -> None:
    """Runs a training and two fan-outs, while machines come and go."""
    os.environ.update(SETTINGS)
    import ray

    from cluster.on_ray import OnRay
    from cluster.start import start
    from pipeline.run import run
    from pipeline.store import open_store

    folder = sys.argv[1]
    steps = graph(folder)

    first = start_head(num_cpus=0)
    cluster = first.value
    heard: list[Event] = []
    outcome: dict[str, Any] = {}

    def study() -> None:
        done = run(steps, open_store(f"{folder}/store"), OnRay, ranks=None, listener=heard.append)
        outcome["parts"] = {step.name: step.parts_run for step in done.steps}

    running = threading.Thread(target=study, daemon=True)
    running.start()

    def wait_for(what: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not what():
            assert time.monotonic() < end, f"{ {step.name: rooms(step.name) for step in steps} }, {resources()}"
            assert running.is_alive(), "the run has ended"
            assert not [event for event in list(heard) if event.kind == "step_failed"], "a step has failed"
            time.sleep(0.1)

    def rooms(step: str) -> list[dict[str, Any]]:
        return [event.fields for event in list(heard) if event.kind == "step_room" and event.step == step]

    def processes(step: str) -> int:
        return len(list(Path(folder).glob(f"{step}-*")))

    def add(cpus: int) -> Any:
        found = start(
            lambda scratch: cluster.add_node(**NODE | {"num_cpus": cpus}, temp_dir=str(scratch)),
            "another machine",
            "See what its log says.",
        )
        added.append(found)
        return found.value

    added: list[Any] = []
    try:
        wait_for(lambda: all(rooms(step.name) for step in steps))
        outcome["waits"] = sorted({rooms(step.name)[-1]["waits"] for step in steps})
        wait_for(lambda: bool(demands()))
        add(2)
        # Both fan-outs share the first machine, and leave the training none.
        wait_for(lambda: processes("fan1") == processes("fan2") == 1)
        outcome["training_on_the_first"] = processes("training")
        second = add(2)
        wait_for(lambda: processes("training") == 1)
        cluster.remove_node(second, allow_graceful=False)
        wait_for(lambda: rooms("training")[-1]["waits"] != "")
        add(2)
        wait_for(lambda: processes("training") == 2)
        add(2)
        wait_for(lambda: processes("fan1") == processes("fan2") == 2)
        Path(folder, "go").touch()
        running.join()
        wait_for_none = time.monotonic() + 30
        while demands() and time.monotonic() < wait_for_none:
            time.sleep(0.1)
        outcome["demands_at_the_end"] = len(demands())
        (Path(folder) / "outcome.json").write_text(json.dumps(outcome))
    finally:
        ray.shutdown()
        cluster.shutdown()
        for one in [*added, first]:
            one.end()


def resources() -> dict[str, Any]:
    """What is free of each node, and the actors that ask for more: for the message of a test that fails."""
    from ray._private.state import actors, available_resources_per_node

    free: Callable[[], dict[str, Any]] = available_resources_per_node
    return {"free": free(), "actors": [(actor["ActorClassName"], actor["State"]) for actor in actors().values()]}


def demands() -> list[dict[str, Any]]:
    """The actors that no machine can take, and that an autoscaler sees."""
    from ray._private.state import actors

    return [actor for actor in actors().values() if actor["ActorClassName"] == "Demand" and actor["State"] != "DEAD"]


if __name__ == "__main__":
    main()
