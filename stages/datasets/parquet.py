"""Parquet with the images' bytes in a column, as Hugging Face's `datasets` writes it, or plain binary.

Row groups are read one by one and in batches, so that memory depends neither on the file nor on its row groups. What
columns mean stands in the schema's `huggingface` metadata, where a file has it. Folders named `column=value`, as Hive,
Spark and pyarrow part a dataset, are columns too: each has one value in all files below it.
"""

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote

from stages.datasets.columns import Declared, class_name, kind_of
from stages.datasets.files import FileReader, Found, Notes, TableSource, Value, Wanted, damaged
from stages.errors import InputError
from stages.external.ranges import FILE_LIMIT_BYTES, FileInfo, Unreadable

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 64
"""Rows that are decoded together."""

BUFFER_BYTES = 2**20
"""Bytes of a column that are buffered."""

NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""What stands in a folder's name for a value that is null."""


class ParquetSource(TableSource):
    """Parquet files, a row an image."""

    kind: Literal["parquet"] = "parquet"

    def reader(self) -> "ParquetReader":
        return ParquetReader(self)

    def expected_rows(self) -> int:
        infos = self.files()
        rows = _ParquetFile(self, infos[0]).rows
        return max(1, round(rows * sum(info.size for info in infos) / max(infos[0].size, 1)))

    def _endings(self) -> tuple[str, ...]:
        return (".parquet", ".pq")


class ParquetReader(FileReader):
    """Reads the Parquet files of a source."""

    def __init__(self, source: ParquetSource) -> None:
        super().__init__(source)
        self._source = source
        self._table: _ParquetFile | None = None

    def declared(self, info: FileInfo) -> tuple[Declared, ...]:
        return self._opened(info).declared

    def read(self, info: FileInfo, notes: Notes) -> Iterator[Found]:
        table = self._opened(info)
        notes.columns |= table.others
        notes.unread |= table.others if self._source.columns is None else set()
        split = self._source.split
        by_column = split.column if split is not None else None
        read = sorted({declared.column for declared in table.declared} | ({by_column} if by_column else set()))
        by_file = split.of(info.name, info.name) if split is not None and by_column is None else None
        stored = [column for column in read if column not in table.partitions]
        for start, batch in table.batches(0, stored):
            columns = table.columns(batch, stored)
            columns |= {column: [value] * batch.num_rows for column, value in table.partitions.items()}
            for i, data in enumerate(table.images(batch)):
                name = f"{info.name}/{start + i}"
                side = by_file
                values: dict[str, Value] = {}
                try:
                    cells = {column: table.named(column, columns[column][i]) for column in read}
                    values = {declared.name: declared.value(cells[declared.column]) for declared in table.declared}
                except ValueError as error:
                    cells, values, data = {}, {}, Unreadable(str(error))
                if split is not None and by_column is not None and cells:
                    value = cells[by_column]
                    side = split.of(None if value is None else str(value), name)
                yield Found(start + i, name, data, values, side)

    def fetch(self, wanted: Sequence[Wanted]) -> Iterator[bytes | Unreadable]:
        for entry in wanted:
            yield self._opened(self.info(entry.file)).image(entry.position)

    def _opened(self, info: FileInfo) -> "_ParquetFile":
        if self._table is None or self._table.info != info:
            self._table = _ParquetFile(self._source, info)
        return self._table


