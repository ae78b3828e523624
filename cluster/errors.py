"""The errors of where work runs, as one tree.

    ClusterError
    ├── ConnectError         the cluster cannot be started or reached
    │   ├── PortInUseError   a port that was asked for belongs to another process
    │   └── ForeignCodeError `pipeline`, `stages` or `cluster` is somebody else's package
    ├── ResourceError        more CPUs, GPUs or ranks were asked for than there are
    ├── JobError             a job is refused by the cluster, or does not end
    ├── FunctionError        a call names a function that is not there
    ├── PayloadError         a payload or result is not small JSON
    ├── StoppedError         work was given up because all of it is to end
    └── CallFailedError      a call has no value, for its function raised an error
        ├── QuarantinedError    it killed its workers too often
        └── WorkerLostError     its machines went away too often

Every message says what was expected, what was found and what to do.
"""


class ClusterError(Exception):
    """Base of all errors raised by `cluster`; `str(error)` is the message for a person."""

    def __init__(self, expected: str, found: str, remedy: str) -> None:
        super().__init__(expected, found, remedy)
        self.expected = expected
        self.found = found
        self.remedy = remedy

    def __str__(self) -> str:
        return f"expected {self.expected}; found {self.found}. {self.remedy}"


class ConnectError(ClusterError):
    """The cluster cannot be started or reached."""


class PortInUseError(ConnectError):
    """A port that was asked for belongs to another process."""


class ForeignCodeError(ConnectError):
    """`pipeline`, `stages` or `cluster` is somebody else's package, or another copy of ours."""


class ResourceError(ClusterError):
    """More CPUs, GPUs or ranks were asked for than there are."""


class JobError(ClusterError):
    """A job is refused by the cluster, or does not end."""


class FunctionError(ClusterError):
    """A call names a function that is not there."""


class PayloadError(ClusterError):
    """A payload or result is not small JSON."""


class StoppedError(ClusterError):
    """Work was given up because all of it is to end (`Executor.stop`)."""

    def __init__(self) -> None:
        super().__init__("to go on", "that all work is to end", "Run the same command again.")


class CallFailedError(ClusterError):
    """A call has no value. `type` is the name of the error raised in the worker, `traceback` the worker's."""

    def __init__(self, call_id: str, type_name: str, message: str, traceback: str) -> None:
        super().__init__(
            f"call {call_id} to finish",
            f"{type_name}: {message}",
            "The worker's traceback is in the error's `traceback`.",
        )
        self.call_id = call_id
        self.type = type_name
        self.traceback = traceback


class QuarantinedError(CallFailedError):
    """A call killed its workers too often and is left alone."""


class WorkerLostError(CallFailedError):
    """The machines under a call went away too often."""
