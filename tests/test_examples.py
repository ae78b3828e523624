"""The examples run as they stand."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.finished import Finished

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_the_script_studies_a_network_of_ones_own_to_its_page(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "own_encoder.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "kept  mine:backbone" in done.stdout
    page = Path(done.stdout.partition("report: ")[2].splitlines()[0])
    assert "What my network knows" in page.read_text()
    assert "<mine:projection  512 x 16 float32" in done.stdout


def test_the_notebook_opens_a_store_and_looks_at_its_embeddings(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPSCOPE_STORE", str(finished.store))
    document = json.loads((EXAMPLES / "embeddings.ipynb").read_text())
    shown = execute(["".join(cell["source"]) for cell in document["cells"] if cell["cell_type"] == "code"])
    study, rows, neighbours, points, results = shown
    assert repr(study).startswith("<study micro, taps: simclr:backbone")
    assert list(rows["name"]) == [f"scene-{row}" for row in range(5)]
    assert set(neighbours["split"]) == {"heldout"}
    assert neighbours["distance"].is_monotonic_increasing
    assert points.shape == (5, 2)
    assert np.isfinite(points).all()
    assert set(results["question"]) <= {"kept", "faithfulness", "invariance"}


def execute(cells: list[str]) -> list[Any]:
    """Runs the cells of a notebook one after another; the value of the last expression of each, which it shows."""
    names: dict[str, Any] = {}
    shown = []
    for source in cells:
        *before, last = ast.parse(source).body
        assert isinstance(last, ast.Expr)
        exec(compile(ast.Module(before, []), "cell", "exec"), names)
        shown.append(eval(compile(ast.Expression(last.value), "cell", "eval"), names))
    return shown
