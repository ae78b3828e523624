"""One file that a study names by URL, brought to the local disk and held to its sha256."""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.errors import InputError

BLOCK_BYTES = 1 << 20


@contextmanager
def local_copy(url: str, sha256: str) -> Iterator[Path]:
    """The path of a copy of the file at `url`, by path or any URL that fsspec opens; it is gone afterwards.

    Raises InputError where it cannot be read or its bytes are others than those of `sha256`.
    """
    import fsspec

    total = hashlib.sha256()
    with tempfile.NamedTemporaryFile() as copy:
        try:
            with fsspec.open(url, "rb") as source:
                while block := source.read(BLOCK_BYTES):
                    total.update(block)
                    copy.write(block)
        except (OSError, ValueError, ImportError) as error:
            raise InputError(
                expected=f"a file at {url}",
                found=str(error) or type(error).__name__,
                remedy="Check the URL, its credentials, and the space for temporary files here.",
            ) from error
        if total.hexdigest() != sha256:
            raise InputError(
                expected=f"a file with sha256 {sha256} at {url}",
                found=total.hexdigest(),
                remedy="Download it again; if it is the one you mean, write its sha256 into the study.",
            )
        copy.flush()
        yield Path(copy.name)
