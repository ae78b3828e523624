"""The executor on Ray passes the contract of executors, and that of executors with workers of their own."""

from typing import TYPE_CHECKING

import pytest

from cluster.executor import Executor, Retries
from cluster.on_ray import OnRay
from tests.contracts.executor import ExecutorContract, IsolationContract

if TYPE_CHECKING:
    pass


@pytest.mark.usefixtures("local_ray")
class TestOnRay(ExecutorContract, IsolationContract):
    name = "ray"
    lingering = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")

    def make(self, retries: Retries | None = None) -> Executor:
        return OnRay(retries=retries)
