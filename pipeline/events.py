"""What happens in a run, as small records: shown to a person while it runs and kept in `runs/<run id>/events/`.

| kind | fields |
|---|---|
| `run_started` | `study`, `host`, `pid` |
| `step_hit` | `key`, `generation`, `drift` |
| `step_waiting` | `owner`: another run is at work on it |
| `step_started` | `key`, `generation`, `reason`, `parts`, `todo` |
| `step_room` | `hosts`: workers or ranks on each; `waits`: what it waits for, empty where it has room |
| `part_done` | `part`, `seconds`, `host`, `pid`, `executor`, `adopted`, `size_bytes`, `done`, `parts` |
| `part_lost` | `part`, `attempt`, `reason`, `host`, `pid`, `machines`: it died, hung, or had a transient error |
| `progress` | `done`, `total`, `metrics`, `attempt`: of a training; a thousand of each are kept |
| `step_done` | `key`, `generation`, `seconds`, `size_bytes`, `summary` |
| `step_failed` | `message`, `part`, `type`, `traceback` |
| `step_left` | `reason`: it ends unfinished, because it failed or because something else did |
| `step_skipped` | `because`: a step that it needs and that was not finished |
| `log_delayed` | `message`: events could not be written and wait; shown, not kept |
| `run_done` | `seconds` |
| `run_failed` | `message` |
"""

import json
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from pipeline.errors import MissingError, PipelineError, StoreError
from pipeline.store import LAST_SECOND, Store, parse_json
from stages.errors import without_credentials

EVENTS_BYTES = 64 << 20
"""No object of events that is larger is read: it holds what happened in some seconds."""

PLANS_AT_ONCE = 16
"""How many plans of a remote store are read together."""

FLUSH_SECONDS = 10.0

_NAME = re.compile(r"[0-9]{6,}-[0-9]+\.jsonl")

PROGRESS = "progress"
"""The kind of event that comes every few seconds, whose loss is no loss."""
KEPT_OF_A_TRAINING = 1000
"""So many reports of a training's progress are kept at most, evenly over its length; all are shown."""
PROGRESS_FLUSH_SECONDS = 60.0
"""Where nothing else happens, progress is written at most this often."""

_READ: Mapping[str, Mapping[str, type]] = {
    PROGRESS: {"done": int, "total": int, "metrics": dict},
    "run_started": {"host": str, "pid": int},
    "run_failed": {"message": str},
}
"""Fields by which whoever follows a run decides, and their types."""


@dataclass(frozen=True)
class Event:
    """One thing that happened; `time` in seconds since 1970, `step` empty where it concerns the whole run."""

    kind: str
    step: str
    time: float
    fields: dict[str, Any] = field(default_factory=dict)


Listener = Callable[[Event], None]


