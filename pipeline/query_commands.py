"""Commands that read a store as finished runs left it: `path`, `ls` and `query`. Registered in `pipeline.cli`."""

import json
import math
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.opening import opened_study
from pipeline.options import JSON, STORE, STUDY, OutFile

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.reading import OpenStudy
    from stages.embeddings.neighbours import Metric
    from stages.embeddings.query import TapTable

FORMATS = ("table", "json", "csv", "parquet")
SHOWN_ROWS = 40
"""Rows that `--format table` prints; the last line says how many there are."""


@click.command()
@STUDY
@click.argument("step", required=False)
@STORE
@click.option("--env", "as_env", is_flag=True, help="Print `export NAME=PATH` for eval; without STEP, of every step.")
def path(study: str, step: str | None, root: str, as_env: bool) -> None:
    """Print the folder or URL of STEP of a finished STUDY."""
    from pipeline.errors import UsageError

    opened = opened_study(study, root)
    if step is None and not as_env:
        raise UsageError(f"a step: {', '.join(opened.steps())}", "none", "Name one, or say --env for all.")
    for name in [step] if step is not None else opened.steps():
        where = opened.path(name)
        click.echo(f"export {_variable(name)}={shlex.quote(where)}" if as_env else where)


@click.command("ls")
@STORE
@JSON
def list_store(root: str, as_json: bool) -> None:
    """Print what a store holds: its finished studies, their taps and steps."""
    from pipeline.reading import open

    store = open(root)
    studies = [store.study(name) for name in store.studies()]
    if as_json:
        found = [{"study": s.name, "taps": s.taps(), "steps": {n: s.path(n) for n in s.steps()}} for s in studies]
        click.echo(json.dumps(found, indent=1))
        return
    for study in studies:
        click.echo(study.name)
        for tap in study.taps():
            click.echo(f"  {study[tap]!r}")
        click.echo(f"  steps: {' '.join(study.steps())}")
    if not studies:
        click.echo("No study has been finished here.")


@click.command()
@STUDY
@click.argument("sql", metavar="[SQL]", required=False)
@STORE
@click.option("--near", metavar="IMAGE|KEY", help="In place of SQL: the images nearest to a photograph, or to a key.")
@click.option("--where", help="With --near: a condition in SQL over the columns of `rows`.")
@click.option("-k", "count", type=click.IntRange(1), default=10, show_default=True, help="With --near: how many.")
@click.option(
    "--metric", type=click.Choice(("l2", "cosine")), default="l2", show_default=True, help="With --near: the distance."
)
@click.option(
    "--sheet",
    type=OutFile(),
    help="With --near: also write the images found to this PNG, with names and distances.",
)
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True, help="Of the output.")
@click.option("--tap", metavar="ENCODER:TAP", help="The tap whose vectors are used [default: the study's first].")
@click.option("--out", type=OutFile(), help="Write to this file instead.")
def query(
    study: str,
    sql: str | None,
    root: str,
    near: str | None,
    where: str | None,
    count: int,
    metric: "Metric",
    sheet: Path | None,
    form: str,
    tap: str | None,
    out: Path | None,
) -> None:
    """Ask a finished STUDY in SQL (DuckDB), or for the images nearest to one.

    Views: rows (one per image, with its labels), results (of all questions), samples, and embeddings (row, key and one
    list per view of --tap). --near embeds a photograph by the study's own encoder; `random_pairs` are distances in
    units of the mean distance of two images.
    """
    from pipeline.errors import UsageError

    if (sql is None) == (near is None):
        found = "neither" if sql is None else "both"
        raise UsageError("SQL or --near", found, "Give one of the two.")
    if near is None and (where is not None or sheet is not None):
        raise UsageError("--where and --sheet with --near", "SQL", "Write the condition into the SQL.")
    opened = opened_study(study, root)
    if form == "parquet" and out is None and sys.stdout.isatty():
        raise UsageError("a file for Parquet", "a terminal", "Say --out FILE.")
    if near is not None:
        answer = _near(opened[tap or opened.taps()[0]], near, count, where, metric, sheet)
    else:
        assert sql is not None
        answer = _asked(opened, sql, tap)
    content = _written(answer, form)
    if out is not None:
        out.write_bytes(content)
        return
    click.echo(content, nl=False)


