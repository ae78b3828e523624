"""Commands for a Ray cluster: `submit`, `stop`, `doctor` and `deploy`. Registered in `pipeline.cli`."""

import json
import os
import re
import shlex
from pathlib import Path

import click

from pipeline.options import JSON, STORE, STUDY, RunOptions, run_options

ADDRESS = click.option(
    "--address",
    envvar="RAY_ADDRESS",
    required=True,
    help="The cluster's job server (http://host:8265), or its head (host:port). Also RAY_ADDRESS.",
)
STOPPED = 143
"""Exit code of a run that was stopped: that of SIGTERM."""


@click.command()
@STUDY
@ADDRESS
@STORE
@click.option("--follow/--no-follow", default=True, show_default=True, help="Print the run's log until its end.")
@run_options
@click.option("--pass-env", "passed", multiple=True, metavar="NAME", help="Pass this variable on to the run.")
@click.option(
    "--runtime-env",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A file (YAML or JSON) with a prepared runtime_env for the run.",
)
@click.option("--image-env", is_flag=True, help="Use the Repscope that is installed on the cluster; send none.")
def submit(
    study: str,
    address: str,
    root: str,
    follow: bool,
    options: RunOptions,
    passed: tuple[str, ...],
    runtime_env: Path | None,
    image_env: bool,
) -> None:
    """Run STUDY on a Ray cluster, or attach to the run of it that is there.

    The exit code is that of the run. Ctrl-C detaches, and the run goes on.
    """
    from cluster.jobs import Jobs, size_of
    from pipeline.progress import size
    from pipeline.submitting import COMMAND, packed, runtime_env_of, submission_of

    submission = submission_of(study, root)
    words = options.words()
    jobs = Jobs(address)
    live = [job for job in jobs.attempts(re.escape(submission.name)) if job.live]
    if live:
        job, begun = live[-1], False
    else:
        with packed(submission, words, own_code=not image_env) as folder:
            env = runtime_env_of(runtime_env, folder, passed)
            sent = size(size_of(folder))
            job, begun = jobs.start(submission.name, COMMAND, env)
    stopping = shlex.join(["repscope", "stop", job.id, "--address", address])
    again = ["repscope", "submit", study, "--address", address, "--store", root, *words]
    again += [word for name in passed for word in ("--pass-env", name)]
    again += ["--runtime-env", str(runtime_env)] if runtime_env else []
    again += ["--image-env"] if image_env else []
    attaching = shlex.join(again)
    try:
        if begun:
            click.echo(f"{job.id}: submitted, {sent} sent")
        else:
            click.echo(f"{job.id}: running already, attached to it; options of this command have no effect on it")
        if not follow:
            click.echo(f"To follow it: {attaching}\nTo stop it: {stopping}")
            return
        job = jobs.follow(job.id, lambda text: click.echo(text, nl=False))
    except KeyboardInterrupt:
        click.echo(f"\n{job.id} goes on.\nTo attach again: {attaching}\nTo stop it: {stopping}", err=True)
        raise click.exceptions.Exit(130) from None
    if job.status == "STOPPED":
        click.echo(f"repscope: {job.id} was stopped. To go on from there: {attaching}", err=True)
        raise click.exceptions.Exit(STOPPED)
    if job.status == "FAILED" and job.exit_code is None:
        reason = " ".join(job.message.split())[:600]
        click.echo(f"repscope: expected {job.id} to run to its end; found {reason}. To go on: {attaching}", err=True)
        raise click.exceptions.Exit(3)
    if job.exit_code:
        click.echo(f"repscope: {job.id} ended with exit code {job.exit_code}. To go on: {attaching}", err=True)
        # A command that a signal ended has the number below zero.
        raise click.exceptions.Exit(job.exit_code if job.exit_code > 0 else 128 - job.exit_code)


