"""What a table beside a folder says of its images: a row for each, found by its name."""

import codecs
import json
import unicodedata
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator

from stages.attributes import Attribute
from stages.contract import Settings, Unkeyed
from stages.datasets.columns import Column, Columns, Declared, Split, in_order, kind_of
from stages.errors import InputError
from stages.external.files import absolute
from stages.external.ranges import open_url
from stages.parquet import table_from

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

NAMED_VALUES = 10
"""Values of a column that a message names."""

_OTHERS = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "a zip archive, as a workbook of Excel is",
    b"\xd0\xcf\x11\xe0": "a workbook of Excel",
}
"""How files begin that are often taken for tables."""


@dataclass(frozen=True)
class TableLabels:
    """Attributes of the images, their values float64 [N] by name, and which are held out, bool [N].

    `heldout` None: the table has no split. `notes`: sentences on what the table leaves open.
    """

    attributes: tuple[Attribute, ...]
    values: "Mapping[str, NDArray[np.float64]]"
    heldout: "NDArray[np.bool_] | None"
    notes: tuple[str, ...] = ()


class LabelTable(Settings):
    """A CSV, a file with a record of JSON in each line, or Parquet, with a row for each image of a folder."""

    url: Annotated[str, Field(min_length=1), Unkeyed("its content is known by its digest")]
    """`.csv`, `.jsonl` or `.parquet`, by path or fsspec URL."""
    name: str = "file_name"
    """The column with the image's path below the folder."""
    columns: Annotated[Columns, Field(default_factory=dict)]
    """Columns that become attributes."""
    split: Split | None = None
    """Which images are held out, by a column; None: their own bytes decide."""
    min_matched: Annotated[float, Field(ge=0.0, le=1.0), Unkeyed("it decides only whether the table is accepted")] = 0.5
    """Share of the rows that must name an image, or of the images that must have a row: one of both is enough, for a
    table may be of some of the images, or of more than are here."""

    _absolute_url = field_validator("url")(absolute)

    @field_validator("split")
    @classmethod
    def _by_a_column(cls, split: Split | None) -> Split | None:
        if split is not None and split.column is None:
            raise ValueError("expected `split` to name a column of the table; found none")
        return split

    def of(self, names: Sequence[str], folder: str) -> TableLabels:
        """What the table says of images of these names; values that it lacks are undefined.

        Names are compared as they are; those that fit none are compared composed (NFC), with `/` for a backslash, and
        without blanks and `./` around them. Raises InputError where the table lacks a column, has a name twice, fits
        less than `min_matched`, holds out no image though it has a split, or a value is not of its column's kind.
        """
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        table = self._read()
        for column in (self.name, *sorted(self._wanted() - {self.name})):
            if column not in table.column_names:
                raise InputError(
                    f"a column {column} in {self.url}",
                    f"the columns {', '.join(table.column_names)}",
                    "Correct the name in the study.",
                )
        # pyarrow cannot choose rows of views.
        cells = {name: table.column(name) for name in self._wanted()}
        table = pa.table({n: c.cast(pa.string()) if pa.types.is_string_view(c.type) else c for n, c in cells.items()})
        try:
            paths = table.column(self.name).cast(pa.string())
        except pa.ArrowException as error:
            kind = str(table.column(self.name).type)
            raise InputError(
                f"paths in the column {self.name} of {self.url}", kind, "Name another as `name`."
            ) from error
        named = pc.not_equal(pc.fill_null(pc.utf8_trim_whitespace(paths), ""), "")
        table, keys = table.filter(named), paths.filter(named).combine_chunks()
        if pc.count_distinct(keys).as_py() != len(keys):
            twice = next(e["values"] for e in keys.value_counts().to_pylist() if e["counts"] > 1)
            raise InputError(f"one row for each name in {self.url}", f"{twice} twice", "Take one of both rows away.")
        found = _rows_of([name.encode("utf-8", "replace").decode() for name in names], keys)
        matched, rows_matched = len(names) - found.null_count, pc.count_distinct(found).as_py()
        notes = []
        if matched == 0 or max(matched / len(names), rows_matched / len(keys)) < self.min_matched:
            fitting = set(found.to_pylist())
            other = next((key for row, key in enumerate(keys.to_pylist()) if row not in fitting), None)
            raise InputError(
                f"names of images below {folder} in the column {self.name} of {self.url}",
                f"{rows_matched} of {len(keys)} rows that name one; a row says {other or 'nothing'}, where an image is "
                f"called {names[found.to_pylist().index(None)]}",
                "Write paths below the folder, with / and with the ending, or lower `min_matched`.",
            )
        if matched < len(names):
            others = "no values" if self.split is None else "no values, and are train images"
            notes.append(f"{matched} of {len(names)} images have a row in {self.url}; the others have {others}")
        if rows_matched < len(keys):
            self._check_spellings(names, keys, set(found.to_pylist()))
            notes.append(f"{len(keys) - rows_matched} of {len(keys)} rows of {self.url} name no image")
        attributes, values = [], {}
        for name, wanted in sorted(self.columns.items()):
            attribute, numbers = self._attribute(name, wanted, table.column(name), found, names)
            attributes.append(attribute)
            values[name] = numbers
        heldout = None
        if self.split is not None and self.split.column is not None:
            cells = table.column(self.split.column).take(found).to_pylist()
            sides = [
                self.split.of(None if value is None else str(value), name)
                for value, name in zip(cells, names, strict=True)
            ]
            heldout = np.array([side == "heldout" for side in sides], dtype=np.bool_)
            blank = sum(
                side == "train" and not str("" if cell is None else cell).strip()
                for cell, side in zip(cells, sides, strict=True)
            )
            if blank > found.null_count:
                notes.append(
                    f"{blank - found.null_count} images have no value of {self.split.column} in {self.url}, and are "
                    "train images"
                )
            if not heldout.any():
                raise self.split.nothing_held_out(self.url, sorted({str(cell) for cell in cells})[:NAMED_VALUES])
        for attribute in attributes:
            if undefined := int(np.isnan(values[attribute.name]).sum()) - (len(names) - matched):
                notes.append(f"{undefined} images have no value of {attribute.name}: it is blank or NA in {self.url}")
        return TableLabels(tuple(attributes), values, heldout, tuple(notes))

    def _check_spellings(self, names: Sequence[str], keys: "pa.StringArray", matched: Set[int | None]) -> None:
        """Raises InputError where a row that is no image's names one that another row names, in other spelling."""
        images = {_plain(name): name for name in names}
        for row, key in enumerate(keys.to_pylist()):
            if row not in matched and _plain(key) in images:
                raise InputError(
                    f"one row for each image in {self.url}",
                    f"{key!r} beside another row of {images[_plain(key)]}",
                    "Take one of both rows away.",
                )

    def _attribute(
        self, name: str, column: Column, cells: "pa.ChunkedArray", found: "pa.Array", names: Sequence[str]
    ) -> "tuple[Attribute, NDArray[np.float64]]":
        import numpy as np

        kind = kind_of(name, cells.type) if column.kind == "auto" else column.kind
        declared = Declared(column=name, name=name, kind=kind, period=column.period, mirror=column.mirror)
        parsed: list[Any] = []
        for image, value in zip(names, cells.take(found).to_pylist(), strict=True):
            try:
                parsed.append(declared.value(value))
            except ValueError as error:
                raise InputError(
                    f"a {kind} in the column {name} of {self.url}", f"{error}, of {image}", "Correct that row."
                ) from error
        if kind != "class":
            return declared.attribute(), np.array([np.nan if v is None else v for v in parsed], dtype=np.float64)
        classes = in_order({value for value in parsed if value is not None})
        number = {value: float(index) for index, value in enumerate(classes)}
        return declared.attribute(classes), np.array([number.get(v, np.nan) for v in parsed], dtype=np.float64)

    def _read(self) -> "pa.Table":
        import pyarrow as pa

        files, path = open_url(self.url)
        expected = f"a CSV, lines of JSON or Parquet at {self.url}"
        try:
            content = files.cat_file(path)
        except FileNotFoundError as error:
            raise InputError(f"a table at {self.url}", "nothing", "Correct `url` of the table.") from error
        except (IsADirectoryError, PermissionError) as error:
            found = "a folder" if isinstance(error, IsADirectoryError) else "no permission to read it"
            raise InputError(expected, found, "Correct `url` of the table.") from error
        for start, kind in _OTHERS.items():
            if content.startswith(start):
                raise InputError(expected, kind, "Unpack it, or save it as a CSV.")
        packed = path.lower().endswith((".parquet", ".pq"))
        if not packed:
            _check_encoding(content, self.url)
        try:
            if packed:
                table = table_from(pa.BufferReader(content))
            else:
                table = self._of_json(content) if _is_json(content) else self._of_csv(content)
        except (pa.ArrowException, OSError, ValueError, RecursionError) as error:
            text = " ".join(str(error).split())[:200]
            raise InputError(expected, text, "Write it anew.") from error
        if twice := [name for name in sorted(self._wanted()) if table.column_names.count(name) > 1]:
            raise InputError(f"one column {twice[0]} in {self.url}", "several", "Rename all but one of them.")
        return table

    def _wanted(self) -> set[str]:
        """The columns that are read."""
        return {self.name, *self.columns} | ({self.split.column} if self.split and self.split.column else set())

    def _of_json(self, content: bytes) -> "pa.Table":
        """A record of JSON in each line, or a list of records. Raises ValueError where there is anything else."""
        import pyarrow as pa

        content = content.removeprefix(codecs.BOM_UTF8).lstrip()
        listed = content.startswith(b"[")
        records = json.loads(content) if listed else [json.loads(line) for line in content.splitlines() if line.strip()]
        if not all(isinstance(record, dict) for record in records):
            raise ValueError("a line that is no record of JSON")
        wanted = self._wanted()
        return pa.table(
            {
                name: pa.array([record.get(name) if name in wanted else None for record in records])
                for name in dict.fromkeys(name for record in records for name in record)
            }
        )

    def _of_csv(self, content: bytes) -> "pa.Table":
        """Cells are parted by that one of comma, semicolon, tab and bar which gives the column of names."""
        import pyarrow as pa
        import pyarrow.csv as csv

        header = content.removeprefix(codecs.BOM_UTF8).splitlines()[0].decode() if content.strip() else ""
        fitting = (d for d in ",;\t|" if self.name in (cell.strip().strip('"') for cell in header.split(d)))
        parse = csv.ParseOptions(newlines_in_values=True, delimiter=next(fitting, ","))
        table = csv.read_csv(pa.BufferReader(content), parse_options=parse)
        # Codes stay as they are written: as numbers, 01 and 1 would be one class, and no file 007.
        classes = {name for name, column in self.columns.items() if column.kind == "class"}
        as_written = self._wanted() - self.columns.keys() | classes
        texts = {
            field.name: pa.string()
            for field in table.schema
            if field.name.strip() in as_written
            and not (pa.types.is_boolean(field.type) and field.name.strip() in classes)
            and table.column_names.count(field.name) == 1
        }
        if texts:
            convert = csv.ConvertOptions(column_types=texts, include_columns=list(texts))
            written = csv.read_csv(pa.BufferReader(content), parse_options=parse, convert_options=convert)
            for name in texts:
                table = table.set_column(table.column_names.index(name), name, written.column(name))
        return table.rename_columns([name.strip() for name in table.column_names])


def _is_json(content: bytes) -> bool:
    return content.removeprefix(codecs.BOM_UTF8).lstrip().startswith((b"{", b"["))


def _check_encoding(content: bytes, url: str) -> None:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"a CSV in UTF-8 at {url}", f"a byte of another encoding in line {line}", "Save it as UTF-8."
        ) from error


def _rows_of(names: Sequence[str], keys: "pa.StringArray") -> "pa.Array":
    """The row of each image int32 [N]; null where there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.index_in(pa.array(names, pa.string()), value_set=keys)
    if found.null_count == 0:
        return found
    rows: dict[str, int | None] = {}
    for row, key in enumerate(keys.to_pylist()):
        plain = _plain(key)
        # Of two rows that differ in spelling alone, neither is meant.
        rows[plain] = None if plain in rows else row
    loose = [
        row if row is not None else rows.get(_plain(name)) for name, row in zip(names, found.to_pylist(), strict=True)
    ]
    return pa.array(loose, pa.int32())


def _plain(path: str) -> str:
    path = unicodedata.normalize("NFC", path.strip().replace("\\", "/"))
    return path.removeprefix("./")
