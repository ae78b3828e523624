"""Options and arguments that several commands have."""

import functools
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click

HUNG_MINUTES = 10.0
"""After how many minutes at least a part or a training is taken for hung."""


class RanksOption(click.ParamType):  # type: ignore[type-arg]
    """A number of ranks, or the fewest and the most: `4`, `2-8`."""

    name = "n|min-max"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """The fewest and the most."""
        found = re.fullmatch(r"([1-9][0-9]*)(?:-([1-9][0-9]*))?", str(value))
        least, most = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if least > most:
            self.fail(f"expected a number of ranks such as 4, or 2-8; found {value!r}.", param, ctx)
        return least, most

    @staticmethod
    def text(ranks: tuple[int, int]) -> str:
        """As a person writes it."""
        least, most = ranks
        return str(least) if least == most else f"{least}-{most}"


class OutFile(click.Path):
    """A file that a command writes at its end: refused before its work where its folder cannot be written."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, dir_okay=False, writable=True, readable=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path."""
        path = Path(str(super().convert(value, param, ctx)))
        folder = path.parent
        if not folder.is_dir():
            self.fail(f"expected a file in a folder that is there; found no folder {str(folder)!r}.", param, ctx)
        if not path.exists() and not os.access(folder, os.W_OK):
            self.fail(f"expected a folder that can be written; found {str(folder)!r}, which cannot.", param, ctx)
        return path


STUDY = click.argument("study", metavar="STUDY")
STORE = click.option(
    "--store",
    "root",
    envvar="REPSCOPE_STORE",
    default="repscope-store",
    show_default=True,
    help="Folder or URL (s3://bucket/path) that holds the artifacts. Also REPSCOPE_STORE.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for a program to read.")
RANKS = click.option(
    "--ranks",
    type=RanksOption(),
    default=None,
    help="Ranks of a training [default: 1]; 2-8: from 2 to 8, as many as there is room for.",
)
FORCE = click.option("--force", multiple=True, metavar="STEP", help="Make this step anew (may be given several times).")
UNTIL = click.option("--until", default=None, metavar="STEP", help="Only this step and what it needs.")
KEEP_GOING = click.option(
    "--keep-going", is_flag=True, help="After a failure, go on with all that does not need what failed."
)
ACCEPT_DRIFT = click.option("--accept-drift", is_flag=True, help="Go on with work that was begun with other code.")
ON_BUSY = click.option(
    "--on-busy",
    type=click.Choice(["wait", "fail"]),
    default="wait",
    show_default=True,
    help="What to do where another run works on the same artifact.",
)
HUNG_AFTER = click.option(
    "--hung-after",
    type=click.FloatRange(min=0),
    default=HUNG_MINUTES,
    show_default=True,
    metavar="MINUTES",
    help="A part or a training that hangs is tried again, after so long at least. 0: never.",
)


@dataclass(frozen=True)
class RunOptions:
    """Options of a run, alike on this machine and on a cluster."""

    ranks: tuple[int, int] | None
    force: tuple[str, ...]
    until: str | None
    keep_going: bool
    accept_drift: bool
    on_busy: str
    hung_after: float

    def words(self) -> list[str]:
        """These options as words of a command line, without those that have their default."""
        words = ["--ranks", RanksOption.text(self.ranks)] if self.ranks else []
        words += [word for step in self.force for word in ("--force", step)]
        words += ["--until", self.until] if self.until else []
        words += ["--keep-going"] if self.keep_going else []
        words += ["--accept-drift"] if self.accept_drift else []
        words += [] if self.on_busy == "wait" else ["--on-busy", self.on_busy]
        words += [] if self.hung_after == HUNG_MINUTES else ["--hung-after", f"{self.hung_after:g}"]
        return words


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options of a run to a command, which gets them as one argument `options`."""

    @functools.wraps(command)
    def with_options(**arguments: Any) -> None:
        options = RunOptions(**{field.name: arguments.pop(field.name) for field in fields(RunOptions)})
        command(options=options, **arguments)

    decorated: Callable[..., None] = with_options
    for option in (HUNG_AFTER, ON_BUSY, ACCEPT_DRIFT, KEEP_GOING, UNTIL, FORCE, RANKS):
        decorated = option(decorated)
    return decorated