def stamp(seconds: float) -> str:
    """A time (since 1970) as a name that sorts, to the microsecond: two runs may begin in one second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%dT%H%M%S.%fZ")


def new_run_id(seconds: float) -> str:
    """A name for a run that begins at a time (since 1970), and sorts by it."""
    return f"{stamp(seconds)}-{secrets.token_hex(3)}"


class EventLog:
    """Passes every event to a listener at once, and keeps them in the store in a few objects.

    Nothing is kept before `keep` is called: a run that has nothing to do leaves no trace. Steps at work in several
    threads emit events, one at a time: neither the listener nor the objects need a lock of their own.
    """

    def __init__(self, store: Store, listener: Listener | None) -> None:
        self._store = store
        self._listener = listener
        self._waiting: list[Event] = []
        self._run_id = ""
        self._unwritten: list[tuple[str, bytes]] = []
        self._sequence = 0
        self._flushed = time.monotonic()
        self._lock = threading.RLock()
        self._progress: dict[str, tuple[int, int]] = {}

    def keep(self, run_id: str) -> None:
        """From now on events are written to the store as those of a run, those before included."""
        self._run_id = run_id

    def emit(self, kind: str, step: str = "", **fields: Any) -> None:
        """Passes an event on and keeps it, without the credentials of URLs in its fields."""
        fields = without_credentials(fields)
        with self._lock:
            event = Event(kind, step, time.time(), fields)
            self._hear(event)
            if kind == PROGRESS and not self._new(step, fields):
                return
            self._waiting.append(event)
            pause = PROGRESS_FLUSH_SECONDS if kind == PROGRESS else FLUSH_SECONDS
            if self._run_id and time.monotonic() - self._flushed > pause:
                self.flush()

    def _new(self, step: str, fields: dict[str, Any]) -> bool:
        """Whether a training has come far enough since its last report that was kept."""
        attempt, done = self._progress.get(step, (0, 0))
        far = fields["done"] - done >= fields["total"] / KEPT_OF_A_TRAINING or fields["done"] == fields["total"]
        if fields["attempt"] == attempt and not far:
            return False
        self._progress[step] = (fields["attempt"], fields["done"])
        return True

    def flush(self) -> None:
        """Writes what waits. Where the store refuses, it waits for the next flush: a log must not end a run."""
        if not self._run_id:
            return
        with self._lock:
            if self._waiting:
                lines = "".join(json.dumps(asdict(event), ensure_ascii=False) + "\n" for event in self._waiting)
                name = f"runs/{self._run_id}/events/{self._sequence:06d}-{os.getpid()}.jsonl"
                # Names of files that are no UTF-8 have letters that JSON cannot hold.
                self._unwritten.append((name, lines.encode(errors="replace")))
                self._sequence += 1
                self._waiting = []
            self._flushed = time.monotonic()
            try:
                while self._unwritten:
                    self._store.create_or_read(*self._unwritten[0])
                    del self._unwritten[0]
            except PipelineError as error:
                self._hear(Event("log_delayed", "", time.time(), {"message": str(error)}))

    def _hear(self, event: Event) -> None:
        if self._listener is not None:
            try:
                self._listener(event)
            except BrokenPipeError:
                # Nobody reads what it prints any more. That ends the run, once: how it ends is reported as well.
                self._listener = None
                raise


def run_ids(store: Store) -> list[str]:
    """All runs that did something, oldest first."""
    return store.folders("runs")


def runs_of(store: Store, study: str) -> Iterator[str]:
    """The runs of a study that did something, newest first: their plans are read as they are asked for."""
    newest_first = run_ids(store)[::-1]
    at_once = PLANS_AT_ONCE if store.far else 1
    with ThreadPoolExecutor(at_once, "runs") as threads:
        for first in range(0, len(newest_first), at_once):
            some = newest_first[first : first + at_once]
            plans = threads.map(lambda run_id: read_plan(store, run_id), some)
            yield from (run_id for run_id, plan in zip(some, plans, strict=True) if plan.get("study") == study)


def read_plan(store: Store, run_id: str) -> dict[str, Any]:
    """`plan.json` of a run; empty where it has none. Raises `StoreError` where it is damaged."""
    name = f"runs/{run_id}/plan.json"
    try:
        found = store.read_json(name)
        for step in found["steps"].values():
            if not isinstance(step["stage"], str) or not isinstance(step["key"], str):
                raise ValueError("a step of it has a stage or a key that is no text")
    except MissingError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"the plan of a run in {name}",
            f"a damaged one ({error})",
            f"Wait for that run to end, or delete the folder runs/{run_id}: it holds a plan and logs, and no artifact.",
        ) from error
    return dict(found)


def read_events(store: Store, run_id: str) -> list[Event]:
    """The events of a run, in order. Raises `StoreError` where they are damaged."""
    names = event_objects(store, run_id)
    return sorted((event for name in names for event in events_in(store, name)), key=lambda event: event.time)


def event_objects(store: Store, run_id: str) -> list[str]:
    """The names of the objects that hold a run's events, in order."""
    names = (entry.name for entry in store.entries(f"runs/{run_id}/events"))
    return [name for name in names if _NAME.fullmatch(name.rpartition("/")[2])]


def events_in(store: Store, name: str) -> list[Event]:
    """The events in one object. Raises `StoreError` where they are damaged, and `MissingError`."""
    try:
        return [_event(parse_json(line, finite=False)) for line in store.read(name, EVENTS_BYTES).split(b"\n") if line]
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"events of a run in {name}",
            f"damaged ones ({error})",
            "Delete that object alone: nothing but these lines of the log is lost.",
        ) from error


def _event(found: dict[str, Any]) -> Event:
    """An event from its JSON. Raises `ValueError` or `TypeError` for one that its readers could not read."""
    event = Event(**found)
    kinds = {"kind": str, "step": str, "time": int | float, "fields": dict}
    if not (
        all(isinstance(getattr(event, name), kind) for name, kind in kinds.items())
        and 0 <= event.time < LAST_SECOND
        and all(isinstance(event.fields.get(name), kind) for name, kind in _READ.get(event.kind, {}).items())
    ):
        raise ValueError("an event with fields of other kinds")
    return event
