"""A page on loopback that may ask about images: for `explore --serve`.

Only requests that name the token are answered, and only from this machine: another user of it, or a page in the same
browser, cannot guess the address.
"""

import json
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from stages.errors import StageError

LOOPBACK = "127.0.0.1"
MOST_BYTES = 64 * 2**20
"""Size of an image that is sent, at most."""
Answer = Callable[[bytes], Any]


class PageServer(ThreadingHTTPServer):
    """Serves `page` at `url` and answers images that are posted to a name of `answers` beside it, one at a time.

    A connection has a thread, since browsers open some that they do not use.
    """

    def __init__(self, page: bytes, answers: Mapping[str, Answer], port: int = 0) -> None:
        """`port` 0: one that is free. An answer is made into JSON; its errors of `stages` become messages."""
        super().__init__((LOOPBACK, port), _Handler)
        self.page, self.answers, self.one_at_a_time = page, answers, threading.Lock()
        self.token = secrets.token_urlsafe(24)

    @property
    def url(self) -> str:
        """The address of the page, token included."""
        return f"http://{LOOPBACK}:{self.server_port}/{self.token}/"


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    timeout = 10

    def do_GET(self) -> None:
        if self._named([""]) is not None:
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", self.server.page)

    def do_POST(self) -> None:
        name = self._named(self.server.answers)
        if name is None:
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MOST_BYTES:
            message = f"An image of at most {MOST_BYTES >> 20} MB can be sent."
            self._json(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": message})
            return
        try:
            image = self.rfile.read(int(length))
            with self.server.one_at_a_time:
                answer = self.server.answers[name](image)
        except StageError as error:
            self._json(HTTPStatus.BAD_REQUEST, {"error": str(error)})
            return
        self._json(HTTPStatus.OK, answer)

    def _named(self, names: Iterable[str]) -> str | None:
        """Which of `names` stands in the path behind the token, where the host is this machine's; else answers none."""
        hosts = {f"{host}:{self.server.server_port}" for host in (LOOPBACK, "localhost")}
        if self.headers.get("Host") in hosts:
            for name in names:
                if secrets.compare_digest(self.path.encode(), f"/{self.server.token}/{name}".encode()):
                    return name
        self._send(HTTPStatus.NOT_FOUND, "text/plain", b"There is nothing here. The address has a token in it.\n")
        return None

    def _json(self, status: HTTPStatus, value: Any) -> None:
        self._send(status, "application/json", json.dumps(value).encode())

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged: paths have the token in them."""
