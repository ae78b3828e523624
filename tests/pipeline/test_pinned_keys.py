"""The keys of every step of every recipe and of the studies of the tests: an artifact that was made stays made.

`tests/data/keys.json` holds them. A key changes where a field, a default or a version does, which is described in the
changelog; no move or rename of code may change one. What lies outside the store has the same digest everywhere here.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.fingerprint import Fingerprints
from pipeline.graph import graph_of
from pipeline.plan import keys_of
from pipeline.study import load, recipes
from stages.contract import External

DATA = Path(__file__).parents[1] / "data"
PINNED: dict[str, dict[str, str]] = json.loads((DATA / "keys.json").read_text())
STUDIES = {path.name: path for path in (DATA / "studies").glob("*.yaml")}


class Fixed(Fingerprints):
    """Fingerprints that list nothing."""

    def __init__(self) -> None:
        """No cache is read."""

    def digests(self, external: Mapping[str, External]) -> dict[str, str]:
        return dict.fromkeys(external, "0" * 64)


def keys(name: str, folder: Path) -> dict[str, str]:
    """The key of every step of a recipe or of a study of the tests, by the step's name."""
    study = name
    if name in STUDIES:
        # The study of a published decoder leaves its digest to be filled in.
        study = str(folder / name)
        Path(study).write_text(STUDIES[name].read_text().replace("SHA256", "a" * 64))
    return {step: key.digest for step, key in keys_of(graph_of(load(study)), Fixed()).items()}


@pytest.mark.parametrize("name", [*recipes(), *sorted(STUDIES)])
def test_every_step_has_the_key_that_it_always_had(name: str, tmp_path: Path) -> None:
    assert keys(name, tmp_path) == PINNED[name]


def test_every_pinned_study_is_there() -> None:
    assert PINNED.keys() == {*recipes(), *STUDIES}
