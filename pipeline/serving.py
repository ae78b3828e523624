"""A page on loopback that may ask about images: for `explore --serve`.

Only requests that name the token are answered, and only from this machine: another user of it, or a page in the same
browser, cannot guess the address.
"""

import json
import secrets
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from stages.errors import StageError

LOOPBACK = "127.0.0.1"
MOST_BYTES = 64 * 2**20
"""Size of an image that is sent, at most."""
Answer = Callable[[bytes], Any]


class PageServer(ThreadingHTTPServer):
    """Serves `page` at `url` and answers images that are posted to `near` beside it, one at a time.

    A connection has a thread, since browsers open some that they do not use.
    """

    def __init__(self, page: bytes, answer: Answer, port: int = 0) -> None:
        """`port` 0: one that is free. `answer` makes what becomes JSON; its errors of `stages` become messages."""
        super().__init__((LOOPBACK, port), _Handler)
        self.page, self.answer, self.one_at_a_time = page, answer, threading.Lock()
        self.token = secrets.token_urlsafe(24)

    @property
    def url(self) -> str:
        """The address of the page, token included."""
        return f"http://{LOOPBACK}:{self.server_port}/{self.token}/"


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    timeout = 10

    def do_GET(self) -> None:
        if self._named(""):
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", self.server.page)

    def do_POST(self) -> None:
        if not self._named("near"):
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MOST_BYTES:
            message = f"An image of at most {MOST_BYTES >> 20} MB can be sent."
            self._json(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": message})
            return
        try:
            image = self.rfile.read(int(length))
            with self.server.one_at_a_time:
                answer = self.server.answer(image)
        except StageError as error:
            self._json(HTTPStatus.BAD_REQUEST, {"error": str(error)})
            return
        self._json(HTTPStatus.OK, answer)

    def _named(self, name: str) -> bool:
        """Whether the path has the token and then `name`, and the host is this machine's; else answers that not."""
        wanted = f"/{self.server.token}/{name}"
        hosts = {f"{host}:{self.server.server_port}" for host in (LOOPBACK, "localhost")}
        if secrets.compare_digest(self.path.encode(), wanted.encode()) and self.headers.get("Host") in hosts:
            return True
        self._send(HTTPStatus.NOT_FOUND, "text/plain", b"There is nothing here. The address has a token in it.\n")
        return False

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
