"""Shards as objects: tars in webdataset's layout.

An image is two members of a tar, `000000123.png` (or `.jpg`) and `000000123.json`; `index.parquet` says where in which
tar the image's bytes stand.
"""

import io
import json
import math
import tarfile
from collections.abc import Iterable, Mapping
from typing import Any

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


def defined(value: float) -> float | None:
    """A value as JSON has it: NaN is null."""
    return None if math.isnan(value) else value
