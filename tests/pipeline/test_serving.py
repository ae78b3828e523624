"""The page that is served on loopback: who knows the token is answered, and nobody else."""

import json
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest

from pipeline.serving import MOST_BYTES, PageServer
from stages.errors import InputError

PAGE = b"<!doctype html>"


def answer(image: bytes) -> dict[str, int]:
    if not image:
        raise InputError("an image", "nothing", "Send one.")
    return {"bytes": len(image)}


@pytest.fixture
def server() -> Iterator[PageServer]:
    with PageServer(PAGE, {"near": answer, "paint": len}) as started:
        thread = threading.Thread(target=started.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield started
        started.shutdown()
        thread.join()


def ask(server: PageServer, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", server.server_port)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    found = response.status, response.read()
    connection.close()
    return found


def test_the_page_is_at_the_address_that_is_printed_on_loopback(server: PageServer) -> None:
    address = urlsplit(server.url)
    assert address.hostname == "127.0.0.1"
    assert server.server_address[0] == "127.0.0.1"
    assert ask(server, "GET", address.path) == (200, PAGE)
    assert len(server.token) >= 32


def test_without_the_token_or_by_another_host_name_there_is_nothing(server: PageServer) -> None:
    path = urlsplit(server.url).path
    for wrong in ("/", "/near", path[:-2] + "/", path + "other"):
        assert ask(server, "GET", wrong)[0] == 404
    assert ask(server, "POST", "/near", b"image")[0] == 404
    assert ask(server, "GET", path, Host="evil.example")[0] == 404


def test_an_image_is_answered_and_what_is_wrong_with_it_is_a_message(server: PageServer) -> None:
    path = urlsplit(server.url).path + "near"
    status, body = ask(server, "POST", path, b"image")
    assert (status, json.loads(body)) == (200, {"bytes": 5})
    assert ask(server, "POST", path.replace("near", "paint"), b"image") == (200, b"5")
    assert ask(server, "POST", path.replace("near", "other"), b"image")[0] == 404
    status, body = ask(server, "POST", path, b"")
    assert (status, json.loads(body)) == (400, {"error": "expected an image; found nothing. Send one."})
    status, body = ask(server, "POST", path, b"", **{"Content-Length": str(MOST_BYTES + 1)})
    assert status == 413
    assert "64 MB" in json.loads(body)["error"]
