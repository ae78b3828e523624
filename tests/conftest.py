"""What tests share for a whole session: a local Ray and a finished study, each made by the first test to ask."""

import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.finished import Finished, run_micro

if TYPE_CHECKING:
    from cluster.connect import Connection

pytest_plugins = ["tests.leaks"]


def pytest_configure(config: pytest.Config) -> None:
    """Settings of the test process: no hub, one thread, and no warnings of Ray and torch that nobody here can mend.

    The threads of a small network wait for each other, above all where two processes of tests share two CPUs. One
    thread also rounds alike on every machine. Processes that tests start inherit it; workers of Ray set their own.
    """
    # By default Ray's workers are processes of low priority: beside tests that compute they would hardly get a CPU.
    os.environ.update({"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"})
    # By default an example that takes more than 200 ms fails, as any may on a machine that is busy.
    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")
    # Ray Data warns of old settings of its own when it is imported, and Ray Train imports it.
    config.addinivalue_line("filterwarnings", r"ignore:.* is deprecated:DeprecationWarning:ray\.data\.")
    # torch 2.11 warns of its own code when torch.compile is first called.
    config.addinivalue_line("filterwarnings", "ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")


SHARED = "finished"
"""A fixture that takes long: all tests on it go to one process of pytest-xdist, so that it is made once."""

OF_MODULES = "local_ray"
"""A fixture that takes seconds: the tests of a module on it go to one process, and other modules may have another."""


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps tests together that share a fixture of the session or of their module, so that it is made once."""
    for item in items:
        if isinstance(item, pytest.Function) and (group := _group_of(item)):
            item.add_marker(pytest.mark.xdist_group(group))


def _group_of(item: pytest.Function) -> str | None:
    """The group whose tests go to one process: that of the shared fixture, else the module where it has one."""
    found = item._fixtureinfo.name2fixturedefs
    if SHARED in found:
        # System tests on it are as many, and begin beside the others.
        return f"{SHARED}, system" if item.get_closest_marker("system") else SHARED
    scopes = {definitions[-1].scope for definitions in found.values()}
    return item.nodeid.partition("::")[0] if OF_MODULES in found or "module" in scopes else None


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order() -> None:
    """What a test draws from torch's one generator does not depend on the tests before it."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def local_ray() -> Iterator["Connection"]:
    """An embedded Ray with two CPUs. Executors that are entered meanwhile use it and leave it running."""
    from cluster.connect import connect

    connection = connect(cpus=2)
    yield connection
    connection.close()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT interrupts this process and those that it starts, also where the tests run with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def fast_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """This CPU is taken for one that is quicker in bfloat16, whether it is or not."""
    monkeypatch.setattr("stages.training.precision.trial", lambda: {"bfloat16": 1.0, "float32": 2.0})


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The micro study, run inline from the command line."""
    return run_micro(tmp_path_factory.mktemp("finished"), "inline")
