"""What a person sees of a run at work, on stderr: a live row for each step on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pipeline.events import Event
from pipeline.step import Step

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

PLAIN_SECONDS = 15.0
"""On a plain stream the progress of a step is printed at most this often."""


@dataclass
class _Row:
    """A step at work: since when and from how much on its speed is taken, and its row on a terminal."""

    began: float
    printed: float
    first: int
    done: int
    attempt: int = 0
    room: str = ""
    metric: str = ""
    task: "TaskID | None" = field(default=None)

    @property
    def note(self) -> str:
        """What stands behind the numbers."""
        return "  ".join(word for word in (self.metric, self.room) if word)


class ProgressDisplay:
    """Shows a run's events, which come one at a time. `quiet` prints nothing at all."""

    def __init__(self, steps: Sequence[Step], *, quiet: bool) -> None:
        self._names = [step.name for step in steps]
        self._width = max(len(name) for name in self._names)
        self._quiet = quiet
        self._rows: dict[str, _Row] = {}
        self._bars: Bars | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def on_event(self, event: Event) -> None:
        """Shows one event."""
        if self._quiet:
            return
        step, fields = event.step, event.fields
        if event.kind == "log_delayed":
            self._line(f"events of this run could not be written, and will be later: {fields['message']}")
        if not step:
            return
        if event.kind == "step_started":
            self._start(step, fields["parts"], fields["parts"] - fields["todo"])
        elif event.kind == "step_waiting":
            self._line(f"{step}: waiting for {fields['owner']}, who is at work on it")
        elif event.kind == "step_room":
            self._room(step, fields["hosts"], fields["waits"])
        elif event.kind == "part_lost":
            self._line(f"{step}: part {fields['part']} lost ({fields['reason']}), trying again")
        elif event.kind == "part_done":
            self._advance(step, fields["done"], fields["parts"], {})
        elif event.kind == "progress":
            row = self._rows[step]
            if fields["attempt"] != row.attempt:
                # It begins at the checkpoint of an attempt before, whose work says nothing about the time left.
                row.began, row.first, row.attempt = time.monotonic(), fields["done"], fields["attempt"]
                if self._bars is not None and row.task is not None:
                    self._bars.reset(row.task, completed=fields["done"], total=fields["total"])
            self._advance(step, fields["done"], fields["total"], fields["metrics"])
        elif event.kind == "step_done":
            self._end(step)
            self._line(f"{self._label(step)}  {duration(fields['seconds']):>8}  {size(fields['size_bytes']):>9}")
        elif event.kind == "step_failed":
            where = "" if fields["part"] is None else f" (part {fields['part']})"
            self._line(f"{self._label(step)}  failed{where}")
        elif event.kind == "step_left":
            self._end(step)
            self._line(f"{self._label(step)}  left unfinished")
        elif event.kind == "step_skipped":
            self._line(f"{self._label(step)}  not begun: {fields['because']} is not finished")

    def _label(self, step: str) -> str:
        number = self._names.index(step) + 1
        return f"{number:>2}/{len(self._names)}  {step:<{self._width}}"

    def _start(self, step: str, parts: int, done: int) -> None:
        now = time.monotonic()
        self._end(step)
        row = self._rows[step] = _Row(now, now, done, done)
        if not sys.stderr.isatty():
            print(f"{self._label(step)}  started", file=sys.stderr, flush=True)
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        if self._bars is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", style="dim"),
            )
            self._bars = Bars(*columns, console=Console(stderr=True), transient=True)
            self._bars.start()
        row.task = self._bars.add_task(self._label(step), total=parts, completed=done, note="")

    def _room(self, step: str, hosts: Mapping[str, int], waits: str) -> None:
        row = self._rows.get(step)
        if row is None:
            return
        if row.room.startswith("waits") and not waits:
            # The time that it waited says nothing about the time left.
            row.began, row.first = time.monotonic(), row.done
        row.room = f"waits for {waits}" if waits else ", ".join(f"{count} on {host}" for host, count in hosts.items())
        if self._bars is not None and row.task is not None:
            self._bars.update(row.task, note=row.note)
        elif waits:
            print(f"{self._label(step)}  {row.room}", file=sys.stderr, flush=True)

    def _advance(self, step: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
        row = self._rows[step]
        row.done = done
        # The first is what matters; the others are for `repscope log --tensorboard`.
        row.metric = "".join(f"{name} {value:.3g}" for name, value in list(metrics.items())[:1])
        if self._bars is not None and row.task is not None:
            self._bars.update(row.task, completed=done, total=total, note=row.note)
            return
        now = time.monotonic()
        if now - row.printed >= PLAIN_SECONDS and row.first < done < total:
            row.printed = now
            left = (now - row.began) / (done - row.first) * (total - done)
            line = f"{self._label(step)}  {done}/{total}  {duration(left)} left  {row.note}".rstrip()
            print(line, file=sys.stderr, flush=True)

    def _end(self, step: str) -> None:
        row = self._rows.pop(step, None)
        if row is not None and row.task is not None and self._bars is not None:
            self._bars.remove_task(row.task)
            if not self._rows:
                self.close()

    def _line(self, line: str) -> None:
        if self._bars is not None:
            self._bars.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds as a person says them: `0.4 s`, `12 s`, `7 min 05 s`, `3 h 10 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(size_bytes: float) -> str:
    """Bytes with a decimal unit: `320 B`, `4.1 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 999.5:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.3g} TB"
