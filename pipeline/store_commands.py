"""Commands that look after a store: `verify`, `lineage`, `invalidate` and `gc`. Registered in `pipeline.cli`."""

import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from pipeline.opening import opened_study
from pipeline.options import JSON, STORE, STUDY

if TYPE_CHECKING:
    from pipeline.collect import Garbage
    from pipeline.verify import Verified

GRACE_HOURS = 24.0


@click.command()
@STUDY
@STORE
@JSON
@click.option("--deep", is_flag=True, help="Also compare the sha256 of every object, which reads all bytes.")
def verify(study: str, root: str, as_json: bool, deep: bool) -> None:
    """Check that the artifacts of a finished STUDY are what their manifests say.

    Every object must be there and of its size. What is wrong is named with the remedy that loses least; then the exit
    code is 6.
    """
    from pipeline.errors import VerificationError
    from pipeline.store import open_store
    from pipeline.verify import bytes_of
    from pipeline.verify import verify as verify_artifacts

    def show(verified: "Verified") -> None:
        if not as_json:
            state = f"{len(verified.faults)} wrong" if verified.faults else "sound"
            click.echo(f"{verified.step:<28}  {verified.objects:>7} objects  {_size(verified.size_bytes):>9}  {state}")

    opened = opened_study(study, root)
    found = verify_artifacts(open_store(root), opened.refs(), deep, show)
    faults = [fault for verified in found for fault in verified.faults]
    if as_json:
        click.echo(json.dumps([asdict(verified) for verified in found], indent=1))
    else:
        for fault in faults:
            click.echo(str(fault))
        for step in opened.missing():
            click.echo(f"{step}: not made as the file says")
        how = "with their sha256" if deep else "with their sizes"
        click.echo(f"{len(found)} steps, {_size(bytes_of(found))}: compared {how}.")
    if faults:
        raise VerificationError(
            f"every object of {opened.name} as its manifest says",
            f"{len(faults)} that {'is' if len(faults) == 1 else 'are'} not, the first in {faults[0].step}: "
            f"{faults[0].where} {faults[0].problem}",
            f"{faults[0].remedy} To run it: repscope run {shlex.quote(study)} --store {shlex.quote(root)}",
        )


@click.command()
@STUDY
@click.argument("step")
@STORE
@JSON
def lineage(study: str, step: str, root: str, as_json: bool) -> None:
    """Say what STEP of a finished STUDY was made from, and what was made from it."""
    from pipeline.lineage import Lineage
    from pipeline.store import open_store

    found = Lineage(open_store(root), opened_study(study, root).refs())
    up, down = found.made_from(step), found.made_into(step)
    if as_json:
        record = {
            "step": asdict(found.steps[step]),
            "up": [asdict(found.steps[name]) for name in up],
            "down": [asdict(found.steps[name]) for name in down],
        }
        click.echo(json.dumps(record, indent=1))
        return
    width = max(len(name) for name in [step, *up, *down])
    for title, names in (("made from", up), ("", [step]), ("made into", down)):
        click.echo(f"{title}:" if title else "")
        for name in names:
            made = found.steps[name]
            day = time.strftime("%Y-%m-%d %H:%M", time.gmtime(made.created))
            click.echo(f"  {name:<{width}}  {day} UTC on {made.host}  {made.folder}")
        if not names:
            click.echo("  nothing")


