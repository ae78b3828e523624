"""The tables of a listing: what a part of it writes, how parts become `listing.parquet`, and how its rows are read.

Parts of a catalogued source know their rows and the classes of all. A part that is one file of images knows neither:
its table has classes by name and no row numbers, and both are added when the parts are merged. Tables are written
and read by runs of rows, so that memory does not grow with their number.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.attributes import PREFIX, Attribute
from stages.contract import Input, Output
from stages.datasets.columns import CLASS_LIMIT, Declared, in_order
from stages.errors import FormatError, InputError
from stages.external.ranges import Ranged
from stages.listing.format import members_name
from stages.parquet import SETTINGS, table_from

if TYPE_CHECKING:
    import pyarrow as pa

LISTING = "listing.parquet"

GROUP_ROWS = 8192
"""Rows of a row group of `listing.parquet` and of the index."""

NAMED_COLUMNS = 20
"""Columns that a message names."""

DECLARED = b"declared"
"""Key in the metadata of a part under which its attributes stand."""

INTEGERS = ("row", "position", "size", "offset", "width", "height")


class FileTable:
    """The table of one file of images, written to a local file while the images are read."""

    columns = ("source", "position", "name", "size", "sha256", "split", "width", "height", "format", "status")

    def __init__(self, path: Path, declared: Sequence[Declared], rows_at_once: int) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._rows_at_once = rows_at_once
        self._declared = tuple(declared)
        fields = [(name, pa.int64() if name in INTEGERS else pa.string()) for name in self.columns]
        fields += [(PREFIX + d.name, pa.string() if d.kind == "class" else pa.float64()) for d in self._declared]
        text = json.dumps([asdict(entry) for entry in self._declared])
        self._schema = pa.schema(fields, metadata={DECLARED: text.encode()})
        self._writer = pq.ParquetWriter(path, self._schema, **SETTINGS)
        self._held: dict[str, list[Any]] = {name: [] for name in self._schema.names}

    def add(self, record: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """One image."""
        for name in self.columns:
            self._held[name].append(record[name])
        for declared in self._declared:
            self._held[PREFIX + declared.name].append(values.get(declared.name))
        if len(self._held["name"]) >= self._rows_at_once:
            self._flush()

    def __enter__(self) -> "FileTable":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa

        self._writer.write_table(pa.table(self._held, schema=self._schema))
        self._held = {name: [] for name in self._schema.names}


def merge_files(out: Output, parts: int, others: Set[str]) -> tuple[list[Attribute], Iterator["pa.Table"]]:
    """The attributes of all files, and the rows of the listing, in order. `others`: columns that were seen.

    Raises InputError where files disagree about a column, a column is in none of them, or a class is none.
    """
    declared, first = _agreed(out, parts)
    classes: dict[str, set[str]] = {entry.name: set() for entry in declared if entry.kind == "class"}
    seen: set[str] = set()
    for group in _groups(out, parts, [PREFIX + entry.name for entry in declared]):
        for entry in declared:
            column = group.column(PREFIX + entry.name)
            if column.null_count < len(column):
                seen.add(entry.name)
            if entry.name in classes and entry.classes is None:
                classes[entry.name] |= set(column.unique().to_pylist()) - {None}
                if len(classes[entry.name]) > CLASS_LIMIT:
                    raise InputError(
                        f"a class in the column {entry.column}",
                        f"more than {CLASS_LIMIT} different values",
                        "It is an id or a text: leave it out of `columns`.",
                    )
    if missing := [entry.column for entry in declared if entry.asked and entry.name not in seen]:
        known = f"; columns there are: {', '.join(sorted(others)[:NAMED_COLUMNS])}" if others else ""
        where = f"{first} and {parts - 1} more files" if parts > 1 else first
        raise InputError(
            f"values in the column {missing[0]}", f"none in {where}{known}", "Correct its name in `columns`."
        )
    # A label that nobody asked for and no image has is no attribute.
    kept = [entry for entry in declared if entry.name in seen]
    attributes = [
        entry.attribute(entry.classes or in_order(classes[entry.name])) if entry.kind == "class" else entry.attribute()
        for entry in kept
    ]
    return attributes, _rows(out, parts, attributes)


def merge_rows(out: Output, parts: int) -> Iterator["pa.Table"]:
    """The rows of a listing whose parts know their rows, in order."""
    return _groups(out, parts, None)


def publish(
    out: Output, name: str, tables: Iterable["pa.Table"], metadata: Mapping[bytes, bytes] | None = None
) -> None:
    """Puts tables under each other as one Parquet object, in row groups of `GROUP_ROWS`; there is at least one row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.parquet"
        writer: Any = None
        held: list[pa.Table] = []

        def flush(all_of_them: bool) -> None:
            nonlocal held
            table = pa.concat_tables(held)
            whole = table.num_rows if all_of_them else table.num_rows // GROUP_ROWS * GROUP_ROWS
            writer.write_table(table.slice(0, whole), row_group_size=GROUP_ROWS)
            held = [table.slice(whole)]

        try:
            for table in tables:
                plain = table.replace_schema_metadata(metadata)
                if writer is None:
                    writer = pq.ParquetWriter(path, plain.schema, **SETTINGS)
                held.append(plain)
                if sum(entry.num_rows for entry in held) >= GROUP_ROWS:
                    flush(all_of_them=False)
            assert writer is not None, f"no rows for {name}"
            flush(all_of_them=True)
        finally:
            if writer is not None:
                writer.close()
        out.put(name, path)


