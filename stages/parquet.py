"""How tables are stored: Parquet with a CRC-32 on every page, so that a changed byte is seen in a part of a file too.

pyarrow compares the checksums where it is asked to (`page_checksum_verification=True`).
"""

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

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


def table_from(data: "bytes | BinaryIO") -> "pa.Table":
    """The table of such a file, or of anybody's.

    On this thread alone: a process that ends soon after pyarrow has read with threads of its own can end by SIGABRT.
    """
    import pyarrow.parquet as pq

    return pq.ParquetFile(io.BytesIO(data) if isinstance(data, bytes) else data).read(use_threads=False)