@click.command()
@STUDY
@click.argument("step")
@STORE
@click.option("--yes", is_flag=True, help="Do it. Without this, only what depends on STEP is printed.")
def invalidate(study: str, step: str, root: str, yes: bool) -> None:
    """Close the artifact of STEP, so that the next run makes it anew.

    First prints what depends on it: that is made anew too, unless the new artifact has equal bytes.
    """
    from pipeline.lease import Lease
    from pipeline.lineage import Lineage, others_with
    from pipeline.manifest import close_generation
    from pipeline.store import open_store

    store, opened = open_store(root), opened_study(study, root)
    below = Lineage(store, opened.refs()).made_into(step)
    ref = opened.refs()[step]
    click.echo(f"{step} of {opened.name}: {store.address(ref.folder)}")
    click.echo(f"  made from it: {', '.join(below) or 'nothing'}")
    for other, steps in others_with(store, ref, opened.name).items():
        click.echo(f"  in the study {other}: {', '.join(steps)}")
    if not yes:
        click.echo("Nothing was closed: say --yes to do it.")
        return
    lease = Lease(store, f"{ref.stage}/{ref.folder.split('/')[2]}", "invalidate")
    lease.acquire("fail", lambda owner: None)
    with lease:
        close_generation(store, ref.stage, ref.key, ref.generation, "invalidated by hand")
    click.echo(f"Closed. To make it anew: repscope run {shlex.quote(study)} --store {shlex.quote(root)}")


@click.command("gc")
@click.argument("kinds", metavar="KIND...", nargs=-1, required=True)
@STORE
@JSON
@click.option("--delete", is_flag=True, help="Do it. Without this, what would go is only printed.")
@click.option(
    "--grace",
    "grace_hours",
    type=click.FloatRange(min=0),
    default=GRACE_HOURS,
    show_default=True,
    metavar="HOURS",
    help="Nothing younger goes, and an artifact stays this long after it is closed.",
)
def collect_garbage(kinds: tuple[str, ...], root: str, as_json: bool, delete: bool, grace_hours: float) -> None:
    """Delete from a store what nothing reaches any more, or print what that would be.

    KIND is one or more of: artifacts (those that neither the newest run of any study nor a run that is under way
    reaches), checkpoints (of trainings that are finished), leases (that are over), probes (left by checks of the
    store), or all. An artifact is closed first, and deleted by a later `gc` once the grace period is over.
    """
    from pipeline.collect import KINDS, collect, collectable
    from pipeline.errors import UsageError
    from pipeline.store import open_store

    unknown = [kind for kind in kinds if kind not in (*KINDS, "all")]
    if unknown:
        raise UsageError(f"kinds of {', '.join(KINDS)} or all", repr(unknown[0]), "Name one or more of these.")
    store = open_store(root)
    if not store.recognise():
        raise UsageError(f"a store at {store.url}", "none", "Name the folder or URL of `--store`.")
    chosen = [kind for kind in KINDS if kind in kinds or "all" in kinds]
    found = collectable(store, chosen, grace_hours * 3600)
    if delete:
        collect(store, found)
    if as_json:
        click.echo(json.dumps([asdict(entry) for entry in found], indent=1))
        return
    for entry in (entry for entry in found if entry.kind in ("artifacts", "checkpoints")):
        what = "to be closed" if entry.waits else "to be deleted"
        click.echo(f"{_size(entry.size_bytes):>9}  {store.address(entry.folder)}  {what}: {entry.reason}")
    for kind in chosen:
        click.echo(_total(kind, [entry for entry in found if entry.kind == kind], delete))
    if any(entry.waits for entry in found):
        click.echo(f"What is closed is deleted by the same command once {grace_hours:g} hours have passed.")
    if found and not delete:
        click.echo("Nothing was changed: say --delete to do it.")


def _total(kind: str, found: "Sequence[Garbage]", delete: bool) -> str:
    """One line on what goes of a kind."""
    sizes = {waits: [entry.size_bytes for entry in found if entry.waits is waits] for waits in (True, False)}
    words = {True: "closed" if delete else "to close", False: "deleted" if delete else "to delete"}
    parts = [f"{words[waits]} {_size(sum(sizes[waits]))} in {len(sizes[waits])}" for waits in sizes if sizes[waits]]
    return f"{kind}: {', '.join(parts) or 'nothing'}"


def _size(size_bytes: int) -> str:
    from pipeline.progress import size

    return size(size_bytes)


COMMANDS = (verify, lineage, invalidate, collect_garbage)
