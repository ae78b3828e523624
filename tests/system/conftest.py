"""One S3 server for all system tests; tests that kill one start their own."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.s3 import S3Server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A server that runs as long as the session."""
    with tempfile.TemporaryDirectory() as folder:
        server = S3Server(Path(folder))
        server.start()
        yield server
        server.close()
