"""Starting the processes of a Ray: in a folder of their own, with a reason where they fail, and once more where slow.

Ray waits for its processes one after another, half a minute at most for each, whether it is slow or has ended long ago.
Then it says only that it has waited, and leaves the others running. So we ask the processes how they ended and read
their logs before we end them. Processes wait for each other too: a raylet ends itself if its agents take more than 15 s
to start, as they do on a busy machine, and nothing but another try helps.
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from cluster import environment, watchdog
from cluster.errors import ConnectError

T = TypeVar("T")

LONGEST_PARENT = 24
"""Characters of the temporary folder's name. Sockets' names may have 107, and Ray and we add about 80."""

WAIT, WAIT_SECONDS, PATIENCE = "RAY_gcs_server_port_wait_time_s", 30, 3
"""The variable that says how long Ray waits for its first process, its default, and the second try's factor."""

AWAITED = ("gcs_server", "raylet")
"""The processes without which no Ray starts, as Ray names them."""

LINES, LINE_CHARACTERS, TAIL_BYTES = 3, 600, 32_768
"""How much of a log a message shows, and how much of its end is read for that."""

FRAMES = re.compile(r"\s*$|\*\*\* |\S+\(\S*\+0x[0-9a-f]+\)")
"""Lines of a log that say nothing to a person: empty ones, and the frames of a C++ stack."""

PREAMBLE = re.compile(r"An unexpected system state has occurred\. .* to fix it\. ")
"""What Ray writes before each check that failed, for whatever reason: that a bug in Ray has been found."""

OWN_TAIL = re.compile(r"\s*Last \d+ lines of error files.*", re.DOTALL)
"""What Ray sometimes adds from the logs that we read."""

TIMED_OUT = "Timed out waiting"
"""What a process writes that ended because another was slow."""


@dataclass(frozen=True)
class Started(Generic[T]):
    """A Ray that has started: what `begin` gave, and the folder that it lives in."""

    value: T
    folder: Path
    _watchdog: "subprocess.Popen[bytes]" = field(repr=False)

    def end(self) -> None:
        """Removes the folder, and ends what still runs in it; to be called when Ray has been shut down."""
        watchdog.dismiss(self._watchdog)


def start(begin: Callable[[Path], T], what: str, remedy: str) -> Started[T]:
    """Calls `begin`, which starts a Ray in the folder that it is given.

    Where nothing is wrong but that it took too long, `begin` is called once more. Raises `ConnectError`, which names
    `what` as expected, says how the processes ended with the last lines of their logs, and gives the `remedy`. It comes
    within Ray's own limits: about half a minute where a process ended, three minutes where all are slow.
    """
    try:
        return _try(begin, {})
    except _SlowError:
        seconds = PATIENCE * int(os.environ.get(WAIT, WAIT_SECONDS))
    except _FailedError as failed:
        raise ConnectError(what, str(failed), remedy) from failed.__cause__
    try:
        return _try(begin, {WAIT: str(seconds)})
    except _FailedError as failed:
        raise ConnectError(what, f"at the second try {failed}", remedy) from failed.__cause__


class _FailedError(Exception):
    """A try has failed."""


class _SlowError(_FailedError):
    """A try has failed, and no process of it has ended but for waiting too long."""


def _try(begin: Callable[[Path], T], variables: dict[str, str]) -> Started[T]:
    """One try, with these variables. Leaves no process and no folder where it fails."""
    folder = _new_folder()
    watching = watchdog.watch(str(folder))
    try:
        with environment.changed(variables):
            return Started(begin(folder), folder, watching)
    except BaseException as error:
        node = _node(error)
        ended = _ended(node)
        logs = {name: _last_lines(folder, name) for name in ended or AWAITED}
        _end(node)
        watchdog.dismiss(watching)
        if not isinstance(error, Exception):
            raise
        slow = node is not None and all(any(TIMED_OUT in line for line in logs[name]) for name in ended)
        raise (_SlowError if slow else _FailedError)(_reason(error, ended, logs)) from error


def _new_folder() -> Path:
    """A folder with a short name; those of processes that are gone are removed."""
    parent = tempfile.gettempdir() if len(tempfile.gettempdir()) <= LONGEST_PARENT else "/tmp"
    for folder in Path(parent).glob("repscope-*-*"):
        pid = folder.name.split("-")[1]
        if pid.isdigit() and not Path("/proc", pid).exists() and folder.stat().st_uid == os.getuid():
            shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"repscope-{os.getpid()}-", dir=parent))


def _node(error: BaseException) -> Any:
    """Ray's own record of the processes that it started, or None. Of a failed start only the traceback holds it."""
    from ray._private import worker
    from ray._private.node import Node

    for frame, _ in traceback.walk_tb(error.__traceback__):
        node = frame.f_locals.get("self")
        if isinstance(node, Node) and hasattr(node, "all_processes"):
            return node
    return worker._global_node


def _ended(node: Any) -> dict[str, int]:
    """Processes that have ended, with their exit codes."""
    processes = {} if node is None else node.all_processes
    codes = {name: info.process.poll() for name, infos in processes.items() for info in infos}
    return {name: code for name, code in codes.items() if code is not None}


def _last_lines(folder: Path, name: str) -> list[str]:
    """The last lines that a process wrote to say why, or where it was: its errors, or else what it reported."""
    for kind in ("err", "out", "log"):
        for log in folder.glob(f"session_2*/logs/{name}.{kind}"):
            with log.open("rb") as file:
                file.seek(max(0, log.stat().st_size - TAIL_BYTES))
                text = file.read().decode(errors="replace")
            if lines := [line.strip() for line in text.splitlines() if not FRAMES.match(line)][-LINES:]:
                return [PREAMBLE.sub("", line)[:LINE_CHARACTERS] for line in lines]
    return []


def _reason(error: BaseException, ended: dict[str, int], logs: dict[str, list[str]]) -> str:
    """What Ray says, how its processes ended, and the last lines that they wrote, on one line."""
    found = [" ".join(OWN_TAIL.sub("", f"{type(error).__name__}: {error}").split())[:LINE_CHARACTERS]]
    for name, lines in logs.items():
        if name in ended:
            code = ended[name]
            found.append(f"{name} ended with {f'exit code {code}' if code >= 0 else signal.Signals(-code).name}")
        found += [f"{name}: {line}" for line in lines]
    return "; ".join(part.rstrip(".") for part in found)


def _end(node: Any) -> None:
    """Ends the processes of a start that failed; Ray itself only ends those of one that did not."""
    import ray

    ray.shutdown()
    if node is not None:
        node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
