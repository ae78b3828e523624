"""The records of `rows.parquet`: what each vector of a table is of."""

from typing import TYPE_CHECKING, Any

import numpy as np

from stages import attributes
from stages.contract import Input
from stages.embeddings.format import IMAGE, NUMBER, OK, SAMPLE
from stages.images.sets import ATTRIBUTES, SAMPLES, Images

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = {
    IMAGE: ("key", "file_name", "split", "status"),
    SAMPLE: ("key", "source_key", "painted_from", "variant", "k"),
}
"""Columns of `index.parquet` and of `samples.parquet` that stand beside the vectors."""


def rows_of(images: Images, artifact: Input) -> "pa.Table":
    """The records of `rows.parquet`: what each vector is of, with the labels of images as people write them."""
    import pyarrow as pa

    kind = SAMPLE if SAMPLES in artifact.names() else IMAGE
    own = images.table(COLUMNS[kind])
    columns: dict[str, Any] = {
        NUMBER[kind]: pa.array(np.arange(images.count, dtype=np.int64)),
        # Samples of before had no keys.
        "key": pa.array([f"{kind}-{row:09d}" for row in range(images.count)]),
        "kind": pa.DictionaryArray.from_arrays(np.zeros(images.count, dtype=np.int8), pa.array([kind])),
    }
    columns |= {name: own.column(name) for name in own.column_names}
    if "status" not in columns:
        columns["status"] = pa.array([OK] * images.count)
    if ATTRIBUTES in artifact.names():
        columns |= attributes.labels(attributes.load(artifact.read(ATTRIBUTES)), images.values())
    return pa.table(columns)
