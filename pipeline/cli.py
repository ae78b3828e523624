"""The command line: parses, calls, prints. Every command imports what it needs when it runs."""

import json
import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline import explore_commands, export_commands, query_commands, store_commands, submit_commands
from pipeline.options import (
    ACCEPT_DRIFT,
    FORCE,
    HUNG_AFTER,
    JSON,
    KEEP_GOING,
    ON_BUSY,
    RANKS,
    STORE,
    STUDY,
    UNTIL,
    run_words,
)
from pipeline.query_commands import opened_study

if TYPE_CHECKING:
    from cluster.executor import Executor
    from pipeline.events import Event
    from pipeline.plan import StepState
    from pipeline.step import Step
    from pipeline.store import Store
    from pipeline.study import Study


RUNS_SEARCHED = 20
"""How many of the newest runs `log --step` searches for what workers printed."""

SUBMITTED = "submitted"
"""The context's object where `pipeline.submitted` calls `run`: the command that goes on is then that of `submit`."""


class Commands(click.Group):
    """Turns every error into one message and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; an error of ours is printed as one message, its exit code is that of its kind."""
        before = signal.signal(signal.SIGTERM, _terminated)
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo("\nrepscope: stopped; what is finished is kept, the same command goes on.", err=True)
            ctx.exit(130)
        except BrokenPipeError:
            # What is left in the buffers is not to fail once more when Python ends.
            for stream in (sys.stdout, sys.stderr):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            ctx.exit(141)
        except Exception as error:
            from pipeline.errors import exit_code, not_installed
            from stages.errors import without_credentials

            if isinstance(error, ImportError):
                error = not_installed(error) or error
            code = exit_code(error)
            if code == 1:
                raise
            click.echo(f"repscope: {without_credentials(str(error))}", err=True)
            ctx.exit(code)
        finally:
            signal.signal(signal.SIGTERM, before)


def _terminated(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="repscope")
def main() -> None:
    """Shows what a representation knows.

    A STUDY is a YAML file, or the name of a recipe that comes with Repscope (see `repscope init --help`).
    Exit codes: 0 done, 1 internal, 2 usage, 3 a stage failed, 4 stale or drifted, 5 busy, 6 verification failed.
    """


