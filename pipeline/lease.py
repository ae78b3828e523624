"""The lease: saves two runs from doing the same work. Nothing rests on it: without it they would do it twice, no worse.

    leases/<name>/e0001.json            an epoch: its owner, nonce and time to live; created, never changed
    leases/<name>/e0001.beat-000007     the owner is alive; the one before is deleted
    leases/<name>/e0001.released        the owner is done

The newest epoch counts. It is over when it was released, or when its last sign of life is older than its time to live,
measured by the server's clock alone: the time of a probe object just written. Then whoever creates the next epoch holds
the lease, and an owner that sees a higher epoch than its own stops.
"""

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from pipeline.backends import Entry
from pipeline.errors import BusyError, ExistsError, MissingError, PipelineError
from pipeline.store import Store, number_in

TTL_SECONDS = 60.0
MOST_TTL_SECONDS = 3600.0
"""No lease is kept for longer without a heartbeat."""
POLL_SECONDS = 2.0

_EPOCH = "e{:04d}.json"

_held: set[str] = set()
"""Nonces of the leases that runs of this process hold now."""


class Holder(BaseModel):
    """Who took an epoch: what its record says."""

    nonce: str
    run: str
    host: str
    pid: int
    ttl_seconds: Annotated[float, Field(gt=0, le=MOST_TTL_SECONDS)]

    def __str__(self) -> str:
        return f"run {self.run} on {self.host} (process {self.pid})"


