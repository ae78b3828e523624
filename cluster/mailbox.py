"""What passes between a gang's ranks on Ray and its driver: progress, and what each rank came to.

A mailbox is an actor that lives as long as one attempt. The driver ends it to give an attempt up: ranks die with it.
Where it is lost for another reason, an attempt of several ranks is lost with it; a single rank goes on without
progress.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cluster.executor import AttemptResult, OnProgress, Progress

NODE_LABEL = "ray.io/node-id"
"""Label of every machine: its number, as Ray gives it."""


@dataclass(frozen=True)
class Location:
    """Where a process of ours is; `problem` is expected, found, remedy of what is wrong there."""

    host: str
    pid: int
    machine: str
    problem: tuple[str, str, str] | None = None


def here() -> Location:
    """Where this process is."""
    import ray

    return Location(socket.gethostname(), os.getpid(), ray.get_runtime_context().get_node_id())


class Mailbox:
    """Carries progress from rank 0 to the driver, and answers of ranks. Ranks die with it: see `cluster.training`."""

    def __init__(self) -> None:
        self._posts: list[Progress] = []
        self._group = ""
        self._ranks: dict[int, Location] = {}
        self._answers: dict[int, AttemptResult] = {}

    async def post(self, progress: Progress) -> None:
        """Takes a report; only the newest is kept."""
        self._posts = [progress]

    async def take(self) -> list[Progress]:
        """Hands over what came since the last time."""
        posts, self._posts = self._posts, []
        return posts

    async def arrive(self, group: str, rank: int, where: Location) -> None:
        """Takes where a rank is. The first of another group replaces the group before, which was given up."""
        if group != self._group:
            self._group, self._ranks, self._answers = group, {}, {}
        self._ranks[rank] = where

    async def ranks(self) -> dict[int, Location]:
        """Where the ranks are that have started."""
        return self._ranks

    async def answer(self, group: str, rank: int, answer: AttemptResult) -> None:
        """Takes what a rank of the newest group came to."""
        if group == self._group:
            self._answers[rank] = answer

    async def answers(self) -> dict[int, AttemptResult]:
        """What the ranks came to."""
        return self._answers

    async def closed(self) -> None:
        """Never returns: who waits for it learns of our end."""
        await asyncio.Event().wait()


class Post:
    """A rank's side of a mailbox: sends without waiting, until the end."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox
        self._last: Any = None

    def send(self, progress: Progress) -> None:
        """Sends a report."""
        self._last = self._mailbox.post.remote(progress)

    def flush(self) -> None:
        """Waits until the last report has come in."""
        import ray

        if self._last is not None:
            ray.wait([self._last])


@contextlib.contextmanager
def open_mailbox() -> Iterator[Any]:
    """A mailbox actor for as long as a gang's attempt lasts, on the driver's machine: no other takes it along."""
    import ray

    # Not a soft affinity, which Ray overlooks for actors that ask for no resources: those start on any machine.
    beside_us = {NODE_LABEL: ray.get_runtime_context().get_node_id()}
    handle: Any = ray.remote(num_cpus=0, max_restarts=0, label_selector=beside_us)(Mailbox).remote()
    try:
        yield handle
    finally:
        ray.kill(handle)


def reader(mailbox: Any, on_progress: OnProgress) -> Callable[[], bool]:
    """A function that fetches progress, and returns whether the mailbox has answered."""
    import ray

    def read() -> bool:
        try:
            posts: list[Progress] = ray.get(mailbox.take.remote(), timeout=30)
        except ray.exceptions.RayError:
            # Progress is for people: its loss must not end a training.
            return False
        for progress in posts:
            on_progress(progress)
        return True

    return read
