"""What a run would do: the state of every step of a study, its reason, and what it is expected to cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pipeline.step import Step
from pipeline.store import Store

State: TypeAlias = Literal["done", "missing", "partial", "BROKEN", "STALE", "DRIFT"]


@dataclass(frozen=True)
class StepState:
    """One step as it stands in the store.

    `parts_done` of `parts` (None: not known before its inputs exist). `seconds` and `size_bytes` are what is still to be
    spent and written, estimated; for a finished step what it took. `measured` says that they come from receipts.
    """

    name: str
    stage: str
    key: str
    url: str
    state: State
    reason: str
    generation: int | None
    parts_done: int
    parts: int | None
    seconds: float
    size_bytes: int
    measured: bool

    @property
    def finished(self) -> bool:
        """Whether `run` would leave it as it is."""
        return self.state in ("done", "DRIFT")


@dataclass(frozen=True)
class Difference:
    """A field in which two key documents differ; None stands for absent."""

    field: str
    now: object
    before: object


def plan(graph: Sequence[Step], store: Store, *, refresh: bool = False) -> list[StepState]:
    """The state of every step, in the order of the graph. Lists outside sources only with `refresh`."""
    raise NotImplementedError


def explain(step: Step, graph: Sequence[Step], store: Store) -> list[Difference]:
    """What differs between the step's key document and that of the newest artifact of the same stage."""
    raise NotImplementedError
