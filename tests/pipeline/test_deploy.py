"""The files that bring Repscope to a cluster are such as their readers take: KubeRay, `ray up`, Slurm, Docker."""

import os
import re
import shlex
import signal
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner, Result
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.deploy import TARGETS
from pipeline.cli import main
from pipeline.study import RECIPES
from tests.faults.processes import wait_for

ROOT = Path(__file__).parents[2]

POD = {
    "spec": {
        "securityContext": {"runAsNonRoot", "runAsUser", "fsGroup"},
        "containers": {
            "name": None,
            "image": None,
            "securityContext": {"allowPrivilegeEscalation", "capabilities"},
            "resources": {"requests", "limits"},
            "envFrom": {"secretRef"},
            "volumeMounts": {"name", "mountPath", "readOnly"},
        },
        "volumes": {"name", "configMap"},
    }
}
RAYJOB = {
    "apiVersion": None,
    "kind": None,
    "metadata": {"name"},
    "spec": {
        "entrypoint": None,
        "backoffLimit": None,
        "shutdownAfterJobFinishes": None,
        "ttlSecondsAfterFinished": None,
        "rayClusterSpec": {
            "rayVersion": None,
            "authOptions": {"mode"},
            "enableInTreeAutoscaling": None,
            "autoscalerOptions": {"idleTimeoutSeconds"},
            "headGroupSpec": {"rayStartParams": None, "template": POD},
            "workerGroupSpecs": {
                "groupName": None,
                "replicas": None,
                "minReplicas": None,
                "maxReplicas": None,
                "rayStartParams": None,
                "template": POD,
            },
        },
    },
}
"""Fields of a RayJob as the reference of KubeRay 1.5.1 to 1.6.2 has them, as far as they are used."""


def unknown(document: Any, fields: Any, where: str = "") -> list[str]:
    """The fields of a document that no table has."""
    if fields is None:
        return []
    if isinstance(document, list):
        return [name for entry in document for name in unknown(entry, fields, where)]
    deeper = fields if isinstance(fields, dict) else dict.fromkeys(fields)
    found = [f"{where}.{name}" for name in document if name not in deeper]
    return found + [
        name for key in document if key in deeper for name in unknown(document[key], deeper[key], f"{where}.{key}")
    ]


def deployed(*words: str) -> Result:
    """What the command prints."""
    return CliRunner().invoke(main, ["deploy", *words])


def test_a_study_becomes_a_rayjob_with_a_token_and_a_cluster_of_its_own() -> None:
    result = deployed("kuberay", "scenes", "--store", "s3://bucket/a path", "--image", "example.org/repscope:1")
    assert result.exit_code == 0, result.output
    texts, job = yaml.safe_load_all(result.output)
    assert unknown(job, RAYJOB) == []
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert texts["data"]["study.yaml"] == (RECIPES / "scenes.yaml").read_text()
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == version("ray")
    pods = [cluster["headGroupSpec"]["template"]["spec"], cluster["workerGroupSpecs"][0]["template"]["spec"]]
    for pod in pods:
        assert pod["containers"][0]["image"] == "example.org/repscope:1"
        assert pod["volumes"][0]["configMap"]["name"] == texts["metadata"]["name"] == job["metadata"]["name"]
        assert pod["containers"][0]["volumeMounts"][0]["mountPath"] == "/study"
    program, command, *words = shlex.split(job["spec"]["entrypoint"])
    known = {name for option in main.commands[command].params for name in option.opts}
    assert (program, words[0], words[2]) == ("repscope", "/study/study.yaml", "s3://bucket/a path")
    assert {word for word in words if word.startswith("--")} <= known


def test_a_store_that_pods_cannot_reach_is_refused(tmp_path: Path) -> None:
    result = deployed("kuberay", "scenes", "--store", str(tmp_path))
    assert result.exit_code == 2
    assert "expected a store that pods can reach" in result.output
    assert "expected a study to run there" in deployed("kuberay", "--store", "s3://bucket/a").output


def test_ray_up_takes_its_file() -> None:
    result = deployed("ray-up", "--image", "example.org/repscope:1")
    config = prepare_config(yaml.safe_load(result.output))
    validate_config(config)
    assert config["docker"]["image"] == "example.org/repscope:1"
    assert "--env=RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert any(name.endswith(".ray/auth_token") for name in config["file_mounts"])
    assert "--dashboard-host=127.0.0.1" in " ".join(config["head_start_ray_commands"])
    assert config["available_node_types"]["head"]["resources"] == {"CPU": 0}


