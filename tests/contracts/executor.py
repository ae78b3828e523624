"""What every executor must do. A backend subclasses `ExecutorContract` and says how it is made."""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import CallFailedError, QuarantinedError, ResourceError, StoppedError
from cluster.executor import Call, Claim, Executor, Outcome, Progress, Retries

TASKS = "tests.contracts.tasks"


def call(name: str, function: str = "act", **payload: Any) -> Call:
    """A call of one of the contract's own functions."""
    return Call(name, f"{TASKS}:{function}", {"id": name, **payload})


def outcomes(executor: Executor, calls: list[Call]) -> dict[str, Outcome]:
    """Runs calls; every one must end exactly once."""
    done: list[Outcome] = []
    executor.run(calls, done.append)
    assert sorted(outcome.id for outcome in done) == sorted(one.id for one in calls)
    return {outcome.id: outcome for outcome in done}


def in_threads(actions: list[Callable[[], None]]) -> None:
    """Does things at once, each in a thread of its own."""
    threads = [threading.Thread(target=action) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class ExecutorContract:
    """The suite that every executor passes."""

    name: str
    """What outcomes call the executor, and what `tests.contracts.driver` takes."""

    def make(self, retries: Retries | None = None) -> Executor:
        """A new executor, not yet entered."""
        raise NotImplementedError

    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        with self.make() as executor:
            yield executor

    def test_every_call_has_its_own_value(self, executor: Executor) -> None:
        done = outcomes(executor, [call(f"c{i}", number=i) for i in range(20)])
        assert {name: outcome.result()["number"] for name, outcome in done.items()} == {
            f"c{i}": 2 * i for i in range(20)
        }

    def test_the_order_of_calls_changes_nothing(self, executor: Executor) -> None:
        calls = [call(f"c{i}", number=i) for i in range(12)]
        shuffled = random.Random(3).sample(calls, len(calls))
        first, second = outcomes(executor, calls), outcomes(executor, shuffled)
        assert {name: done.value for name, done in first.items()} == {name: done.value for name, done in second.items()}

    def test_no_calls_end_at_once(self, executor: Executor) -> None:
        assert outcomes(executor, []) == {}

    def test_an_outcome_says_where_and_how_long(self, executor: Executor) -> None:
        done = outcomes(executor, [call("c", plan=["sleep"], seconds=0.2)])["c"]
        assert done.executor == executor.name == self.name
        assert done.host == socket.gethostname()
        assert done.pid > 0
        assert 0.2 <= done.seconds < 30
        assert done.attempts == 1
        assert done.losses == ()
        assert done.error is None

    def test_an_error_travels_with_type_message_and_traceback_and_is_not_tried_again(
        self, executor: Executor, tmp_path: Path
    ) -> None:
        done = outcomes(
            executor, [call("bad", plan=["raise"], folder=str(tmp_path)), *(call(f"good{i}") for i in range(4))]
        )
        error = done["bad"].error
        assert error is not None
        assert (error.kind, error.type, error.message) == ("error", "ValueError", "a bad value")
        assert "in happen" in error.traceback
        assert done["bad"].attempts == 1
        assert len(list(tmp_path.iterdir())) == 1
        with pytest.raises(CallFailedError, match="ValueError: a bad value"):
            done["bad"].result()
        assert all(done[f"good{i}"].error is None for i in range(4))

    def test_a_transient_error_is_tried_again_and_its_attempts_are_kept(
        self, executor: Executor, tmp_path: Path
    ) -> None:
        done = outcomes(executor, [call("c", plan=["transient", "ok"], folder=str(tmp_path))])["c"]
        assert done.result()["attempt"] == 2
        assert done.attempts == 2
        assert ["not now" in loss.reason for loss in done.losses] == [True]

    def test_an_error_that_stays_transient_ends_the_call(self, tmp_path: Path) -> None:
        with self.make(Retries(transients=1)) as executor:
            done = outcomes(executor, [call("c", plan=["transient"], folder=str(tmp_path))])["c"]
        assert done.error is not None
        assert done.error.type == f"{TASKS}.TransientError"
        assert done.attempts == 2

    @pytest.mark.parametrize(
        ("what", "found"),
        [
            ("not json", "UnnamedResult"),
            ("nan", "Out of range float"),
            ("no dict", "list"),
            ("large", "at most 1000000 bytes"),
        ],
    )
    def test_a_result_that_is_not_small_json_is_refused(self, executor: Executor, what: str, found: str) -> None:
        error = outcomes(executor, [call("c", plan=[what])])["c"].error
        assert error is not None
        assert error.type == "cluster.errors.PayloadError"
        assert found in error.message

    def test_a_payload_that_is_not_small_json_is_refused_and_the_others_finish(self, executor: Executor) -> None:
        large = Call("large", f"{TASKS}:act", {"thing": "x" * 1_000_001})
        strange = Call("strange", f"{TASKS}:act", {"thing": {1, 2}})
        done = outcomes(executor, [large, strange, call("good")])
        for name in ("large", "strange"):
            error = done[name].error
            assert error is not None
            assert error.type == "cluster.errors.PayloadError"
        assert done["good"].error is None

    @pytest.mark.parametrize(
        ("function", "found"),
        [("no.such.module:f", "no such module"), (f"{TASKS}:nothing", "no such function"), ("act", "module:name")],
    )
    def test_a_function_that_is_not_there_is_an_error_of_its_call(
        self, executor: Executor, function: str, found: str
    ) -> None:
        error = outcomes(executor, [Call("c", function, {})])["c"].error
        assert error is not None
        assert error.type == "cluster.errors.FunctionError"
        assert found in error.message

    def test_a_function_cannot_change_the_callers_payload(self, executor: Executor) -> None:
        payload: dict[str, Any] = {"list": []}
        done = outcomes(executor, [Call("c", f"{TASKS}:change_payload", payload)])["c"]
        assert done.result() == {"length": 1}
        assert payload == {"list": []}

    def test_calls_are_drawn_only_as_slots_get_free(self, executor: Executor) -> None:
        drawn, ended, most = 0, 0, 0

        def calls() -> Iterator[Call]:
            nonlocal drawn, most
            for i in range(12):
                drawn += 1
                most = max(most, drawn - ended)
                yield call(f"c{i}", plan=["sleep"], seconds=0.02)

        def on_done(outcome: Outcome) -> None:
            nonlocal ended
            ended += 1

        executor.run(calls(), on_done)
        assert ended == 12
        assert most <= executor.slots()

    def test_what_a_function_memoises_in_its_process_is_set_up_once_for_each_worker(self, executor: Executor) -> None:
        values = [
            done.result() for done in outcomes(executor, [call(f"c{i}", "set_up_once") for i in range(12)]).values()
        ]
        again = [
            done.result() for done in outcomes(executor, [call(f"d{i}", "set_up_once") for i in range(4)]).values()
        ]
        assert len({value["pid"] for value in values}) <= executor.slots()
        assert sum(value["set_up"] for value in values + again) <= len({value["pid"] for value in values + again})

    def test_what_on_done_raises_stops_the_run_and_the_executor_lives_on(self, executor: Executor) -> None:
        ended = 0

        def on_done(outcome: Outcome) -> None:
            nonlocal ended
            ended += 1
            raise KeyError("enough")

        with pytest.raises(KeyError, match="enough"):
            executor.run([call(f"c{i}") for i in range(20)], on_done)
        assert ended == 1
        assert outcomes(executor, [call("after")])["after"].error is None

    def test_calls_that_use_a_gpu_run_before_and_after_others_wherever_there_is_none(self, executor: Executor) -> None:
        for gpu in (True, False, True):
            done: list[Outcome] = []
            executor.run([call(f"c{i}", number=i) for i in range(4)], done.append, gpu)
            assert sorted(outcome.result()["number"] for outcome in done) == [0, 2, 4, 6]

    def test_a_gang_of_one_knows_itself_and_reports(self, executor: Executor) -> None:
        seen: list[Progress] = []
        done = executor.gang(call("g", "report_steps", steps=30, seconds=0.01), 1, seen.append)
        assert done.result() == {"steps": 30}
        assert done.executor == self.name
        assert done.attempts == 1
        assert (seen[-1].done, seen[-1].total, seen[-1].attempt) == (30, 30, 1)
        assert seen[-1].metrics == {"loss": 1.0 / 30}
        assert len(seen) <= 4
        reported = executor.gang(call("g", "describe"), 1).result()
        assert (reported["rank"], reported["world"], reported["attempt"]) == (0, 1, 1)
        assert reported["device"] in {"cpu", "cuda:0"}

    def test_two_ranks_add_up(self, executor: Executor) -> None:
        seen: list[Progress] = []
        done = executor.gang(call("g", "sum_of_ranks"), 2, seen.append)
        assert done.result() == {"sum": 3.0, "attempt": 1, "world": 2}
        assert [progress.metrics for progress in seen] == [{"sum": 3.0}]

    def test_ranks_exchange_json_and_listen_on_no_address_but_that_of_their_machine(self, executor: Executor) -> None:
        found = executor.gang(call("g", "exchange"), 2).result()
        assert found["given"] == [[0, 0], [1, 1000]]
        assert found["listens"]
        assert not [address for address in found["listens"] if set(address) == {"0"}]

    @pytest.mark.parametrize("ranks", [1, 2])
    def test_an_error_of_a_rank_travels_and_is_not_tried_again(self, executor: Executor, ranks: int) -> None:
        done = executor.gang(call("g", "sum_of_ranks", plan=["raise", "ok"]), ranks)
        assert done.error is not None
        assert (done.error.kind, done.error.type, done.error.message) == ("error", "ValueError", "a bad value")
        assert "in happen" in done.error.traceback
        assert done.attempts == 1

    def test_a_rank_that_dies_is_followed_by_a_new_attempt_of_all(self, executor: Executor) -> None:
        done = executor.gang(call("g", "sum_of_ranks", plan=["kill", "ok"]), 2)
        assert done.result() == {"sum": 3.0, "attempt": 2, "world": 2}
        assert done.attempts == 2
        assert len(done.losses) == 1
        assert done.losses[0].attempt == 1

    def test_an_elastic_gang_takes_the_room_there_is(self, executor: Executor) -> None:
        done = executor.gang(call("g", "sum_of_ranks", plan=["kill", "ok"]), 3, least=1)
        world = done.result()["world"]
        assert 1 <= world <= 3
        assert done.result() == {"sum": world * (world + 1) / 2, "attempt": 2, "world": world}

    def test_a_payload_too_large_for_a_gang_is_refused(self, executor: Executor) -> None:
        error = executor.gang(Call("g", f"{TASKS}:describe", {"thing": "x" * 1_000_001}), 1).error
        assert error is not None
        assert error.type == "cluster.errors.PayloadError"

    def test_more_ranks_than_there_are_are_refused(self, executor: Executor) -> None:
        with pytest.raises(ResourceError, match=r"10000 .*one for each rank"):
            executor.gang(call("g", "describe"), 10_000)

    def test_runs_and_a_gang_of_several_threads_end_with_their_own_outcomes(self, executor: Executor) -> None:
        found: dict[str, list[Any]] = {}

        def many(name: str) -> None:
            done: list[Outcome] = []
            threads = set[str]()

            def on_done(outcome: Outcome) -> None:
                done.append(outcome)
                threads.add(threading.current_thread().name)

            executor.run([call(f"{name}{i}", number=i) for i in range(6)], on_done, claim=Claim(name))
            found[name] = [sorted(outcome.result()["id"] for outcome in done), threads]

        def train() -> None:
            done = executor.gang(call("g", "report_steps", steps=3, seconds=0.01), 1, claim=Claim("gang"))
            found["gang"] = [done.result()]

        in_threads([lambda name=name: many(name) for name in ("a", "b")] + [train])
        for name in ("a", "b"):
            assert found[name][0] == [f"{name}{i}" for i in range(6)]
            assert len(found[name][1]) == 1
        assert found["gang"] == [{"steps": 3}]

    def test_a_failure_in_one_thread_leaves_the_calls_of_another_alone(self, executor: Executor) -> None:
        errors: list[BaseException] = []
        done: list[Outcome] = []

        def fail() -> None:
            def on_done(outcome: Outcome) -> None:
                raise KeyError("enough")

            try:
                executor.run([call(f"bad{i}") for i in range(4)], on_done)
            except KeyError as error:
                errors.append(error)

        in_threads([fail, lambda: executor.run([call(f"good{i}") for i in range(6)], done.append)])
        assert len(errors) == 1
        assert sorted(outcome.id for outcome in done) == [f"good{i}" for i in range(6)]

    def test_once_halted_what_has_begun_ends_and_nothing_else_begins(self, executor: Executor, tmp_path: Path) -> None:
        done: list[Outcome] = []
        calls = [call(f"c{i}", plan=["ok"], folder=str(tmp_path)) for i in range(30)]
        claim = Claim(halted=lambda: bool(done))
        executor.run(calls, done.append, claim=claim)
        assert len(done) == len(list(tmp_path.iterdir())) <= executor.slots()
        assert all(outcome.error is None for outcome in done)
        with pytest.raises(StoppedError):
            executor.gang(call("g", "describe"), 1, claim=claim)

    def test_stop_ends_the_runs_of_all_threads(self, tmp_path: Path) -> None:
        with self.make() as executor:
            stopped: list[str] = []

            def many(name: str) -> None:
                def on_done(outcome: Outcome) -> None:
                    executor.stop()

                try:
                    executor.run((call(f"{name}{i}") for i in range(10**9)), on_done)
                except StoppedError:
                    stopped.append(name)

            in_threads([lambda: many("a"), lambda: many("b")])
            assert sorted(stopped) == ["a", "b"]

    @pytest.mark.parametrize(("work", "how"), [("gang", "SIGINT"), ("run", "SIGTERM"), ("run", "SIGKILL")])
    def test_a_driver_that_is_ended_leaves_no_process_behind(self, tmp_path: Path, work: str, how: str) -> None:
        program = [sys.executable, "-m", "tests.contracts.driver", self.name, work, str(tmp_path)]
        with subprocess.Popen(program, start_new_session=True) as driver:
            wait_until(lambda: (tmp_path / "started").exists() or driver.poll() is not None, 90)
            assert driver.poll() is None
            below = descendants(driver.pid)
            # A person's Ctrl-C reaches every process of the terminal's group.
            if how == "SIGINT":
                os.killpg(driver.pid, signal.SIGINT)
            else:
                driver.send_signal(signal.Signals[how])
            assert driver.wait(60) != 0
        wait_until(lambda: not alive(below), 30)
        assert alive(below) == []


class IsolationContract:
    """What executors do that have workers of their own: a worker's death is not the driver's."""

    def make(self, retries: Retries | None = None) -> Executor:
        """A new executor, not yet entered."""
        raise NotImplementedError

    @pytest.fixture
    def isolating(self) -> Iterator[Executor]:
        with self.make() as executor:
            yield executor

    def test_a_call_whose_worker_is_killed_is_tried_again(self, isolating: Executor, tmp_path: Path) -> None:
        table = {"a": ["ok"], "b": ["kill", "ok"], "c": ["kill", "kill", "ok"], "d": ["ok"]}
        done = outcomes(isolating, [call(name, plan=plan, folder=str(tmp_path)) for name, plan in table.items()])
        assert {name: outcome.result()["attempt"] for name, outcome in done.items()} == {"a": 1, "b": 2, "c": 3, "d": 1}
        assert {name: outcome.attempts for name, outcome in done.items()} == {"a": 1, "b": 2, "c": 3, "d": 1}
        assert [loss.attempt for loss in done["c"].losses] == [1, 2]
        assert all(loss.pid != done["c"].pid for loss in done["c"].losses)

    def test_a_call_that_kills_its_workers_is_quarantined_and_the_others_finish(
        self, isolating: Executor, tmp_path: Path
    ) -> None:
        calls = [call(f"good{i}", plan=["ok"], folder=str(tmp_path)) for i in range(6)]
        poison = call("poison", plan=["kill"], folder=str(tmp_path))
        done = outcomes(isolating, [*calls[:2], poison, *calls[2:]])
        assert all(done[one.id].error is None for one in calls)
        error = done["poison"].error
        assert error is not None
        assert error.kind == "quarantined"
        assert done["poison"].attempts == 3
        assert [loss.attempt for loss in done["poison"].losses] == [1, 2, 3]
        assert error.message.count("attempt ") >= 3
        with pytest.raises(QuarantinedError, match="poison"):
            done["poison"].result()

    def test_a_gang_that_always_dies_is_quarantined_with_its_history(self) -> None:
        with self.make(Retries(kills=2)) as executor:
            done = executor.gang(call("g", "sum_of_ranks", plan=["kill"]), 1)
        assert done.error is not None
        assert done.error.kind == "quarantined"
        assert done.attempts == 2
        assert [loss.attempt for loss in done.losses] == [1, 2]

    def test_a_gang_of_one_that_dies_is_tried_again(self, isolating: Executor) -> None:
        done = isolating.gang(call("g", "sum_of_ranks", plan=["kill", "ok"]), 1)
        assert done.result() == {"sum": 1.0, "attempt": 2, "world": 1}
        assert done.attempts == 2


def wait_until(condition: Any, seconds: float) -> None:
    """Waits for something to be true, and returns what it became."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)


def descendants(pid: int) -> set[tuple[int, str]]:
    """Processes below a process, each with the time it was started at, as numbers of processes are used again."""
    parents: dict[int, list[tuple[int, str]]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (fields := stat_fields(int(folder.name))):
            parents.setdefault(int(fields[1]), []).append((int(folder.name), fields[19]))
    found: set[tuple[int, str]] = set()
    waiting = [pid]
    while waiting:
        for child in parents.get(waiting.pop(), []):
            found.add(child)
            waiting.append(child[0])
    return found


def alive(processes: set[tuple[int, str]]) -> list[str]:
    """Command lines of those processes that still run."""
    found = []
    for pid, started in processes:
        fields = stat_fields(pid)
        if fields and fields[19] == started and fields[0] != "Z":
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def stat_fields(pid: int) -> list[str]:
    """The numbers of /proc/PID/stat from the state on: 0 the state, 1 the parent, 19 the start; none where it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
