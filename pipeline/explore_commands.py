"""The command `explore`: maps of a finished study on one page. Registered in `pipeline.cli`."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.opening import opened_study
from pipeline.options import STORE, STUDY, OutFile

if TYPE_CHECKING:
    from pipeline.reading import OpenStudy
    from pipeline.showing import Show
    from stages.explorer.asked import Asked
    from stages.show.shown import Networks

SAMPLES = 6
"""Samples that are painted of an image of the reader's at each tap: one line of the panel."""


@click.command()
@STUDY
@STORE
@click.option(
    "--tap",
    "taps",
    multiple=True,
    metavar="ENCODER:TAP",
    help="Only this tap (may be given several times) [default: all].",
)
@click.option(
    "--points", type=click.IntRange(3), default=5000, show_default=True, help="Held-out images that are shown, at most."
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of t-SNE, and of the choice of images."
)
@click.option(
    "--tsne/--no-tsne",
    default=None,
    help="Also map by t-SNE, which takes minutes for thousands of images [default: where it takes less than a minute].",
)
@click.option("--out", type=OutFile(), help="The page [default: STUDY-explore.html].")
@click.option("--serve", is_flag=True, help="Serve the page on this machine instead: it then takes images of yours.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="With --serve: listen on this port [default: one that is free].",
)
def explore(
    study: str,
    root: str,
    taps: tuple[str, ...],
    points: int,
    seed: int,
    tsne: bool | None,
    out: Path | None,
    serve: bool,
    port: int,
) -> None:
    """Write one page with a map of the held-out images of a finished STUDY at each tap.

    The page needs no network. Images are coloured by labels and selected on all maps at once; a press on one shows its
    neighbours at each tap, and its samples where they are stored. With --serve the page also takes images of yours:
    the study's own encoders embed them, and its decoder paints them. It answers on this machine alone, and only who
    has the printed address, which has a token in it.
    """
    from pipeline.errors import UsageError, require_run
    from pipeline.progress import size
    from stages.explorer.content import gather
    from stages.explorer.page import render

    if serve:
        if out is not None:
            raise UsageError("--out or --serve", "both", "Give one of the two.")
        require_run()
    opened = opened_study(study, root)
    content = gather(opened, taps, points, seed, tsne, lambda sentence: click.echo(sentence, err=True))
    page = render(content, served=serve)
    if serve:
        from pipeline.serving import PageServer
        from stages.explorer.asked import Asked

        asked = Asked(opened, content)
        answers = {"near": asked.near, "paint": _painter(study, opened, [tap.id for tap in content.taps], asked)}
        with PageServer(page, answers, port) as server:
            click.echo(f"{server.url}\nCtrl-C ends it.")
            with suppress(KeyboardInterrupt):
                server.serve_forever()
        return
    target = out or Path(f"{opened.name}-explore.html")
    target.write_bytes(page)
    for note in content.notes:
        click.echo(note)
    taps_shown = f"{len(content.taps)} tap{'s' * (len(content.taps) != 1)}"
    click.echo(f"{target}: {len(content.keys)} images, {taps_shown}, {size(len(page))}")


COMMANDS = (explore,)


def _painter(
    study: str, opened: "OpenStudy", taps: Sequence[str], asked: "Asked"
) -> "Callable[[bytes], dict[str, Any]]":
    """Paints an image of the reader's at the taps that are shown, by the settings of the study's file.

    The decoders of these taps are loaded when the first image comes, and kept. The encoders are those of `asked`.
    """

    @cache
    def shower() -> "tuple[Networks, Show]":
        from cluster.resources import device
        from pipeline import showing
        from pipeline.errors import UsageError
        from pipeline.study import load
        from stages.errors import InputError
        from stages.show.shown import Networks

        try:
            read = load(study)
        except UsageError as error:
            remedy = "Start `repscope explore` with the study's file."
            raise InputError("the study's file, which names its encoders", f"only {study!r}", remedy) from error
        networks = Networks(showing.material(read, opened), device(), taps, asked.encoder)
        return networks, showing.shower(read, networks, samples=SAMPLES, seed=0, guidance=1.0)

    def paint(image: bytes) -> "dict[str, Any]":
        from stages.explorer.asked import painted

        networks, show = shower()
        return painted(show({"image": image}, ())) if networks.readable else {}

    return paint
