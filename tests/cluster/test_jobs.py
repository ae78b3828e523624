"""A job server that asks for a token, and following a job's log, where what fails is not always the connection."""

import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cluster import environment
from cluster.errors import ConnectError
from cluster.jobs import Jobs


class Server:
    """A job server whose job prints two lines."""

    def __init__(self) -> None:
        self.asked = 0

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        self.asked += 1
        yield "first\n"
        yield "second\n"


def test_a_pipe_that_nobody_reads_any_more_is_no_broken_connection() -> None:
    server, jobs = Server(), object.__new__(Jobs)
    vars(jobs).update(address="http://head:8265", _client=server)
    written: list[str] = []

    def write(text: str) -> None:
        if written:
            raise BrokenPipeError
        written.append(text)

    with pytest.raises(BrokenPipeError):
        jobs.follow("study-1", write)
    assert written == ["first\n"]
    assert server.asked == 1


class Broken:
    """A job server that fails, whatever it is asked."""

    def __getattr__(self, name: str) -> Any:
        def refuse(*_: object) -> None:
            raise RuntimeError("Request failed with status code 503: no head")

        return refuse


def test_a_job_server_that_fails_later_is_one_message() -> None:
    jobs = object.__new__(Jobs)
    vars(jobs).update(address="http://head:8265", _client=Broken())
    for ask in (lambda: jobs.attempts("study"), lambda: jobs.find("study-1"), lambda: jobs.stop("study-1")):
        with pytest.raises(ConnectError, match=r"a Ray cluster at http://head:8265; found .*503: no head"):
            ask()


def test_without_ray_it_is_ray_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray.job_submission", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        Jobs("http://head:8265")
    assert caught.value.name == "ray.job_submission"


def test_a_cluster_that_asks_for_a_token_is_one_message_with_both_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    with environment.restored():
        import ray.job_submission
        from ray.exceptions import AuthenticationError

    def refused(address: str) -> None:
        raise AuthenticationError("Authentication required: Unauthorized: Missing authentication token")

    monkeypatch.setattr(ray.job_submission, "JobSubmissionClient", refused)
    with pytest.raises(ConnectError) as caught:
        Jobs("http://head:8265")
    assert str(caught.value) == (
        "expected to be let in by the job server of the Ray cluster at http://head:8265; found AuthenticationError: "
        "Authentication required: Unauthorized: Missing authentication token. Set RAY_AUTH_MODE=token, and "
        "RAY_AUTH_TOKEN to the token of that cluster."
    )
