"""Real processes, killed by SIGKILL in the middle of a part: the next run does the rest and nothing twice."""

import signal
from pathlib import Path

import psutil
import pytest

from cluster.inline import Inline
from cluster.on_ray import OnRay
from pipeline.events import Event
from pipeline.plan import plan
from pipeline.run import run
from pipeline.store import open_store
from tests.faults.gated import PARTS, WAITING, graph
from tests.faults.processes import finish, start, wait_for


def in_the_middle(store: Path) -> bool:
    """Whether the waiting part has written its first object."""
    return any(store.glob(f"artifacts/gated/*/g0000/first-{WAITING}.bin"))


def test_a_killed_process_leaves_whole_objects_only_and_the_next_run_does_the_rest(tmp_path: Path) -> None:
    root, gate = tmp_path / "store", tmp_path / "gate"
    process = start(root, "inline", gate)
    wait_for(lambda: in_the_middle(root), process)
    process.send_signal(signal.SIGKILL)
    finish(process)

    store = open_store(str(root))
    state = plan(graph(str(gate)), store)[0]
    assert (state.state, state.parts_done, state.parts) == ("partial", WAITING, PARTS)
    assert {path.stat().st_size for path in root.glob("artifacts/gated/*/g0000/*.bin")} == {100_000}

    gate.touch()
    heard: list[Event] = []
    result = run(graph(str(gate)), store, Inline, listener=heard.append)
    assert [event.fields["part"] for event in heard if event.kind == "part_done"] == [2, 3, 4]
    assert [event.fields["adopted"] for event in heard if event.kind == "part_done"] == [1, 0, 0]
    assert result.steps[0].parts_run == PARTS - WAITING
    assert plan(graph(str(gate)), store)[0].state == "done"
    assert [event.kind for event in heard if event.kind == "step_waiting"] == []


def test_a_second_run_waits_for_a_living_one_and_then_has_nothing_to_do(tmp_path: Path) -> None:
    root, gate = tmp_path / "store", tmp_path / "gate"
    process = start(root, "inline", gate)
    wait_for(lambda: in_the_middle(root), process)

    heard: list[Event] = []

    def listen(event: Event) -> None:
        heard.append(event)
        if event.kind == "step_waiting":
            gate.touch()

    result = run(graph(str(gate)), open_store(str(root)), Inline, listener=listen)
    assert finish(process)[0] == 0
    assert [event.kind for event in heard if event.step] == ["step_waiting", "step_hit"]
    assert result.steps[0].outcome == "hit"


@pytest.mark.usefixtures("local_ray")
def test_after_the_head_of_a_cluster_was_killed_another_cluster_does_the_rest_alone(tmp_path: Path) -> None:
    root, closed, gate = tmp_path / "store", tmp_path / "closed", tmp_path / "gate"
    # Ray ends a driver whose head does not answer, by default after a minute.
    process = start(root, "ray", closed, RAY_gcs_rpc_server_reconnect_timeout_s="1")
    wait_for(lambda: len(list(root.glob("artifacts/gated/*/g0000/parts/*"))) == PARTS - 1, process)
    for one in psutil.Process(process.pid).children():
        if one.name() in ("gcs_server", "raylet"):
            one.send_signal(signal.SIGKILL)
    assert "Failed to connect to GCS" in finish(process)[2]

    gate.touch()
    store = open_store(str(root))
    heard: list[Event] = []
    result = run(graph(str(gate)), store, OnRay, listener=heard.append)
    assert [event.fields["part"] for event in heard if event.kind == "part_done"] == [WAITING]
    assert result.steps[0].parts_run == 1
    assert plan(graph(str(gate)), store)[0].state == "done"
