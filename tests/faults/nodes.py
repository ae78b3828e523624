"""A driver whose cluster gains a machine in the middle of an elastic training, and then loses it.

    python -m tests.faults.nodes FOLDER

Ray's own Cluster gives the machines, of one CPU each. The training waits for each change, so no change comes too late.
What was reported is in FOLDER/reports, what became of it in FOLDER/outcome.json.
"""

import contextlib
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.events import Event
from tests.faults.elastic import FIELDS, Watched, graph

if TYPE_CHECKING:
    from cluster.start import Started

SETTINGS = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "2",
}
"""Ports on loopback only, and a lost machine is seen within seconds."""
NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 1024**2}


def start_head(**changes: Any) -> "Started[Any]":
    """A cluster whose head is a `NODE` with these changes; this process is connected to it."""
    import ray
    from ray.cluster_utils import Cluster

    from cluster.start import start

    def begin(scratch: Path) -> Cluster:
        # Ray notes a cluster's address in a folder of the machine's, which it takes for granted: here it gets one.
        os.environ["RAY_TMPDIR"] = str(scratch)
        Path(scratch, "ray").mkdir()
        head = NODE | {"temp_dir": str(scratch), "include_dashboard": False} | changes
        cluster = Cluster(initialize_head=True, head_node_args=head)
        ray.init(address=cluster.address, log_to_driver=False)
        return cluster

    return start(begin, "a cluster to start on this machine", "See what its log says.")


def machines_of_mailboxes() -> list[str]:
    """Where four mailboxes stand that are opened now."""
    import ray

    from cluster.mailbox import open_mailbox

    def machine(mailbox: object) -> str:
        return str(ray.get_runtime_context().get_node_id())

    with contextlib.ExitStack() as stack:
        mailboxes = [stack.enter_context(open_mailbox()) for _ in range(4)]
        found: list[str] = ray.get([mailbox.__ray_call__.remote(machine) for mailbox in mailboxes])
    return found


def main() -> None:
    """Trains on one machine, then two, then one."""
    os.environ.update(SETTINGS)
    import ray

    from cluster.inline import Inline
    from cluster.on_ray import OnRay
    from cluster.start import start
    from pipeline.run import run
    from pipeline.store import open_store

    folder = Path(sys.argv[1])
    steps, store = graph(Watched(folder=str(folder), **FIELDS)), open_store(str(folder / "store"))
    run(steps[:3], store, Inline)

    first = start_head()
    cluster = first.value
    heard: list[Event] = []
    outcome: dict[str, Any] = {}

    def study() -> None:
        done = run(steps, store, lambda: OnRay(resize_seconds=1.0), ranks=2, least_ranks=1, listener=heard.append)
        outcome["decoder"] = done.url("decoder")

    training = threading.Thread(target=study, daemon=True)
    training.start()

    def wait_for(name: str) -> None:
        while not (folder / name).exists():
            assert training.is_alive(), "the training has ended"
            time.sleep(0.1)

    try:
        wait_for("1")
        second = start(
            lambda scratch: cluster.add_node(**NODE, temp_dir=str(scratch)),
            "a second machine",
            "See what its log says.",
        )
        wait_for("2")
        outcome["machines_of_mailboxes"] = machines_of_mailboxes()
        outcome["machine"] = ray.get_runtime_context().get_node_id()
        cluster.remove_node(second.value, allow_graceful=False)
        second.end()
        training.join()
        outcome["lost"] = [event.fields["reason"] for event in heard if event.kind == "part_lost"]
        (folder / "outcome.json").write_text(json.dumps(outcome))
    finally:
        ray.shutdown()
        cluster.shutdown()
        first.end()


if __name__ == "__main__":
    main()
