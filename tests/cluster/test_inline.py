"""The inline executor passes the contract of executors."""

from cluster.executor import Executor, Retries
from cluster.inline import Inline
from tests.contracts.executor import ExecutorContract, call


class TestInline(ExecutorContract):
    name = "inline"

    def make(self, retries: Retries | None = None) -> Executor:
        return Inline(retries)

    def test_two_ranks_that_always_die_are_quarantined_with_their_history(self) -> None:
        with self.make(Retries(kills=2)) as executor:
            done = executor.gang(call("g", "sum_of_ranks", plan=["kill"]), 2)
        assert done.error is not None
        assert done.error.kind == "quarantined"
        assert [loss.reason for loss in done.losses] == ["rank 1: ended with -9"] * 2
