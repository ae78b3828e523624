"""One S3 server for all system tests, with a finished study in its bucket; tests that kill one start their own."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.store import open_store
from tests.finished import Finished
from tests.system.s3 import BUCKET, S3Server, access


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A server that runs as long as the session."""
    with tempfile.TemporaryDirectory() as folder:
        server = S3Server(Path(folder))
        server.start()
        yield server
        server.close()


@pytest.fixture(scope="session")
def finished_url(finished: Finished, s3_server: S3Server) -> str:
    """The URL of a copy of the finished study's store, to read."""
    url = f"s3://{BUCKET}/finished"
    with pytest.MonkeyPatch.context() as environment:
        for name, value in access(s3_server.url).items():
            environment.setenv(name, value)
        source, target = open_store(str(finished.store)), open_store(url)
        names = [entry.name for folder in ("artifacts", "studies") for entry in source.entries(folder)]
        for name in (*names, "store.json"):
            target.create(name, source.read(name))
    return url


@pytest.fixture
def bucket(finished_url: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same URL, in an environment that has access to it."""
    for name, value in access(s3_server.url).items():
        monkeypatch.setenv(name, value)
    return finished_url
