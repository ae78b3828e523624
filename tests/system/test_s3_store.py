"""The store's contract on a real S3 server; and the message for a bucket that cannot be used."""

import os
import secrets
from collections.abc import Mapping

import pytest

from pipeline.errors import RootError
from pipeline.store import Store, open_store
from tests.contracts.store import StoreContract
from tests.finished import MICRO, repscope
from tests.system.s3 import BUCKET, S3Server, access, free_port

pytestmark = pytest.mark.system


class TestS3(StoreContract):
    """A prefix of its own in a bucket."""

    examples = 6
    many = 1050
    """More than one page of a listing."""
    clock_seconds = 1.0

    @pytest.fixture(autouse=True)
    def _environment(self, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in access(s3_server.url).items():
            monkeypatch.setenv(name, value)

    def open(self) -> Store:
        return open_store(f"s3://{BUCKET}/{secrets.token_hex(4)}")


def refusal(url: str, environment: Mapping[str, str]) -> str:
    """What the command line says of a store that it cannot use; it must end with 2."""
    without = {name: "" for name in os.environ if name.startswith("AWS_")}
    return repscope("status", MICRO, "--store", url, code=2, **without, **environment).stderr


def test_a_bucket_that_is_not_there_is_reported_as_such(s3_server: S3Server) -> None:
    message = refusal("s3://nobody/prefix", access(s3_server.url))
    assert "expected a bucket at s3://nobody/prefix; found that there is none of that name" in message


def test_creating_in_a_bucket_that_is_not_there_is_reported_as_such(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in access(s3_server.url).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RootError, match="Create it, or correct --store"):
        open_store(f"s3://nobody-{secrets.token_hex(4)}").prepare()


def test_a_server_that_is_not_there_is_reported_as_such() -> None:
    message = repscope("status", MICRO, "--store", "s3://bucket/x", code=3, **access(f"http://127.0.0.1:{free_port()}"))
    assert "Check the connection, then run the same command again." in message.stderr
