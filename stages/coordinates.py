"""Columns of a table as coordinates in a Zarr group: small arrays along one dimension, beside the data.

Text is text, with "" for what is missing; a class is its name; numbers are int64, or float64 with NaN.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    from zarr.core.buffer import Buffer

CHUNK_ROWS = 2**16
NAMES = "coordinates"
"""Attribute of a group, by the CF conventions, that says which of its arrays are coordinates."""


LABEL = "long_name"
"""Attribute of an array, by the same conventions, with the name of a column that no array can have."""


def attribute(table: "pa.Table") -> dict[str, str]:
    """The attribute of the group that holds them: the names of their arrays with blanks between."""
    return {NAMES: " ".join(names(table))}


def names(table: "pa.Table") -> list[str]:
    """The array of each column: called like it, or by its number where it has other letters than objects may have."""
    return [name if name.isascii() else f"column.{number}" for number, name in enumerate(table.column_names)]


def objects(table: "pa.Table", dimension: str) -> dict[str, bytes]:
    """Every object of the coordinates by its name below the group; equal tables give equal bytes."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec
    from zarr.storage import MemoryStore

    written: dict[str, Buffer] = {}
    group = zarr.create_group(MemoryStore(written), zarr_format=3)
    for name, own in zip(names(table), table.column_names, strict=True):
        column = table.column(own)
        if pa.types.is_integer(column.type):
            values, kind = column.to_numpy(), "int64"
        elif pa.types.is_floating(column.type):
            values, kind = pc.fill_null(column, float("nan")).to_numpy(), "float64"
        else:
            values, kind = pc.fill_null(column.cast(pa.string()), "").to_numpy(), "string"
        fill: Any = {"int64": 0, "float64": float("nan"), "string": ""}[kind]
        array = group.create_array(
            name,
            shape=(len(column),),
            chunks=(min(max(len(column), 1), CHUNK_ROWS),),
            dtype=kind,
            compressors=(ZstdCodec(), Crc32cCodec()),
            fill_value=fill,
            dimension_names=(dimension,),
            attributes={} if name == own else {LABEL: own},
            # An object that is absent is always damage.
            config={"write_empty_chunks": True},
        )
        array[:] = values
    del written["zarr.json"]
    return {name: value.to_bytes() for name, value in written.items()}


def consolidated(objects: Mapping[str, bytes]) -> dict[str, bytes]:
    """The objects of a group, its `zarr.json` last: that repeats those of all members, so that one read opens all."""
    documents = {name: json.loads(data) for name, data in objects.items() if name.endswith("/zarr.json")}
    root = json.loads(objects["zarr.json"])
    root["consolidated_metadata"] = {
        "kind": "inline",
        "must_understand": False,
        "metadata": {name.removesuffix("/zarr.json"): document for name, document in sorted(documents.items())},
    }
    written = documents | {"zarr.json": root}
    chunks = {name: data for name, data in sorted(objects.items()) if name not in written}
    ordered = [*sorted(documents), "zarr.json"]
    return chunks | {name: json.dumps(written[name], indent=1).encode() for name in ordered}
