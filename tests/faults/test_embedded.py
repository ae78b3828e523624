"""A worker killed in the middle of a tar: the tars before it are not embedded again, its own is done anew."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cluster.inline import Inline
from pipeline.events import Event
from pipeline.plan import plan
from pipeline.run import run
from pipeline.store import open_store
from stages.embeddings.format import open_table
from stages.encoders.encoder import NetworkEncoder, Vectors
from tests.artifacts import FolderArtifact
from tests.faults.embedded import FIRST, PARTS, STOPPED, TAPS, VIEWS, graph


def test_a_worker_killed_in_a_tar_loses_that_tar_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "store"
    process = subprocess.Popen([sys.executable, "-m", "tests.faults.embedded", str(root)])
    while not any(root.glob(f"artifacts/embeddings/*/g0000/{FIRST}")):
        assert process.poll() is None, "the process ended too early"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()

    store = open_store(str(root))
    state = plan(graph(), store)[-1]
    assert (state.state, state.parts_done, state.parts) == ("partial", STOPPED, PARTS)

    embedded: list[int] = []
    embed = NetworkEncoder.embed

    def counted(self: NetworkEncoder, images: NDArray[np.uint8]) -> Vectors:
        embedded.append(len(images))
        return embed(self, images)

    monkeypatch.setattr(NetworkEncoder, "embed", counted)
    heard: list[Event] = []
    result = run(graph(), store, Inline, listener=heard.append)
    done = [event.fields for event in heard if event.kind == "part_done"]
    assert [(fields["part"], fields["adopted"]) for fields in done] == [(STOPPED, 1), (2, 0)]
    # The probe batch, and both views of two tars.
    assert sum(embedded) == 4 + 2 * 2 * 16
    assert [step.outcome for step in result.steps][:2] == ["hit", "hit"]

    fresh = run(graph(), open_store(str(tmp_path / "fresh")), Inline)
    ours, theirs = (open_table(FolderArtifact(Path(one.url("embeddings")))) for one in (result, fresh))
    for tap in TAPS:
        for view in VIEWS:
            np.testing.assert_allclose(ours.read(tap, view), theirs.read(tap, view), rtol=1e-5, atol=1e-6)
