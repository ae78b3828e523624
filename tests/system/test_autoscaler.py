"""A cluster that begins without a worker: its autoscaler sees what a run asks for, and starts machines for it."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.system.hosts import Hosts
from tests.system.test_doctor import ENVIRONMENT, PORT, START, wait_until_started

pytestmark = pytest.mark.system

HEAD_ID = "f" * 51 + "00000"
"""The number of the head, by which Ray's provider of machines of its own on one host knows it."""

RUN = """
import json, sys
from cluster.executor import Call, Claim
from cluster.on_ray import OnRay

TASKS = "tests.contracts.tasks"
rooms, done = [], []
with OnRay(sys.argv[1]) as executor:
    calls = [Call(f"part {number}", f"{TASKS}:act", {"number": number}) for number in (1, 2)]
    executor.run(calls, lambda outcome: done.append(outcome.result()["number"]), claim=Claim(on_room=rooms.append))
    world = executor.gang(Call("training", f"{TASKS}:describe", {}), 1).result()["world"]
print(json.dumps({"waits": rooms[0].waits, "done": sorted(done), "world": world}))
"""
"""Two parts and a training."""


def autoscaler(address: str) -> dict[str, object]:
    """A cluster of at most one worker, of two CPUs, that is started once something asks for it."""
    worker = {"resources": {"CPU": 2, "object_store_memory": 80_000_000}, "min_workers": 0, "max_workers": 1}
    return {
        "cluster_name": "by-demand",
        "max_workers": 1,
        "provider": {
            # By its short name Ray would look for a file of settings that its wheels lack.
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": address,
            "head_node_id": HEAD_ID,
            "launch_multiple": True,
        },
        **{f"{name}_commands": [] for name in ("initialization", "setup", "head_setup", "worker_setup")},
        **{f"{name}_start_ray_commands": [] for name in ("head", "worker")},
        **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
        **{name: {} for name in ("file_mounts", "auth", "docker")},
        "file_mounts_sync_continuously": False,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 5,
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": worker | {"node_config": {}},
        },
    }


def test_a_run_on_a_cluster_without_a_worker_gets_one_by_what_it_asks_for() -> None:
    with TemporaryDirectory(prefix="rs", dir="/tmp") as name, ExitStack() as stack:
        scratch = Path(name)
        hosts = stack.enter_context(Hosts(["head"]).up())
        address = f"{hosts.ip('head')}:{PORT}"
        config, log = scratch / "autoscaler.json", scratch / "head.log"
        config.write_text(json.dumps(autoscaler(address)))
        words = [
            *(word for word in START if not word.startswith("--num-cpus")),
            *("--head", "--num-cpus=0", f"--port={PORT}", f"--node-ip-address={hosts.ip('head')}"),
            *(f"--temp-dir={scratch / 'ray'}", "--include-dashboard=false", f"--autoscaling-config={config}"),
        ]
        env = (
            os.environ
            | ENVIRONMENT
            | {
                # The machines that the head starts must find the functions of the parts.
                "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
                "AUTOSCALER_UPDATE_INTERVAL_S": "1",
                "RAY_FAKE_CLUSTER": "1",
                "RAY_enable_autoscaler_v2": "1",
                "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
                "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
            }
        )
        with log.open("wb") as file:
            head = stack.enter_context(
                subprocess.Popen(hosts.command("head", words), env=env, stdout=file, stderr=subprocess.STDOUT)
            )
        stack.callback(head.kill)
        wait_until_started(head, log)
        done = subprocess.run(
            hosts.beside(head.pid, [sys.executable, "-c", RUN, address]),
            env=os.environ | ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"waits": "a machine with a CPU to join the cluster", "done": [2, 4], "world": 1}
