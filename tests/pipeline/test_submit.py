"""Studies on a real cluster of two nodes, submitted to its job server from the command line."""

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.node_checks import code_digest, missing_here
from pipeline.submitting import packed, runtime_env_of, submission_of
from tests.finished import repscope

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

import torch
from torch import nn


def make():
    BEFORE
    convolution = nn.Conv2d(3, 4, 3, 2)
    with torch.no_grad():
        for parameter in convolution.parameters():
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).reshape(parameter.shape))
    return nn.Sequential(convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Without it Ray takes the address of the head, 127.0.0.1, for another one of this machine."""


def written(folder: Path, before: str = "pass") -> Path:
    """A small study whose encoder is built by a file beside it, which does `before` first."""
    (folder / "nets.py").write_text(NETWORK.replace("BEFORE", before))
    study = folder / "small.yaml"
    study.write_text(STUDY.replace("FOLDER", str(folder)))
    return study


@pytest.fixture(scope="module")
def addresses() -> Iterator[list[str]]:
    """The job server and the head of a cluster of two nodes, in processes of its own."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.cluster.job_server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        yield [server.stdout.readline().strip() for _ in range(2)]
    finally:
        server.stdin.close()
        server.stdout.close()
        assert server.wait(60) == 0


@pytest.fixture(scope="module")
def address(addresses: list[str]) -> str:
    """The job server of the cluster."""
    return addresses[0]


def live_run(address: str, study: Path, store: Path) -> str:
    """The id of the live run of a study, begun if there is none."""
    done = repscope("submit", study, "--store", store, "--address", address, "--no-follow")
    return done.stdout.split(":")[0]


def test_a_submitted_run_has_the_keys_of_a_run_from_here(address: str, tmp_path: Path) -> None:
    study, store = written(tmp_path), tmp_path / "store"
    done = repscope("submit", study, "--store", store, "--address", address, "--until", "encoder.own")
    assert ": submitted, " in done.stdout
    states = json.loads(repscope("status", study, "--store", store, "--json").stdout)
    assert {state["name"] for state in states if state["state"] == "done"} == {"encoder.own"}
    assert not list((store / "probes").iterdir())


def test_the_exit_code_is_that_of_the_run_and_the_message_has_every_flag(address: str, tmp_path: Path) -> None:
    # The network is wrong where it is built, which is on the cluster: it says why with a variable of the runtime_env.
    study, store = written(tmp_path, "import os; raise RuntimeError(os.environ['REASON'])"), tmp_path / "store"
    env = tmp_path / "env.yaml"
    env.write_text("env_vars: {REASON: no such network}")
    words: list[str | Path] = ["submit", study, "--address", address, "--store", store]
    words += ["--until", "encoder.own", "--accept-drift", "--runtime-env", env]
    done = repscope(*words, code=3)
    assert "no such network" in done.stdout
    # A run from the job's folder could not be repeated from here.
    assert "To go on" not in done.stdout
    assert done.stderr.strip().endswith(f"To go on: repscope {shlex.join(map(str, words))}")


@pytest.mark.usefixtures("interruptible")
def test_a_live_run_is_attached_to_ctrl_c_detaches_stop_ends_it_and_the_next_attempt_has_the_next_number(
    address: str, tmp_path: Path
) -> None:
    study, store = written(tmp_path, "time.sleep(3600)"), tmp_path / "store"
    first = live_run(address, study, store)
    assert first.endswith("-1")
    command = Path(sys.executable).with_name("repscope")
    words: list[str | Path] = [command, "submit", study, "--store", store, "--address", address]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline().startswith(f"{first}: running already, attached")
        follower.send_signal(signal.SIGINT)
        _, errors = follower.communicate(timeout=60)
        assert follower.returncode == 130
    assert f"{first} goes on." in errors
    assert f"repscope stop {first}" in errors
    assert live_run(address, study, store) == first
    assert f"{first}: stopped" in repscope("stop", study, "--address", address).stdout
    assert "has ended (STOPPED)" in repscope("stop", first, "--address", address, code=2).stderr
    assert live_run(address, study, store) == f"{first[:-1]}2"
    repscope("stop", study, "--address", address)


def test_what_only_this_machine_has_is_refused_before_the_run(address: str, tmp_path: Path) -> None:
    study, store = written(tmp_path), tmp_path / "store"
    weights = tmp_path / "gone.safetensors"
    study.write_text(study.read_text().replace("preprocessing: {size", f"weights: {weights}, preprocessing: {{size"))
    done = repscope("submit", study, "--store", store, "--address", address, code=2)
    assert done.stdout.count(f"no {weights} here, which the step encoder.own names") == 2
    assert not (store / "artifacts").exists()


def test_a_variable_is_passed_on_by_name_only_and_must_be_set(address: str, tmp_path: Path) -> None:
    study, store = written(tmp_path), tmp_path / "store"
    done = repscope("submit", study, "--store", store, "--address", address, "--pass-env", "NOT_SET_ANYWHERE", code=2)
    assert "found no NOT_SET_ANYWHERE" in done.stderr


def test_the_doctor_finds_a_cluster_without_a_token_open_though_its_own_shell_has_one(
    addresses: list[str], tmp_path: Path
) -> None:
    server, head = addresses
    words = ("doctor", "--address", head, "--store", tmp_path / "store", "--json")
    done = repscope(*words, code=2, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="of-another-cluster", **LOOPBACK)
    found = json.loads(done.stdout)
    assert len(found["nodes"]) == 2
    assert found["remarks"] == ["authentication: none", f"dashboard: {server.removeprefix('http://')}"]
    assert [fault.partition(":")[0] for fault in found["faults"]] == ["the cluster asks for no token"]
    assert not list((tmp_path / "store" / "probes").iterdir())


def test_credentials_of_the_shell_alone_are_named_and_never_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_here = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "an-id",
        "AWS_SECRET_ACCESS_KEY": "never-sent",
        "AWS_REGION": "eu-central-1",
    }
    with monkeypatch.context() as shell:
        for name, value in set_here.items():
            shell.setenv(name, value)
        with packed(submission_of(str(written(tmp_path)), "s3://bucket/store"), [], own_code=False) as folder:
            text = (folder / "request.json").read_text()
    assert "never-sent" not in text
    for name in set_here:
        monkeypatch.delenv(name, raising=False)
    [problem] = missing_here(json.loads(text))
    assert "AWS_ENDPOINT_URL is set only in the shell that submitted" in problem
    assert "--pass-env AWS_SECRET_ACCESS_KEY" in problem


