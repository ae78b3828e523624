"""Credentials in a URL reach neither a store nor a message."""

import functools
import io
import tarfile
import threading
from collections.abc import Iterator, Mapping
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from cluster.inline import Inline
from pipeline.cache import cache_folder
from pipeline.errors import StepFailedError, UsageError
from pipeline.events import Event
from pipeline.graph import graph_of
from pipeline.run import run
from pipeline.step import Step
from pipeline.store import canonical_url, open_store
from pipeline.study import Study
from stages.contract import Inputs, Output, Part, Stage, Summary
from stages.errors import InputError, without_credentials
from stages.external.files import fetched
from stages.images.pixels import encode_png
from tests.faults.faulty import MemoryRoot

SECRETS = (b"TOKEN123", b"SIG456", b"KEY789")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("read https://user:TOKEN123@host/a.tar; found", "read https://***@host/a.tar; found"),
        ("https://TOKEN123@host/a?X-Amz-Signature=SIG456&X-Amz-Credential=KEY789", None),
        (
            "Max retries with url: /a.tar?sig=SIG456&se=2026 (Caused",
            "Max retries with url: /a.tar?sig=***&se=*** (Caused",
        ),
        ("simplecache::s3://KEY789:TOKEN123@bucket/x", "simplecache::s3://***@bucket/x"),
        ("http://user:TOK@EN123@host/x", "http://***@host/x"),
        ("yarl.URL('https://host/w?token=SIG456')", "yarl.URL('https://host/w?token=***')"),
        ("s3://bucket/a@b/c?d", "s3://bucket/a@b/c?d"),
        ("what is this? a = b, me@host", "what is this? a = b, me@host"),
        ("read https://host/a.tar?TOKEN123, twice", "read https://host/a.tar?***, twice"),
        ("(see https://host/why?)", "(see https://host/why?)"),
        ("http://user:it's-TOKEN123@host/x", "http://***@host/x"),
        ("az://box/a?sig=KEY789,SIG456;(TOKEN123)", "az://box/a?sig=***)"),
        ("https://host/back#access_token=TOKEN123", "https://host/back#access_token=***"),
        ("S3FileSystem(anon=False, secret='KEY789/+')", "S3FileSystem(anon=False, secret='***')"),
        ("AccountName=me;AccountKey=KEY789==;EndpointSuffix=x", "AccountName=me;AccountKey=***;EndpointSuffix=x"),
        ("AWS_SECRET_ACCESS_KEY=KEY789+", "AWS_SECRET_ACCESS_KEY=***"),
        ("{'Authorization': 'Bearer TOKEN123'}", "{'Authorization': 'Bearer ***'}"),
        ("num_tokens=1024, token=None, a secret: nobody knows", "num_tokens=1024, token=None, a secret: nobody knows"),
    ],
)
def test_a_text_keeps_all_of_a_url_but_its_credentials(text: str, shown: str | None) -> None:
    found = without_credentials(text)
    assert not any(secret.decode() in found for secret in SECRETS)
    if shown is not None:
        assert found == shown


def test_no_repr_of_a_study_holds_the_credentials_of_a_url() -> None:
    study = signed("https://user:TOKEN123@host/a.tar?sig=SIG456")
    assert "https://***@host/a.tar?sig=***" in f"{study!r}"
    assert secrets_in({"shown": f"{study!r} {study} {graph_of(study)}".encode()}) == []


@pytest.mark.parametrize("url", ["s3://KEY789:TOKEN123@bucket/x", "s3://TOKEN123@bucket", "az://box/x?sig=SIG456"])
def test_a_store_whose_url_has_credentials_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="without credentials") as caught:
        open_store(url)
    assert secrets_in({"shown": f"{caught.value}".encode()}) == []
    assert canonical_url("abfss://container@account.dfs.core.windows.net/x/").endswith("net/x")


@pytest.mark.parametrize("error", [InputError, UsageError])
def test_no_error_holds_the_credentials_of_a_url(error: type[UsageError]) -> None:
    raised = error("a file at https://user:TOKEN123@host/x", "none", "Check https://host/x?sig=SIG456.")
    assert not any(secret.decode() in f"{raised} {raised!r} {vars(raised)}" for secret in SECRETS)


def signed(url: str) -> Study:
    """A study of the images at a URL."""
    return Study.model_validate(
        {
            "study": "signed",
            "dataset": {"listing": {"source": {"kind": "webdataset", "url": url}}},
            "encoders": {"oracle": {"kind": "oracle"}},
            "decoder": {"taps": ["oracle:pixels"]},
        }
    )


class Reads(Stage):
    """Reads a file that no server has."""

    name = "reads"
    version = 1
    bitwise = True

    def work(self, part: Part, state: Any, inputs: Inputs, out: Output) -> Summary:
        with fetched("http://user:TOKEN123@127.0.0.1:9/w.safetensors?X-Amz-Signature=SIG456"):
            return {}


def secrets_in(objects: Mapping[str, bytes]) -> list[str]:
    """Names of the objects in which a secret stands."""
    return [name for name, data in objects.items() if any(secret in data for secret in SECRETS)]


def test_a_run_that_cannot_read_a_url_says_which_without_its_credentials() -> None:
    root = MemoryRoot()
    store, _ = root.process()
    heard: list[Event] = []
    with pytest.raises(StepFailedError, match=r"http://\*\*\*@127\.0\.0\.1:9/w\.safetensors") as caught:
        run([Step("reads", Reads())], store, Inline, study="s", listener=heard.append)
    assert "Traceback" in caught.value.traceback
    shown = f"{caught.value} {vars(caught.value)} {heard}".encode()
    assert secrets_in({"shown": shown} | root.objects("runs")) == []
    assert root.objects("runs")


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder, whatever it is asked beside a file's name."""

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def translate_path(self, path: str) -> str:
        return super().translate_path(path.partition("?")[0])


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """A signed URL of a tar of 12 images."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(12):
            picture = encode_png(np.full((16, 16, 3), 20 * number, dtype=np.uint8))
            for ending, data in (("png", picture), ("cls", b"%d" % (number % 3))):
                info = tarfile.TarInfo(f"{number:04d}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://user:TOKEN123@127.0.0.1:{server.server_port}/a.tar?X-Amz-Signature=SIG456&X-Amz-Credential=KEY789"
        server.shutdown()


def test_images_at_a_signed_url_are_packed_and_leave_no_signature_in_the_store(served: str) -> None:
    study = signed(served)
    root = MemoryRoot()
    store, _ = root.process()
    result = run(graph_of(study)[:2], store, Inline, study="signed")
    assert result.summary("shards")["rows"] == 12
    objects = {name: data for folder in ("artifacts", "runs", "studies") for name, data in root.objects(folder).items()}
    assert secrets_in(objects) == []
    caches = {path.name: path.read_bytes() for path in cache_folder().iterdir()}
    assert caches
    assert secrets_in(caches) == []
    for name, data in objects.items():
        if name.endswith(".parquet"):
            columns = pq.read_table(io.BytesIO(data)).to_pydict()
            assert secrets_in({name: str(columns).encode()}) == []
    listing = next(data for name, data in objects.items() if name.endswith("/listing.parquet"))
    assert set(pq.read_table(io.BytesIO(listing)).column("source").to_pylist()) == {"a.tar"}
