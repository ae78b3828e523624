"""Tests that share a dear fixture run in one process of pytest-xdist, so that it is set up once."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

CONFTEST = """
import pytest
from tests.conftest import pytest_collection_modifyitems

@pytest.fixture(scope="session")
def local_ray():
    pass
"""

TESTS = """
import os
from pathlib import Path
import pytest

@pytest.mark.parametrize("number", range(4))
def test_with(number, local_ray):
    with Path("processes").open("a") as file:
        file.write(os.environ["PYTEST_XDIST_WORKER"] + "\\n")
"""


def test_tests_on_one_dear_fixture_go_to_one_process_in_random_order_too(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for name in ("test_a.py", "test_b.py"):
        (tmp_path / name).write_text(TESTS)
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadgroup", "-c", os.devnull, "."],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Using --randomly-seed=" in ended.stdout
    processes = (tmp_path / "processes").read_text().splitlines()
    assert len(processes) == 8
    assert len(set(processes)) == 1
