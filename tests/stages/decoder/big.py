"""Sets of many small images on disk, made quickly: every tar and every shard of embeddings holds the same bytes."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.embeddings import format as embeddings
from stages.embeddings.format import Moments, encode_shard
from stages.images.pixels import encode_png
from stages.images.sets import PART_ROWS
from stages.listing.format import table_of
from stages.shards.format import key_of, shard_name, write_tar
from tests.artifacts import FolderArtifact

PART = 512
"""Images in a tar."""


def big(count: int, folder: Path) -> None:
    """`count` images of 64 px, shards and a table of embeddings of them, as files in a folder."""
    shards, table = FolderArtifact(folder / "shards"), FolderArtifact(folder / "embeddings.a")
    rows = np.arange(count)
    image = encode_png(np.full((64, 64, 3), 100, dtype=np.uint8))
    tar, offsets = write_tar((key_of(row), "png", image, {}) for row in range(PART))
    features = encode_shard(np.ones((PART, 32), dtype=np.float16), PART)
    for part in range(count // PART):
        shards.put(shard_name(part), tar)
        for view in ("plain", "flip"):
            table.put(embeddings.shard_name("t", view, part), features)
    index: dict[str, Any] = {
        "row": rows,
        "sha256": [hashlib.sha256(image).hexdigest()] * count,
        "shard": [shard_name(int(row) // PART) for row in rows],
        "offset": [offsets[row % PART] for row in rows],
        "size": [len(image)] * count,
        "split": ["heldout" if row % 8 == 0 else "train" for row in rows],
        "status": ["ok"] * count,
    }
    pq.write_table(table_of(index).replace_schema_metadata({PART_ROWS: str(PART)}), folder / "shards" / "index.parquet")
    pq.write_table(pa.table({name: index[name] for name in ("row", "split", "status")}), table.folder / "rows.parquet")
    table.put(embeddings.STATISTICS, embeddings.dump_statistics({"t": Moments(2, np.zeros(32), np.ones(32))}))
    about: dict[str, Any] = {"fingerprint": '{"taps": {"t": 32}}', "encoder": "{}", "views": ["plain", "flip"]}
    about |= dict.fromkeys(("images_key", "units", "metric"), "") | {"kind": "image"}
    beside = pa.table({"row": rows})
    for name, data in embeddings.metadata({"t": 32}, ("plain", "flip"), beside, PART, "float16", about).items():
        table.put(name, data)
