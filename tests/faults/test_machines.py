"""An elastic training on a real cluster that gains a machine and loses it again: nothing comes out different."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load

from cluster.inline import Inline
from pipeline.run import run
from pipeline.store import open_store
from stages.decoder.stage import Decoder
from tests.faults.elastic import FIELDS, graph


def test_a_training_goes_on_with_the_machines_there_are_and_ends_as_if_they_had_not_changed(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    folder.mkdir()
    env = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    subprocess.run([sys.executable, "-m", "tests.faults.nodes", str(folder)], env=env, check=True)
    outcome = json.loads((folder / "outcome.json").read_text())
    reports = [tuple(map(int, line.split())) for line in (folder / "reports").read_text().splitlines()]
    # Steps of 8 images. Checkpoints are saved every 10, reports made every 20, and each group begins at a checkpoint.
    assert reports == [(1, 140), (1, 300), (2, 300), (2, 460), (2, 620), (1, 620), (1, 780), (1, 940), (1, 964)]
    assert len(outcome["lost"]) == 1
    assert set(outcome["machines_of_mailboxes"]) == {outcome["machine"]}
    found = load(Path(outcome["decoder"], "decoder.safetensors").read_bytes())
    undisturbed = run(graph(Decoder(**FIELDS)), open_store(str(tmp_path / "other")), Inline)
    for name, value in load(Path(undisturbed.url("decoder"), "decoder.safetensors").read_bytes()).items():
        assert torch.allclose(found[name], value, atol=1e-4), name
