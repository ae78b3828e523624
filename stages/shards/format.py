"""Listings and shards as objects: Parquet tables with attribute columns, and tars in webdataset's layout.

An image is two members of a tar, `000000123.png` (or `.jpg`) and `000000123.json`; `index.parquet` says where in which
tar the image's bytes stand.
"""

import io
import json
import math
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from stages.attributes import PREFIX

if TYPE_CHECKING:
    import pyarrow as pa

KEPT = ("jpg", "png")
"""Formats whose bytes go into the tars as they are; others are written as PNG, which every reader of tars decodes."""


def members_name(part: int) -> str:
    """Object of one part of a listing."""
    return f"members-{part:05d}.parquet"


def shard_name(part: int) -> str:
    """Object of one tar."""
    return f"shard-{part:05d}.tar"


def key_of(row: int) -> str:
    """webdataset's key of a row: the members' name without ending."""
    return f"{row:09d}"


def table_of(columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> "pa.Table":
    """Columns of a listing or an index as a table: attributes float64, counts and numbers int64, the rest text."""
    import pyarrow as pa

    types = dict.fromkeys(("row", "size", "offset", "width", "height"), pa.int64())
    schema = pa.schema(
        [(name, pa.float64() if name.startswith(PREFIX) else types.get(name, pa.string())) for name in columns]
    )
    return pa.table(dict(columns), schema=schema)


def write_table(columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> bytes:
    """A table as Parquet. Equal columns give equal bytes."""
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(table_of(columns), sink, compression="zstd")
    return sink.getvalue()


def write_tar(samples: Iterable[tuple[str, str, bytes, Mapping[str, Any]]]) -> tuple[bytes, list[int]]:
    """A tar of samples (key, ending, image, record), and the offset of each image's bytes in it.

    Equal samples give equal bytes: no time, no user, no host is written.
    """
    import webdataset as wds

    buffer = io.BytesIO()
    wanted = []
    with wds.TarWriter(buffer, user="", group="", mtime=0, encoder=False) as writer:
        for key, ending, image, record in samples:
            text = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
            writer.write({"__key__": key, ending: image, "json": text.encode()})
            wanted.append(f"{key}.{ending}")
    tar = buffer.getvalue()
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        offsets = {member.name: member.offset_data for member in archive}
    return tar, [offsets[name] for name in wanted]


def defined(value: float) -> float | None:
    """A value as JSON has it: NaN is null."""
    return None if math.isnan(value) else value
