"""Ranks of a gang as child processes of this one: what the inline executor uses for more than one rank.

A child gets its call as one line of JSON on its standard input and answers by lines of JSON on a pipe of its own,
so that nothing the function prints is mistaken for an answer. It dies when its input ends: no child outlives us.
"""

import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from cluster.executor import AttemptResult, Failure, Loss, Progress
from cluster.ranks import Rank, attempt_result, free_port, run_rank
from cluster.resources import Layout, set_threads

GRACE_SECONDS = 5.0
"""When one rank has failed, the others get this long to report their errors."""


def run_children(
    function: str, payload: str, layout: Layout, attempt: int, send: Callable[[Progress], None]
) -> AttemptResult | Loss:
    """One attempt of a gang: rank 0's answer, the first error that is not an echo, or the loss of a rank."""
    port = free_port()
    children: list[_Child] = []
    with selectors.DefaultSelector() as selector:
        try:
            for rank in range(layout.workers):
                device = f"cuda:{rank}" if layout.gpus else "cpu"
                children.append(
                    _Child(Rank(rank, layout.workers, device, attempt, port=port), function, payload, layout.cpus)
                )
                selector.register(children[-1].pipe, selectors.EVENT_READ, children[-1])
            while selector.get_map():
                failed = any(child.failed for child in children)
                ready = selector.select(GRACE_SECONDS if failed else None)
                if not ready:
                    break
                for key, _ in ready:
                    child: _Child = key.data
                    if not child.read(send):
                        selector.unregister(key.fileobj)
        finally:
            for child in children:
                child.stop()
    host = socket.gethostname()
    dead = {
        child.rank: Loss(attempt, f"ended with {child.process.returncode}", host, child.process.pid)
        for child in children
        if child.died
    }
    return attempt_result(attempt, {child.rank: child.answer for child in children if child.answer is not None}, dead)


class _Child:
    """One rank's process, and its answer so far."""

    def __init__(self, rank: Rank, function: str, payload: str, cpus: int) -> None:
        self.rank = rank.rank
        self.answer: AttemptResult | None = None
        self.died = False
        self._text = b""
        self.pipe, theirs = os.pipe()
        order = {"rank": asdict(rank), "function": function, "payload": payload, "path": sys.path, "cpus": cpus}
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from cluster.children import main; main()", str(theirs)],
            stdin=subprocess.PIPE,
            pass_fds=[theirs],
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
        )
        os.close(theirs)
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()

    @property
    def failed(self) -> bool:
        return self.died or (self.answer is not None and self.answer.error is not None)

    def read(self, send: Callable[[Progress], None]) -> bool:
        """Reads the child's messages; False at their end."""
        data = os.read(self.pipe, 65536)
        if not data:
            self.died = self.answer is None
            return False
        *lines, self._text = (self._text + data).split(b"\n")
        for line in lines:
            document: dict[str, Any] = json.loads(line)
            if "progress" in document:
                send(Progress(**document["progress"]))
            else:
                error = document["answer"].pop("error")
                self.answer = AttemptResult(error=None if error is None else Failure(**error), **document["answer"])
        return True

    def stop(self) -> None:
        """Ends the process, whatever it does, and waits for it."""
        if self.answer is None:
            self.process.kill()
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.pipe)


def main() -> None:
    """What a child runs."""
    out = int(sys.argv[1])
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=_die_with_parent, daemon=True).start()
    sys.path[:] = order["path"]
    set_threads(order["cpus"])
    lock = threading.Lock()

    def write(document: dict[str, Any]) -> None:
        data = json.dumps(document).encode() + b"\n"
        with lock:
            while data:
                data = data[os.write(out, data) :]

    answer = run_rank(
        order["function"],
        order["payload"],
        Rank(**order["rank"]),
        lambda progress: write({"progress": asdict(progress)}),
    )
    write({"answer": asdict(answer)})
    sys.stdout.flush()
    os._exit(0)


def _die_with_parent() -> None:
    """The parent keeps our input open as long as it lives and wants us."""
    sys.stdin.read()
    os._exit(1)
