"""A Ray that does not start says why, a slow one is tried once more, and neither leaves anything behind.

Each start is made in a process of its own, which has no other Ray: with one of Ray's programs replaced by a script.
"""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.test_connect import run_python

REPORT = '''
import json, os, signal, sys, tempfile
from pathlib import Path
import psutil
import ray
from ray._private import services
from cluster.errors import ConnectError
from cluster.start import start

def state():
    return [dict(os.environ), os.getcwd(), str(signal.getsignal(signal.SIGTERM))]

def init(folder):
    folders.append(folder)
    ray.init(num_cpus=1, include_dashboard=False, object_store_memory=80 * 2**20, _temp_dir=str(folder))
    return "started"

def gcs_server(message, does):
    """Replaces Ray's first process by a program that writes a line to the file that Ray names for it."""
    path = Path(sys.argv[1], "gcs_server")
    path.write_text(f"""#!/bin/sh
for word in "$@"; do case $word in --stderr_filepath=*) echo "{message}" > "${{word#*=}}";; esac; done
{does}
""")
    path.chmod(0o755)
    services.GCS_SERVER_EXECUTABLE = str(path)

def report(act):
    before, reported = state(), None
    try:
        reported = act()
    except ConnectError as error:
        reported = str(error)
    print(json.dumps({
        "reported": reported,
        "state": [old == new for old, new in zip(before, state(), strict=True)],
        "children": [process.name() for process in psutil.Process().children()],
        "folders": [[str(folder), folder.exists()] for folder in folders],
        "home": os.listdir(Path.home()),
    }))

folders = []
'''


def outcome(program: str, folder: Path, **environment: str) -> dict[str, Any]:
    """What a program reports that begins with `REPORT`."""
    home = folder / "home"
    home.mkdir()
    ended = run_python(REPORT + program, arguments=(str(folder),), HOME=str(home), **environment)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def test_a_connection_that_fails_says_how_ray_ended_and_leaves_nothing(tmp_path: Path) -> None:
    found = outcome(
        """
from cluster.connect import connect
gcs_server("the disk is on fire", "exit 3")
report(connect)
""",
        tmp_path,
        RAY_gcs_server_port_wait_time_s="1",
    )
    assert "expected an embedded Ray to start on this machine; found RuntimeError: Timed out" in found["reported"]
    assert "; gcs_server ended with exit code 3; gcs_server: the disk is on fire. Without Ray," in found["reported"]
    assert "\n" not in found["reported"]
    assert found["state"] == [True, True, True]
    assert (found["children"], found["home"]) == ([], [])


@pytest.mark.parametrize(
    ("cause", "reason"),
    [("a mode without its token", "couldn't find an authentication token"), ("a port that is taken", "in use")],
)
def test_a_cluster_that_fails_says_what_its_own_log_says(cause: str, reason: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        environments = {
            "a mode without its token": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": ""},
            "a port that is taken": {"RAY_GCS_SERVER_PORT": str(server.getsockname()[1])},
        }
        found = outcome(
            """
from ray.cluster_utils import Cluster
def begin(folder):
    folders.append(folder)
    return Cluster(True, head_node_args={"temp_dir": str(folder), "object_store_memory": 80 * 2**20})
report(lambda: start(begin, "a cluster", "Mend it."))
""",
            tmp_path,
            RAY_gcs_server_port_wait_time_s="4",
            RAY_py_gcs_connect_timeout_s="1",
            RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
            **environments[cause],
        )
    assert "; gcs_server ended with exit code 1; gcs_server: " in found["reported"]
    assert reason in found["reported"]
    assert "bug in Ray" not in found["reported"]
    assert found["children"] == []
    assert not any(exists for _, exists in found["folders"])


SLOW = """
gcs_server("I am on my way", "exec sleep 600")
"""


def test_a_slow_start_is_tried_once_more_in_a_folder_of_its_own(tmp_path: Path) -> None:
    found = outcome(
        SLOW
        + """
def begin(folder):
    return init(folder) if not folders else [folders.append(folder), os.environ["RAY_gcs_server_port_wait_time_s"]][1]
def act():
    started = start(begin, "a Ray", "Wait.")
    print(started.folder.is_dir())
    started.end()
    return started.value
report(act)
""",
        tmp_path,
        RAY_gcs_server_port_wait_time_s="2",
    )
    assert found["reported"] == "6"
    first, second = found["folders"]
    assert first[0] != second[0]
    assert not first[1]
    assert not second[1]
    assert found["children"] == []


def test_a_start_that_stays_slow_ends_with_the_last_that_was_heard(tmp_path: Path) -> None:
    found = outcome(
        SLOW + 'report(lambda: start(init, "a Ray", "Wait."))', tmp_path, RAY_gcs_server_port_wait_time_s="1"
    )
    assert "expected a Ray; found at the second try RuntimeError: Timed out waiting for file" in found["reported"]
    assert found["reported"].endswith("; gcs_server: I am on my way. Wait.")
    assert len(found["folders"]) == 2
    assert not any(exists for _, exists in found["folders"])
    assert found["children"] == []
