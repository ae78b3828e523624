"""What runs and gangs on Ray share: whether a worker has started, how an attempt was lost, what room is reported."""

import os
import socket
import time
from typing import Any

from cluster.allocation import Allocation, Gang, Pool, WorkerProcess
from cluster.connect import nodes
from cluster.errors import ForeignCodeError, PayloadError
from cluster.executor import AttemptResult, Loss, Outcome, Room, failure_of
from cluster.mailbox import Location
from cluster.retry import Tally

POLL_SECONDS = 0.5
"""How often a thread that waits polls for progress, for room and for the end."""

ROOM_SECONDS = 1.0
"""A change of room is reported at most this often."""


class RoomReport:
    """Reports the room of a pool or gang where it has changed."""

    def __init__(self, allocation: Allocation, claimant: Pool | Gang) -> None:
        self._allocation = allocation
        self._claimant = claimant
        self._last = Room()
        self._next = time.monotonic() + ROOM_SECONDS

    def changes(self) -> None:
        """Reports a change, rarely."""
        on_room, now = self._claimant.claim.on_room, time.monotonic()
        if on_room is None or now < self._next:
            return
        self._next = now + ROOM_SECONDS
        room = self._allocation.room_of(self._claimant)
        if room != self._last:
            self._last = room
            on_room(room)


def has_started(allocation: Allocation, worker: WorkerProcess, ref: Any) -> bool:
    """Whether a worker has started. Raises `ForeignCodeError`, and `ConnectError` where none will."""
    import ray

    try:
        where: Location = ray.get(ref)
    except ray.exceptions.RayError as error:
        allocation.not_started(worker, error)
        return False
    if where.problem is not None:
        raise ForeignCodeError(*where.problem)
    allocation.started(worker, where)
    return True


def lost(tally: Tally, worker: WorkerProcess, reason: str) -> Loss:
    """The loss of a worker that has started."""
    assert worker.where is not None
    return Loss(tally.attempts, reason, worker.where.host, worker.where.pid, (worker.machine,))


def refused(tally: Tally, error: PayloadError) -> Outcome:
    """The outcome of a call whose payload is no small JSON."""
    tally.begin()
    outcome = tally.answered(AttemptResult(None, failure_of(error), socket.gethostname(), os.getpid(), 0.0))
    assert outcome is not None
    return outcome


def gone() -> set[str]:
    """Machines that Ray knows to be lost."""
    return {node["NodeID"] for node in nodes() if not node["Alive"]}
