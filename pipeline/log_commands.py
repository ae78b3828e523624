"""The command `log`: what happened in a run. Registered in `pipeline.cli`."""

import json
import shlex
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.opening import opened_graph
from pipeline.options import JSON, STORE, STUDY

if TYPE_CHECKING:
    from pipeline.events import Event
    from pipeline.store import Store

RUNS_SEARCHED = 20
"""How many of the newest runs `log --step` searches for what workers printed."""


@click.command()
@STUDY
@click.argument("run_id", required=False)
@STORE
@JSON
@click.option("--step", default=None, metavar="STEP", help="Print what workers printed while they worked on STEP.")
@click.option("--follow", is_flag=True, help="Go on until the run ends; the exit code is 3 where it does not finish.")
@click.option(
    "--tensorboard",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the losses of its trainings to this folder, for TensorBoard, instead.",
)
def log(
    study: str, run_id: str | None, root: str, as_json: bool, step: str | None, follow: bool, folder: Path | None
) -> None:
    """Print what happened in a run of STUDY (the newest, or RUN_ID).

    With --step, of the newest run in which that step's workers printed anything.
    """
    from pipeline.errors import UsageError
    from pipeline.events import PROGRESS, read_events, run_ids, runs_of

    given = [name for name, value in (("--step", step), ("--follow", follow), ("--tensorboard", folder)) if value]
    if len(given) > 1:
        raise UsageError("one of --step, --follow and --tensorboard", " and ".join(given), "Leave out the others.")
    read, steps, store = opened_graph(study, root)
    runs = runs_of(store, read.study) if run_id is None else iter([run_id] if run_id in run_ids(store) else [])
    if step is not None:
        if step not in (names := [entry.name for entry in steps]):
            raise UsageError(f"one of the steps {', '.join(names)}", repr(step), "Name one of these.")
        _print_logs(store, runs, step, as_json)
        return
    if (found := next(runs, None)) is None:
        raise UsageError(
            f"a run of {read.study} in {root}",
            f"no run {run_id}" if run_id else "none",
            f"`repscope run {shlex.quote(study)}` makes one; runs that had nothing to do leave no log.",
        )
    if follow:
        _follow(store, found, as_json)
    elif folder is not None:
        from pipeline.tensorboard import export

        exported = export(read_events(store, found), folder / found)
        click.echo(f"{folder / found}: {', '.join(exported) or 'no training in this run'}")
    else:
        for event in read_events(store, found):
            if as_json or event.kind != PROGRESS:
                click.echo(_event_text(event, as_json))


COMMANDS = (log,)


def _follow(store: "Store", run_id: str, as_json: bool) -> None:
    """Prints the events of a run until it ends."""
    from pipeline.following import Follower, follow

    follower = Follower(store, run_id)
    try:
        for event in follow(follower):
            click.echo(_event_text(event, as_json))
    except KeyboardInterrupt:
        raise click.exceptions.Exit(130) from None
    if follower.end != "done":
        if follower.end == "lost":
            click.echo(f"repscope: {follower.message}", err=True)
        raise click.exceptions.Exit(3)


def _print_logs(store: "Store", runs: "Iterator[str]", step: str, as_json: bool) -> None:
    """Prints what workers printed during a step, of the first run in which they did."""
    from pipeline.worker_log import read_logs

    for run_id in islice(runs, RUNS_SEARCHED):
        printed = False
        for found in read_logs(store, run_id, step):
            printed = True
            if as_json:
                click.echo(json.dumps({"run": run_id, "step": step, **asdict(found)}))
            else:
                click.echo(f"== {found.work} on {found.host} (process {found.pid}), {found.since}, run {run_id}")
                click.echo(found.text)
        if printed:
            return
    if not as_json:
        click.echo(f"Nothing was printed during {step}.")


def _event_text(event: "Event", as_json: bool) -> str:
    return json.dumps(asdict(event)) if as_json else _event_line(event)


def _event_line(event: "Event") -> str:
    clock = time.strftime("%H:%M:%S", time.gmtime(event.time))
    fields = "  ".join(
        f"{name}={json.dumps(value) if isinstance(value, dict | list) else value}"
        for name, value in event.fields.items()
    )
    return f"{clock}  {event.kind:<12}  {event.step}  {fields}".rstrip()
