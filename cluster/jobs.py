"""Commands as jobs of a Ray cluster, by the job server that runs beside its dashboard, and calls on every node of it.

A job's id is `<name>-<attempt>`. Ray never forgets an id, so the next attempt has the next number. Whoever asks for a
name that is running is attached to that attempt.
"""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cluster import environment
from cluster.errors import ConnectError, JobError

T = TypeVar("T")

POLL_SECONDS = 0.5
STOP_SECONDS = 60.0
"""How long `stop` waits. Ray sends SIGTERM, and SIGKILL three seconds later."""

AGENT_SECONDS, NO_AGENT = 60.0, "No available agent"
"""How long we wait for the process on the cluster's head that starts jobs, and what the server says without it."""

REPORTERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
    "ray.dashboard.modules.job.sdk",
)
"""The loggers of Ray that report uploads, and that a log has ended."""

LOG_TRIES = 5
"""How often the log is asked for again in a row without a new character, where the connection breaks off."""


@dataclass(frozen=True)
class Job:
    """A job as the server knows it. `exit_code` is that of its command; None where it has none, or none yet."""

    id: str
    status: str
    message: str
    exit_code: int | None

    @property
    def live(self) -> bool:
        """Whether it waits or runs."""
        return self.status in ("PENDING", "RUNNING")


class Jobs:
    """The job server of a cluster."""

    def __init__(self, address: str) -> None:
        """Connects to `http://host:8265`, or to `host:port` of a Ray head. Raises `ConnectError`."""
        self.address = address
        with environment.restored():
            from ray.job_submission import JobSubmissionClient

            # They write on standard error. What is sent is said once, by us.
            for name in REPORTERS:
                logging.getLogger(name).setLevel(logging.WARNING)
            with self._answers():
                self._client = JobSubmissionClient(address)

    @contextlib.contextmanager
    def _answers(self) -> Iterator[None]:
        """Turns what a server that does not answer as it should makes the client raise into `ConnectError`."""
        try:
            yield
        # The client raises ConnectionError, RuntimeError or ValueError, and Ray's own errors below them.
        except Exception as error:
            found = f"{type(error).__name__}: {' '.join(str(error).split())[:600]}".rstrip(".")
            if type(error).__name__ == "AuthenticationError":
                # Ray goes on with four sentences for whoever runs the cluster.
                raise ConnectError(
                    f"to be let in by the job server of the Ray cluster at {self.address}",
                    found.partition(". ")[0],
                    "Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the token of that cluster.",
                ) from error
            raise ConnectError(
                f"the job server of a Ray cluster at {self.address}",
                found,
                "Give the address of its dashboard (http://host:8265).",
            ) from error

    def attempts(self, name: str) -> list[Job]:
        """The attempts of a pattern of names, oldest first. Raises `ConnectError`."""
        pattern = re.compile(rf"{name}-([0-9]+)")
        found = [
            (int(match[1]), _job(entry))
            for entry in self._list()
            if entry.submission_id and (match := pattern.fullmatch(entry.submission_id))
        ]
        return [job for _, job in sorted(found, key=lambda pair: pair[0])]

    def find(self, job_id: str) -> Job | None:
        """The job of an id, or None."""
        return next((_job(entry) for entry in self._list() if entry.submission_id == job_id), None)

    def _list(self) -> list[Any]:
        with self._answers():
            return list(self._client.list_jobs())

    def start(self, name: str, command: str, runtime_env: Mapping[str, Any]) -> tuple[Job, bool]:
        """Submits the next attempt, or finds the live one; whether it was submitted now. Raises `JobError`."""
        for _ in range(2):
            attempts = self.attempts(re.escape(name))
            if live := [job for job in attempts if job.live]:
                return live[-1], False
            number = 1 + (int(attempts[-1].id.rpartition("-")[2]) if attempts else 0)
            job_id = f"{name}-{number}"
            try:
                self._submit(job_id, command, runtime_env)
            # The server's refusals come as RuntimeError, those of the runtime_env as ValueError and others.
            except Exception as error:
                if self.find(job_id) is not None:
                    continue  # Another has submitted it meanwhile.
                raise JobError(
                    f"{self.address} to take the job {job_id}",
                    f"{type(error).__name__}: {' '.join(str(error).split())[:600]}",
                    "Check the runtime_env. Where no agent is available, see dashboard_agent.log on the head: "
                    "its port 52365 may be another Ray's (ray start --dashboard-agent-listen-port).",
                ) from error
            return Job(job_id, "PENDING", "", None), True
        return self.attempts(re.escape(name))[-1], False

    def _submit(self, job_id: str, command: str, runtime_env: Mapping[str, Any]) -> None:
        """Submits, and waits for the agent of a cluster that has just started."""
        until = time.monotonic() + AGENT_SECONDS
        while True:
            try:
                self._client.submit_job(entrypoint=command, submission_id=job_id, runtime_env=dict(runtime_env))
                return
            except RuntimeError as error:
                if NO_AGENT not in str(error) or time.monotonic() > until:
                    raise
            time.sleep(POLL_SECONDS)

    def follow(self, job_id: str, write: Callable[[str], None]) -> Job:
        """Writes the job's log as it grows, and gives the job when it has ended.

        Raises `ConnectError`, and what `write` raises.
        """
        written = 0
        unwritten: Exception | None = None

        async def tail() -> None:
            nonlocal written, unwritten
            seen = 0
            async for text in self._client.tail_job_logs(job_id):
                new = text[max(0, written - seen) :]
                seen += len(text)
                if new:
                    try:
                        write(new)
                    # Kept apart from errors of the connection, of which a broken pipe may be one too.
                    except Exception as error:
                        unwritten = error
                        return
                    written += len(new)

        failures = 0
        while True:
            before = written
            try:
                asyncio.run(tail())
                if unwritten is not None:
                    break
                if not (job := self._job(job_id)).live:
                    return job
            # aiohttp, requests and Ray each have errors of their own for a connection that breaks off.
            except Exception as error:
                failures = 0 if written > before else failures + 1
                if failures >= LOG_TRIES:
                    raise ConnectError(
                        f"{self.address} to go on with the log of {job_id}",
                        f"{type(error).__name__}: {error}",
                        "The job goes on without us; submit again to attach to it.",
                    ) from error
            time.sleep(POLL_SECONDS)
        assert unwritten is not None
        raise unwritten

    def stop(self, job_id: str) -> Job:
        """Stops a job and waits for its end. Raises `JobError` where it does not end, and `ConnectError`."""
        with self._answers():
            self._client.stop_job(job_id)
        until = time.monotonic() + STOP_SECONDS
        while (job := self._job(job_id)).live:
            if time.monotonic() > until:
                raise JobError(f"{job_id} to end in {STOP_SECONDS:.0f} s", job.status, "See the cluster's dashboard.")
            time.sleep(POLL_SECONDS)
        return job

    def _job(self, job_id: str) -> Job:
        with self._answers():
            return _job(self._client.get_job_info(job_id))