class ListingRows:
    """The rows of a listing, of which little more is read than what is asked for.

    A listing of before `listing.parquet` has its rows in parts of `rows_per_part`.
    """

    def __init__(self, listing: Input, rows_per_part: int) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._listing = listing
        self._file: pq.ParquetFile | None = None
        self._held: tuple[int, pa.Table] | None = None
        if LISTING in listing.names():
            # Nothing is prefetched by other threads: an input is read by one.
            file = pa.PythonFile(_Object(listing, LISTING), mode="r")
            self._file = pq.ParquetFile(file, pre_buffer=False, page_checksum_verification=True)
            metadata = self._file.metadata
            self._groups = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        else:
            rows = listing.summary["rows"]
            self._groups = [min(rows_per_part, rows - start) for start in range(0, rows, rows_per_part)]

    def read(self, start: int, stop: int) -> "pa.Table":
        """Rows start … stop - 1."""
        import pyarrow as pa

        pieces, at = [], 0
        for number, rows in enumerate(self._groups):
            if at < stop and at + rows > start:
                pieces.append(self._group(number).slice(max(0, start - at), min(stop - at, rows) - max(0, start - at)))
            at += rows
        return pa.concat_tables(pieces)

    def _group(self, number: int) -> "pa.Table":

        if self._held is None or self._held[0] != number:
            self._held = None
            if self._file is not None:
                try:
                    table = self._file.read_row_group(number, use_threads=False)
                except OSError as error:
                    raise FormatError(
                        f"{LISTING} as it was written",
                        f"{error} in row group {number}",
                        "A byte of it has changed: run again with --force listing.",
                    ) from error
            else:
                table = table_from(self._listing.read(members_name(number)))
            self._held = number, table
        return self._held[1]


class _Object(Ranged):
    """An object of an artifact as a file."""

    def __init__(self, artifact: Input, name: str) -> None:
        self._artifact = artifact
        self._name = name
        self.size = artifact.size(name)

    def readinto(self, buffer: Any) -> int:
        length = max(0, min(len(buffer), self.size - self._at))
        if length:
            buffer[:length] = self._artifact.read_range(self._name, self._at, length)
        self._at += length
        return length


def _agreed(out: Output, parts: int) -> tuple[tuple[Declared, ...], str]:
    """What all files declare, and the name of the first."""
    agreed: list[dict[str, Any]] | None = None
    first = ""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for part in range(parts):
        file = pq.ParquetFile(pa.BufferReader(out.read(members_name(part))))
        if not file.metadata.num_rows:
            continue
        declared = json.loads(file.schema_arrow.metadata[DECLARED])
        name = file.read_row_group(0, columns=["source"]).column(0)[0].as_py()
        if agreed is None:
            agreed, first = declared, name
        elif declared != agreed:
            raise InputError(
                "the same columns, types and names of classes in all files",
                f"{_difference(agreed, declared)} in {name}, other than in {first}",
                "Make the files alike, or name fewer `columns`.",
            )
    return tuple(
        Declared(**entry | {"classes": None if entry["classes"] is None else tuple(entry["classes"])})
        for entry in agreed or []
    ), first


def _difference(agreed: Sequence[Mapping[str, Any]], declared: Sequence[Mapping[str, Any]]) -> str:
    """The columns about which two files differ."""
    ours, theirs = ({entry["column"]: entry for entry in entries} for entries in (agreed, declared))
    return ", ".join(name for name in sorted(ours | theirs) if ours.get(name) != theirs.get(name))


def _groups(out: Output, parts: int, columns: Sequence[str] | None) -> Iterator["pa.Table"]:
    """Every row group of every part."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for part in range(parts):
        file = pq.ParquetFile(pa.BufferReader(out.read(members_name(part))))
        for number in range(file.metadata.num_row_groups):
            yield file.read_row_group(number, columns=columns, use_threads=False)


def _rows(out: Output, parts: int, attributes: Sequence[Attribute]) -> Iterator["pa.Table"]:
    """The rows of all files, numbered, with classes by their index."""
    import pyarrow as pa
    import pyarrow.compute as pc

    names = {a.name: pa.array(a.classes, pa.string()) for a in attributes if a.kind == "class"}
    at = 0
    for group in _groups(out, parts, None):
        rows = pa.array(range(at, at + group.num_rows), pa.int64())
        at += group.num_rows
        columns = {"row": rows} | {name: group.column(name) for name in FileTable.columns}
        for attribute in attributes:
            column = group.column(PREFIX + attribute.name)
            if attribute.name in names:
                index = pc.index_in(column, value_set=names[attribute.name])
                assert index.null_count == column.null_count, f"a class of {attribute.name} that is none of its names"
                column = index
            column = column.cast(pa.float64())
            columns[PREFIX + attribute.name] = pc.fill_null(column, float("nan"))
        yield pa.table(columns)
