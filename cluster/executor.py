"""What an executor is: it runs functions named by import path and reports an outcome for each.

A `Call` names a function (`"module:name"`) and a payload; both sides are small JSON objects, so that nothing but text
travels between processes. `Executor.run` runs independent calls, a bounded number at a time; `Executor.gang` runs one
call on several ranks that know of each other. Every call ends in exactly one `Outcome`: a value, or a `Failure`.

A call whose worker was lost is retried. An error that the function raised is not, unless it has a true attribute
`transient`. A call that kills its workers again and again is quarantined, and the others go on. An attempt that hangs
is ended, and another made elsewhere, where workers are processes of their own.
Executions are at least once: a function must be idempotent.

    from cluster.inline import Inline

    with Inline() as executor:
        executor.run([Call("a", "my.module:count", {"until": 3})], on_done=print)

This module imports neither ray nor torch.
"""

import importlib
import json
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self, TypeAlias, runtime_checkable

from cluster.errors import CallFailedError, FunctionError, PayloadError, QuarantinedError, WorkerLostError

Json: TypeAlias = dict[str, Any]
"""A JSON object: string keys, no NaN, no infinity."""

MAX_JSON_BYTES = 1_000_000
"""Payloads and results above this are refused: what is large belongs into the store, and its name into the payload."""

REPORT_SECONDS = 2.0
"""Progress of a gang leaves its worker at most this often; the last report always does."""


@dataclass(frozen=True)
class Call:
    """One unit of work: `function(payload)` for `Executor.run`, `function(payload, context)` for `Executor.gang`.

    `id` is the caller's; it must be unique within one `run`.
    """

    id: str
    function: str
    payload: Json


@dataclass(frozen=True)
class Loss:
    """One attempt that ended without an answer, was ended because it hung, or said that its error was transient.

    `machines` are the executor's own numbers of the machines on which it ended, none where that is this one. Of a gang
    that hung they are those of all ranks, since nothing says which rank waits for which.
    """

    attempt: int
    reason: str
    host: str
    pid: int
    machines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failure:
    """Why a call has no value.

    `kind` is `error` (the function raised), `quarantined` (its workers died under it too often) or `lost` (its
    machines went away too often). `type` is the qualified name of the exception, for example
    `stages.errors.InputError`, `message` its text for a person, `traceback` that of the worker.
    """

    kind: Literal["error", "quarantined", "lost"]
    type: str
    message: str
    traceback: str = ""
    transient: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a call: `value` or `error`, and where. `seconds` are those of the attempt that answered."""

    call: Call
    value: Json | None
    error: Failure | None
    host: str
    pid: int
    executor: str
    seconds: float
    attempts: int
    losses: tuple[Loss, ...] = ()

    @property
    def id(self) -> str:
        """The call's id."""
        return self.call.id

    def result(self) -> Json:
        """The value. Raises `CallFailedError`, `QuarantinedError` or `WorkerLostError` where there is none."""
        if self.error is not None:
            kinds = {"error": CallFailedError, "quarantined": QuarantinedError, "lost": WorkerLostError}
            raise kinds[self.error.kind](self.id, self.error.type, self.error.message, self.error.traceback)
        assert self.value is not None
        return self.value


@dataclass(frozen=True)
class Progress:
    """How far rank 0 of a gang is: `done` of `total`, in the function's own unit, and scalars for people."""

    done: int
    total: int
    metrics: dict[str, float]
    attempt: int


@dataclass(frozen=True)
class Retries:
    """How often a call is tried again.

    `kills`: it is quarantined when this many workers died under it while their machine lived on. `losses`: it fails
    when this many attempts ended with their machine. `transients`: attempts granted to errors that say `transient`.
    An attempt hangs when it takes `hung_times` the median of what is done, and at least `hung_seconds` (infinite:
    none ever hangs); the second attempt after that is waited for.
    """

    kills: int = 3
    losses: int = 10
    transients: int = 3
    hung_seconds: float = 600.0
    hung_times: float = 10.0


@dataclass(frozen=True)
class Room:
    """The room that a run or gang has at the moment: how many workers or ranks on which host, and what it waits for."""

    hosts: dict[str, int] = field(default_factory=dict)
    waits: str = ""


def never() -> bool:
    """False."""
    return False


@dataclass(frozen=True)
class Claim:
    """How a run or gang stands beside others that are at work at the same time.

    `name` is for people. The lowest `order` goes first where not all have room. Once `halted()` is true no further call
    begins: `run` returns when those that have begun are done, and a gang that has not raises `StoppedError`. `on_room`
    is called, in the caller's thread, whenever the room that it has changes; `on_loss` whenever an attempt has ended
    without an answer of its own.
    """

    name: str = ""
    order: int = 0
    halted: Callable[[], bool] = never
    on_room: Callable[[Room], None] | None = None
    on_loss: "OnLoss | None" = None


ALONE = Claim()
"""The claim of what is alone at work."""

OnDone: TypeAlias = Callable[[Outcome], None]
OnLoss: TypeAlias = Callable[[Call, Loss], None]
OnProgress: TypeAlias = Callable[[Progress], None]


