"""A Ray to work on: an embedded one on this machine, the one this process already has, or a cluster at an address.

The embedded one listens on loopback only, asks for a token that is made anew in every process, sends no usage
statistics, has no dashboard unless a port for it is given, and leaves neither processes nor files behind, however this
process ends (`cluster.watchdog`).

While connected and afterwards the environment of this process is what it was before: what else is started from it, a
Ray of somebody's own too, starts as if we had not been there. SIGTERM is given back by `close`.

This module imports ray only when it connects.
"""

import contextlib
import importlib.util
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import cluster
from cluster import environment
from cluster.errors import ConnectError, ForeignCodeError, PortInUseError
from cluster.resources import Machine, this_machine
from cluster.start import Started, start

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
"""Environment of every Ray that we start or join; what the user has set stays."""

REFUSED = 3
WITHOUT_TOKEN = f"""
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=sys.argv[1]).get_all_node_info(timeout=30)
except AuthenticationError:
    sys.exit({REFUSED})
"""
"""A program that ends with `REFUSED` where the Ray at its argument does not let it in."""

logger = logging.getLogger(__name__)

_TOKEN = secrets.token_hex(32)


@dataclass
class Connection:
    """A Ray that this process is connected to. `close` undoes what `connect` did, and no more."""

    address: str
    machine: Machine | None
    """This machine, as the embedded Ray was started; None for another Ray."""
    folder: Path | None = None
    owned: bool = True
    _started: Started[None] | None = field(default=None, repr=False)
    _before: "_Before | None" = field(default=None, repr=False)

    def machines(self) -> list[Machine]:
        """The machines that are there now."""
        found = []
        for node in nodes():
            if node["Alive"]:
                resources = node["Resources"]
                cpus, gpus, memory = (int(resources.get(name, 0) or 0) for name in ("CPU", "GPU", "memory"))
                found.append(Machine(cpus, gpus, memory, node["NodeID"], node["NodeManagerHostname"]))
        if self.machine is not None:
            return [replace(self.machine, id=machine.id, host=machine.host) for machine in found]
        return found

    def close(self) -> None:
        """Disconnects; an embedded Ray ends with all its processes and its folder."""
        if not self.owned:
            return
        import ray

        ray.shutdown()
        if self._started is not None:
            self._started.end()
        assert self._before is not None
        self._before.put_back()


def connect(
    address: str | None = None, cpus: int | None = None, gpus: int | None = None, dashboard_port: int | None = None
) -> Connection:
    """Connects to `address` (`host:port` or `auto`), or starts an embedded Ray with `cpus` and `gpus` of this machine.

    A Ray that this process is already connected to is used and left as it is. Raises `ConnectError` where there is
    none to be had, `PortInUseError` where `dashboard_port` is taken, `ForeignCodeError` where our packages are hidden.
    """
    check_ours()
    with environment.restored():
        import ray
    if ray.is_initialized():
        return Connection(ray.get_runtime_context().gcs_address, None, owned=False)
    before = _Before()
    quiet = QUIET | {name: os.environ[name] for name in QUIET if name in os.environ}
    try:
        with environment.restored(), environment.changed(quiet), _constants(loopback=address is None):
            found = _join(address) if address is not None else _embed(this_machine(cpus, gpus), dashboard_port)
    except BaseException:
        ray.shutdown()
        before.put_back()
        raise
    found._before = before
    before.unwind_on_sigterm()
    return found


class _Before:
    """What `ray.init` changes in this process beside its environment, as it was."""

    def __init__(self) -> None:
        from ray._private import worker

        self._sigterm = signal.getsignal(signal.SIGTERM)
        self._printer = worker.print_to_stdstream
        worker.print_to_stdstream = _log
        _read_authentication()

    def unwind_on_sigterm(self) -> None:
        """Undoes that `ray.init` takes SIGTERM for itself. Where nobody handled it, it now unwinds the stack, so that
        executors are left in order.
        """
        self._handle_sigterm(_exit if self._sigterm == signal.SIG_DFL else self._sigterm)

    def put_back(self) -> None:
        """Gives back what was there; to be called when Ray is shut down and the environment is the user's again."""
        from ray._private import worker

        self._handle_sigterm(self._sigterm)
        worker.print_to_stdstream = self._printer
        _read_authentication()

    def _handle_sigterm(self, handler: Any) -> None:
        # Python sets handlers in the main thread only, and so Ray takes none elsewhere. None is one set from C.
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGTERM, handler)


