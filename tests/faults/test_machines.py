"""Runs on a real cluster that gains machines and loses them again: all are used, and nothing comes out different."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from cluster.inline import Inline
from pipeline.run import run
from pipeline.store import open_store
from stages.decoder.stage import Decoder
from tests.faults.elastic import FIELDS, graph

# They take longest of all. Pytest-xdist begins groups before single tests, so that they are not the last to end.
pytestmark = pytest.mark.xdist_group("machines")


def on_a_cluster(program: str, folder: Path) -> dict[str, Any]:
    """What a driver with a cluster of its own reports."""
    folder.mkdir()
    env = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    subprocess.run([sys.executable, "-m", f"tests.faults.{program}", str(folder)], env=env, check=True)
    outcome: dict[str, Any] = json.loads((folder / "outcome.json").read_text())
    return outcome


def test_a_training_goes_on_with_the_machines_there_are_and_ends_as_if_they_had_not_changed(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    outcome = on_a_cluster("nodes", folder)
    reports = [tuple(map(int, line.split())) for line in (folder / "reports").read_text().splitlines()]
    # Steps of 8 images. Checkpoints are saved every 10, reports made every 20, and each group begins at a checkpoint.
    assert reports == [(1, 140), (1, 300), (2, 300), (2, 460), (2, 620), (1, 620), (1, 780), (1, 940), (1, 964)]
    assert len(outcome["lost"]) == 1
    assert set(outcome["machines_of_mailboxes"]) == {outcome["machine"]}
    found = load(Path(outcome["decoder"], "decoder.safetensors").read_bytes())
    undisturbed = run(graph(Decoder(**FIELDS)), open_store(str(tmp_path / "other")), Inline)
    for name, value in load(Path(undisturbed.url("decoder"), "decoder.safetensors").read_bytes()).items():
        assert torch.allclose(found[name], value, atol=1e-4), name


def test_machines_that_join_are_used_in_the_middle_of_a_step_and_one_that_leaves_is_survived(tmp_path: Path) -> None:
    outcome = on_a_cluster("machines", tmp_path / "cluster")
    assert outcome["waits"] == ["a machine with a CPU to join the cluster"]
    assert outcome["training_on_the_first"] == 0
    assert outcome["parts"] == {"fan1": 8, "fan2": 8, "training": 1}
    assert outcome["demands_at_the_end"] == 0
