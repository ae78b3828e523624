"""The work of one step on an executor: the parts it falls into, running them or its training, and the merge at the end.

What is decided here is small, because all that must survive is written by the workers (`pipeline.worker`): which calls
are submitted, which events are emitted, and which of several failures is the step's.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cluster.executor import Call, Claim, Executor, Loss, OnDone, Outcome, Progress, Room
from pipeline.errors import PipelineError, SeveralFailedError, StepFailedError
from pipeline.events import EventLog
from pipeline.lease import Lease
from pipeline.manifest import MOST_PARTS
from pipeline.step import Step
from pipeline.worker import Task
from stages.contract import Gang, Input, Part
from stages.errors import StageError

FIRST = -1
"""The order of what goes before all steps."""

OURS = ("stages", "pipeline", "cluster")
"""Whose errors say what was expected, what was found and what to do."""


def split(step: Step, inputs: Mapping[str, Input]) -> list[Part]:
    """The parts of a step; a training is one. Raises `StepFailedError` for a mistake in the stage."""
    if isinstance(step.stage, Gang):
        return [Part(index=0)]
    try:
        parts = step.stage.split(inputs)
    except (StageError, PipelineError):
        raise
    except Exception as error:
        raise StepFailedError(
            f"{step.name} to be split into parts",
            f"{type(error).__name__}: {error}",
            "This is a mistake in the stage: correct its `split`.",
            step=step.name,
        ) from error
    indices = [part.index for part in parts]
    if indices != list(range(len(parts))):
        raise StepFailedError(
            f"the parts of {step.name} to count from 0",
            f"{indices[:5]}",
            "This is a mistake in the stage: correct its `split`.",
            step=step.name,
        )
    if len(parts) > MOST_PARTS:
        raise StepFailedError(
            f"at most {MOST_PARTS} parts of {step.name}",
            f"{len(parts)}",
            "Give it larger parts, as by more `shard_rows`.",
            step=step.name,
        )
    return parts


class Halt:
    """Whether further steps and parts begin: no more once something has failed, unless the run is to keep going."""

    def __init__(self, keep_going: bool) -> None:
        self._keep_going = keep_going
        self._event = threading.Event()

    def failed(self) -> None:
        """Something has failed."""
        if not self._keep_going:
            self._event.set()

    def now(self) -> None:
        """Nothing begins from now on."""
        self._event.set()

    def __call__(self) -> bool:
        """Whether nothing further is to begin."""
        return self._event.is_set()


@dataclass(frozen=True)
class Work:
    """The work of a step in one generation; `task` is what its workers are sent.

    `order`: of several steps at work, the lowest goes first where not all have room.
    """

    step: Step
    task: Task
    executor: Executor
    events: EventLog
    halt: Halt
    order: int = 0

    def run(self, todo: Sequence[Part], parts: int, lease: Lease, ranks: int | None, least_ranks: int | None) -> bool:
        """Runs those of `parts` that are to do, and returns whether all are done: not where the run was halted.

        A part that fails is reported when those that have begun are done; whether others begin is for `halt` to say. A
        training runs on `ranks` (None: as many as it usually takes), on as few as `least_ranks` where there is room for
        no more. Raises `StepFailedError`, and `BusyError` once the lease is lost.
        """
        if not todo:
            return True
        failures: list[StepFailedError] = []
        done = parts - len(todo)

        def on_done(outcome: Outcome) -> None:
            nonlocal done
            lease.check()
            part = int(outcome.id.rpartition("/")[2])
            if outcome.error is None:
                done += 1
                where = {"host": outcome.host, "pid": outcome.pid, "executor": outcome.executor}
                self.events.emit("part_done", self.step.name, **outcome.result(), **where, done=done, parts=parts)
                return
            failures.append(self._failure(outcome, part))
            self.halt.failed()

        if isinstance(self.step.stage, Gang):
            self._train(self.step.stage, ranks, least_ranks, on_done, lease)
        else:
            self.executor.run(self._calls(todo), on_done, self.step.stage.gpu, self._claim())
        if failures:
            raise failures[0] if len(failures) == 1 else SeveralFailedError(failures)
        return done == parts

    def merge(self) -> dict[str, Any]:
        """Merges the parts and commits; what `pipeline.worker.merge` returns. Raises `StepFailedError`."""
        outcomes: list[Outcome] = []
        call = Call(f"{self.step.name}/merge", "pipeline.worker:merge", self.task.model_dump(mode="json"))
        # On a worker that has done parts, where there are any left, and before all parts of others: it is short, and
        # others may wait for it. What is all done is committed, halted or not.
        self.executor.run([call], outcomes.append, self.step.stage.gpu, Claim(self.step.name, FIRST))
        if outcomes[0].error is not None:
            raise self._failure(outcomes[0], None)
        return outcomes[0].result()

    def _calls(self, todo: Sequence[Part]) -> Iterator[Call]:
        for part in todo:
            payload = self.task.model_copy(update={"part": part}).model_dump(mode="json")
            yield Call(f"{self.step.name}/{part.index}", "pipeline.worker:work", payload)

    def _train(self, stage: Gang, ranks: int | None, least_ranks: int | None, on_done: OnDone, lease: Lease) -> None:
        def on_progress(progress: Progress) -> None:
            # What this raises ends the training.
            lease.check()
            self.events.emit("progress", self.step.name, **asdict(progress))

        # Unasked one: on the CPUs of one machine several ranks are no quicker than one that has them all.
        asked = ranks or 1
        most = min(asked, stage.max_ranks or asked)
        least = None if least_ranks is None else min(least_ranks, most)
        call = Call(f"{self.step.name}/0", "pipeline.worker:train", self.task.model_dump(mode="json"))
        on_done(self.executor.gang(call, most, on_progress, least, self._claim()))

    def _claim(self) -> Claim:
        def on_room(room: Room) -> None:
            self.events.emit("step_room", self.step.name, **asdict(room))

        def on_loss(call: Call, loss: Loss) -> None:
            part = int(call.id.rpartition("/")[2])
            self.events.emit("part_lost", self.step.name, part=part, **asdict(loss))

        return Claim(self.step.name, self.order, self.halt, on_room, on_loss)

    def _failure(self, outcome: Outcome, part: int | None) -> StepFailedError:
        error = outcome.error
        assert error is not None
        self.events.emit(
            "step_failed", self.step.name, message=error.message, part=part, type=error.type, traceback=error.traceback
        )
        where = f"part {part} of {self.step.name}" if part is not None else f"the end of {self.step.name}"
        ours = error.type.partition(".")[0] in OURS
        return StepFailedError(
            f"{where} to finish",
            f"{error.type or error.kind} on {outcome.host}: {error.message.rstrip('.')}",
            "What is complete is kept: run the same command again once the cause is gone.",
            step=self.step.name,
            part=part,
            type_name=error.type,
            traceback=error.traceback,
            message=f"{where} failed on {outcome.host}: {error.message}" if ours else "",
        )
