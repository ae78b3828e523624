"""Connecting: what is refused, and what an embedded Ray is."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster import watchdog
from cluster.connect import check_ours
from cluster.errors import ConnectError, PortInUseError
from cluster.executor import Call
from tests.contracts.executor import call, descendants, wait_until

if TYPE_CHECKING:
    from cluster.connect import Connection

ROOT = Path(__file__).parents[2]


def run_python(
    program: str, *first_on_path: Path, arguments: Sequence[str] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs a program in a process of its own that finds the project after `first_on_path`."""
    path = os.pathsep.join(str(entry) for entry in (*first_on_path, ROOT))
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": path, **environment},
        cwd=first_on_path[0] if first_on_path else ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_our_own_packages_are_ours() -> None:
    check_ours()


@pytest.mark.parametrize("room", ["pipeline", "stages"])
def test_another_package_of_the_same_name_is_refused(room: str, tmp_path: Path) -> None:
    (tmp_path / room).mkdir()
    (tmp_path / room / "__init__.py").touch()
    ended = run_python("from cluster.connect import check_ours; check_ours()", tmp_path)
    assert ended.returncode != 0
    assert f"ForeignCodeError: expected the package {room} in {ROOT}" in ended.stderr
    assert f"found another one in {tmp_path / room}" in ended.stderr
    assert "Its name is common" in ended.stderr


@pytest.mark.parametrize(
    ("address", "found"),
    [("127.0.0.1:1", "Connection refused"), ("no.such.host.invalid:6379", "gaierror"), ("ray://127.0.0.1:1", "ray://")],
)
def test_an_address_without_a_ray_is_refused_in_seconds(address: str, found: str) -> None:
    program = f"from cluster.on_ray import OnRay\nwith OnRay({address!r}): pass"
    ended = run_python(program)
    assert ended.returncode != 0
    assert f"{ConnectError.__module__}.ConnectError: expected" in ended.stderr
    assert found in ended.stderr


def test_a_dashboard_port_that_is_taken_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ended = run_python(f"from cluster.connect import connect\nconnect(dashboard_port={port})")
    assert ended.returncode != 0
    assert f"{PortInUseError.__module__}.PortInUseError: expected port {port} of 127.0.0.1 to be free" in ended.stderr


def test_a_driver_that_is_killed_leaves_no_folder_behind() -> None:
    program = "from cluster.connect import connect\nprint(connect(cpus=1).folder, flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None
        folder = Path(driver.stdout.readline().strip())
        assert folder.is_dir()
        driver.kill()
    wait_until(lambda: not folder.exists(), 30)
    assert not folder.exists()


def test_a_watchdog_ends_what_has_a_file_open_in_its_folder_and_nothing_else(tmp_path: Path) -> None:
    program = "import sys; file = open(sys.argv[1], 'w'); print(flush=True); input()"
    started = {}
    for name in ("ray", "ray2"):
        (tmp_path / name).mkdir()
        command = [sys.executable, "-c", program, str(tmp_path / name / "log")]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        started[name] = process
    with (tmp_path / "ray" / "ours").open("w"):
        watchdog.dismiss(watchdog.watch(str(tmp_path / "ray")))
    assert not (tmp_path / "ray").exists()
    assert started["ray2"].poll() is None
    for process in started.values():
        process.communicate(b"\n")
    assert [process.returncode for process in started.values()] == [-signal.SIGKILL, 0]


