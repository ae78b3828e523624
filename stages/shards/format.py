"""Shards as objects: tars in webdataset's layout.

An image is two members of a tar, `000000123.png` (or `.jpg`) and `000000123.json`; `index.parquet` says where in which
tar the image's bytes stand.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

KIND = "image"
"""What a row of the index is."""
INTEGERS = ("row", "offset", "bytes", "width", "height")
KEPT = ("jpg", "png")
"""Formats whose bytes go into the tars as they are; others are written as PNG, which every reader of tars decodes."""


def shard_name(part: int) -> str:
    """Object of one tar."""
    return f"shard-{part:05d}.tar"


def key_of(row: int) -> str:
    """webdataset's key of a row: the members' name without ending."""
    return f"{row:09d}"


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


def index_of(columns: Mapping[str, Sequence[Any]], labels: "Mapping[str, pa.Array]") -> "pa.Table":
    """Rows of an index: numbers int64, all others text, then the labels."""
    import pyarrow as pa

    types = dict.fromkeys(INTEGERS, pa.int64()) | {"kind": pa.dictionary(pa.int8(), pa.string())}
    own = {name: pa.array(values, types.get(name, pa.string())) for name, values in columns.items()}
    return pa.table(own | dict(labels))