class _ParquetFile:
    """One Parquet file: its columns, and its rows from the one on that is asked for."""

    def __init__(self, source: ParquetSource, info: FileInfo) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.info = info
        self._blocks = source.file_set.open(info)
        self._file: Any = None
        with self._reading():
            self._file = pq.ParquetFile(
                pa.PythonFile(self._blocks, mode="r"), buffer_size=BUFFER_BYTES, pre_buffer=False
            )
            self._schema: pa.Schema = self._file.schema_arrow
            groups = [self._file.metadata.row_group(i).num_rows for i in range(self._file.metadata.num_row_groups)]
        if len(set(self._schema.names)) != len(self._schema.names):
            raise damaged(info.name, "a name of its own for each column", f"{', '.join(self._schema.names)}")
        self._starts = [0]
        for rows in groups:
            self._starts.append(self._starts[-1] + rows)
        self.rows = self._starts[-1]
        self.partitions: dict[str, str | float | None] = {
            column: value for column, value in _partitions(info.name).items() if column not in self._schema.names
        }
        self._features = _features(self._schema)
        self._image = self._image_column(source.image)
        self._bytes, self._path = self._leaves()
        self.others = {name for name in self._schema.names if name != self._image} | self.partitions.keys()
        self.declared = self._declare(source)
        for declared in self.declared:
            if declared.column in self.partitions and declared.kind != "class":
                self.partitions[declared.column] = self._number(declared.column)
        if source.split is not None and source.split.column is not None:
            self._known(source.split.column)
        self._names = {name: names for name in self.others if (names := self._class_names(name)) is not None}
        self._cursor: Iterator[tuple[int, Any]] | None = None
        self._held: tuple[int, list[bytes | Unreadable]] = (0, [])

    def batches(self, row: int, columns: Sequence[str]) -> "Iterator[tuple[int, pa.RecordBatch]]":
        """Runs of rows, each with its first row, from the start of the row group in which `row` stands."""
        wanted = [*columns, self._bytes, *([self._path] if self._path else [])]
        for number in range(self._group(row), len(self._starts) - 1):
            start = self._starts[number]
            with self._reading():
                batches = self._file.iter_batches(BATCH_ROWS, row_groups=[number], columns=wanted, use_threads=False)
            while True:
                with self._reading():
                    batch = next(batches, None)
                    if batch is not None:
                        batch.validate(full=True)
                if batch is None:
                    break
                yield start, batch
                start += batch.num_rows
            if start != self._starts[number + 1]:
                found = f"{start - self._starts[number]} in row group {number}"
                raise damaged(self.info.name, f"{self._starts[number + 1] - self._starts[number]} rows", found)

    def columns(self, batch: "pa.RecordBatch", names: Sequence[str]) -> dict[str, list[Any]]:
        """Values of these columns."""
        with self._reading():
            return {name: batch.column(name).to_pylist() for name in names}

    def images(self, batch: "pa.RecordBatch") -> Iterator[bytes | Unreadable]:
        """The images of a batch."""
        import pyarrow as pa

        column = batch.column(self._image)
        paths: Any = None
        if pa.types.is_struct(column.type):
            valid = column.is_valid().to_pylist()
            paths = column.field("path") if self._path else None
            column = column.field("bytes")
        else:
            valid = [True] * batch.num_rows
        for i in range(batch.num_rows):
            data = column[i].as_py() if valid[i] else None
            if isinstance(data, bytes) and len(data) > FILE_LIMIT_BYTES:
                yield Unreadable(f"a file of {len(data)} bytes, more than {FILE_LIMIT_BYTES}")
            elif isinstance(data, bytes):
                yield data
            elif paths is not None and valid[i] and paths[i].is_valid:
                yield Unreadable("a path and no bytes")
            else:
                yield Unreadable("a row without an image")

    def image(self, row: int) -> bytes | Unreadable:
        """The image of a row; cheapest where rows are asked for in ascending order."""
        first, images = self._held
        if not first <= row < first + len(images):
            if self._cursor is None or row < first or self._group(row) != self._group(first):
                self._cursor = self.batches(row, ())
            for first, batch in self._cursor:
                if row < first + batch.num_rows:
                    images = list(self.images(batch))
                    break
            else:
                raise InputError(
                    "the source to stay as it was", f"no row {row} in {self.info.name}", "Put it back, and run again."
                )
            self._held = first, images
        return images[row - first]

    def named(self, column: str, value: Any) -> Any:
        """A value as a person reads it: the name of a class where the file names its numbers; -1 is none."""
        names = self._names.get(column)
        if names is None or value is None:
            return value
        if isinstance(value, str):
            if value in names or class_name(value) is None:
                return value
            fitting = [name for name in names if class_name(name) == class_name(value)]
            if len(fitting) != 1:
                raise ValueError(f"{column} is {value[:40]!r}, none of the {len(names)} named classes")
            return fitting[0]
        if value == -1 or value != value:
            return None
        if isinstance(value, float) and value == value // 1:
            value = int(value)
        if not isinstance(value, int) or not 0 <= value < len(names):
            raise ValueError(f"{column} is {value}, of {len(names)} named classes")
        return names[value]

    def _group(self, row: int) -> int:
        """The row group in which a row stands."""
        return bisect_right(self._starts, row) - 1

    def _image_column(self, asked: str | None) -> str:
        import pyarrow as pa

        if asked is not None:
            self._known(asked)
            if not _may_hold_images(self._schema.field(asked).type):
                raise InputError(
                    f"bytes of images in the column {asked} of {self.info.name}",
                    str(self._schema.field(asked).type),
                    "Name a column of binaries, or of records with `bytes`, as `image`.",
                )
            return asked
        marked: list[str] = [n for n in self._schema.names if self._features.get(n, {}).get("_type") == "Image"]
        fitting = [n for n in marked or self._schema.names if _may_hold_images(self._schema.field(n).type)]
        if len(fitting) != 1:
            types = {n: self._schema.field(n).type for n in self._schema.names}
            columns = ", ".join(f"{n} ({'record' if pa.types.is_struct(t) else t})" for n, t in types.items())
            raise InputError(
                f"one column with the bytes of images in {self.info.name}",
                f"{' and '.join(fitting) if fitting else 'none'} among {columns}",
                "Say which one is meant as `image`." if fitting else "Write the images' bytes into a column.",
            )
        return fitting[0]

    def _leaves(self) -> tuple[str, str | None]:
        """What is read of the column of images: the bytes, and whether there is a path where bytes are missing."""
        import pyarrow as pa

        kind = self._schema.field(self._image).type
        if not pa.types.is_struct(kind):
            return self._image, None
        names = {kind.field(i).name for i in range(kind.num_fields)}
        return f"{self._image}.bytes", f"{self._image}.path" if "path" in names else None

    def _known(self, column: str) -> None:
        if column not in self._schema.names and column not in self.partitions:
            raise InputError(
                f"a column {column} in {self.info.name}",
                f"the columns {', '.join((*self._schema.names, *self.partitions))}",
                "Correct the name in the study.",
            )

    def _declare(self, source: ParquetSource) -> tuple[Declared, ...]:
        found = []
        asked = source.columns
        labels = [name for name in self._schema.names if self._class_names(name) is not None]
        split = source.split.column if source.split is not None else None
        labels += [name for name in self.partitions if name != split]
        for name in labels if asked is None else asked:
            self._known(name)
            column = asked[name] if asked is not None else None
            kind = "auto" if column is None else column.kind
            names = self._class_names(name)
            found.append(
                Declared(
                    column=name,
                    name=name,
                    kind=kind if kind != "auto" else self._kind(name),
                    period=column.period if column else 1.0,
                    mirror=column.mirror if column else "same",
                    classes=names if kind in ("auto", "class") else None,
                    asked=asked is not None,
                )
            )
        return tuple(sorted(found, key=lambda declared: declared.name))

    def _kind(self, column: str) -> Literal["class", "scalar"]:
        """What a column is where the study does not say."""
        if column in self.partitions or self._class_names(column) is not None:
            return "class"
        return kind_of(column, self._schema.field(column).type)

    def _number(self, column: str) -> float | None:
        """The number that the name of a folder gives."""
        value = self.partitions[column]
        try:
            return None if value is None else float(value)
        except ValueError:
            raise InputError(
                f"a number in the folder {column}={value} of {self.info.name}", repr(value), f"Use `{column}: class`."
            ) from None

    def _class_names(self, column: str) -> tuple[str, ...] | None:
        feature = self._features.get(column, {})
        names = feature.get("names") if feature.get("_type") == "ClassLabel" else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return None
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise damaged(self.info.name, f"a name of its own for each class of {column}", f"{twice} twice")
        return tuple(names)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Errors of the file system pass as they are, those of the format are put into words."""
        try:
            yield
        except Exception as error:
            if self._blocks.failure is not None:
                raise self._blocks.failure from error
            text = " ".join(str(error).split())[:200]
            raise damaged(self.info.name, "a whole Parquet file", f"{type(error).__name__}: {text}") from error


def _partitions(name: str) -> dict[str, str | None]:
    """Columns that the folders of a file's name give: `label=cat/part-0.parquet` is {label: cat}."""
    pairs = [folder.partition("=") for folder in name.split("/")[:-1]]
    found = {unquote(column): unquote(value) for column, equals, value in pairs if column and equals}
    return {column: None if value == NO_VALUE else value for column, value in found.items()}


def _features(schema: "pa.Schema") -> dict[str, dict[str, Any]]:
    """What `datasets` has written of the columns; empty where it has not, or not as it does."""
    try:
        written = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = written["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    if not isinstance(features, dict):
        return {}
    return {name: feature for name, feature in features.items() if isinstance(feature, dict)}


def _may_hold_images(kind: "pa.DataType") -> bool:
    import pyarrow.types as types

    if types.is_dictionary(kind):
        return _may_hold_images(kind.value_type)
    if types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _may_hold_images(kind.field(index).type)
    found = types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
    return bool(found or types.is_fixed_size_binary(kind))