def test_connections_leave_room_for_a_ray_of_ones_own_before_between_and_after(tmp_path: Path) -> None:
    program = """if True:
        import json, os, signal, sys
        from pathlib import Path
        from cluster.connect import connect
        from cluster.start import start

        def state():
            return [dict(os.environ), os.getcwd(), signal.getsignal(signal.SIGTERM)]

        def ours():
            before = state()
            connection = connect(cpus=1)
            import ray
            machines = len(ray.nodes())
            while_connected = state()[:2] == before[:2]
            connection.close()
            print(json.dumps([machines, while_connected, state() == before, sorted(os.listdir(Path.home()))]))

        def theirs():
            import ray
            from ray._raylet import AuthenticationTokenLoader
            size = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 * 2**20}
            started = start(lambda folder: ray.init(**size, _temp_dir=str(folder)), "a Ray", "Mend it.")
            token = AuthenticationTokenLoader.instance().get_raw_token(ignore_auth_mode=True)
            print(json.dumps([len(ray.nodes()), token == Path.home().joinpath(".ray", "auth_token").read_text()]))
            ray.shutdown()
            started.end()

        ours()
        theirs()
        # As in a notebook where only the variable was removed.
        del os.environ["RAY_AUTH_MODE"]
        ours()
    """
    ended = run_python(program, HOME=str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    assert [json.loads(line) for line in ended.stdout.splitlines()] == [
        [1, True, True, []],
        [1, True],
        [1, True, True, [".ray"]],
    ]


@pytest.mark.usefixtures("local_ray")
def test_an_embedded_ray_listens_on_loopback_only(local_ray: "Connection") -> None:
    ours = {pid for pid, _ in descendants(os.getpid())} | {os.getpid()}
    sockets = {
        os.readlink(entry).removeprefix("socket:[").removesuffix("]")
        for pid in ours
        for entry in Path(f"/proc/{pid}/fd").iterdir()
        if os.path.islink(entry) and os.readlink(entry).startswith("socket:[")
    }
    listening = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                listening.append(fields[1].rpartition(":")[0])
    # 127.0.0.1, and the same written as an address of version 6.
    assert set(listening) <= {"0100007F", "0000000000000000FFFF00000100007F"}
    assert len(listening) >= 4
    assert local_ray.address.startswith("127.0.0.1:")


@pytest.mark.usefixtures("local_ray")
def test_an_embedded_ray_lets_nobody_in_without_its_token(local_ray: "Connection", tmp_path: Path) -> None:
    program = f"import ray\nfrom ray._raylet import GcsClient\nGcsClient({local_ray.address!r}).internal_kv_keys(b'')"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, "HOME": str(tmp_path), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode != 0
    assert "InvalidAuthToken" in ended.stderr


def test_calls_that_use_no_gpu_have_all_cpus_of_a_machine_with_one() -> None:
    program = """if True:
        import json
        from cluster.on_ray import OnRay
        from tests.contracts.executor import call
        with OnRay(cpus=2, gpus=1) as executor:
            for gpu in (False, True, False):
                done = []
                executor.run([call(f"c{i}", "where") for i in range(4)], done.append, gpu)
                seen = [outcome.result() for outcome in done]
                alike = {(one["OMP_NUM_THREADS"], one["CUDA_VISIBLE_DEVICES"]) for one in seen}
                print(json.dumps([executor.slots(gpu), *alike.pop()]), not alike)
    """
    ended = run_python(program)
    assert ended.returncode == 0, ended.stderr
    wide = '[1, "2", "0"] True'
    narrow = '[2, "1", ""] True'
    assert ended.stdout.splitlines() == [narrow, wide, narrow]


@pytest.mark.usefixtures("local_ray")
def test_an_executor_leaves_a_ray_that_it_did_not_start() -> None:
    import ray

    from cluster.on_ray import OnRay

    with OnRay() as executor:
        assert executor.slots() == 2
    assert ray.is_initialized()


@pytest.mark.usefixtures("local_ray")
def test_workers_are_one_thread_wide_and_a_gang_of_one_has_all_cpus() -> None:
    from cluster.executor import Outcome
    from cluster.on_ray import OnRay

    done: list[Outcome] = []
    with OnRay() as executor:
        executor.run([call("c", "threads")], done.append)
        gang = executor.gang(Call("g", "tests.contracts.tasks:gang_threads", {}), 1)
    assert done[0].result() == {"torch": 1, "OMP_NUM_THREADS": "1"}
    assert gang.result() == {"torch": 2, "OMP_NUM_THREADS": "2"}
