"""What a table beside a folder says of its images: a CSV or Parquet file with a row for each, found by its name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from stages.attributes import Attribute
from stages.contract import Unkeyed
from stages.datasets.columns import Column, Columns, Declared, Split, in_order, kind_of
from stages.errors import InputError
from stages.external.files import absolute
from stages.external.ranges import open_url

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


@dataclass(frozen=True)
class TableLabels:
    """Attributes of the images, their values float64 [N] by name, and which are held out, bool [N].

    `heldout` None: the table has no split.
    """

    attributes: tuple[Attribute, ...]
    values: "Mapping[str, NDArray[np.float64]]"
    heldout: "NDArray[np.bool_] | None"


class LabelTable(BaseModel):
    """A CSV or Parquet file with a row for each image of a folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: Annotated[str, Field(min_length=1), Unkeyed("its content is known by its digest")]
    """`.csv` or `.parquet`, by path or fsspec URL."""
    name: str = "file_name"
    """The column with the image's path below the folder."""
    columns: Annotated[Columns, Field(default_factory=dict)]
    """Columns that become attributes."""
    split: Split | None = None
    """Which images are held out, by a column; None: their own bytes decide."""

    _absolute_url = field_validator("url")(absolute)

    @field_validator("split")
    @classmethod
    def _by_a_column(cls, split: Split | None) -> Split | None:
        if split is not None and split.column is None:
            raise ValueError("expected `split` to name a column of the table; found none")
        return split

    def of(self, names: Sequence[str], folder: str) -> TableLabels:
        """What the table says of images of these names; values that it lacks are undefined.

        Raises InputError where it lacks a column, has a name twice, names none of the images, or a value is not what
        its column is said to be.
        """
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        table = self._read()
        for column in (self.name, *self.columns, *([self.split.column] if self.split and self.split.column else [])):
            if column not in table.column_names:
                raise InputError(
                    f"a column {column} in {self.url}",
                    f"the columns {', '.join(table.column_names)}",
                    "Correct the name in the study.",
                )
        keys = table.column(self.name).cast(pa.string()).combine_chunks()
        if pc.count_distinct(keys).as_py() != len(keys):
            twice = next(e["values"] for e in keys.value_counts().to_pylist() if e["counts"] > 1)
            raise InputError(f"one row for each name in {self.url}", f"{twice} twice", "Take one of both rows away.")
        found = pc.index_in(pa.array([name.encode("utf-8", "replace").decode() for name in names]), value_set=keys)
        if found.null_count == len(names):
            raise InputError(
                f"names of images below {folder} in the column {self.name} of {self.url}",
                f"{keys[0].as_py() if len(keys) else 'no row'}, where an image is called {names[0]}",
                "Write paths below the folder, with / and with the ending.",
            )
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
        return TableLabels(tuple(attributes), values, heldout)

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
        import pyarrow.csv as csv
        import pyarrow.parquet as pq

        files, path = open_url(self.url)
        try:
            data = pa.BufferReader(files.cat_file(path))
        except FileNotFoundError as error:
            raise InputError(f"a table at {self.url}", "nothing", "Correct `url` of the table.") from error
        try:
            return pq.read_table(data) if path.lower().endswith(".parquet") else csv.read_csv(data)
        except (pa.ArrowException, OSError) as error:
            text = " ".join(str(error).split())[:200]
            raise InputError(f"a CSV or Parquet file at {self.url}", text, "Write it anew.") from error
