"""A backend that fails by plan: around a call the process dies, an error is raised, or request or answer is lost.

Every call is counted, so that a test can fail each of them in turn. Once dead, a process says nothing more: later
calls of it, from `finally` blocks too, die as well.
"""

import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, TypeAlias, TypeVar, get_args

from obstore.store import MemoryStore

from pipeline.backends import MAX_OBJECT_BYTES, Backend, Entry, ObjectBackend
from pipeline.errors import FullError, StoreError, UnansweredError
from pipeline.store import Store, share

Crash: TypeAlias = Literal[
    "die before", "die after", "raise before", "raise after", "lose the request", "lose the answer"
]
Fault: TypeAlias = Crash | Literal["fill the disk"]
CRASHES: tuple[Crash, ...] = get_args(Crash)
Result = TypeVar("Result")

CHANGING = (
    (re.compile(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{6}"), "RUN"),
    (re.compile(r"\d{8}T\d{6}-[0-9a-f]{8}"), "ATTEMPT"),
    (re.compile(r"probes/(clock-)?[0-9a-f]{16}"), r"probes/\1NONCE"),
)
"""Parts of names that differ from run to run, and what stands for them."""


class DeadError(BaseException):
    """The process is gone. Not an `Exception`, as nothing in the code under test may catch it."""


class FaultyBackend:
    """A backend over another that does what `fault` says at call number `at` (0 first) and is else transparent.

    `fill the disk` refuses that `create` and all later ones. `calls` counts, `log` names the calls. An hour has passed
    since other processes wrote what they wrote, so their leases have run out.
    """

    def __init__(self, inner: Backend, fault: Fault | None = None, at: int = -1) -> None:
        self._inner = inner
        self._fault = fault
        self._at = at
        self._dead = False
        self._own: set[str] = set()
        self._counting = threading.Lock()
        self.log: list[str] = []

    @property
    def calls(self) -> int:
        """How many calls were made."""
        return len(self.log)

    def create(self, name: str, data: bytes) -> None:
        def action() -> None:
            self._inner.create(name, data)
            self._own.add(name)

        self._call(f"create {name}", action)

    def copy(self, source: str, target: str) -> None:
        def action() -> None:
            self._inner.copy(source, target)
            self._own.add(target)

        self._call(f"copy {source} {target}", action)

    def read(self, name: str, most_bytes: int = MAX_OBJECT_BYTES) -> bytes:
        return self._call(f"read {name}", lambda: self._inner.read(name, most_bytes))

    def read_range(self, name: str, start: int, length: int) -> bytes:
        return self._call(f"read_range {name}", lambda: self._inner.read_range(name, start, length))

    def head(self, name: str) -> Entry:
        return self._call(f"head {name}", lambda: self._aged(self._inner.head(name)))

    def entries(self, folder: str) -> list[Entry]:
        return self._call(f"list {folder}", lambda: [self._aged(e) for e in self._inner.entries(folder)])

    def folders(self, folder: str) -> list[str]:
        return self._call(f"folders {folder}", lambda: self._inner.folders(folder))

    def delete(self, name: str) -> None:
        self._call(f"delete {name}", lambda: self._inner.delete(name))

    def _aged(self, entry: Entry) -> Entry:
        return entry if entry.name in self._own else replace(entry, modified=entry.modified - 3600)

    def _due(self, what: str, number: int) -> bool:
        """Whether the fault happens at this call. Called once for each call, under a lock."""
        return number == self._at

    def _call(self, what: str, action: Callable[[], Result]) -> Result:
        with self._counting:
            if self._dead:
                raise DeadError
            number = len(self.log)
            self.log.append(what)
            due = self._due(what, number)
        if self._fault == "fill the disk" and number >= self._at and what.startswith("create"):
            raise full(what)
        if not due or self._fault is None or self._fault == "fill the disk":
            return action()
        if self._fault not in ("die before", "raise before", "lose the request"):
            action()
        if self._fault in ("die before", "die after"):
            self._dead = True
            raise DeadError
        if self._fault in ("raise before", "raise after"):
            raise StoreError(f"to {what}", "500 Internal Server Error", "Run again.")
        raise UnansweredError(f"an answer to {what}", "a lost connection", "Run again.")


class FaultyObject(FaultyBackend):
    """Fails the `nth` call (0 first) of one kind on one object, whatever happens to others meanwhile.

    `call` is as in `calls_of`. Before every call the thread gives way to others, as often as `seed` says, so that
    another seed is another order of the steps that are at work at once.
    """

    def __init__(self, inner: Backend, fault: Fault, call: str, nth: int, seed: int) -> None:
        super().__init__(inner, fault)
        self._of = call
        self._nth = nth
        self._random = random.Random(seed)
        self._counts: Counter[str] = Counter()
        self.failed = False

    def _due(self, what: str, number: int) -> bool:
        call = unchanging(what)
        self._counts[call] += 1
        due = call == self._of and self._counts[call] == self._nth + 1
        self.failed = self.failed or due
        return due

    def _call(self, what: str, action: Callable[[], Result]) -> Result:
        for _ in range(self._random.randrange(4)):
            time.sleep(0)
        return super()._call(what, action)


def unchanging(call: str) -> str:
    """A call without what differs from run to run in the names of its objects."""
    for pattern, word in CHANGING:
        call = pattern.sub(word, call)
    return call


def calls_of(log: list[str]) -> list[tuple[str, int]]:
    """Each call of a log as what it does to which object, and how many like it came before."""
    counts: Counter[str] = Counter()
    found = []
    for call in map(unchanging, log):
        found.append((call, counts[call]))
        counts[call] += 1
    return found


def full(what: str) -> Exception:
    """What a full disk answers."""
    return FullError(f"room to {what}", "No space left on device", "Free some space, then run the same command again.")


class MemoryRoot:
    """A memory store of its own, seen by one process after another, each through a backend of its own."""

    count = 0

    def __init__(self) -> None:
        MemoryRoot.count += 1
        self.url = f"memory://root-{MemoryRoot.count}"
        self.backend: Backend = ObjectBackend(MemoryStore(), self.url)

    def process(self, fault: Fault | None = None, at: int = -1) -> tuple[Store, FaultyBackend]:
        """The store as a new process sees it, workers of that process included."""
        backend = FaultyBackend(self.backend, fault, at)
        return self.seen_through(backend), backend

    def seen_through(self, backend: Backend) -> Store:
        """The store as a process sees it through a backend."""
        store = Store(backend, self.url)
        share(store)
        return store

    def objects(self, folder: str) -> dict[str, bytes]:
        """All objects below a folder, as no process sees them: uncounted and without faults."""
        return {entry.name: self.backend.read(entry.name) for entry in self.backend.entries(folder)}
