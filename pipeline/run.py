"""The engine: brings the steps of a graph to done, in order, doing only what the store does not hold."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from cluster.executor import Executor
from pipeline.events import Event
from pipeline.step import Step
from pipeline.store import Store


@dataclass(frozen=True)
class StepResult:
    """What a run made of a step: `hit` (nothing was done) or `made`, and where its artifact is."""

    name: str
    stage: str
    key: str
    url: str
    outcome: Literal["hit", "made"]
    parts_run: int
    seconds: float


@dataclass(frozen=True)
class RunResult:
    """What a run did. `run_id` is None where nothing had to be done."""

    run_id: str | None
    steps: tuple[StepResult, ...]

    def url(self, step: str) -> str:
        """Where the artifact of a step is."""
        return next(entry.url for entry in self.steps if entry.name == step)


def run(
    graph: Sequence[Step],
    store: Store,
    executor: Callable[[], Executor],
    *,
    study: str | None = None,
    force: Collection[str] = (),
    accept_drift: bool = False,
    on_busy: Literal["wait", "fail"] = "wait",
    ranks: int = 1,
    listener: Callable[[Event], None] | None = None,
) -> RunResult:
    """Brings every step to done and returns where the artifacts are.

    `executor` is called and entered when the first step has work. `force` names steps that are made anew. Raises
    `StepFailedError`, `BusyError`, `StoreError`, `UsageError`.
    """
    raise NotImplementedError
