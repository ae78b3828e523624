"""Where the files of a test stand."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder on a disk, and one on a file system that only fsspec knows."""
    if request.param == "local":
        yield str(tmp_path)
        return
    yield "memory://datasets"
    memory = fsspec.filesystem("memory")
    if memory.exists("/datasets"):
        memory.rm("/datasets", recursive=True)
