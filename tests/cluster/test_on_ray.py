"""The executor on Ray passes the contract of executors, and that of executors with workers of their own."""

import re
from pathlib import Path
from typing import Any, cast

import pytest

from cluster.executor import Call, Claim, Executor, Loss, Outcome, Retries, Room
from cluster.on_ray import OnRay
from tests.contracts.executor import TASKS, ExecutorContract, IsolationContract, call, in_threads, wait_until


@pytest.mark.usefixtures("local_ray")
class TestOnRay(ExecutorContract, IsolationContract):
    name = "ray"

    def make(self, retries: Retries | None = None) -> Executor:
        return OnRay(retries=retries)

    def test_a_gang_takes_what_another_job_leaves_of_a_machine(self) -> None:
        import ray

        class Other:
            def here(self) -> int:
                return 1

        other: Any = cast(Any, ray.remote(num_cpus=1)(Other)).remote()
        try:
            ray.get(other.here.remote())
            with OnRay() as executor:
                found = executor.gang(Call("g", f"{TASKS}:gang_threads", {}), 1).result()
        finally:
            ray.kill(other)
        assert found["OMP_NUM_THREADS"] == "1"

    def test_who_waits_for_room_says_so_and_gets_it_when_it_is_free(self, tmp_path: Path) -> None:
        rooms: list[Room] = []
        done: list[Outcome] = []

        def on_room(room: Room) -> None:
            rooms.append(room)
            (tmp_path / "go").touch()

        with OnRay() as executor:

            def train() -> None:
                gang = Call("g", f"{TASKS}:wait_for_word", {"folder": str(tmp_path)})
                assert executor.gang(gang, 1, claim=Claim("training")).result() == {}

            def fan_out() -> None:
                # The training has the only machine, and keeps it until this has said that it waits.
                wait_until((tmp_path / "started").exists, 90)
                executor.run([call(f"c{i}") for i in range(4)], done.append, claim=Claim("fan", on_room=on_room))

            in_threads([train, fan_out])
        assert rooms[0] == Room({}, "room that is taken by training")
        assert len(done) == 4

    def test_a_part_and_a_training_that_hang_are_tried_again_and_that_is_said_at_once(self, tmp_path: Path) -> None:
        heard: list[tuple[str, Loss]] = []
        claim = Claim("fan", on_loss=lambda one, loss: heard.append((one.id, loss)))
        done: dict[str, Outcome] = {}
        with self.make(Retries(hung_seconds=1.0, hung_times=2.0)) as executor:
            plan: dict[str, Any] = {"folder": str(tmp_path), "plan": ["wait for ever", "ok"]}
            calls = [call("hung", **plan), *(call(f"c{i}") for i in range(4))]
            executor.run(calls, lambda outcome: done.update({outcome.id: outcome}), claim=claim)
            trained = executor.gang(Call("g", f"{TASKS}:fall_silent", {}), 1, claim=claim)
        assert sorted(done) == ["c0", "c1", "c2", "c3", "hung"]
        assert done["hung"].result()["attempt"] == 2
        assert trained.result() == {"attempt": 2}
        losses = {name: loss for name, loss in heard if name in ("hung", "g")}
        assert re.fullmatch(r"no answer for \d+ s, where the median is [\d.]+ s", losses["hung"].reason)
        assert re.fullmatch(r"no report for \d+ s", losses["g"].reason)
        assert (losses["hung"],) == done["hung"].losses

    def test_a_gang_of_two_in_which_one_rank_hangs_is_ended_and_tried_again(self) -> None:
        import ray

        heard: list[Loss] = []
        claim = Claim("training", on_loss=lambda one, loss: heard.append(loss))
        with self.make(Retries(hung_seconds=1.0, hung_times=2.0)) as executor:
            trained = executor.gang(Call("g", f"{TASKS}:last_rank_falls_silent", {}), 2, claim=claim)
        assert trained.result() == {"attempt": 2, "world": 2}
        assert [re.fullmatch(r"no report for \d+ s", loss.reason) is not None for loss in heard] == [True]
        assert heard[0].machines == (ray.get_runtime_context().get_node_id(),)

    def test_two_gangs_that_each_want_all_there_is_run_one_after_the_other(self) -> None:
        rooms: dict[str, list[Room]] = {"fixed": [], "elastic": []}
        found: dict[str, Any] = {}
        with OnRay() as executor:

            def train(name: str, least: int | None) -> None:
                claim = Claim(name, on_room=rooms[name].append)
                found[name] = executor.gang(call(name, "sum_of_ranks"), 2, least=least, claim=claim).result()

            in_threads([lambda: train("fixed", None), lambda: train("elastic", 1)])
        assert found == {name: {"sum": 3.0, "attempt": 1, "world": 2} for name in rooms}
        others = {name: f"room that is taken by {other}" for name, other in zip(rooms, reversed(rooms), strict=True)}
        assert any(room.waits == others[name] for name in rooms for room in rooms[name])
