"""Commands that report how a study stands: `init`, `plan`, `status` and `explain`. Registered in `pipeline.cli`."""

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.opening import opened_graph
from pipeline.options import JSON, STORE, STUDY

if TYPE_CHECKING:
    from pipeline.plan import StepState
    from pipeline.store import Store


@click.command()
@click.argument("recipe")
@click.argument("path", type=click.Path(path_type=Path), required=False)
def init(recipe: str, path: Path | None) -> None:
    """Write the study RECIPE as a file to start from (default: RECIPE.yaml here).

    Recipes: ceiling, dose, findings, folder, folder128, full, photos, scenes, scenes64, tiny. The quickstart says what
    each is.
    """
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
    quoted = shlex.quote(str(target))
    click.echo(f"{target} written. Next: repscope plan {quoted}; repscope run {quoted}")


@click.command()
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

    _, steps, store = opened_graph(study, root)
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


@click.command()
@STUDY
@STORE
@JSON
@click.option("--check", is_flag=True, help="Exit with 4 where something is broken, stale, drifted or missing.")
@click.option("--refresh", is_flag=True, help="List outside sources again instead of trusting what was seen last.")
@click.option("--watch", is_flag=True, help="Print it again whenever it changes, until the newest run of STUDY ends.")
def status(study: str, root: str, as_json: bool, check: bool, refresh: bool, watch: bool) -> None:
    """Say how each step of a study stands."""
    from pipeline.errors import OutdatedError, UsageError
    from pipeline.plan import plan as plan_graph
    from pipeline.speed import REFERENCE, cached

    if watch and as_json:
        raise UsageError("--watch or --json", "both", "`repscope log STUDY --follow --json` is for programs.")
    read, steps, store = opened_graph(study, root)

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


@click.command()
@STUDY
@click.argument("step")
@STORE
@JSON
def explain(study: str, step: str, root: str, as_json: bool) -> None:
    """Say which fields of STEP differ from the newest other artifact of its stage."""
    from pipeline.plan import explain as explain_step

    _, steps, store = opened_graph(study, root)
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


COMMANDS = (init, plan, status, explain)


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