PROGRAMS = {
    "scontrol": 'if [ "$2" = hostnames ]; then printf "one\\ntwo\\nthree\\n"; fi',
    "srun": 'case "$*" in *hostname*) echo "10.0.0.1 fe80::1" ;; *) exec sleep 600 ;; esac',
    "ray": "true",
    "repscope": """trap "exit 143" TERM; touch "$FOLDER/running"
# A run lasts until its machines have been started: two lines of `srun` with `ray start`.
until [ "$(grep -c "^srun.*ray start" "$FOLDER/calls")" -eq 2 ]; do sleep 0.02; done
[ -z "$ENDS" ] || exit "$ENDS"
while :; do sleep 0.02; done""",
}
"""What the machines of a Slurm job have, as far as the script needs it; each first writes down how it is called."""


def job(folder: Path, ends: str) -> subprocess.Popen[str]:
    """The job of a study on three machines; the study's run `ends` with an exit code, or when it gets a signal."""
    programs = folder / "bin"
    programs.mkdir()
    for name, body in PROGRAMS.items():
        (programs / name).write_text(f'#!/bin/bash\necho "{name} $* ${{#RAY_AUTH_TOKEN}}" >> "$FOLDER/calls"\n{body}\n')
        (programs / name).chmod(0o755)
    script = folder / "job.sh"
    script.write_text(deployed("slurm", "scenes", "--store", str(folder / "a store")).output)
    env = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "FOLDER": str(folder),
        "ENDS": ends,
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "[one-three]",
        "SLURM_JOB_NUM_NODES": "3",
        "SLURM_CPUS_ON_NODE": "16",
    }
    return subprocess.Popen(["bash", str(script)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_job_of_slurm_starts_a_ray_on_its_machines_and_ends_as_the_run_ends(tmp_path: Path) -> None:
    process = job(tmp_path, ends="5")
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (5, "", "")
    calls = (tmp_path / "calls").read_text().splitlines()
    (head,) = [line for line in calls if "--head" in line]
    assert "--nodelist=one" in head
    assert "--node-ip-address=10.0.0.1 --port=6379 --num-cpus=16 --dashboard-host=127.0.0.1 64" in head
    (workers,) = [line for line in calls if "--address=10.0.0.1:6379" in line and line.startswith("srun")]
    assert "--nodes=2 --ntasks=2 --exclude=one" in workers
    (ran,) = [line for line in calls if line.startswith("repscope")]
    assert ran == f"repscope run scenes --store {tmp_path}/a store --address 10.0.0.1:6379 64"


def test_a_job_of_slurm_whose_time_is_up_ends_its_run_and_is_queued_again(tmp_path: Path) -> None:
    process = job(tmp_path, ends="")
    wait_for((tmp_path / "running").exists, process)
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (0, "", "")
    assert "scontrol requeue 7 64" in (tmp_path / "calls").read_text()


def test_the_image_is_made_of_what_a_checkout_has_and_runs_as_nobody_special() -> None:
    text = re.sub(r"\\\n\s*", "", deployed("docker").output)
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    assert {name for name, _ in lines} == {"FROM", "RUN", "WORKDIR", "COPY", "ARG", "ENV", "USER"}
    (base,) = [value for name, value in lines if name == "FROM"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert base.startswith(f"python:{project['requires-python'].removeprefix('>=')}-")
    assert [value for name, value in lines if name == "USER"][-1] == "repscope"
    (extras,) = [value.partition("=")[2] for name, value in lines if name == "ARG"]
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()
    kept = [
        line[1:]
        for line in (ROOT / "cluster/deploy/Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    assert all((ROOT / name).exists() for name in kept)
    assert {"pipeline", "stages", "cluster", "repscope.py", "constraints.txt", project["readme"]} <= set(kept)


def test_every_file_that_can_be_printed_is_in_the_package() -> None:
    assert set(TARGETS) == set(next(p.type.choices for p in main.commands["deploy"].params if p.name == "target"))  # type: ignore[attr-defined]
    assert TARGETS["kuberay"].needs == {"name", "study", "command", "ray", "image"}
    assert TARGETS["slurm"].needs == {"study", "store"}
