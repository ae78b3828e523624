"""A cluster of two nodes with a job server, until its standard input is closed.

    python -m tests.cluster.job_server

Ray's own Cluster gives the nodes, of one CPU each. It prints the addresses of the job server and of the head, a line
each.
"""

import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.faults.nodes import NODE, SETTINGS


def main() -> None:
    """Starts the cluster, says where it is, and ends it when nobody listens any more."""
    os.environ.update(SETTINGS)
    # The command of a job is `python`, and it must be the one that the cluster runs on.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    from ray.cluster_utils import Cluster

    from cluster.start import start

    with socket.socket() as first_free, socket.socket() as second_free:
        for free in (first_free, second_free):
            free.bind(("127.0.0.1", 0))
        port, agent_port = first_free.getsockname()[1], second_free.getsockname()[1]

    # Sockets of the dashboard have longer names than those of nodes, and 107 characters with their folder.
    with tempfile.TemporaryDirectory(prefix="jobs-", dir="/tmp") as short:

        def begin(_: Path) -> Cluster:
            # A job finds its cluster by a file, which Ray's Cluster writes to RAY_TMPDIR/ray, and a job reads in its
            # node's folder: without it the job takes any Ray of this machine.
            folder = Path(tempfile.mkdtemp(dir=short, prefix=""))
            (folder / "ray").mkdir()
            os.environ["RAY_TMPDIR"] = str(folder)
            head: dict[str, Any] = NODE | {
                "temp_dir": str(folder),
                "include_dashboard": True,
                "dashboard_host": "127.0.0.1",
                "dashboard_port": port,
                # The process that starts jobs has the same port in every Ray of a machine, unless it is given one.
                "dashboard_agent_listen_port": agent_port,
            }
            cluster = Cluster(initialize_head=True, head_node_args=head)
            shutil.copy(folder / "ray" / "ray_current_cluster", folder)
            return cluster

        first = start(begin, "a cluster to start on this machine", "See what its log says.")
        cluster = first.value
        second = start(
            lambda scratch: cluster.add_node(**NODE, temp_dir=str(scratch)), "a second node", "See what its log says."
        )
        try:
            print(f"http://127.0.0.1:{port}\n{cluster.address}", flush=True)
            sys.stdin.read()
        finally:
            cluster.shutdown()  # type: ignore[no-untyped-call]
            second.end()
            first.end()


if __name__ == "__main__":
    main()
