"""What a worker prints while it works, kept under the run: `runs/<run id>/logs/<step>/<time>-<work>-<host>-<pid>.txt`.

Kept are stdout and stderr as Python writes them, and with them warnings and what Python's logging prints. There is one
object for each part, rank or merge that printed anything, and none for the others. It holds the first and the last
characters and says how many it leaves out. URLs in it have no credentials.
"""

import logging
import os
import re
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO, cast

from pipeline.errors import PipelineError
from pipeline.events import stamp
from pipeline.store import Store
from stages.errors import without_credentials

FIRST, LAST = 16_000, 48_000
"""How many characters of the beginning and of the end are kept."""

MOST_BYTES = 8 * (FIRST + LAST)
"""No log is larger, whatever letters it has."""

READ_AT_ONCE = 16

_NAME = re.compile(r"([^-]+)-([a-z]+[0-9]*)-(.+)-([0-9]+)\.txt")
_OTHER = re.compile(r"[^A-Za-z0-9_.=+@,-]")


@dataclass(frozen=True)
class WorkerLog:
    """What one worker printed: during which work (`part00012`, `rank0`, `merge`), where, and since when (UTC)."""

    work: str
    host: str
    pid: int
    since: str
    text: str


class Excerpt:
    """The first and the last characters of a text that comes piece by piece, from any thread."""

    def __init__(self) -> None:
        self._first: list[str] = []
        self._last: deque[str] = deque()
        self._room = FIRST
        self._held = 0
        self._cut = 0
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._first)

    def write(self, text: str) -> None:
        """Takes the next piece."""
        with self._lock:
            if self._room:
                self._first.append(text[: self._room])
                text = text[self._room :]
                self._room -= len(self._first[-1])
            if text:
                self._last.append(text[-LAST:])
                self._cut += len(text) - len(self._last[-1])
                self._held += len(self._last[-1])
                while self._held - len(self._last[0]) >= LAST:
                    self._cut += len(self._last[0])
                    self._held -= len(self._last.popleft())

    def text(self) -> str:
        """What is kept, without credentials. Of a line that was written over (a progress bar) the end stands."""
        with self._lock:
            first, last = "".join(self._first), "".join(self._last)
            cut = self._cut + max(0, len(last) - LAST)
            last = last[-LAST:]
        if not cut:
            return _clean(first + last)
        # Half a URL might hold a password without the `@` by which it is known: words that are cut are left out.
        begun, ended = re.search(r"\S*\Z", first), re.match(r"\S*", last)
        assert begun is not None
        assert ended is not None
        cut += len(begun[0]) + len(ended[0])
        return f"{_clean(first[: begun.start()])}\n[{cut} characters left out]\n{_clean(last[ended.end() :])}"


def _clean(text: str) -> str:
    lines = (line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return cast(str, without_credentials("\n".join(lines)))


class _Tee:
    """A stream that also hands what it is given to an excerpt.

    There is one for stdout and one for stderr in each process: a handler of logging that took hold of it during one
    part prints to the next part's excerpt as well.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.excerpt: Excerpt | None = None

    def write(self, text: str) -> int:
        """Writes to the stream."""
        if (excerpt := self.excerpt) is not None:
            excerpt.write(text)
        return self.stream.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes to the stream."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


_OUT, _ERR = _Tee(sys.stdout), _Tee(sys.stderr)
_busy = threading.Lock()


@contextmanager
def kept(store: Store, run_id: str, step: str, work: str) -> Iterator[None]:
    """Keeps what this process prints meanwhile; `work` is letters and a number (`part00012`).

    Where two threads work in one process, only the first is kept: they share its streams, so their lines would mix. A
    log that the store does not take is reported on stderr and ends nothing.
    """
    if not _busy.acquire(blocking=False):
        yield
        return
    try:
        since, excerpt = time.time(), Excerpt()
        with _listening(excerpt):
            yield
    except Exception:
        _put(store, run_id, step, work, since, excerpt)
        raise
    else:
        _put(store, run_id, step, work, since, excerpt)
    finally:
        _busy.release()


@contextmanager
def unheard() -> Iterator[None]:
    """What is printed meanwhile is not the worker's: the inline executor shows progress in the midst of a training."""
    before = _OUT.excerpt, _ERR.excerpt
    _OUT.excerpt = _ERR.excerpt = None
    try:
        yield
    finally:
        _OUT.excerpt, _ERR.excerpt = before


@contextmanager
def _listening(excerpt: Excerpt) -> Iterator[None]:
    before = sys.stdout, sys.stderr
    for tee, stream in zip((_OUT, _ERR), before, strict=True):
        tee.stream, tee.excerpt = stream, excerpt
    # Handlers of `logging.basicConfig` hold the stream that was there when they were made.
    handlers = [
        (handler, tee)
        for handler in logging.root.handlers
        if isinstance(handler, logging.StreamHandler)
        for tee in (_OUT, _ERR)
        if handler.stream is tee.stream
    ]
    for handler, tee in handlers:
        handler.setStream(tee)
    ours = cast(TextIO, _OUT), cast(TextIO, _ERR)
    sys.stdout, sys.stderr = ours
    try:
        yield
    finally:
        _OUT.excerpt = _ERR.excerpt = None
        # A part may have put other streams there, and taken hold of ours for later.
        if sys.stdout is ours[0]:
            sys.stdout = before[0]
        if sys.stderr is ours[1]:
            sys.stderr = before[1]
        for handler, tee in handlers:
            if handler.stream is tee:
                handler.setStream(tee.stream)


def _put(store: Store, run_id: str, step: str, work: str, since: float, excerpt: Excerpt) -> None:
    if excerpt and (text := excerpt.text().strip("\n")):
        name = (
            f"{_folder(run_id, step)}/{stamp(since)}-{work}-{_OTHER.sub('_', socket.gethostname())}-{os.getpid()}.txt"
        )
        try:
            store.create_or_read(name, f"{text}\n".encode(errors="replace"))
        except PipelineError as error:
            print(f"repscope: what {step} printed is not kept: {error}", file=sys.stderr)


def read_logs(store: Store, run_id: str, step: str) -> Iterator[WorkerLog]:
    """What workers printed during a step of a run, in the order in which they began."""
    names = [entry.name for entry in store.entries(_folder(run_id, step)) if entry.name.endswith(".txt")]
    with ThreadPoolExecutor(READ_AT_ONCE if store.far else 1, "log") as threads:
        for name, data in zip(names, threads.map(lambda name: store.read(name, MOST_BYTES), names), strict=True):
            if found := _NAME.fullmatch(name.rpartition("/")[2]):
                since, work, host, pid = found.groups()
                yield WorkerLog(work, host, int(pid), since, data.decode(errors="replace"))


def _folder(run_id: str, step: str) -> str:
    return f"runs/{run_id}/logs/{_OTHER.sub('_', step)}"
