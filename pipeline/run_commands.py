"""Commands that run a study and show what came of it: `run`, `report` and `show`. Registered in `pipeline.cli`."""

import json
import math
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.opening import opened_graph, opened_study
from pipeline.options import JSON, STORE, STUDY, OutFile, RunOptions, run_options

if TYPE_CHECKING:
    from cluster.executor import Executor
    from pipeline.events import Event

SUBMITTED = "submitted"
"""The context's object where `pipeline.submitted` calls `run`: the command that goes on is then that of `submit`."""


@click.command()
@STUDY
@STORE
@JSON
@click.option(
    "--executor",
    type=click.Choice(["ray", "inline"]),
    default="ray",
    show_default=True,
    help="ray: actors on an embedded local Ray or on the cluster of --address; inline: all in this process.",
)
@click.option("--address", default=None, help="A running Ray cluster (host:port); without it one is started here.")
@run_options
def run(
    study: str,
    root: str,
    as_json: bool,
    executor: str,
    address: str | None,
    options: RunOptions,
) -> None:
    """Bring every step to done, doing only what the store does not hold, and print what matters."""
    from pipeline.errors import exit_code, require_run
    from pipeline.progress import ProgressDisplay
    from pipeline.run import run as run_graph

    require_run()
    read, steps, store = opened_graph(study, root)
    forced = list(options.force)
    ranks = options.ranks

    def on_event(event: "Event") -> None:
        if event.kind == "step_started" and event.step in forced:
            # Its new generation is begun. To force it again would give that up.
            forced.remove(event.step)
        progress.on_event(event)

    with ProgressDisplay(steps, quiet=as_json) as progress:
        try:
            result = run_graph(
                steps,
                store,
                _executor(executor, address, options.hung_after),
                study=read.study,
                force=options.force,
                until=options.until,
                keep_going=options.keep_going,
                accept_drift=options.accept_drift,
                on_busy="fail" if options.on_busy == "fail" else "wait",
                ranks=ranks[1] if ranks else None,
                least_ranks=ranks[0] if ranks and ranks[0] < ranks[1] else None,
                listener=on_event,
            )
        except Exception as error:
            if exit_code(error) != 3:
                raise
            progress.close()
            if click.get_current_context().obj == SUBMITTED:
                raise
            command = ["repscope", "run", study, "--store", root]
            command += [] if executor == "ray" else ["--executor", executor]
            command += ["--address", address] if address else []
            command += replace(options, force=tuple(forced)).words()
            command += ["--json"] if as_json else []
            click.echo(f"repscope: {error}\nTo go on from here: {shlex.join(command)}", err=True)
            raise click.exceptions.Exit(3) from error
    made = [step.name for step in result.steps if step.outcome == "made"]
    headlines = [line for step in result.steps for line in result.summary(step.name).get("headlines", ())]
    last = options.until or "report"
    found = f"{result.url('report')}/report.html" if last == "report" else result.url(last)
    if as_json:
        click.echo(json.dumps({"run": result.run_id, "made": made, "headlines": headlines, last: found}, indent=1))
        return
    if not made:
        which = f"all {len(result.steps)} steps" if options.until is None else f"{options.until} and what it needs"
        click.echo(f"Nothing to do: {which} of {read.study} are done.")
    for line in headlines:
        click.echo(line)
    click.echo(f"{last}: {found}")


@click.command()
@STUDY
@STORE
@click.option("--out", type=OutFile(), help="Also copy the page to this file.")
def report(study: str, root: str, out: Path | None) -> None:
    """Print where the report of a finished STUDY is."""
    page = opened_study(study, root).artifact("report")
    if out is not None:
        out.write_bytes(page.read("report.html"))
        click.echo(out)
        return
    click.echo(page.address("report.html"))


@click.command()
@STUDY
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@STORE
@JSON
@click.option(
    "--tap",
    "taps",
    multiple=True,
    metavar="ENCODER:TAP",
    help="Only this tap (may be given several times) [default: all that read pixels].",
)
@click.option("--samples", "count", type=click.IntRange(1, 64), default=8, show_default=True, help="Samples per tap.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of their noise.")
@click.option(
    "--guidance",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Above 1, samples cling to the tap's vector and differ less. No measurement uses it.",
)
@click.option(
    "--out",
    type=OutFile(),
    default="shown.png",
    show_default=True,
    help="A picture (.png), or a page with distances and ranks (.html).",
)
def show(
    study: str,
    images: tuple[Path, ...],
    root: str,
    as_json: bool,
    taps: tuple[str, ...],
    count: int,
    seed: int,
    guidance: float,
    out: Path,
) -> None:
    """Paint what each tap of a finished STUDY knows of each IMAGE: the image, then its samples, one row per tap.

    For each tap it prints how far the samples' own vectors are from the image's (in distances of two held-out images)
    and the rank of the image among the held-out ones: mean and median over samples and images.
    """
    import numpy as np

    from pipeline.errors import UsageError
    from pipeline.showing import files
    from pipeline.showing import show as paint

    if out.suffix not in (".png", ".html"):
        raise UsageError("--out to end in .png or .html", out.name, "Name a picture or a page.")
    read, _, _ = opened_graph(study, root)
    found = files(images)
    shown = paint(read, opened_study(read, root), found, taps=taps, samples=count, seed=seed, guidance=guidance)
    out.write_bytes(shown.png() if out.suffix == ".png" else shown.page())
    if as_json:
        rows = [
            {
                "image": name,
                "tap": tap.id,
                "distance": float(tap.distances[i].mean()),
                "attainable": float(tap.attainable[i]),
                "rank": float(np.median(tap.ranks[i])),
            }
            for i, name in enumerate(shown.names)
            for tap in shown.taps
        ]
        click.echo(json.dumps({"out": str(out), "gallery": shown.gallery, "rows": rows}, indent=1))
        return
    width = max(len(tap.id) for tap in shown.taps)
    click.echo(f"{'tap':<{width}}  distance  attainable  rank of {shown.gallery + 1}")
    for tap in shown.taps:
        near = f"{tap.attainable.mean():.2f}" if tap.attainable.any() else ""
        click.echo(f"{tap.id:<{width}}  {tap.distances.mean():8.2f}  {near:>10}  {np.median(tap.ranks):g}")
    what = "the image" if len(found) == 1 else f"{len(found)} images"
    taps_shown = f"{len(shown.taps)} tap{'s' * (len(shown.taps) != 1)}"
    click.echo(f"{out}: {what} and {count} sample{'s' * (count != 1)} each at {taps_shown}")


COMMANDS = (run, report, show)


def _executor(name: str, address: str | None, hung_minutes: float) -> "Callable[[], Executor]":
    def enter() -> "Executor":
        if name == "inline":
            from cluster.inline import Inline

            return Inline()
        from cluster.executor import Retries
        from cluster.on_ray import OnRay

        return OnRay(address=address, retries=Retries(hung_seconds=60 * hung_minutes or math.inf))

    return enter
