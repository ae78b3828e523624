"""Files by URL: used where they stand or copied, known by their sha256, and missed in words."""

import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from stages.errors import InputError
from stages.external.files import fetched, fetched_folder


def test_a_file_is_fetched_by_any_url_and_known_by_its_sha256(tmp_path: Path) -> None:
    data = bytes(range(256))
    digest = hashlib.sha256(data).hexdigest()
    (tmp_path / "w.safetensors").write_bytes(data)
    with fsspec.open("memory://bucket/w.safetensors", "wb") as file:
        file.write(data)
    for url in (str(tmp_path / "w.safetensors"), f"file://{tmp_path}/w.safetensors", "memory://bucket/w.safetensors"):
        with fetched(url, digest) as found:
            assert found.sha256 == {"w.safetensors": digest}
            assert found.path.read_bytes() == data
        with pytest.raises(InputError, match=f"with sha256 {'0' * 64}; found {digest}"), fetched(url, "0" * 64):
            pass
    for missing in (str(tmp_path / "none.pth"), "memory://bucket/none.pth", str(tmp_path)):
        with pytest.raises(InputError, match="a file at"), fetched(missing):
            pass


def test_a_folder_is_fetched_by_any_url(tmp_path: Path) -> None:
    for url in (str(tmp_path / "model"), "memory://models/model"):
        files = fsspec.core.url_to_fs(url)[0]
        files.makedirs(url, exist_ok=True)
        for name in ("config.json", "model.safetensors", "flax_model.msgpack"):
            with fsspec.open(f"{url}/{name}", "wb") as file:
                file.write(b"{}")
        with fetched_folder(url, ("config.json", ".safetensors")) as found:
            assert list(found.sha256) == ["config.json", "model.safetensors"]
            assert (found.path / "config.json").read_bytes() == b"{}"
    for missing in (str(tmp_path / "none"), "memory://models/none"):
        with pytest.raises(InputError, match="a folder at"), fetched_folder(missing, (".json",)):
            pass


class Refusing(BaseHTTPRequestHandler):
    """Answers with the status that the path begins with; below /late only once the file is read."""

    def do_HEAD(self) -> None:
        if self.path.startswith("/late"):
            self.send_response(200)
            self.send_header("Content-Length", "10")
            self.end_headers()
        else:
            self.do_GET()

    def do_GET(self) -> None:
        self.send_error(500 if self.path.startswith("/late") else int(self.path.split("/")[1]))

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    """The URL of a server that has nothing for us."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("404", "404 Not Found"),
        ("403", "403 Forbidden"),
        ("500", "500 Internal Server Error"),
        ("late", "500 Internal Server Error"),
    ],
)
def test_the_answer_of_a_server_is_reported(server: str, where: str, message: str) -> None:
    url = f"{server}/{where}/w.pth"
    expected = f"expected a file at {url}; found nothing that could be read: the server said {message}. Check the URL"
    with pytest.raises(InputError, match=re.escape(expected)), fetched(url):
        pass
    with pytest.raises(InputError, match=r"a folder at .* found nothing"), fetched_folder(url, (".json",)):
        pass


def test_a_missing_server_or_file_is_reported_too() -> None:
    with pytest.raises(InputError, match=r"found nothing that could be read: Cannot connect to host"):
        fetched("http://127.0.0.1:9/w.pth").__enter__()
    with pytest.raises(InputError, match=r"found nothing there\. Check the URL"):
        fetched("memory://bucket/none.pth").__enter__()
