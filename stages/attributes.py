"""Attributes: what is measurable about an image, and how far two values of one lie apart.

Values are float64 arrays; NaN means undefined (the rotation of a disc, the hue of a grey image). A scalar is any real
number, a circle is in turns [0, 1), a class is an integer index into `classes`.
"""

import json
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

PREFIX = "attribute."
"""Columns of a listing, and of an index of format 1, hold attributes as numbers and are named `attribute.<name>`."""
TAKEN = frozenset(
    (
        *("row", "sample", "condition", "key", "kind", "study", "step", "encoder", "tap", "split", "status"),
        *("file_name", "name", "bytes", "size", "sha256", "shard", "offset", "width", "height", "image", "embedding"),
        *("query", "rank", "distance", "plain", "flip", "feature", "index", "columns"),
    )
)
"""Names of columns that tables with labels have besides, or that pandas has for something else."""


class Attribute(BaseModel):
    """Name and kind of an attribute, and what becomes of its value when the image is mirrored left to right."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Literal["scalar", "circle", "class"]
    classes: tuple[str, ...] = ()
    mirror: Literal["same", "complement", "negate", "unknown"] = "same"
    """`complement`: 1 - value (a position); `negate`: -value modulo 1 turn (an angle)."""

    def difference(self, a: "np.ndarray", b: "np.ndarray") -> "np.ndarray":
        """Difference d of two arrays of values (broadcast): squared error, 1 - cos, or 0/1; NaN where undefined."""
        import numpy as np

        gap = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
        if self.kind == "scalar":
            return gap**2
        if self.kind == "circle":
            return 1.0 - np.cos(2.0 * np.pi * gap)
        return np.where(np.isnan(gap), np.nan, (gap != 0).astype(np.float64))

    def mirrored(self, values: "np.ndarray") -> "np.ndarray":
        """The values after a left-right flip of the image."""
        import numpy as np

        if self.mirror == "complement":
            return 1.0 - values
        if self.mirror == "negate":
            negated: np.ndarray = np.mod(-values, 1.0)
            return negated
        if self.mirror == "unknown":
            return np.full_like(values, np.nan)
        return values


def columns_of(attributes: Iterable[Attribute]) -> dict[str, str]:
    """The column of each attribute, by its name, in tables that people read: letters, digits and `_`.

    An attribute that is called like another column is `attribute_<name>`. Names that differ in case alone are one to
    SQL, so the later of two has a number.
    """
    found: dict[str, str] = {}
    used: set[str] = set()
    for attribute in attributes:
        column = re.sub(r"\W", "_", attribute.name).strip("_") or "attribute"
        if column.casefold() in TAKEN:
            column = f"attribute_{column}"
        stem, number = column, 2
        while column.casefold() in used:
            column, number = f"{stem}_{number}", number + 1
        used.add(column.casefold())
        found[attribute.name] = column
    return found


def labels(attributes: Sequence[Attribute], values: Mapping[str, Any]) -> "dict[str, pa.Array]":
    """Values float64 [N] by attribute as columns that people read: a class is its name, what is undefined is null."""
    import numpy as np
    import pyarrow as pa

    found: dict[str, pa.Array] = {}
    for name, column in columns_of(attributes).items():
        attribute = next(a for a in attributes if a.name == name)
        numbers = np.asarray(values[name], dtype=np.float64)
        undefined = np.isnan(numbers)
        if attribute.kind == "class":
            codes = pa.array(np.where(undefined, 0, numbers).astype(np.int32), mask=undefined)
            found[column] = pa.DictionaryArray.from_arrays(codes, pa.array(attribute.classes, pa.string()))
        else:
            found[column] = pa.array(numbers, mask=undefined)
    return found


def label_columns(attributes: Sequence[Attribute], columns: Container[str]) -> dict[str, str]:
    """The column of each attribute, by its name, in a table with these columns: of labels, or of numbers (format 1)."""
    return {
        name: PREFIX + name if PREFIX + name in columns else column for name, column in columns_of(attributes).items()
    }


def values(attributes: Sequence[Attribute], table: "pa.Table") -> "dict[str, np.ndarray]":
    """The attributes of which a table has the column, float64 [N] by name; NaN where undefined. Undoes `labels`."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    found: dict[str, np.ndarray] = {}
    for name, column in label_columns(attributes, table.column_names).items():
        if column not in table.column_names:
            continue
        cells, attribute = table.column(column), next(a for a in attributes if a.name == name)
        if attribute.kind == "class" and column != PREFIX + name:
            cells = pc.index_in(cells.cast(pa.string()), value_set=pa.array(attribute.classes, pa.string()))
        found[name] = np.asarray(pc.fill_null(cells.cast(pa.float64()), float("nan")), dtype=np.float64)
    return found


def dump(attributes: Iterable[Attribute]) -> bytes:
    """The attributes as the bytes of `attributes.json`."""
    return json.dumps([a.model_dump(mode="json") for a in attributes], indent=1).encode()


def load(data: bytes) -> list[Attribute]:
    """The attributes from the bytes of `attributes.json`."""
    return [Attribute.model_validate(entry) for entry in json.loads(data)]
