"""How tests are dealt out: those on one fixture run in one process of pytest-xdist, each process on one thread."""

import os
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent

CONFTEST = """
import pytest
from tests.conftest import pytest_collection_modifyitems

@pytest.fixture(scope="session")
def finished():
    pass

@pytest.fixture(scope="session")
def local_ray():
    pass
"""

TESTS = """
import os
from pathlib import Path
import pytest

@pytest.fixture(scope="module")
def own():
    pass

def note(name):
    with Path(name).open("a") as file:
        file.write(os.environ["PYTEST_XDIST_WORKER"] + "\\n")

@pytest.mark.parametrize("number", range(4))
def test_of_the_session(number, finished, own):
    note("session")

@pytest.mark.parametrize("number", range(4))
def test_of_the_module(number, own):
    note(Path(__file__).stem)

@pytest.mark.parametrize("number", range(2))
def test_on_a_ray(number, local_ray):
    note(Path(__file__).stem)
"""


def test_tests_on_one_fixture_go_to_one_process_in_random_order_too(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for name in ("test_a.py", "test_b.py"):
        (tmp_path / name).write_text(TESTS)
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadgroup", "-c", os.devnull, "."],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Using --randomly-seed=" in ended.stdout
    for name, count in (("session", 8), ("test_a", 6), ("test_b", 6)):
        processes = (tmp_path / name).read_text().splitlines()
        assert len(processes) == count
        assert len(set(processes)) == 1


def test_torch_computes_on_one_thread() -> None:
    assert torch.get_num_threads() == 1
