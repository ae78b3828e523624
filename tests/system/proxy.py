"""A proxy before an HTTP server that answers late, badly or not at all, request by request, by a plan.

The interesting faults are those after which nobody can know what became of a request: it was carried out and its answer
never came (`lose`), or an error was answered all the same (`deny after`).
"""

import contextlib
import http.client
import random
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, TypeAlias

Fault: TypeAlias = Literal["drop", "lose", "busy", "deny after", "cut"]
"""Reset before the request is passed on, or after it; 503 instead of passing it on; 500 after it; half of a body."""

BUSY = b"<Error><Code>SlowDown</Code></Error>"


class FaultProxy:
    """Listens on loopback and passes requests on to a server, until it is closed.

    Of all requests a `share` meets one of `faults`, drawn with a seed; all wait `delay_seconds` first. `seen` counts
    requests by method, `met` the faults.
    """

    def __init__(self, target_port: int) -> None:
        self.faults: tuple[Fault, ...] = ()
        self.share = 0.0
        self.delay_seconds = 0.0
        self.seen: dict[str, int] = {}
        self.met: dict[str, int] = {}
        self._target_port = target_port
        self._random = random.Random(0)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            """One connection of a client."""

            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                with proxy._lock:
                    proxy._open.add(self.connection)

            def finish(self) -> None:
                with proxy._lock:
                    proxy._open.discard(self.connection)
                # A connection that was reset has nothing left to flush.
                with contextlib.suppress(ConnectionError, ValueError):
                    super().finish()

            def handle_one_request(self) -> None:
                self.close_connection = True
                with contextlib.suppress(ConnectionError):
                    self.raw_requestline = self.rfile.readline(65537)
                    if self.raw_requestline and self.parse_request():
                        proxy.pass_on(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        # So that closing waits for every connection's thread.
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it is asked."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Ends it, and the connections that clients keep for their next request."""
        self._server.shutdown()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._thread.join()

    def pass_on(self, client: BaseHTTPRequestHandler) -> None:
        """Serves one request, or does worse."""
        body = client.rfile.read(int(client.headers.get("Content-Length", 0)))
        fault = self._draw(client.command)
        time.sleep(self.delay_seconds)
        if fault == "drop":
            _reset(client)
            return
        if fault == "busy":
            _answer(client, 503, {}, BUSY)
            return
        connection = http.client.HTTPConnection("127.0.0.1", self._target_port, timeout=60)
        try:
            connection.request(client.command, client.path, body, dict(client.headers))
            answer = connection.getresponse()
            found = answer.read()
        except OSError:
            _reset(client)
            return
        finally:
            connection.close()
        if fault == "lose":
            _reset(client)
        elif fault == "deny after":
            _answer(client, 500, {}, BUSY)
        elif fault == "cut" and len(found) > 1:
            _answer(client, answer.status, dict(answer.getheaders()), found, len(found) // 2)
            _reset(client)
        else:
            _answer(client, answer.status, dict(answer.getheaders()), found)

    def _draw(self, method: str) -> Fault | None:
        with self._lock:
            self.seen[method] = self.seen.get(method, 0) + 1
            if not self.faults or self._random.random() >= self.share:
                return None
            fault = self._random.choice(self.faults)
            self.met[fault] = self.met.get(fault, 0) + 1
            return fault


def _answer(
    client: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes, sent: int | None = None
) -> None:
    client.send_response_only(status)
    length = headers.get("Content-Length", headers.get("content-length", str(len(body))))
    for name, value in headers.items():
        if name.lower() not in ("content-length", "connection", "transfer-encoding"):
            client.send_header(name, value)
    client.send_header("Content-Length", length if client.command == "HEAD" else str(len(body)))
    client.end_headers()
    if client.command != "HEAD":
        client.wfile.write(body[:sent])
    client.wfile.flush()


def _reset(client: BaseHTTPRequestHandler) -> None:
    """Ends the connection with a reset and not with a farewell."""
    client.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close_connection = True
    client.connection.close()