@main.command()
@click.argument("recipe")
@click.argument("path", type=click.Path(path_type=Path), required=False)
def init(recipe: str, path: Path | None) -> None:
    """Write the study RECIPE as a file to start from (default: RECIPE.yaml here)."""
    from pipeline.errors import UsageError
    from pipeline.study import RECIPES, recipes

    if recipe not in recipes():
        raise UsageError(f"one of the recipes {', '.join(recipes())}", repr(recipe), "Name one of these.")
    target = path or Path(f"{recipe}.yaml")
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write((RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8"))
    except FileExistsError as error:
        raise UsageError(f"{target} not to exist", "a file", "Name another path.") from error
    except OSError as error:
        raise UsageError(f"to write {target}", str(error.strerror), "Name a path that can be written.") from error
    click.echo(f"{target} written. Next: repscope plan {target}; repscope run {target}")


@main.command()
@STUDY
@STORE
@JSON
@click.option("--refresh", is_flag=True, help="List outside sources again instead of trusting what was seen last.")
@click.option("--address", default=None, help="Estimate for this running Ray cluster (host:port), not this machine.")
def plan(study: str, root: str, as_json: bool, refresh: bool, address: str | None) -> None:
    """Say what a run would do: state and reason of each step, parts left, bytes, estimated time, critical path."""
    from pipeline.forecast import forecast
    from pipeline.plan import plan as plan_graph
    from pipeline.progress import duration, size
    from pipeline.speed import measured

    _, steps, store = _opened(study, root)
    states = plan_graph(steps, store, refresh=refresh, speed=measured)
    if as_json:
        click.echo(json.dumps([asdict(state) for state in states], indent=1))
        return
    _table(states, costs=True)
    for warning in (warning for state in states for warning in state.warnings):
        click.echo(warning)
    left = [state for state in states if not state.finished]
    if left:
        cpus = _cpus(address)
        found = forecast(steps, {state.name: state.seconds for state in left}, cpus)
        where = f"{sum(cpus)} cores" if len(cpus) == 1 else f"{sum(cpus)} cores of {len(cpus)} machines"
        click.echo(
            f"\n{len(left)} of {len(states)} steps to do: about {duration(found.seconds)} on {where}, "
            f"{size(sum(state.size_bytes for state in left))} to write."
        )
        click.echo(
            f"The longest chain takes about {duration(found.critical_seconds)} of that: {' > '.join(found.critical)}"
        )
        if not all(state.measured for state in left):
            click.echo(measured().basis)
    else:
        click.echo(f"\nAll {len(states)} steps are done.")


@main.command()
@STUDY
@STORE
@JSON
@click.option("--check", is_flag=True, help="Exit with 4 where something is broken, stale, drifted or missing.")
@click.option("--refresh", is_flag=True, help="List outside sources again instead of trusting what was seen last.")
@click.option("--watch", is_flag=True, help="Say it again whenever it changes, until the newest run of STUDY ends.")
def status(study: str, root: str, as_json: bool, check: bool, refresh: bool, watch: bool) -> None:
    """Say how each step of a study stands."""
    from pipeline.errors import OutdatedError, UsageError
    from pipeline.plan import plan as plan_graph
    from pipeline.speed import REFERENCE, cached

    if watch and as_json:
        raise UsageError("--watch or --json", "both", "`repscope log STUDY --follow --json` is for programs.")
    read, steps, store = _opened(study, root)

    def states_now() -> "list[StepState]":
        return plan_graph(steps, store, refresh=refresh, speed=lambda: cached() or REFERENCE)

    if watch:
        states = _watch(read.study, store, states_now)
    elif as_json:
        states = states_now()
        click.echo(json.dumps([asdict(state) for state in states], indent=1))
    else:
        states = states_now()
        _table(states, costs=False)
    wrong = [state for state in states if state.state != "done"]
    if check and wrong:
        raise OutdatedError(
            "every step done with today's code",
            ", ".join(f"{state.name} {state.state}" for state in wrong[:3])
            + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""),
            f"To make them: repscope run {shlex.quote(study)} --store {shlex.quote(root)}",
        )


@main.command()
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
@RANKS
@FORCE
@UNTIL
@KEEP_GOING
@ACCEPT_DRIFT
@ON_BUSY
@HUNG_AFTER
def run(
    study: str,
    root: str,
    as_json: bool,
    executor: str,
    address: str | None,
    ranks: tuple[int, int] | None,
    force: tuple[str, ...],
    until: str | None,
    keep_going: bool,
    accept_drift: bool,
    on_busy: str,
    hung_after: float,
) -> None:
    """Bring every step to done, doing only what the store does not hold, and print what matters."""
    from pipeline.errors import exit_code, require_run
    from pipeline.progress import ProgressDisplay
    from pipeline.run import run as run_graph

    require_run()
    read, steps, store = _opened(study, root)
    forced = list(force)

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
                _executor(executor, address, hung_after),
                study=read.study,
                force=force,
                until=until,
                keep_going=keep_going,
                accept_drift=accept_drift,
                on_busy="fail" if on_busy == "fail" else "wait",
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
            command += run_words(ranks, forced, until, keep_going, accept_drift, on_busy, hung_after)
            command += ["--json"] if as_json else []
            click.echo(f"repscope: {error}\nTo go on from here: {shlex.join(command)}", err=True)
            raise click.exceptions.Exit(3) from error
    made = [step.name for step in result.steps if step.outcome == "made"]
    headlines = [line for step in result.steps for line in result.summary(step.name).get("headlines", ())]
    last = until or "report"
    found = f"{result.url('report')}/report.html" if last == "report" else result.url(last)
    if as_json:
        click.echo(json.dumps({"run": result.run_id, "made": made, "headlines": headlines, last: found}, indent=1))
        return
    if not made:
        which = f"all {len(result.steps)} steps" if until is None else f"{until} and what it needs"
        click.echo(f"Nothing to do: {which} of {read.study} are done.")
    for line in headlines:
        click.echo(line)
    click.echo(f"{last}: {found}")


@main.command()
@STUDY
@click.argument("step")
@STORE
@JSON
def explain(study: str, step: str, root: str, as_json: bool) -> None:
    """Say which fields of STEP differ from the newest other artifact of its stage."""
    from pipeline.plan import explain as explain_step

    _, steps, store = _opened(study, root)
    differences = explain_step(step, steps, store)
    if as_json:
        click.echo(json.dumps([asdict(difference) for difference in differences], indent=1))
        return
    if not differences:
        click.echo(f"The store holds no other artifact of the stage of {step}.")
        return
    click.echo(f"{step} against {differences[0].artifact}:")
    for difference in differences:
        click.echo(f"  {difference.field}: now {json.dumps(difference.now)}, there {json.dumps(difference.before)}")


@main.command()
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
    read, steps, store = _opened(study, root)
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
            f"`repscope run {study}` makes one; runs that had nothing to do leave no log.",
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


@main.command()
@STUDY
@STORE
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Also copy the page to this file.")
def report(study: str, root: str, out: Path | None) -> None:
    """Print where the report of a finished STUDY is."""
    page = opened_study(study, root).artifact("report")
    if out is not None:
        out.write_bytes(page.read("report.html"))
        click.echo(out)
        return
    click.echo(page.address("report.html"))


@main.command()
@STUDY
@click.argument("image", type=click.Path(path_type=Path))
@STORE
@click.option(
    "--tap", "taps", multiple=True, metavar="ENCODER:TAP", help="Only this tap [default: all that see pixels]."
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
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default="shown.png", show_default=True)
def show(
    study: str, image: Path, root: str, taps: tuple[str, ...], count: int, seed: int, guidance: float, out: Path
) -> None:
    """Paint what each tap of a finished STUDY knows of IMAGE: the image, then its samples, one row per tap."""
    from cluster.resources import device
    from pipeline.errors import UsageError
    from pipeline.graph import encoder_steps_of, encoders_of, samples_of, spec_of
    from stages.samples.show import show as show_image

    if not image.is_file():
        raise UsageError("an image file", f"no file {str(image)!r}", "Name an image: PNG or JPEG.")
    read, steps, _ = _opened(study, root)
    done = opened_study(read, root)
    decoders = [step.name for step in steps if step.name.split(".")[0] in ("decoder", "extension")]
    picture, rows = show_image(
        image.read_bytes(),
        [done.artifact(name) for name in decoders],
        specs={name: spec_of(encoder) for name, encoder in encoders_of(read).items()},
        encoders={name: done.artifact(f"encoder.{name}") for name in encoder_steps_of(read)},
        taps=taps,
        settings=samples_of(read).model_copy(update={"per_source": count, "seed": seed}),
        device=device(),
        guidance=guidance,
        scaled=read.dataset.shards.decode == "scaled",
    )
    out.write_bytes(picture)
    click.echo(f"{out}: the image and {count} samples each for {', '.join(rows)}")


def _executor(name: str, address: str | None, hung_minutes: float) -> "Callable[[], Executor]":
    def enter() -> "Executor":
        if name == "inline":
            from cluster.inline import Inline

            return Inline()
        from cluster.executor import Retries
        from cluster.on_ray import OnRay

        return OnRay(address=address, retries=Retries(hung_seconds=60 * hung_minutes or math.inf))

    return enter


def _opened(study: str, root: str) -> "tuple[Study, list[Step], Store]":
    from pipeline.graph import graph_of
    from pipeline.store import open_store
    from pipeline.study import load

    read = load(study)
    return read, graph_of(read), open_store(root)


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


def _watch(study: str, store: "Store", states_now: "Callable[[], list[StepState]]") -> "list[StepState]":
    """Draws the table of a study's steps until its newest run ends, and returns the last."""
    from pipeline.events import runs_of
    from pipeline.following import Follower, Screen

    screen = Screen(sys.stdout)
    run_id = next(runs_of(store, study), None)
    if run_id is None:
        screen.draw([*_lines(states := states_now(), costs=False), f"No run of {study} has begun."])
        return states
    follower = Follower(store, run_id)
    states = []
    try:
        while True:
            if follower.poll() or follower.end or not states:
                states = states_now()
                words = {"": "goes on", "done": "is done", "failed": "has failed", "lost": "is gone"}
                ending = f"Run {run_id} {words[follower.end]}"
                ending += f": {follower.message}" if follower.message else "."
                screen.draw([*_lines(states, costs=False, notes=follower.progress), ending])
            if follower.end:
                return states
            time.sleep(follower.seconds)
    except KeyboardInterrupt:
        raise click.exceptions.Exit(130) from None


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


def _table(states: "Sequence[StepState]", *, costs: bool) -> None:
    for line in _lines(states, costs=costs):
        click.echo(line)


def _lines(states: "Sequence[StepState]", *, costs: bool, notes: "Mapping[str, str] | None" = None) -> list[str]:
    """A line for each step; `notes` stand behind those of their steps."""
    from pipeline.progress import duration, size

    width = max(len(state.name) for state in states)
    lines = []
    for state in states:
        parts = f"{state.parts_done}/{state.parts}" if state.parts is not None else "-"
        line = f"{state.name:<{width}}  {state.state:<8}  {parts:>7}"
        if costs:
            line += f"  {duration(state.seconds):>12}  {size(state.size_bytes):>8}"
        note = (notes or {}).get(state.name, "")
        lines.append("  ".join(word for word in (line, state.reason, note) if word))
    return lines


def _event_text(event: "Event", as_json: bool) -> str:
    return json.dumps(asdict(event)) if as_json else _event_line(event)


def _event_line(event: "Event") -> str:
    clock = time.strftime("%H:%M:%S", time.gmtime(event.time))
    fields = "  ".join(
        f"{name}={json.dumps(value) if isinstance(value, dict | list) else value}"
        for name, value in event.fields.items()
    )
    return f"{clock}  {event.kind:<12}  {event.step}  {fields}".rstrip()


def _cpus(address: str | None) -> list[int]:
    """The CPUs of each machine that a run would have."""
    if address is None:
        return [len(os.sched_getaffinity(0))]
    from cluster.connect import connect
    from cluster.errors import ConnectError

    connection = connect(address)
    try:
        found = [machine.cpus for machine in connection.machines() if machine.cpus]
    finally:
        connection.close()
    if not found:
        raise ConnectError(f"a machine with a CPU at {address}", "none", "Wait for one, or plan without --address.")
    return found


for commands in (query_commands, export_commands, explore_commands, store_commands, submit_commands):
    for command in commands.COMMANDS:
        main.add_command(command)


if __name__ == "__main__":
    main()
