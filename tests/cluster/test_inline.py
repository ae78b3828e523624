"""The inline executor passes the contract of executors."""

from cluster.executor import Executor, Retries
from cluster.inline import Inline
from tests.contracts.executor import ExecutorContract


class TestInline(ExecutorContract):
    name = "inline"

    def make(self, retries: Retries | None = None) -> Executor:
        return Inline(retries)
