"""What a person sees while a run is at work: one live line on a terminal, plain lines elsewhere, all on stderr."""

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pipeline.events import Event
from pipeline.step import Step

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

PLAIN_SECONDS = 15.0
"""On a plain stream the progress of a step is printed at most this often."""


class ProgressDisplay:
    """Shows a run's events. `quiet` prints nothing at all."""

    def __init__(self, steps: Sequence[Step], *, quiet: bool) -> None:
        self._names = [step.name for step in steps]
        self._width = max(len(name) for name in self._names)
        self._quiet = quiet
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._began = time.monotonic()
        self._printed = self._began
        self._first = 0
        self._attempt = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_event(self, event: Event) -> None:
        """Shows one event."""
        if self._quiet:
            return
        fields = event.fields
        if event.kind == "log_delayed":
            self._line(f"events of this run could not be written, and will be later: {fields['message']}")
        if not event.step:
            return
        if event.kind == "step_started":
            self._began = self._printed = time.monotonic()
            self._first, self._attempt = fields["parts"] - fields["todo"], 0
            self._start(event.step, fields["parts"], fields["parts"] - fields["todo"])
        elif event.kind == "step_waiting":
            self._line(f"{event.step}: waiting for {fields['owner']}, who is at work on it")
        elif event.kind == "part_lost":
            self._line(f"{event.step}: part {fields['part']} lost ({fields['reason']}), trying again")
        elif event.kind == "part_done":
            self._advance(event.step, fields["done"], fields["parts"], {})
        elif event.kind == "progress":
            if fields["attempt"] != self._attempt:
                # It begins at the checkpoint of an attempt before, whose work says nothing about the time left.
                self._began, self._first, self._attempt = time.monotonic(), fields["done"], fields["attempt"]
                if self._bar is not None and self._task is not None:
                    self._bar.reset(self._task, completed=fields["done"], total=fields["total"])
            self._advance(event.step, fields["done"], fields["total"], fields["metrics"])
        elif event.kind == "step_done":
            self._finish(
                f"{self._label(event.step)}  {duration(fields['seconds']):>8}  {size(fields['size_bytes']):>9}"
            )
        elif event.kind == "step_failed":
            self._finish(f"{self._label(event.step)}  failed")

    def _label(self, step: str) -> str:
        number = self._names.index(step) + 1
        return f"{number:>2}/{len(self._names)}  {step:<{self._width}}"

    def _start(self, step: str, parts: int, done: int) -> None:
        if not sys.stderr.isatty():
            print(f"{self._label(step)}  started", file=sys.stderr, flush=True)
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}", style="dim"),
        )
        self.close()
        self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
        self._bar.start()
        self._task = self._bar.add_task(self._label(step), total=parts, completed=done, metrics="")

    def _advance(self, step: str, done: int, total: int, metrics: dict[str, float]) -> None:
        # The first is what matters; the others are for `repscope log --tensorboard`.
        metric = "".join(f"{name} {value:.3g}" for name, value in list(metrics.items())[:1])
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, metrics=metric)
            return
        now = time.monotonic()
        if now - self._printed >= PLAIN_SECONDS and self._first < done < total:
            self._printed = now
            left = (now - self._began) / (done - self._first) * (total - done)
            print(f"{self._label(step)}  {done}/{total}  {duration(left)} left  {metric}", file=sys.stderr, flush=True)

    def _finish(self, line: str) -> None:
        self.close()
        print(line, file=sys.stderr, flush=True)

    def _line(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line)
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
