"""`repscope doctor` on hosts of their own: each that is not fit is named."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.system.hosts import Hosts

pytestmark = pytest.mark.system

PORT = 6379
BIN = Path(sys.executable).parent
START = [str(BIN / "ray"), "start", "--block", "--num-cpus=1", "--num-gpus=0", "--object-store-memory=80000000"]
NO_DASHBOARD = "--include-dashboard=false"
TWO_HOURS_AHEAD = "import time\nright = time.time\ntime.time = lambda: right() + 7200\n"
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "of-these-hosts",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
}


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder with a short name, for Ray's sockets."""
    with TemporaryDirectory(prefix="rd", dir="/tmp") as folder:
        yield Path(folder)


def other_code(folder: Path) -> Path:
    """A copy of Repscope with a change."""
    root = Path(__file__).parents[2]
    for room in ("pipeline", "stages", "cluster"):
        shutil.copytree(root / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "stages" / "errors.py").open("a") as file:
        file.write("\n")
    return folder


def clock_ahead(folder: Path) -> Path:
    """A folder for Python's path that sets its clock ahead."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(TWO_HOURS_AHEAD)
    return folder


def test_other_code_a_wrong_clock_and_a_store_out_of_reach_are_named_by_host(scratch: Path) -> None:
    store = scratch / "store"
    store.mkdir()
    paths = {"othercode": other_code(scratch / "code"), "ahead": clock_ahead(scratch / "clock")}
    hosts = Hosts(["head", "othercode", "ahead", "nostore"])
    with ExitStack() as stack:
        stack.enter_context(hosts.up())
        head = f"{hosts.ip('head')}:{PORT}"

        def begin(name: str, *role: str, mount: str = "true") -> tuple[subprocess.Popen[bytes], Path]:
            temp, log = scratch / f"ray-{name}", scratch / f"{name}.log"
            temp.mkdir()
            # Ray's processes use a folder by the name that the head gives it, and each host has one of its own.
            own = f"mount --bind {temp} {scratch / 'ray-head'} && {mount}"
            words = [*START, f"--node-ip-address={hosts.ip(name)}", *role]
            path = {"PYTHONPATH": str(paths[name])} if name in paths else {}
            process = stack.enter_context(
                subprocess.Popen(
                    hosts.command(name, words, own),
                    env=os.environ | ENVIRONMENT | path,
                    stdout=stack.enter_context(log.open("wb")),
                    stderr=subprocess.STDOUT,
                )
            )
            stack.callback(process.kill)
            return process, log

        first, log = begin("head", "--head", f"--port={PORT}", f"--temp-dir={scratch / 'ray-head'}", NO_DASHBOARD)
        wait_until_started(first, log)
        others = [
            begin(name, f"--address={head}", mount=f"mount -t tmpfs tmpfs {store}" if name == "nostore" else "true")
            for name in hosts.names[1:]
        ]
        for process, log in others:
            wait_until_started(process, log)
        doctor = [str(BIN / "repscope"), "doctor", "--address", head, "--store", str(store), "--json"]
        done = subprocess.run(
            hosts.beside(first.pid, doctor),
            env=os.environ | ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 2, done.stderr
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    assert found["remarks"] == ["authentication: by token", "dashboard: none"]
    assert {row["node"].split()[0] for row in found["nodes"]} == set(hosts.names)
    faults = {line.split()[0]: line.partition(": ")[2] for line in found["faults"]}
    assert faults.keys() == {"othercode", "ahead", "nostore"}
    assert faults["othercode"].startswith("Repscope's code is another")
    assert faults["ahead"] == "the clock is 7200 s ahead. Set it by NTP."
    assert faults["nostore"].startswith(f"the store file://{store} cannot be used: what was written to it a moment ago")


def wait_until_started(process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Until `ray start` reports that the host is a node of the cluster."""
    until = time.monotonic() + 120
    while "Ray runtime started" not in (text := log.read_text(errors="replace")):
        assert process.poll() is None, text
        assert time.monotonic() < until, text
        time.sleep(0.1)
