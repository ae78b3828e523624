"""Listings and indexes as objects: Parquet tables with attribute columns."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from stages.attributes import PREFIX
from stages.parquet import table_bytes

if TYPE_CHECKING:
    import pyarrow as pa


def members_name(part: int) -> str:
    """Object of one part of a listing."""
    return f"members-{part:05d}.parquet"


def table_of(columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> "pa.Table":
    """Columns of a listing or an index as a table: attributes float64, counts and numbers int64, all others text."""
    import pyarrow as pa

    types = dict.fromkeys(("row", "size", "offset", "width", "height"), pa.int64())
    schema = pa.schema(
        [(name, pa.float64() if name.startswith(PREFIX) else types.get(name, pa.string())) for name in columns]
    )
    return pa.table(dict(columns), schema=schema)


def write_table(columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> bytes:
    """A table as Parquet. Equal columns give equal bytes."""
    return table_bytes(table_of(columns))
