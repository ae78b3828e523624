"""A run seen from another process or machine while it goes on: its events, how it ends, and a table drawn anew.

All is read from the store, and nothing is written. A poll costs one request, and one more for each object of new
events: these are numbered by one process, so the name of the next is known. Once in a minute without an event the
leases are listed: a run at work keeps its leases alive, and one that was killed does not say that it ended.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TextIO

from pipeline.errors import MissingError
from pipeline.events import PROGRESS, Event, event_objects, events_in, read_plan
from pipeline.key import SHORT
from pipeline.lease import is_dead_neighbour, signs_of_life
from pipeline.store import Store

NEAR_SECONDS, FAR_SECONDS = 1.0, 5.0
"""Between two polls of a folder and of a bucket."""
SILENT_SECONDS = 60.0
"""After so long without an event, and again each time, the leases are listed."""
LOST_SECONDS = 180.0
"""A run with no event and no heartbeat for so long is taken for dead."""


class Follower:
    """One run, polled. `end` is empty while it goes on; `progress` says how far each training at work is."""

    def __init__(self, store: Store, run_id: str, now: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._run_id = run_id
        self._now = now
        self._next = ""
        self._alive = self._listed = now()
        self._signs: frozenset[str] = frozenset()
        self._process: Mapping[str, Any] = {"host": "", "pid": 0}
        self.end: Literal["", "done", "failed", "lost"] = ""
        self.message = ""
        self.progress: dict[str, str] = {}

    @property
    def seconds(self) -> float:
        """The pause between two polls."""
        return FAR_SECONDS if self._store.far else NEAR_SECONDS

    def poll(self) -> list[Event]:
        """The events that have come since the last poll."""
        found = self._news()
        if not self.end and is_dead_neighbour(self._process["host"], self._process["pid"]):
            # What it wrote at its very end may have come after what was just read.
            found += self._news()
            if not self.end:
                self._lose(f"no process {self._process['pid']} here any more")
        now = self._now()
        if found:
            self._alive = self._listed = now
        elif not self.end and now - self._listed >= SILENT_SECONDS:
            self._listed = now
            signs = signs_of_life(self._store, self._run_id, self._leases())
            if signs - self._signs:
                self._alive = now
            self._signs = signs
            if now - self._alive >= LOST_SECONDS:
                self._lose(f"no event and no heartbeat of the run for {now - self._alive:.0f} s")
        return found

    def _news(self) -> list[Event]:
        found: list[Event] = []
        names = [] if self._next else event_objects(self._store, self._run_id)
        for name in names:
            found += events_in(self._store, name)
            self._next = _after(name)
        while self._next and not names:
            try:
                found += events_in(self._store, self._next)
            except MissingError:
                break
            self._next = _after(self._next)
        for event in found:
            self._note(event)
        return found

    def _note(self, event: Event) -> None:
        if event.kind == PROGRESS:
            self.progress[event.step] = f"{event.fields['done']} of {event.fields['total']}"
        elif event.kind in ("step_done", "step_left"):
            self.progress.pop(event.step, None)
        elif event.kind == "run_started":
            self._process = event.fields
        elif event.kind == "run_done":
            self.end, self.message = "done", ""
        elif event.kind == "run_failed":
            self.end, self.message = "failed", event.fields["message"]

    def _lose(self, found: str) -> None:
        self.end = "lost"
        self.message = f"expected the run to go on or to say how it ended; found {found}. The same command goes on."

    def _leases(self) -> set[str]:
        steps = read_plan(self._store, self._run_id).get("steps", {})
        return {f"leases/{step['stage']}/{step['key'][:SHORT]}" for step in steps.values()}


def follow(follower: Follower, pause: Callable[[float], None] = time.sleep) -> Iterator[Event]:
    """All events of a run until it ends. Of a training's progress only the newest of each poll."""
    while True:
        found = follower.poll()
        newest = {event.step: event for event in found if event.kind == PROGRESS}
        yield from (event for event in found if event.kind != PROGRESS or newest[event.step] is event)
        if follower.end:
            return
        pause(follower.seconds)


def _after(name: str) -> str:
    """The name of the object of events that the same process writes next."""
    folder, _, label = name.rpartition("/")
    number, _, ending = label.partition("-")
    return f"{folder}/{int(number) + 1:06d}-{ending}"


class Screen:
    """Lines that are drawn anew: over the last ones on a terminal; elsewhere only those that have changed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._before: list[str] = []

    def draw(self, lines: Sequence[str]) -> None:
        """Draws them. A terminal that has too few rows shows the last ones."""
        if not self._terminal:
            text = "".join(f"{line}\n" for line in lines if line not in self._before)
        else:
            width, height = shutil.get_terminal_size()
            if len(lines) >= height:
                lines = [f"… {len(lines) - height + 2} more above", *lines[len(lines) - height + 2 :]]
            lines = [line[: width - 1] for line in lines]
            back = f"\x1b[{len(self._before)}F\x1b[J" if self._before else ""
            text = back + "".join(f"{line}\n" for line in lines)
        self._stream.write(text)
        self._stream.flush()
        self._before = list(lines)
