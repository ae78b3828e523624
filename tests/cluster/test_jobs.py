"""Following a job's log: what fails when it is written is not taken for a connection that broke off."""

from collections.abc import AsyncIterator

import pytest

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