@dataclass
class GangContext:
    """What a rank of a gang is given: the function's second argument.

    `rank` is 0 … `world` - 1, `device` where it computes (`cpu`, `cuda:0`), `attempt` the number of this try (1 first).
    With `world` > 1 torch.distributed is initialised (gloo on CPUs, nccl on GPUs).
    """

    rank: int
    world: int
    device: str
    attempt: int
    send: Callable[[Progress], None] = field(repr=False)
    seconds_between: float = REPORT_SECONDS
    _last: float = field(default=float("-inf"), repr=False)

    def report(self, done: int, total: int, metrics: Mapping[str, float]) -> None:
        """Progress and scalars, for people. Cheap enough for every step: only rank 0 sends, and rarely."""
        now = time.monotonic()
        if self.rank != 0 or (done < total and now - self._last < self.seconds_between):
            return
        self._last = now
        numbers = {name: float(value) for name, value in metrics.items()}
        self.send(Progress(int(done), int(total), numbers, self.attempt))


@runtime_checkable
class Executor(Protocol):
    """Where work runs. Entered once, in the main thread; several threads may call `run` and `gang` at once."""

    @property
    def name(self) -> str:
        """`inline` or `ray`: recorded in every outcome."""

    @property
    def steps_at_once(self) -> int:
        """How many calls of `run` and `gang` at once are worth a thread each."""

    def slots(self, gpu: bool = False) -> int:
        """How many calls of one `run` would be at work at once if it were alone."""

    def __enter__(self) -> Self:
        """Connects or starts what is needed."""

    def __exit__(self, *exc_info: object) -> None:
        """Stops what `__enter__` started, whatever has happened; leaves no process behind."""

    def stop(self) -> None:
        """Makes every `run` and `gang`, of whatever thread, give up what is in flight and raise `StoppedError`."""

    def run(self, calls: Iterable[Call], on_done: OnDone, gpu: bool = False, claim: Claim = ALONE) -> None:
        """Runs calls in any order and hands each outcome to `on_done`, in this thread, as it comes.

        `calls` is drawn from as slots get free, so it may be long or lazy. With `gpu` each has a GPU to itself, where
        there are any. What `on_done` raises stops the run and is passed on; calls in flight are given up.
        """

    def gang(
        self,
        call: Call,
        ranks: int,
        on_progress: OnProgress | None = None,
        least: int | None = None,
        claim: Claim = ALONE,
    ) -> Outcome:
        """Runs `function(payload, context)` on `ranks` ranks together; the value is that of rank 0.

        A rank that is lost ends the attempt for all; the next attempt starts all ranks anew, so the function must
        resume by its own checkpoints. With `least` < `ranks` the gang is elastic: it starts with as many ranks as
        there is room for, no fewer than `least`, and may be started anew with more or fewer when machines come and go.
        `on_progress` is called every few seconds while it runs, maybe from another thread.
        """


def encode(document: object, what: str) -> str:
    """JSON text of a payload or result. Raises `PayloadError` where it is not a JSON object or above 1 MB."""
    if not isinstance(document, dict):
        raise PayloadError(f"{what} to be a JSON object", type(document).__name__, "Return or pass a dict.")
    try:
        text = json.dumps(document, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise PayloadError(
            f"{what} to be plain JSON", str(error), "Use str, int, finite float, bool, None, list, dict."
        ) from error
    if len(text) > MAX_JSON_BYTES:
        raise PayloadError(
            f"{what} of at most {MAX_JSON_BYTES} bytes",
            f"{len(text)} bytes",
            "Put large things into the store and pass their names.",
        )
    return text


def decode(text: str) -> Json:
    """The JSON object of `encode`'s text."""
    document: Json = json.loads(text)
    return document


def resolve(function: str) -> Callable[..., object]:
    """The function behind `"module:name"`. Raises `FunctionError` where there is none."""
    module_name, _, name = function.partition(":")
    if not module_name or not name:
        raise FunctionError("a function named module:name", repr(function), "Name the module and the function.")
    try:
        found = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise FunctionError(
            f"module {module_name} on {socket.gethostname()}",
            "no such module",
            "Install the same version of the project on every machine of the cluster.",
        ) from error
    function_object = getattr(found, name, None)
    if not callable(function_object):
        raise FunctionError(f"function {name} in {module_name}", "no such function", "Check its name and version.")
    return function_object  # type: ignore[no-any-return]


@dataclass(frozen=True)
class AttemptResult:
    """What one attempt came to, in the worker: exactly one of `text` (JSON of the value) and `error`."""

    text: str | None
    error: Failure | None
    host: str
    pid: int
    seconds: float


def perform(function: str, payload: str, *context: GangContext) -> AttemptResult:
    """Runs one attempt in this process; an exception becomes a `Failure`. `payload` is JSON text."""
    started = time.perf_counter()
    text: str | None = None
    failure: Failure | None = None
    try:
        text = encode(resolve(function)(decode(payload), *context), f"the result of {function}")
    except Exception as error:
        failure = failure_of(error)
    return AttemptResult(text, failure, socket.gethostname(), os.getpid(), time.perf_counter() - started)


def failure_of(error: BaseException) -> Failure:
    """An exception as a record: type, message and traceback as text."""
    cls = type(error)
    return Failure(
        kind="error",
        type=cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}",
        message=str(error),
        traceback="".join(traceback.format_exception(error)),
        transient=bool(getattr(error, "transient", False)),
    )
