"""The versions that pyproject.toml admits are those that are tested: the lowest, and those of today."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent


def required() -> list[Requirement]:
    """What Repscope and its extras require, but for the extras of itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return [found for found in map(Requirement, lines) if found.name != "repscope"]


def pinned(name: str) -> dict[str, Version]:
    """The version of each package in a file of constraints, by its canonical name."""
    pairs = [line.split("==") for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(package): Version(version) for package, version in pairs}


@pytest.mark.parametrize("requirement", required(), ids=lambda requirement: requirement.name)
def test_each_requirement_is_tested_at_its_lower_bound_and_at_a_version_of_today(requirement: Requirement) -> None:
    (lower,) = [Version(bound.version) for bound in requirement.specifier if bound.operator == ">="]
    name = canonicalize_name(requirement.name)
    assert pinned("constraints-lowest.txt")[name] == lower
    assert pinned("constraints.txt")[name] in requirement.specifier


def test_the_page_of_versions_has_those_that_are_tested() -> None:
    lowest, today = pinned("constraints-lowest.txt"), pinned("constraints.txt")
    rows = re.findall(
        r"^\| ([\w-]+) \| ([\d.]+) \| ([\d.]+) \|$", (ROOT / "docs" / "reference" / "versions.md").read_text(), re.M
    )
    names = {canonicalize_name(name) for name, _, _ in rows}
    assert {"torch", "torchvision", "numpy", "ray"} <= names
    for name, low, high in rows:
        assert (Version(low), Version(high)) == (lowest[canonicalize_name(name)], today[canonicalize_name(name)]), name
