"""A backend that fails by plan: the process dies before or after a call, or the answer to a call is lost.

Every call is counted, so that a test can die at each of them in turn. Once dead, a process says nothing more: later
calls of it, from `finally` blocks too, die as well.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, TypeAlias, TypeVar

from obstore.store import MemoryStore

from pipeline.backends import Backend, Entry, ObjectBackend
from pipeline.errors import FullError, UnansweredError
from pipeline.store import Store, share

Fault: TypeAlias = Literal["die before", "die after", "lose the answer", "fill the disk"]
Result = TypeVar("Result")


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

    def read(self, name: str) -> bytes:
        return self._call(f"read {name}", lambda: self._inner.read(name))

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

    def _call(self, what: str, action: Callable[[], Result]) -> Result:
        number = len(self.log)
        if self._dead:
            raise DeadError
        self.log.append(what)
        if self._fault == "fill the disk" and number >= self._at and what.startswith("create"):
            raise full(what)
        if number != self._at or self._fault is None or self._fault == "fill the disk":
            return action()
        if self._fault == "die before":
            self._dead = True
            raise DeadError
        action()
        if self._fault == "die after":
            self._dead = True
            raise DeadError
        raise UnansweredError(f"an answer to {what}", "a lost connection", "Run again.")


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
        store = Store(backend, self.url)
        share(store)
        return store, backend

    def objects(self, folder: str) -> dict[str, bytes]:
        """All objects below a folder, as no process sees them: uncounted and without faults."""
        return {entry.name: self.backend.read(entry.name) for entry in self.backend.entries(folder)}
