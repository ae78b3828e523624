"""A Ray to work on: an embedded one on this machine, the one this process already has, or a cluster at an address.

The embedded one listens on loopback only, asks for a token that is made anew in every process, sends no usage
statistics, has no dashboard unless a port for it is given, and leaves neither processes nor files behind, however this
process ends (`cluster.watchdog`).

This module imports ray only when it connects.
"""

import contextlib
import importlib.util
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import cluster
from cluster import watchdog
from cluster.errors import ConnectError, ForeignCodeError, PortInUseError
from cluster.resources import Machine, this_machine

ROOMS = ("pipeline", "stages", "cluster")

OBJECT_STORE_BYTES = 100 * 1024**2
"""Shared memory of the embedded Ray. Only small JSON travels, and by default Ray would take 30 % of the memory."""

REACH_SECONDS = 5.0
"""How long an address may take to accept a connection before we say that nobody is there."""

LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""`0` binds every port of Ray to 127.0.0.1; by default all but the dashboard's listen on every interface."""

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # An actor without a GPU shall not see one, or it would compute on another's.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    # A driver under `uv run` would otherwise be run again on every worker.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
"""Environment of this process whenever it uses Ray; what the user has set stays."""

logger = logging.getLogger(__name__)

_TOKEN = secrets.token_hex(32)


@dataclass
class Connection:
    """A Ray that this process is connected to. `close` undoes what `connect` did, and no more."""

    address: str
    machine: Machine | None
    """This machine, as the embedded Ray was told; None for a Ray of somebody else."""
    folder: Path | None = None
    owned: bool = True
    _watchdog: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)
    _previous: Any = field(default=None, repr=False)

    def machines(self) -> list[Machine]:
        """The machines that are there now."""
        if self.machine is not None:
            return [self.machine]
        found = []
        for node in nodes():
            resources = node["Resources"] if node["Alive"] else {}
            found.append(
                Machine(
                    int(resources.get("CPU", 0)), int(resources.get("GPU", 0)), int(resources.get("memory", 0) or 0)
                )
            )
        return found

    def close(self) -> None:
        """Disconnects; an embedded Ray ends with all its processes and its folder."""
        if not self.owned:
            return
        import ray

        ray.shutdown()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        if self._watchdog is not None:
            watchdog.dismiss(self._watchdog)
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None


def connect(
    address: str | None = None, cpus: int | None = None, gpus: int | None = None, dashboard_port: int | None = None
) -> Connection:
    """Connects to `address` (`host:port` or `auto`), or starts an embedded Ray with `cpus` and `gpus` of this machine.

    A Ray that this process is already connected to is used and left as it is. Raises `ConnectError` where there is
    none to be had, `PortInUseError` where `dashboard_port` is taken, `ForeignCodeError` where our packages are hidden.
    """
    check_ours()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import ray
    from ray._private import worker

    worker.print_to_stdstream = _log
    if ray.is_initialized():
        return Connection(ray.get_runtime_context().gcs_address, None, owned=False)
    if address is not None:
        return _join(address)
    return _embed(this_machine(cpus, gpus), dashboard_port)


def _log(data: dict[str, Any], ignore_prefix: bool) -> None:
    """Ray prints its remarks on lost workers to standard output, which belongs to the command line."""
    for line in data["lines"]:
        logger.info(line)


def nodes() -> list[dict[str, Any]]:
    """The machines of the Ray that this process is connected to, as Ray describes them."""
    import ray

    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return found


def check_ours() -> None:
    """Raises `ForeignCodeError` unless `pipeline`, `stages` and `cluster` are the packages beside this file."""
    root = Path(cluster.__file__).resolve().parent.parent
    for room in ROOMS:
        spec = importlib.util.find_spec(room)
        origin = None if spec is None or spec.origin is None else Path(spec.origin).resolve().parent
        if origin != root / room:
            raise ForeignCodeError(
                f"the package {room} in {root} on {socket.gethostname()}",
                "no package of that name" if origin is None else f"another one in {origin}",
                f"Its name is common: start from another folder, rename or uninstall the other {room}, "
                "or install Repscope into an environment of its own.",
            )


