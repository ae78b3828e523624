"""`import repscope`: what it names, that it is light, and that its four functions do what the command line does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import repscope
from pipeline.errors import UsageError
from tests.finished import Finished
from tests.test_law import HEAVY

ROOT = Path(__file__).parent.parent


def test_the_names_are_sorted_and_each_is_there_with_a_docstring() -> None:
    assert repscope.__all__ == sorted(repscope.__all__)
    assert set(repscope.__all__) <= set(dir(repscope))
    for name in repscope.__all__:
        assert getattr(repscope, name).__doc__, name


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'repscope' has no attribute 'opne'"):
        repscope.opne  # noqa: B018


def test_importing_it_is_light() -> None:
    code = "import repscope, sys, json; print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)
    assert not (HEAVY | {"pydantic", "obstore", "duckdb", "pipeline"}) & set(loaded)


def test_a_study_is_loaded_by_name_and_planned_without_writing_anything(tmp_path: Path) -> None:
    study = repscope.load("tiny")
    states = repscope.plan(study, tmp_path / "store")
    assert [state.name for state in states][:2] == ["listing", "shards"]
    assert {state.state for state in states} == {"missing"}
    assert not (tmp_path / "store").exists()


def test_a_finished_study_is_a_hit_and_its_taps_are_shown_as_a_picture(finished: Finished, tmp_path: Path) -> None:
    result = repscope.run(finished.study, finished.store, executor="inline")
    assert {step.outcome for step in result.steps} == {"hit"}
    from PIL import Image

    image = tmp_path / "image.png"
    Image.new("RGB", (32, 32), "red").save(image)
    shown = repscope.show(finished.study, image, finished.store, taps=["simclr:backbone"], samples=2)
    assert shown.png().startswith(b"\x89PNG")
    study = repscope.load(str(finished.study))
    again = repscope.show(study, image.read_bytes(), finished.store, taps=["simclr:backbone"], samples=2)
    assert again.png() == shown.png()
    other = tmp_path / "folder" / "image.png"
    other.parent.mkdir()
    other.write_bytes(image.read_bytes())
    both = repscope.show(study, [image, other, image], finished.store, taps=["simclr:backbone"], samples=2)
    assert both.names == (str(image), str(other))
    assert both.taps[0].distances.shape == (2, 2)


def test_showing_a_study_that_has_not_run_says_how_to_run_it(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"expected a finished study in .*; found 'tiny'\. Name one of these, or run it first"
    ):
        repscope.show("tiny", b"", tmp_path)
