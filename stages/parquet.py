"""How tables are stored: Parquet with a CRC-32 on every page, so that a changed byte is seen in a part of a file too.

pyarrow compares the checksums where it is asked to (`page_checksum_verification=True`).
"""

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

SETTINGS: Mapping[str, Any] = {"compression": "zstd", "write_page_checksum": True}
"""Arguments of pyarrow's writers."""


def table_bytes(table: "pa.Table") -> bytes:
    """The bytes of the file; equal tables give equal bytes."""
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(table, sink, **SETTINGS)
    return sink.getvalue()