def _embed(machine: Machine, dashboard_port: int | None) -> Connection:
    import ray

    if dashboard_port is not None:
        _check_port(dashboard_port)
    # Socket names may have 107 characters at most, and Ray adds about 60 to the folder's.
    parent = tempfile.gettempdir() if len(tempfile.gettempdir()) <= 24 else "/tmp"
    _sweep(Path(parent))
    folder = Path(tempfile.mkdtemp(prefix=f"repscope-{os.getpid()}-", dir=parent))
    previous = signal.getsignal(signal.SIGTERM)
    # Workers see the modules that this process sees, wherever it was started.
    python_path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    token = os.environ.get("RAY_AUTH_TOKEN", _TOKEN)
    environment = {LOOPBACK: "0", "RAY_AUTH_TOKEN": token, "PYTHONPATH": python_path}
    watching = watchdog.watch(str(folder))
    try:
        with _environment(environment), _loopback():
            ray.init(
                address="local",
                num_cpus=machine.cpus,
                num_gpus=machine.gpus,
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=dashboard_port is not None,
                dashboard_host="127.0.0.1",
                dashboard_port=dashboard_port,
                configure_logging=True,
                logging_level=logging.ERROR,
                log_to_driver=False,
                _temp_dir=str(folder),
            )
    except Exception as error:
        ray.shutdown()
        watching.kill()
        watching.wait()
        raise ConnectError(
            "an embedded Ray to start on this machine",
            f"{type(error).__name__}: {error}",
            f"Ray's logs are in {folder}. Without Ray, the same work runs with --executor inline.",
        ) from error
    except BaseException:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        watchdog.dismiss(watching)
        raise
    address = ray.get_runtime_context().gcs_address
    return Connection(address, machine, folder, _watchdog=watching, _previous=_keep_sigterm(previous))


def _sweep(parent: Path) -> None:
    """Removes the folders of processes that had no time to."""
    for folder in parent.glob("repscope-*-*"):
        pid = folder.name.split("-")[1]
        if pid.isdigit() and not Path("/proc", pid).exists() and folder.stat().st_uid == os.getuid():
            shutil.rmtree(folder, ignore_errors=True)


def _join(address: str) -> Connection:
    import ray

    if address.startswith("ray://"):
        raise ConnectError(
            "the address of a Ray head, host:port or auto",
            address,
            "Ray Client (ray://) is not supported: submit the run to the cluster instead.",
        )
    host, _, port = address.rpartition(":")
    if port.isdigit():
        try:
            socket.create_connection((host, int(port)), REACH_SECONDS).close()
        except OSError as error:
            raise ConnectError(
                f"a Ray head at {address}",
                f"{type(error).__name__}: {error}",
                "Start it, or check host, port and firewall.",
            ) from error
    previous = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, configure_logging=True, logging_level=logging.ERROR, log_to_driver=False)
    except Exception as error:
        ray.shutdown()
        raise ConnectError(
            f"a Ray head at {address} that lets us in",
            f"{type(error).__name__}: {error}",
            "Check that it runs Ray of the same version as here, and that RAY_AUTH_TOKEN holds its token.",
        ) from error
    return Connection(ray.get_runtime_context().gcs_address, None, _previous=_keep_sigterm(previous))


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise PortInUseError(
                f"port {port} of 127.0.0.1 to be free for the dashboard",
                f"{type(error).__name__}: {error}",
                "Choose another port, or end the process that listens there.",
            ) from error


def _keep_sigterm(previous: Any) -> Any:
    """Undoes that `ray.init` takes SIGTERM for itself; returns what `close` must put back.

    Where nobody handled it, it now unwinds the stack, so that executors are left in order.
    """
    if threading.current_thread() is not threading.main_thread() or previous is None:
        return None
    signal.signal(signal.SIGTERM, _exit if previous == signal.SIG_DFL else previous)
    return previous


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """Loopback for this process too: ray read its variable when it was imported, maybe long before us."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Sets variables that child processes inherit, and puts back what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