class Lease:
    """The lease on one artifact. `with lease:` keeps it alive and releases it; `check` raises once it is lost."""

    def __init__(self, store: Store, name: str, run_id: str, ttl_seconds: float = TTL_SECONDS) -> None:
        self._store = store
        self._folder = f"leases/{name}"
        self._run_id = run_id
        self._ttl = ttl_seconds
        self._nonce = secrets.token_hex(8)
        self._epoch = 0
        self._beats = 0
        self._stop = threading.Event()
        self._lost = False
        self._thread: threading.Thread | None = None

    def acquire(self, on_busy: Literal["wait", "fail"], on_wait: Callable[[str], None]) -> None:
        """Takes the lease. While another has it, `on_wait` is called again and again with the owner, and may raise.

        Raises `BusyError` with `on_busy="fail"`.
        """
        while True:
            epoch, owner = self._holder()
            if owner is None and self._take(epoch + 1):
                return
            if owner is not None:
                if on_busy == "fail":
                    raise BusyError(
                        f"nobody else at work on {self._folder[7:]}",
                        f"{owner}",
                        "Wait for it, or run again with --on-busy wait.",
                    )
                on_wait(str(owner))
                time.sleep(POLL_SECONDS)

    def _take(self, epoch: int) -> bool:
        ours = Holder(
            nonce=self._nonce, run=self._run_id, host=socket.gethostname(), pid=os.getpid(), ttl_seconds=self._ttl
        )
        # Before the record is there, because another thread may read it at once.
        _held.add(self._nonce)
        try:
            name = f"{self._folder}/{_EPOCH.format(epoch)}"
            data = ours.model_dump_json().encode()
            stored, _ = self._store.create_or_read(name, data)
            if stored == data:
                self._epoch = epoch
        finally:
            if not self._epoch:
                _held.discard(self._nonce)
        return self._epoch > 0

    def _holder(self) -> tuple[int, Holder | None]:
        """The newest epoch, and its owner unless it is over."""
        entries = self._store.entries(self._folder)
        return _newest(entries), holder_of(self._store, entries)

    def __enter__(self) -> "Lease":
        self._thread = threading.Thread(target=self._live, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        _held.discard(self._nonce)
        # Where it cannot be released, it runs out.
        with suppress(PipelineError):
            self._store.create_or_read(f"{self._folder}/e{self._epoch:04d}.released", b"")
            if self._beats:
                self._store.delete(self._beat(self._beats))

    def check(self) -> None:
        """Raises `BusyError` once another run has taken the next epoch."""
        if self._lost:
            raise BusyError(
                f"to hold the lease on {self._folder[7:]}",
                "that another run took it, because this one wrote no heartbeat for too long",
                "Run the same command again: what is complete is kept.",
            )

    def beat(self) -> None:
        """Writes a heartbeat, and checks that the lease is still ours."""
        self._beats += 1
        with suppress(ExistsError):
            self._store.create(self._beat(self._beats), b"")
        with suppress(MissingError):
            if self._beats > 1:
                self._store.delete(self._beat(self._beats - 1))
        if _newest(self._store.entries(self._folder)) > self._epoch:
            self._lost = True

    def _beat(self, number: int) -> str:
        return f"{self._folder}/e{self._epoch:04d}.beat-{number:06d}"

    def _live(self) -> None:
        while not self._stop.wait(self._ttl / 3):
            # A heartbeat that fails, for whatever reason, is one less. If all fail, the lease runs out.
            with suppress(Exception):
                self.beat()


def server_time(store: Store) -> float:
    """What the store's server takes the time to be, in seconds since 1970."""
    name = f"probes/clock-{secrets.token_hex(8)}"
    store.create_or_read(name, b"")
    try:
        return store.head(name).modified
    finally:
        store.delete(name)


def signs_of_life(store: Store, run_id: str, folders: Collection[str]) -> frozenset[str]:
    """The objects of the newest epochs in these folders that a run holds: where it lives, there are others soon."""
    inside: dict[str, list[Entry]] = {}
    for entry in store.entries("leases"):
        if (folder := entry.name.rpartition("/")[0]) in folders:
            inside.setdefault(folder, []).append(entry)
    found: set[str] = set()
    for folder, entries in inside.items():
        label = f"{folder}/e{_newest(entries):04d}."
        names = {entry.name for entry in entries if entry.name.startswith(label)}
        if f"{label}json" not in names or f"{label}released" in names:
            continue
        owner = _read(store, f"{label}json")
        if owner is not None and owner.run == run_id:
            found |= names
    return frozenset(found)


def holder_of(store: Store, entries: Sequence[Entry], now: float | None = None) -> Holder | None:
    """Who holds a lease, by all objects in its folder; None where its newest epoch is over.

    `now` is the server's time, where it is known.
    """
    epoch = _newest(entries)
    label = f"/e{epoch:04d}."
    signs = [entry for entry in entries if label in entry.name]
    if epoch == 0 or any(entry.name.endswith(".released") for entry in signs):
        return None
    owner = _read(store, next(entry.name for entry in signs if entry.name.endswith(".json")))
    if owner is None or _has_ended(owner):
        return None
    age = (server_time(store) if now is None else now) - max(entry.modified for entry in signs)
    return owner if age <= owner.ttl_seconds else None


def _newest(entries: Sequence[Entry]) -> int:
    numbers = (number_in(entry.name.rpartition("/")[2], _EPOCH) for entry in entries)
    return max((number for number in numbers if number is not None), default=0)


def _read(store: Store, name: str) -> Holder | None:
    """Who took an epoch; None where the record is damaged or gone: nothing rests on a lease, so that one is over."""
    try:
        return Holder.model_validate(store.read_json(name))
    except (ValueError, MissingError):
        return None


def _has_ended(owner: Holder) -> bool:
    """Whether the owner is known to have ended without releasing the lease: then there is no need to wait.

    So it is with a process of this host that is gone, and with a run of this process that could not reach the store in
    the end.
    """
    if owner.host == socket.gethostname() and owner.pid == os.getpid():
        return owner.nonce not in _held
    return is_dead_neighbour(owner.host, owner.pid)


def is_dead_neighbour(host: str, pid: int) -> bool:
    """Whether this was a process of this host that is gone."""
    if host != socket.gethostname():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False