def _near(
    table: "TapTable", near: str, count: int, where: str | None, metric: "Metric", sheet: Path | None
) -> "pa.Table":
    """The nearest images, distances also in units of random pairs; writes the contact sheet where one is named."""
    import pyarrow as pa

    found = table.nearest(near, count, where, metric).drop_columns(["query"])
    distances = found.column("distance").to_numpy()
    pairs = distances / (table.random_pair(metric) or 1.0)
    found = found.add_column(2, "random_pairs", pa.array(pairs))
    if sheet is not None:
        from stages.images.contact import SIDE, Picture
        from stages.images.contact import sheet as drawn
        from stages.images.image_file import decode_fit

        rows = found.column("row").to_numpy()
        named = [*table.rows.column("key").to_pylist()]
        asked = (
            table.pictures([named.index(near)], SIDE)[0] if near in named else decode_fit(Path(near).read_bytes(), SIDE)
        )
        pictures = [Picture(asked, (near, table.name))]
        for pixels, name, distance in zip(
            table.pictures(rows, SIDE), found.column("name").to_pylist(), pairs, strict=True
        ):
            pictures.append(Picture(pixels, (name, f"{distance:.3g} random pairs")))
        sheet.write_bytes(drawn(pictures))
    return found


COMMANDS = (path, list_store, query)


def _variable(step: str) -> str:
    return re.sub(r"\W", "_", step).upper()


def _asked(study: "OpenStudy", sql: str, tap: str | None) -> "pa.Table":
    """The answer to a query; a view is read only where the query speaks of it."""
    import duckdb

    from pipeline.errors import UsageError

    views: Mapping[str, Callable[[], pa.Table]] = {
        "rows": study.rows,
        "results": study.results,
        "samples": study.samples,
        "embeddings": lambda: study.embeddings(tap or study.taps()[0]),
    }
    with duckdb.connect() as connection:
        for name, read in views.items():
            if re.search(rf"\b{name}\b", sql, re.IGNORECASE):
                connection.register(name, read())
        try:
            answer = connection.sql(sql)
            found = None if answer is None else answer.to_arrow_table()
        except duckdb.Error as error:
            raise UsageError(
                f"SQL over the views {', '.join(views)}",
                " ".join(str(error).splitlines()[0].split()),
                'For example: "select split, count(*) from rows group by split".',
            ) from error
    if found is None:
        raise UsageError("SQL that answers with rows", repr(sql), "Begin it with `select`.")
    return found


def _written(table: "pa.Table", form: str) -> bytes:
    import pyarrow as pa
    import pyarrow.csv as csv
    import pyarrow.parquet as pq

    from pipeline.errors import UsageError

    sink = pa.BufferOutputStream()
    if form == "parquet":
        pq.write_table(table, sink)
    elif form == "csv":
        try:
            csv.write_csv(table, sink)
        except pa.ArrowException as error:
            raise UsageError("columns of plain values for CSV", str(error), "Take --format json or parquet.") from error
    elif form == "json":
        sink.write(json.dumps(_defined(table.to_pylist()), indent=1, default=str, allow_nan=False).encode() + b"\n")
    else:
        sink.write(_lines(table).encode())
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _defined(value: Any) -> Any:
    """A value as JSON has it: what is no number is null."""
    if isinstance(value, dict):
        return {name: _defined(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_defined(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _lines(table: "pa.Table") -> str:
    """The first rows in columns, and how many there are."""
    rows = [[_cell(value) for value in row.values()] for row in table.slice(0, SHOWN_ROWS).to_pylist()]
    lines = [table.column_names, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    more = f", the first {SHOWN_ROWS} shown" if table.num_rows > SHOWN_ROWS else ""
    return "\n".join([*text, f"({table.num_rows} row{'s' * (table.num_rows != 1)}{more})", ""])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = "" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
