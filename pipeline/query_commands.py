"""Commands that read a store as finished runs left it: `path`, `ls` and `query`. Registered in `pipeline.cli`."""

import json
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.options import JSON, STORE, STUDY

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.reading import OpenStudy

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

    opened = _opened(study, root)
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
@click.argument("sql", metavar="SQL")
@STORE
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True)
@click.option("--tap", metavar="ENCODER:TAP", help="Whose vectors `embeddings` has [default: the study's first].")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file instead.")
def query(study: str, sql: str, root: str, form: str, tap: str | None, out: Path | None) -> None:
    """Ask a finished STUDY in SQL (DuckDB).

    Views: rows (one per image, with its labels), results (of all questions), samples, and embeddings (row, key and one
    list per view of --tap).
    """
    from pipeline.errors import UsageError

    opened = _opened(study, root)
    if form == "parquet" and out is None and sys.stdout.isatty():
        raise UsageError("a file for Parquet", "a terminal", "Say --out FILE.")
    content = _written(_asked(opened, sql, tap), form)
    if out is not None:
        out.write_bytes(content)
        return
    click.echo(content, nl=False)


COMMANDS = (path, list_store, query)


def _opened(study: str, root: str) -> "OpenStudy":
    """A study by its name in the store, or by its file."""
    from pipeline.reading import open

    if study.endswith((".yaml", ".yml")) or os.sep in study:
        from pipeline.study import load

        study = load(study).study
    return open(root).study(study)


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
