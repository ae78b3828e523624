"""A pytest plugin: a test that leaves its process other than it found it fails, and says what it has left.

What counts: environment, working folder, signal handlers, threads, processes, and files in the home folder, which is an
empty one of the test process. A fixture of a wider scope, as a shared Ray, may have threads, processes and a handler as
long as it lives, so those are compared with what was there when it had been set up. Environment, working folder and
home may be changed by nobody, so they are compared with the start of the session. At its end everything is.
"""

import contextlib
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

GRACE_SECONDS = 10.0
"""How long threads and processes may take to end that were asked to."""

CACHE = Path(".cache", "repscope")
"""What a home folder may hold: the cache that the documentation names (`pipeline.cache`)."""

SET_BY_PYTEST = {"PYTEST_CURRENT_TEST"}

SET_BY_IMPORTS = {"CRC32C_SW_MODE", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "TORCHINDUCTOR_CACHE_DIR"}
"""Variables that tensorboardX, scikit-learn and torch set at first use, which is in whichever test comes first."""

KEPT_THREADS = ("asyncio_", "fsspecIO", "tqdm_monitor", "zarr_io", "zarr_pool")
"""How the names of threads begin that zarr, fsspec and tqdm start at first use and keep."""

KEPT_PROCESSES = ("from multiprocessing.resource_tracker import", "from multiprocessing.forkserver import")
"""Programs that Python's own multiprocessing starts at first use and keeps."""


@dataclass(frozen=True)
class ProcessState:
    """What a test must leave as it is."""

    environment: dict[str, str]
    folder: str
    handlers: dict[signal.Signals | int, Any]
    threads: frozenset[threading.Thread]
    home: Path
    processes: frozenset[int]
    """All processes of the machine: what descends from one of them is that one's."""

    @classmethod
    def now(cls) -> "ProcessState":
        """As it is now."""
        ignored = SET_BY_PYTEST | SET_BY_IMPORTS
        return cls(
            {name: value for name, value in os.environ.items() if name not in ignored},
            os.getcwd(),
            {number: signal.getsignal(number) for number in signal.valid_signals()},
            frozenset(threading.enumerate()),
            Path.home(),
            frozenset(_processes()),
        )

    def changed_environment(self) -> list[str]:
        """Variables and working folder that differ now."""
        now = ProcessState.now()
        names = sorted(self.environment.keys() | now.environment.keys())
        values = [(name, self.environment.get(name), now.environment.get(name)) for name in names]
        found = [f"variable {name}: {before!r} became {after!r}" for name, before, after in values if before != after]
        if now.folder != self.folder:
            found.append(f"working folder: {self.folder} became {now.folder}")
        return found

    def changed_handlers(self) -> list[str]:
        """Signals that are handled otherwise now."""
        now = ProcessState.now().handlers
        return [f"handler of signal {n}: {old} became {now[n]}" for n, old in self.handlers.items() if now[n] != old]

    def files_in_home(self) -> list[Path]:
        """Files of the home folder that do not belong there."""
        files = (path for path in self.home.rglob("*") if not path.is_dir())
        return [path for path in files if not path.is_relative_to(self.home / CACHE)]

    def left_in_home(self) -> list[str]:
        """The same, named for a person."""
        return [f"file in the home folder: {path.relative_to(self.home)}" for path in self.files_in_home()]

    def left_running(self, test: str | None) -> list[str]:
        """Threads and processes that have come since and do not end; processes of `test` whose parent has, too."""

        def left() -> list[str]:
            threads = [
                f"thread {thread.name}"
                for thread in threading.enumerate()
                if thread not in self.threads and not thread.name.startswith(KEPT_THREADS)
            ]
            titles = {pid: _title(pid) for pid in _processes() if self._began(pid, test)}
            kept = {pid for pid, title in titles.items() if any(program in title for program in KEPT_PROCESSES)}
            return threads + [f"process {pid}: {title}" for pid, title in titles.items() if pid not in kept]

        until = time.monotonic() + GRACE_SECONDS
        while (found := left()) and time.monotonic() < until:
            time.sleep(0.05)
        return found

    def _began(self, pid: int, test: str | None) -> bool:
        """Whether this process has come since, and from here."""
        if pid in self.processes:
            return False
        line = _line(pid)
        known = next(one for one in line if one in self.processes)
        if os.getpid() in line:
            return known == os.getpid()
        # Whose parent has ended is another's child now. But it has the environment that it was started with.
        return test is not None and f"PYTEST_CURRENT_TEST={test} (".encode() in _environ(pid)


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _line(pid: int) -> list[int]:
    """A process, its parent, and so on to process 1."""
    line = [pid]
    while line[-1] > 1:
        try:
            line.append(int(Path(f"/proc/{line[-1]}/stat").read_text().rpartition(")")[2].split()[1]))
        except OSError:
            line.append(1)
    return [*line, 1]


def _title(pid: int) -> str:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        return words[:200] or "ended, but nobody has waited for it"
    return "ended just now"


def _environ(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes()
    return b""


def pytest_configure(config: pytest.Config) -> None:
    """Gives this process, and all that it starts, an empty home."""
    home = tempfile.mkdtemp(prefix="home-")
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))
    os.environ["HOME"] = home
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        os.environ.pop(name, None)


@pytest.fixture(scope="session", autouse=True)
def session_state() -> Iterator[ProcessState]:
    """The state before the first fixture; in the end it is the same again, or the last test fails."""
    before = ProcessState.now()
    yield before
    changed = before.changed_environment, before.changed_handlers
    _refuse("fixtures of a wider scope than a test have left:", *changed, lambda: before.left_running(None))


@pytest.fixture(autouse=True)
def leaves_nothing(session_state: ProcessState, request: pytest.FixtureRequest) -> Iterator[None]:
    """Compares before and after each test. It is set up after all fixtures of a wider scope, and before all others."""
    before = ProcessState.now()
    yield
    test = request.node.nodeid
    try:
        _refuse(
            "the test, or a fixture of a wider scope that began with it, has left:",
            session_state.changed_environment,
            before.changed_handlers,
            session_state.left_in_home,
            lambda: before.left_running(test),
        )
    finally:
        _put_back(session_state, before)


def _refuse(who: str, *finders: Callable[[], list[str]]) -> None:
    if found := [line for find in finders for line in find()]:
        pytest.fail("\n".join([who, *found]), pytrace=False)


def _put_back(session: ProcessState, before: ProcessState) -> None:
    """So that a leak fails one test and not all that follow it. Threads and processes stay."""
    for name in os.environ.keys() - session.environment.keys() - SET_BY_PYTEST - SET_BY_IMPORTS:
        del os.environ[name]
    os.environ.update(session.environment)
    os.chdir(session.folder)
    for number, handler in before.handlers.items():
        if signal.getsignal(number) != handler and handler is not None:
            signal.signal(number, handler)
    for path in session.files_in_home():
        path.unlink()
