"""The executor on Ray passes the contract of executors, and that of executors with workers of their own."""

import pytest

from cluster.executor import Executor, Retries
from cluster.on_ray import OnRay
from tests.contracts.executor import ExecutorContract, IsolationContract


@pytest.mark.usefixtures("local_ray")
class TestOnRay(ExecutorContract, IsolationContract):
    name = "ray"

    def make(self, retries: Retries | None = None) -> Executor:
        return OnRay(retries=retries)
