"""Studies on a real cluster of two nodes, submitted to its job server from the command line."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.finished import repscope

pytestmark = pytest.mark.xdist_group("ray")

STUDY = """
study: small
dataset:
  listing: {source: {kind: scenes, count: 512, seed: 5}}
  shards: {shard_rows: 256}
encoders:
  own: {kind: torch, factory: "FOLDER/nets.py:make", preprocessing: {size: 32, resize: square}}
  oracle: {kind: oracle}
readers: {num_images: 512, widths: [8, 16]}
probes: {epochs: 1}
decoder:
  taps: ["own:backbone", "oracle:attributes"]
  num_images: 256
  checkpoint_images: 256
  network: {channels: [16, 32], blocks: [1, 1], width: 32, sketch: [32, 64]}
  training: {sketch_images: 512}
sources: {count: 8}
samples: {per_source: 2, steps: 2, part_conditions: 16}
questions: {kept: {shown: 2}, faithfulness: null, invariance: null}
"""

NETWORK = """
import time

from torch import nn


def make():
    BEFORE
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


def written(folder: Path, before: str = "pass") -> Path:
    """A small study whose encoder is built by a file beside it, which does `before` first."""
    (folder / "nets.py").write_text(NETWORK.replace("BEFORE", before))
    study = folder / "small.yaml"
    study.write_text(STUDY.replace("FOLDER", str(folder)))
    return study


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The job server of a cluster of two nodes, in processes of its own."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.cluster.job_server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        yield server.stdout.readline().strip()
    finally:
        server.stdin.close()
        server.stdout.close()
        assert server.wait(60) == 0


def jobs_of(address: str, study: Path, store: Path) -> str:
    """The id of the live run of a study, by attaching to it."""
    done = repscope("submit", study, "--store", store, "--address", address, "--no-follow")
    return done.stdout.split(":")[0]


def test_a_submitted_study_runs_to_its_end_with_the_keys_of_a_run_from_here(address: str, tmp_path: Path) -> None:
    study, store = written(tmp_path), tmp_path / "store"
    done = repscope("submit", study, "--store", store, "--address", address)
    assert "report: " in done.stdout
    states = json.loads(repscope("status", study, "--store", store, "--check", "--json").stdout)
    assert {state["state"] for state in states} == {"done"}
    assert not list((store / "probes").iterdir())


def test_the_exit_code_is_that_of_the_run_and_the_next_attempt_has_the_next_number(
    address: str, tmp_path: Path
) -> None:
    study, store = written(tmp_path, "raise RuntimeError('no such network')"), tmp_path / "store"
    words = ("submit", study, "--store", store, "--address", address)
    # The network is wrong where it is built, which is on the cluster.
    first = repscope(*words, code=3)
    assert "no such network" in first.stdout
    second = repscope(*words, code=3)
    ids = [done.stdout.split(":")[0] for done in (first, second)]
    assert [one.rpartition("-")[2] for one in ids] == ["1", "2"]
    assert ids[0].rpartition("-")[0] == ids[1].rpartition("-")[0]


def test_a_live_run_is_attached_to_ctrl_c_detaches_and_stop_ends_it(address: str, tmp_path: Path) -> None:
    study, store = written(tmp_path, "time.sleep(3600)"), tmp_path / "store"
    first = jobs_of(address, study, store)
    command = [Path(sys.executable).with_name("repscope"), "submit", study, "--store", store, "--address", address]
    words = [Path(sys.executable).with_name("repscope"), "submit", study, "--store", store, "--address", address]
    command = [str(word) for word in words]
        assert follower.stdout is not None
        assert follower.stdout.readline().startswith(f"{first}: running already, attached")
        time.sleep(1)
        follower.send_signal(signal.SIGINT)
        _, said = follower.communicate(timeout=60)
        assert follower.returncode == 130
    assert f"{first} goes on." in said
    assert f"repscope stop {first}" in said
    assert jobs_of(address, study, store) == first
    assert f"{first}: stopped" in repscope("stop", study, "--address", address).stdout
    assert "has ended (STOPPED)" in repscope("stop", first, "--address", address, code=2).stderr


def test_what_only_this_machine_has_is_refused_before_the_run(address: str, tmp_path: Path) -> None:
    study, store = written(tmp_path), tmp_path / "store"
    weights = tmp_path / "gone.safetensors"
    study.write_text(study.read_text().replace("preprocessing: {size", f"weights: {weights}, preprocessing: {{size"))
    done = repscope("submit", study, "--store", store, "--address", address, code=2)
    assert f"no {weights} here, which the step encoder.own names" in done.stdout
    assert not (store / "artifacts").exists()


def test_a_variable_is_passed_on_by_name_only_and_must_be_set(address: str, tmp_path: Path) -> None:
    study, store = written(tmp_path), tmp_path / "store"
    done = repscope("submit", study, "--store", store, "--address", address, "--pass-env", "NOT_SET_ANYWHERE", code=2)
    assert "found no NOT_SET_ANYWHERE" in done.stderr


def test_credentials_of_the_shell_alone_are_named_and_never_shown(address: str, tmp_path: Path) -> None:
    study = written(tmp_path)
    done = repscope(
        *("submit", study, "--store", "s3://bucket/store", "--address", address),
        code=2,
        AWS_ENDPOINT_URL="http://127.0.0.1:9",
        AWS_SECRET_ACCESS_KEY="never-shown",
    )
    assert "AWS_ENDPOINT_URL is set only in the shell that submitted" in done.stdout
    assert "--pass-env AWS_SECRET_ACCESS_KEY" in done.stdout
    assert "never-shown" not in done.stdout + done.stderr


def test_a_cluster_that_is_not_there_is_named_with_the_remedy(tmp_path: Path) -> None:
    done = repscope(
        "submit", written(tmp_path), "--store", tmp_path / "store", "--address", "http://127.0.0.1:9", code=2
    )
    assert "expected the job server of a Ray cluster at http://127.0.0.1:9" in done.stderr
    assert not (tmp_path / "store").exists()