@pytest.mark.parametrize(
    ("written", "found"),
    [("[A]", "env_vars of type list"), ("", "env_vars of type NoneType"), ("{SECRET: 123456}", "SECRET of type int")],
)
def test_a_runtime_env_whose_variables_are_no_texts_is_refused_without_their_values(
    tmp_path: Path, written: str, found: str
) -> None:
    env = tmp_path / "env.yaml"
    env.write_text(f"env_vars: {written}")
    with pytest.raises(UsageError, match=f"names and texts in env_vars of {env}; found {found}") as caught:
        runtime_env_of(env, tmp_path, ())
    assert "123456" not in str(caught.value)


def test_a_cluster_that_is_not_there_is_named_with_the_remedy(tmp_path: Path) -> None:
    done = repscope(
        "submit", written(tmp_path), "--store", tmp_path / "store", "--address", "http://127.0.0.1:9", code=2
    )
    assert "expected the job server of a Ray cluster at http://127.0.0.1:9" in done.stderr
    assert not (tmp_path / "store").exists()


def test_another_version_of_ray_is_one_message(tmp_path: Path) -> None:
    with packed(submission_of(str(written(tmp_path)), str(tmp_path / "store")), [], own_code=False) as folder:
        request = json.loads((folder / "request.json").read_text())
        python, ray = request["versions"]
        (folder / "request.json").write_text(json.dumps(request | {"versions": [python, "1.0"]}))
        # The folder of Repscope is on the path, as in a job with an image of its own.
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.submitted"], cwd=folder, capture_output=True, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr.strip() == (
        f"repscope: expected Python {python} and Ray 1.0 on the cluster, as where the run was submitted; "
        f"found Python {python} and Ray {ray}. Use the same there and here."
    )


def test_a_node_with_other_code_says_so_before_anything_else() -> None:
    [problem] = missing_here({"code": "0" * 64})
    assert f"({code_digest()[:12]}, submitted with 000000000000)" in problem