@click.command()
@click.argument("study", metavar="STUDY|JOB")
@ADDRESS
def stop(study: str, address: str) -> None:
    """Stop the runs of STUDY (a name or a file) that are on a Ray cluster, or the one with the id JOB."""
    from cluster.jobs import Jobs
    from pipeline.errors import UsageError
    from pipeline.study import load
    from pipeline.submitting import job_pattern

    name = load(study).study if study.endswith((".yaml", ".yml")) or os.sep in study else study
    jobs = Jobs(address)
    one = jobs.find(name)
    live = [job for job in ([one] if one is not None else jobs.attempts(job_pattern(name))) if job.live]
    if not live:
        found = f"{one.id}, which has ended ({one.status})" if one is not None else "none"
        raise UsageError(f"a run of {name} on {address}", found, "`repscope submit` starts one.")
    for job in live:
        click.echo(f"{job.id}: {jobs.stop(job.id).status.lower()}; what is finished is kept")


@click.command()
@click.option("--address", default=None, help="A running Ray cluster (host:port); without it one is started here.")
@STORE
@JSON
def doctor(address: str | None, root: str, as_json: bool) -> None:
    """Check that every machine of a Ray cluster is fit for runs with a store, and say what is not.

    The exit code is 2 where something is not.
    """
    from pipeline.doctor import COLUMNS, diagnose
    from pipeline.store import open_store

    found = diagnose(address, open_store(root))
    if as_json:
        rows = [dict(zip(COLUMNS, row, strict=True)) for row in found.rows]
        click.echo(json.dumps({"nodes": rows, "remarks": found.remarks, "faults": found.faults}, indent=1))
    else:
        table = [COLUMNS, *found.rows]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for row in table:
            click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        for line in [*found.remarks, *found.faults]:
            click.echo(line)
        if not found.faults:
            click.echo("Nothing is wrong.")
    if found.faults:
        raise click.exceptions.Exit(2)


@click.command()
@click.argument("target", type=click.Choice(["docker", "kuberay", "ray-up", "slurm"]))
@click.argument("study", metavar="[STUDY]", required=False)
@STORE
@click.option(
    "--image", default="registry.example.org/repscope:0.1", show_default=True, help="The image of all machines."
)
def deploy(target: str, study: str | None, root: str, image: str) -> None:
    """Print a file that brings Repscope to a cluster.

    docker: the image of all machines. kuberay: STUDY as a RayJob. ray-up: a cluster of virtual machines. slurm: STUDY
    as a job of Slurm.
    """
    from cluster.deploy import TARGETS

    values = {"image": image} | (_deployed(target, study, root) if target in ("kuberay", "slurm") else {})
    click.echo(TARGETS[target].render(values), nl=False)


def _deployed(target: str, study: str | None, root: str) -> dict[str, str]:
    """The values for the file of a study's own cluster. Raises `UsageError` for what its machines could not reach."""
    from importlib.metadata import version

    from pipeline.errors import UsageError, require_run
    from pipeline.submitting import submission_of

    require_run()
    if study is None:
        raise UsageError("a study to run there", "none", f"Name one: repscope deploy {target} STUDY --store URL")
    submission = submission_of(study, root)
    if target == "slurm":
        path = str(Path(study).resolve()) if Path(study).is_file() else study
        return {"study": path, "store": submission.store.url if submission.store.far else str(Path(root).resolve())}
    if not submission.store.far:
        raise UsageError("a store that pods can reach", root, "Name a bucket with --store.")
    local = sorted({*submission.code, *submission.paths})
    if local:
        click.echo(f"Mount into every pod, at the same path: {', '.join(local)}", err=True)
    command = ["repscope", "run", "/study/study.yaml", "--store", submission.store.url, "--address", "auto"]
    return {
        "name": re.sub("[^a-z0-9]+", "-", submission.study.study.lower())[:40].strip("-"),
        "study": submission.text,
        "command": shlex.join(command),
        "ray": version("ray"),
    }


COMMANDS = (submit, stop, doctor, deploy)
