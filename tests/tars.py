"""Tars with an index, as the `shards` stage writes them, from encoded images at hand."""

import hashlib
import io
from collections.abc import Sequence

import pyarrow.parquet as pq

from stages.images.sets import DECODE, INDEX, PART_ROWS, SCALED
from stages.listing.format import table_of
from stages.shards.format import key_of, shard_name, write_tar
from tests.artifacts import MemoryArtifact


def tar_artifact(images: Sequence[bytes], part_rows: int, ending: str = "jpg", scaled: bool = False) -> MemoryArtifact:
    """An artifact of all `images`, `part_rows` to a tar; every sixth is held out."""
    objects: dict[str, bytes] = {}
    offsets: list[int] = []
    for part, start in enumerate(range(0, len(images), part_rows)):
        own = range(start, min(start + part_rows, len(images)))
        objects[shard_name(part)], found = write_tar((key_of(row), ending, images[row], {"row": row}) for row in own)
        offsets += found
    objects[INDEX] = index_of(images, offsets, part_rows, ending, scaled)
    return MemoryArtifact(objects)


def index_of(
    images: Sequence[bytes], offsets: Sequence[int], part_rows: int, ending: str, scaled: bool = False
) -> bytes:
    """The index of images that stand at `offsets` of their tars."""
    rows = range(len(images))
    columns = {
        "row": rows,
        "key": [key_of(row) for row in rows],
        "shard": [shard_name(row // part_rows) for row in rows],
        "offset": offsets,
        "size": [len(image) for image in images],
        "sha256": [hashlib.sha256(image).hexdigest() for image in images],
        "split": ["heldout" if row % 6 == 0 else "train" for row in rows],
        "status": ["ok"] * len(images),
        "name": [f"{row}.{ending}" for row in rows],
    }
    sink = io.BytesIO()
    metadata = {PART_ROWS: str(part_rows).encode()} | ({DECODE: SCALED} if scaled else {})
    pq.write_table(table_of(columns).replace_schema_metadata(metadata), sink)
    return sink.getvalue()
