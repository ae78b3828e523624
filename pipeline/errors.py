"""The errors of the pipeline as one tree, and the exit code of every error of all three rooms.

    PipelineError            1  base; alone, a mistake of ours
    ├── UsageError           2  a study, a graph, a field or a name that cannot be used
    │   └── RootError        2  a store root that cannot be used: unwritable, no hard links, a newer format
    ├── StoreError           3  the store does not answer as it must
    │   ├── AccessError      3  the credentials do not suffice, or have expired
    │   ├── FullError        3  no space is left
    │   ├── ExistsError      3  an object is there already (create-only)
    │   ├── LargeError       3  an object is larger than it can be; it was not read
    │   ├── MissingError     3  an object is not there
    │   └── UnansweredError  3  the outcome is unknown, for example a lost answer; worth another try
    │       └── BrokenOffError  3  an answer has begun and not ended
    ├── StepFailedError      3  a step could not be finished
    │   ├── StaleCodeError   3  this worker's code is not the driver's
    │   └── SeveralFailedError  several failed: their common exit code, else 3
    ├── OutdatedError        4  `--check`: something is broken, stale or drifted
    ├── BusyError            5  another run holds the lease
    └── VerificationError    6  an artifact is not what its manifest says

Errors of `stages` and `cluster` mean exit code 2 where the user's input is wrong, else 3. Every message says what was
expected, what was found and what to do.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import ClassVar

from stages.errors import InputError, StageError, without_credentials

RUN = frozenset(
    [
        "jinja2",
        "lightly",
        "pandas",
        "ray",
        "rich",
        "s3fs",
        "sklearn",
        "tensorboardX",
        "torch",
        "torchvision",
        "webdataset",
    ]
)
"""Packages that are imported to run a study, and not to read one."""


class PipelineError(Exception):
    """Base of all errors raised by `pipeline`; `str(error)` is the message for a person."""

    exit_code: ClassVar[int] = 1

    def __init__(self, expected: str, found: str, remedy: str) -> None:
        expected, found, remedy = map(without_credentials, (expected, found, remedy))
        super().__init__(expected, found, remedy)
        self.expected = expected
        self.found = found
        self.remedy = remedy

    def __str__(self) -> str:
        return f"expected {self.expected}; found {self.found}. {self.remedy}"


class UsageError(PipelineError):
    """A study, a graph, a field or a name that cannot be used."""

    exit_code = 2


class RootError(UsageError):
    """A store root that cannot be used."""


class StoreError(PipelineError):
    """The store does not answer as it must."""

    exit_code = 3


class AccessError(StoreError):
    """The store's server refuses the credentials: they have expired, or lack a right."""


class FullError(StoreError):
    """No space is left where the store stands."""


class ExistsError(StoreError):
    """An object is there already; nothing was written."""


class LargeError(StoreError):
    """An object is larger than what is asked for can be; nothing of it was read."""


class MissingError(StoreError):
    """An object is not there."""


class UnansweredError(StoreError):
    """The store gave no usable answer, so what became of the request is unknown; worth another try."""


class BrokenOffError(UnansweredError):
    """An answer has begun and not ended. A read is repeated."""

    transient = True


class StepFailedError(PipelineError):
    """A step could not be finished. `step` is its name, `part` the failed part where there is one.

    `message` is the whole message of a cause that says by itself what was expected, what was found and what to do.
    """

    exit_code = 3

    def __init__(
        self,
        expected: str,
        found: str,
        remedy: str,
        *,
        step: str = "",
        part: int | None = None,
        type_name: str = "",
        traceback: str = "",
        message: str = "",
    ) -> None:
        super().__init__(expected, found, remedy)
        self.message = without_credentials(message)
        self.step = step
        self.part = part
        self.type_name = type_name
        self.traceback = without_credentials(traceback)

    def __str__(self) -> str:
        return self.message or super().__str__()


class StaleCodeError(StepFailedError):
    """The code of this worker is not that of the driver."""


class SeveralFailedError(StepFailedError):
    """Several parts or steps could not be finished. `errors` are theirs; `str(error)` names them all."""

    def __init__(self, errors: Sequence[Exception]) -> None:
        super().__init__("every step to finish", f"{len(errors)} failures", "What is complete is kept.")
        self.errors = tuple(errors)
        lines = dict.fromkeys(str(error) or type(error).__name__ for error in errors)
        self.message = "\n".join([f"{len(errors)} failures:", *(f"- {line}" for line in lines)])


class OutdatedError(PipelineError):
    """Something is broken, stale or drifted (`status --check`)."""

    exit_code = 4


class BusyError(PipelineError):
    """Another run is at work on the same artifact."""

    exit_code = 5


class VerificationError(PipelineError):
    """An artifact is not what its manifest says."""

    exit_code = 6


def not_installed(error: ImportError) -> UsageError | None:
    """What to install where a package of `repscope[run]` is not there; None for any other error."""
    package = (error.name or "").partition(".")[0]
    return _install(package) if isinstance(error, ModuleNotFoundError) and package in RUN else None


def require_run() -> None:
    """Raises `UsageError` where packages without which no study runs are not installed."""
    for package in ("torch", "webdataset"):
        if find_spec(package) is None:
            raise _install(package)


def _install(package: str) -> UsageError:
    return UsageError("the packages that run studies", f"no {package}", "Install them: pip install 'repscope[run]'.")


def exit_code(error: BaseException) -> int:
    """The exit code of the command line for an error of any room."""
    from cluster.errors import ClusterError, ConnectError, ResourceError

    if isinstance(error, SeveralFailedError):
        codes = {exit_code(one) for one in error.errors}
        return codes.pop() if len(codes) == 1 else 3
    if isinstance(error, PipelineError):
        return error.exit_code
    if isinstance(error, InputError | ConnectError | ResourceError):
        return 2
    if isinstance(error, StageError | ClusterError):
        return 3
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 1
