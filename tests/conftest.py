"""What tests share for a whole session: one local Ray and one finished study, each made by the first test to ask."""

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.finished import Finished, run_micro

if TYPE_CHECKING:
    from cluster.connect import Connection

pytest_plugins = ["tests.leaks"]


def pytest_configure(config: pytest.Config) -> None:
    """Warnings of Ray and torch that nobody here can mend, and no test that asks a hub for weights."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    # Ray Data warns of old settings of its own when it is imported, and Ray Train imports it.
    config.addinivalue_line("filterwarnings", r"ignore:.* is deprecated:DeprecationWarning:ray\.data\.")
    # torch 2.11 warns of its own code when torch.compile is first called.
    config.addinivalue_line("filterwarnings", "ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")


SHARED = {"local_ray": "ray", "finished": "finished"}
"""Fixtures that take long: all tests on one of them go to one process of pytest-xdist, so that it is made once."""


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks at the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps the tests that share a dear fixture together."""
    for item in items:
        for fixture, group in SHARED.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order() -> None:
    """What a test draws from torch's one generator does not depend on the tests before it."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """torch computes on one thread, so that its rounding does not depend on the machine's CPUs."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def local_ray() -> Iterator["Connection"]:
    """An embedded Ray with two CPUs. Executors that are entered meanwhile use it and leave it running."""
    from cluster.connect import connect

    connection = connect(cpus=2)
    yield connection
    connection.close()


@pytest.fixture
def fast_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """This CPU is taken for one that is quicker in bfloat16, whether it is or not."""
    monkeypatch.setattr("stages.training.precision.trial", lambda: {"bfloat16": 1.0, "float32": 2.0})


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The micro study, run inline from the command line."""
    return run_micro(tmp_path_factory.mktemp("finished"), "inline")
