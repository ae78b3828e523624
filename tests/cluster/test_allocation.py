"""Who works where: other jobs, machines that leave, workers that do not start."""

import importlib
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from cluster import environment
from cluster.allocation import ASIDE_SECONDS, SOON_SECONDS, Allocation, WorkerProcess
from cluster.calls import CallQueue, CallRun
from cluster.errors import ConnectError, ResourceError
from cluster.executor import ALONE, Call, Claim, Retries, Room
from cluster.mailbox import Location
from cluster.resources import Layout, Machine
from cluster.shares import Placement

GB = 1024**3


@dataclass
class Cluster:
    """A cluster of machines with so many CPUs, of which others hold some."""

    cpus: dict[str, int]
    others: dict[str, int] = field(default_factory=dict)
    machine: None = None

    def machines(self) -> list[Machine]:
        """The machines that are there now."""
        return [Machine(count, 0, 64 * GB, name, f"host-{name}") for name, count in self.cpus.items()]

    def free(self) -> dict[str, dict[str, float]]:
        """What nobody holds."""
        return {name: {"CPU": float(count - self.others.get(name, 0))} for name, count in self.cpus.items()}


class Actor:
    """Nothing is started here."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, in the only element; nobody sleeps."""
    now = [1000.0]
    monkeypatch.setattr("cluster.allocation.time.monotonic", lambda: now[0])
    monkeypatch.setattr("cluster.allocation.time.sleep", lambda seconds: None)
    return now


def allocation(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Allocation:
    """That of a cluster."""
    with environment.restored():
        importlib.import_module("ray")
    monkeypatch.setattr("cluster.allocation.free_resources", cluster.free)
    monkeypatch.setattr(Allocation, "_demand", lambda self: None)
    connection: Any = cluster
    return Allocation(connection, Actor, None)


@pytest.mark.usefixtures("clock")
def test_what_other_jobs_hold_is_no_room_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster({"a": 4, "b": 2}, {"a": 1})
    found = allocation(cluster, monkeypatch)
    assert {name: machine.cpus for name, machine in found.rooms().items()} == {"a": 3, "b": 2}
    pool = found.open_pool(ALONE, False)
    assert pool.grant == 5
    cluster.others = {"a": 4, "b": 2}
    found.read()
    # It may be what has just ended: the smaller of two readings counts.
    assert pool.grant == 5
    found.read()
    assert pool.grant == 0
    assert found.room_of(pool) == Room({}, "CPUs or GPUs that other jobs hold")


@pytest.mark.usefixtures("clock")
def test_a_gang_waits_for_a_machine_and_says_what_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster({"head": 0})
    found = allocation(cluster, monkeypatch)
    gang = found.open_gang(Claim("training"), 1, None)
    assert (gang.placement, found.room_of(gang).waits) == (None, "a machine with a CPU to join the cluster")
    cluster.cpus["a"] = 4
    found.read()
    assert found.begin(gang) == Placement(Layout(1, 4, 0), {"a": 1})
    assert found.room_of(gang) == Room({"host-a": 1})
    other = found.open_gang(Claim("another"), 1, None)
    assert found.room_of(other).waits == "room that is taken by training"
    found.close_gang(gang)
    assert found.begin(other) is not None
    with pytest.raises(ResourceError, match="5 CPUs"):
        found.open_gang(ALONE, 5, None)


def test_workers_that_a_lost_machine_takes_along_while_they_start_are_no_reason_to_give_up(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    cluster = Cluster({"a": 1, "b": 5})
    found = allocation(cluster, monkeypatch)
    lost = WorkerProcess(None, "b", Layout(1, 1, 0), clock[0])
    for _ in range(5):
        found.not_started(lost, RuntimeError("it has gone"))
    del cluster.cpus["b"]
    found.read()
    for _ in range(5):
        found.not_started(lost, RuntimeError("it has gone"))
    assert found.gone(lost)


def test_workers_that_never_start_end_the_run_unless_one_does(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    found = allocation(Cluster({"a": 1, "b": 1, "c": 1}), monkeypatch)
    workers = {name: WorkerProcess(None, name, Layout(1, 1, 0), clock[0]) for name in "abc"}
    broken = RuntimeError("no module named repscope")
    found.not_started(workers["a"], broken)
    found.not_started(workers["b"], broken)
    found.started(workers["c"], Location("host-c", 1, "c"))
    for _ in range(2):
        found.not_started(workers["a"], broken)
        clock[0] += ASIDE_SECONDS
    with pytest.raises(ConnectError, match="3 in a row that did not: no module named repscope"):
        found.not_started(workers["a"], broken)


def test_a_run_whose_room_another_still_uses_waits_for_it_without_spinning(monkeypatch: pytest.MonkeyPatch) -> None:
    found = allocation(Cluster({"a": 1}), monkeypatch)
    monkeypatch.setattr(found, "start", lambda machine, layout: WorkerProcess(None, machine, layout, time.monotonic()))
    busy = found.open_pool(Claim("samples", order=2), False)
    found.want(busy, 1, True)
    assert found.grow(busy) is not None
    found.want(busy, 1, False)
    refreshed: list[float] = []
    claim = Claim("conditions", order=1, halted=lambda: len(refreshed) > 3)
    pool = found.open_pool(claim, False)
    assert pool.grant == 1
    calls = CallQueue("ray", Retries(), iter([Call("only", "stages.nothing", {})]), None)
    begun = time.monotonic()
    CallRun(found, pool, lambda: refreshed.append(time.monotonic()), calls, lambda outcome: None).go()
    assert refreshed[-1] - begun > 2 * SOON_SECONDS
