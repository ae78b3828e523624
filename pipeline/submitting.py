"""A run as a job of a Ray cluster: what is refused before it, what travels with it, and the name that it gets.

The job's working folder holds the study file, `request.json` (what the cluster must have, and the words of
`repscope run`), the files of code that the study names, and Repscope's own packages unless the cluster's are to be
used. Relative paths of the study mean what they mean here, so the keys are those of a run from here.
"""

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import yaml

from pipeline.errors import UsageError
from pipeline.graph import graph_of
from pipeline.key import digest_of, fields_of
from pipeline.node_checks import code_digest, code_files
from pipeline.plan import files_of_code
from pipeline.step import Step
from pipeline.store import Store, open_store
from pipeline.study import RECIPES, Study, load
from pipeline.submitted import versions
from stages.encoders.sources.settings import Torch
from stages.encoders.stage import Imported
from stages.external.code import submitted_name
from stages.external.files import absolute, local, sha256_of

CREDENTIALS: Mapping[str, tuple[str, ...]] = {
    "s3": (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
    ),
    "gs": ("GOOGLE_APPLICATION_CREDENTIALS",),
    "az": ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"),
}
"""Variables that say how the store of a scheme is reached."""

DIGEST = 12
"""Hex digits of the plan's digest in a job's id."""

COMMAND = "python -m pipeline.submitted"


@dataclass(frozen=True)
class Submission:
    """A run that can be submitted: its name (`<study>-<plan digest>`) and what it needs on the cluster."""

    study: Study
    name: str
    store: Store
    paths: Mapping[str, str]
    """Local paths that the study reads, and the step that names each."""
    modules: tuple[str, ...]
    """Installed packages that build encoders."""
    code: Mapping[str, str]
    """Files of code that the study names, path -> sha256."""
    text: str
    """The study file."""


def submission_of(study: str, root: str) -> Submission:
    """The run of a study file or recipe with a store. Raises `UsageError`."""
    read, store = load(study), open_store(root)
    steps = graph_of(read)
    if store.url.startswith("memory:"):
        raise UsageError("a store that a cluster can use", root, "Name a bucket or a shared folder with --store.")
    file = Path(study) if Path(study).is_file() else RECIPES / f"{study}.yaml"
    factories = [source.factory for source in map(_code_source, steps) if source is not None]
    paths = files_of_code(steps)
    if absent := [path for path in paths if not Path(path).is_file()]:
        raise UsageError("the files of code that the study names", f"no file {absent[0]}", "Correct the path.")
    code = {path: sha256_of(Path(path)) for path in paths}
    modules = {factory.rpartition(":")[0] for factory in factories if ".py:" not in factory}
    return Submission(
        read,
        f"{read.study}-{_plan_digest(steps, code, store)}",
        store,
        _local_paths(steps),
        tuple(sorted(module.partition(".")[0] for module in modules)),
        code,
        file.read_text(encoding="utf-8"),
    )


def job_pattern(study: str) -> str:
    """A pattern of the names of all submissions of a study."""
    return rf"{re.escape(study)}-[0-9a-f]{{{DIGEST}}}"


@contextmanager
def packed(submission: Submission, words: Sequence[str], own_code: bool) -> Iterator[Path]:
    """The working folder of the job, while it is submitted. `words` go to `repscope run`.

    A local store gets a small object, the marker, by which each machine of the cluster sees whether it has this very
    folder. The run removes it.
    """
    store = submission.store
    scheme = urlsplit(store.url).scheme
    marker = ""
    if not store.far:
        store.prepare()
        marker = f"probes/submit-{secrets.token_hex(8)}"
        store.create(marker, code_digest().encode())
    request = {
        "versions": versions(version("ray")),
        "code": code_digest(),
        "store": store.url,
        "marker": marker,
        "paths": dict(submission.paths),
        "modules": list(submission.modules),
        "credentials": [name for name in CREDENTIALS.get(_family(scheme), ()) if name in os.environ],
        "files": dict(submission.code),
        "folder": os.getcwd(),
        "home": str(Path.home()),
        "words": ["study.yaml", "--store", store.url, *words],
    }
    with TemporaryDirectory(prefix="repscope-submit-") as scratch:
        folder = Path(scratch)
        (folder / "study.yaml").write_text(submission.text, encoding="utf-8")
        (folder / "request.json").write_text(json.dumps(request, indent=1), encoding="utf-8")
        for path, sha256 in submission.code.items():
            target = folder / submitted_name(path, sha256)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        if own_code:
            top = Path(__file__).resolve().parent.parent
            for file in [*code_files(top), top / "repscope.py"]:
                target = folder / file.relative_to(top)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
        yield folder


def runtime_env_of(file: Path | None, folder: Path, passed: Sequence[str]) -> dict[str, Any]:
    """The job's runtime_env: that of a YAML or JSON file, with our working folder and the variables to pass on."""
    env: Any = {}
    if file is not None:
        try:
            env = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UsageError(f"a runtime_env in {file}", " ".join(str(error).split()), "Write YAML or JSON.") from error
        if not isinstance(env, dict) or "working_dir" in env:
            found = "working_dir, which is the run's own" if isinstance(env, dict) else type(env).__name__
            raise UsageError(f"fields of a runtime_env in {file}, without working_dir", found, "Take it out.")
        given = env.get("env_vars", {})
        pairs = given.items() if isinstance(given, dict) else [("env_vars", given)]
        # Never the value: it may be a secret.
        if wrong := [f"{name} of type {type(value).__name__}" for name, value in pairs if not isinstance(value, str)]:
            raise UsageError(f"names and texts in env_vars of {file}", wrong[0], 'Write a number as a text: "4".')
    if absent := [name for name in passed if name not in os.environ]:
        raise UsageError("the variables of --pass-env to be set here", f"no {', '.join(absent)}", "Set them first.")
    variables = {name: os.environ[name] for name in passed}
    return {**env, "working_dir": str(folder), "env_vars": {**env.get("env_vars", {}), **variables}}


def _plan_digest(steps: Sequence[Step], code: Mapping[str, str], store: Store) -> str:
    """Of everything that the study says, the files of code and the store: no source is listed for it."""
    document = {
        "store": store.url,
        "steps": {
            step.name: {
                "stage": step.stage.name,
                "version": step.stage.version,
                "fields": fields_of(step.stage),
                "inputs": dict(step.inputs),
                "external": {
                    name: [code.get(outside.url, outside.url), outside.digest, *outside.only]
                    for name, outside in step.stage.external().items()
                },
            }
            for step in steps
        },
    }
    return digest_of(document)[:DIGEST]


def _local_paths(steps: Sequence[Step]) -> dict[str, str]:
    found = {}
    for step in steps:
        for outside in step.stage.external().values():
            path = local(outside.url)
            if path is not None and outside.digest != "code":
                found[absolute(str(path))] = f"the step {step.name}"
    return found


def _code_source(step: Step) -> Torch | None:
    """The source of an encoder that the user's own code builds."""
    source = step.stage.source if isinstance(step.stage, Imported) else None
    return source if isinstance(source, Torch) else None


def _family(scheme: str) -> str:
    return {"gcs": "gs", "abfs": "az", "abfss": "az", "azure": "az", "s3a": "s3"}.get(scheme, scheme)