def _job(entry: Any) -> Job:
    return Job(entry.submission_id, str(entry.status.value), entry.message or "", entry.driver_exit_code)


def on_every_node(
    function: Callable[[dict[str, Any]], T], payload: dict[str, Any], seconds: float | None = None
) -> dict[str, T | Exception]:
    """What a function of an importable module returns or raises on each live node, by `node_name`.

    A node without an answer after `seconds` has an exception too.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from cluster.connect import nodes

    task = ray.remote(num_cpus=0, max_retries=1)(function)
    calls = {}
    for node in nodes():
        if node["Alive"]:
            place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            calls[node_name(node)] = task.options(scheduling_strategy=place).remote(payload)
    until = None if seconds is None else time.monotonic() + seconds
    found: dict[str, T | Exception] = {}
    for name, call in calls.items():
        try:
            found[name] = ray.get(call, timeout=None if until is None else max(0.0, until - time.monotonic()))
        except ray.exceptions.GetTimeoutError:
            found[name] = TimeoutError(f"no answer in {seconds:.0f} s")
            ray.cancel(call, force=True)
        # Whatever went wrong on a node is an answer about that node.
        except Exception as error:
            found[name] = error
    return found


def node_name(node: Mapping[str, Any]) -> str:
    """The host name of a node as Ray describes it, and the start of its id."""
    return f"{node['NodeManagerHostname']} ({node['NodeID'][:8]})"


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
