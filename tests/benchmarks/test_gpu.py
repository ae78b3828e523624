"""The prepared run for a GPU: on a CPU every section runs in its smallest size, and says what fails."""

import json
import math
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.benchmarks.gpu import needs, study
from tests.benchmarks.gpu.__main__ import LIMITS, measured
from tests.benchmarks.gpu.sections import RUNS
from tests.finished import Finished

ROOT = Path(__file__).parents[2]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sections have ten minutes each, since the CPUs may be shared."""
    for name in LIMITS:
        monkeypatch.setitem(LIMITS, name, 600.0)


def assert_sound(section: dict[str, Any]) -> None:
    """It has ended by itself, all its checks hold, and its figures are numbers."""
    assert (section["ended"], section["failed_checks"]) == ("done", 0), section
    assert section["figures"]
    for figure in section["figures"]:
        assert all(math.isfinite(value) for value in figure.values() if isinstance(value, float)), figure


def test_the_command_runs_a_section_on_a_cpu_and_writes_its_figures(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--smallest", "--minutes", "9", "--out", str(tmp_path)]
    ended = subprocess.run(
        [*command, "--only", "card"],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    document = json.loads((tmp_path / "gpu.json").read_text())
    assert not document["full"]
    assert_sound(document["sections"]["card"])


@pytest.mark.parametrize("name", [name for name in LIMITS if name not in ("card", "study")])
@pytest.mark.usefixtures("patient")
def test_a_section_runs_on_a_cpu_and_all_its_checks_pass(name: str, tmp_path: Path) -> None:
    assert_sound(measured(name, "cpu", False, math.inf, str(tmp_path)))


@pytest.mark.usefixtures("patient")
def test_the_section_of_a_study_ends_with_its_page(finished: Finished, tmp_path: Path) -> None:
    assert finished.study == study.SMALLEST
    (tmp_path / "store").symlink_to(finished.store)
    assert_sound(measured("study", "cpu", False, math.inf, str(tmp_path)))
    assert (tmp_path / "report.html").exists()


def test_every_section_has_a_limit() -> None:
    assert RUNS.keys() == LIMITS.keys()


def test_a_section_without_time_is_left_out_and_says_so(tmp_path: Path) -> None:
    assert measured("card", "cpu", False, 0.0, str(tmp_path))["ended"] == "left out: no time"


def test_a_section_that_takes_too_long_is_stopped_and_its_figures_until_then_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(LIMITS, "card", 1.0)
    found = measured("card", "cpu", False, math.inf, str(tmp_path))
    assert found["ended"] == "stopped after 1 s"


def test_what_is_needed_is_what_the_project_requires_but_for_ray_and_what_is_named() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["run"]]
    required = {canonicalize_name(Requirement(line).name) for line in lines}
    left_out = required - {canonicalize_name(name) for name in needs.needed()}
    assert left_out == {"duckdb", "ray", "s3fs", "tensorboardx"}


def test_what_is_missing_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert needs.missing() == []
    monkeypatch.setattr(needs, "SMALL", (*needs.SMALL, "no-such-package"))
    assert needs.missing() == ["no-such-package"]