def _read_authentication() -> None:
    """Makes Ray read the mode and token of authentication from the environment again: it keeps those of its first use.

    With a token kept from another Ray, this process is not let into its own; the mode alone starts one without a token.
    """
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    AuthenticationTokenLoader.instance().reset_cache()
    Config.initialize("")


def _log(data: dict[str, Any], ignore_prefix: bool) -> None:
    """Ray prints its remarks on lost workers to standard output, which belongs to the command line."""
    for line in data["lines"]:
        logger.info(line)


def nodes() -> list[dict[str, Any]]:
    """The machines of the Ray that this process is connected to, as Ray describes them."""
    import ray

    found: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return found


def free_resources() -> dict[str, dict[str, float]]:
    """What nobody holds of each machine, by its id, as Ray knows it some tenths of a second late."""
    from ray._private.state import available_resources_per_node

    found: dict[str, dict[str, float]] = available_resources_per_node()  # type: ignore[no-untyped-call]
    return found


def asks_for_token() -> bool:
    """Whether the Ray that this process is connected to refuses a process without its token. One is sent to find out:
    that this process has a token proves nothing, as a Ray that asks for none lets it in too.
    """
    import ray

    words = [sys.executable, "-c", WITHOUT_TOKEN, ray.get_runtime_context().gcs_address]
    variables = os.environ | {"RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(words, env=variables, capture_output=True, text=True, check=False)
    if done.returncode not in (0, REFUSED):
        raise ConnectError(
            f"a Ray head at {words[-1]} that answers a process without a token, be it by a refusal",
            (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1],
            "Try again, and see the cluster's logs.",
        )
    return done.returncode == REFUSED


def dashboard() -> str:
    """`host:port` of the dashboard of the Ray that this process is connected to; empty where it has none."""
    from ray._private import worker

    return worker._global_node.webui_url or "" if worker._global_node is not None else ""


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
    # Workers see the modules that this process sees, wherever it was started.
    python_path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    token = os.environ.get("RAY_AUTH_TOKEN", _TOKEN)

    def begin(folder: Path) -> None:
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

    variables = {LOOPBACK: "0", "RAY_AUTH_TOKEN": token, "PYTHONPATH": python_path}
    with environment.changed(variables), _few_processes(dashboard=dashboard_port is not None):
        started = start(
            begin,
            "an embedded Ray to start on this machine",
            "Without Ray, the same work runs with --executor inline.",
        )
    return Connection(ray.get_runtime_context().gcs_address, machine, started.folder, _started=started)


@contextlib.contextmanager
def _few_processes(dashboard: bool) -> Iterator[None]:
    """Ray starts no process that serves nobody here: half a start's CPU time, and 100 MB for each.

    Its log monitor sends what workers print to the driver, which does not print it. Its autoscaler has no machine to
    add. Without a dashboard it would start the server of one all the same, and an agent of every node that feeds it.
    """
    from ray._private import utils
    from ray._private.node import Node

    def start_none(node: Any, **_: Any) -> None:
        """Starts no process."""

    unused: list[tuple[Any, str, Any]] = [(Node, "start_log_monitor", start_none), (Node, "start_monitor", start_none)]
    if not dashboard:
        unused.append((Node, "start_api_server", start_none))
        # As where the dashboard is not installed: the agent, which a node cannot do without, then does the least.
        unused.append((utils, "get_dashboard_dependency_error", lambda: ImportError("no dashboard is wanted")))
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in unused]
    try:
        for owner, name, value in unused:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


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
    try:
        ray.init(address=address, configure_logging=True, logging_level=logging.ERROR, log_to_driver=False)
    except Exception as error:
        # Ray wraps what went wrong in an error that says only that something did.
        reason = error.__cause__ or error
        raise ConnectError(
            f"a Ray head at {address} that lets us in",
            f"{type(reason).__name__}: {reason}".rstrip("."),
            "Check that this machine is a node of its cluster (`ray start --address`), that it runs Ray of the same "
            "version as here, and that RAY_AUTH_MODE is token and RAY_AUTH_TOKEN its token, where it asks for one.",
        ) from error
    return Connection(ray.get_runtime_context().gcs_address, None)


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


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@contextlib.contextmanager
def _constants(loopback: bool) -> Iterator[None]:
    """Sets what ray reads from its variables when it is imported, which may have been long before us."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER, ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV
    ray_constants.ENABLE_RAY_CLUSTER = before[0] and not loopback
    ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] != "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER, ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = before
