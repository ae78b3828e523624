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

from tests.benchmarks.gpu import needs
from tests.benchmarks.gpu.__main__ import LIMITS, measured
from tests.benchmarks.gpu.sections import RUNS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", LIMITS)
def test_a_section_runs_on_a_cpu_and_all_its_checks_pass(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--smallest", "--minutes", "9", "--out", str(tmp_path)]
    ended = subprocess.run(
        [*command, "--only", name],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    document = json.loads((tmp_path / "gpu.json").read_text())
    assert not document["full"]
    section: dict[str, Any] = document["sections"][name]
    assert section["ended"] == "done"
    assert section["figures"]
    for figure in section["figures"]:
        assert all(math.isfinite(value) for value in figure.values() if isinstance(value, float)), figure
    assert (tmp_path / "report.html").exists() == (name == "study")


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
    required = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    left_out = required - {canonicalize_name(name) for name in needs.needed()}
    assert left_out == {"duckdb", "ray", "s3fs", "tensorboardx"}


def test_what_is_missing_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert needs.missing() == []
    monkeypatch.setattr(needs, "SMALL", (*needs.SMALL, "no-such-package"))
    assert needs.missing() == ["no-such-package"]
