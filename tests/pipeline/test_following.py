"""A run seen from another process: its events as they come, its end, its death, and the table that is drawn anew."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.events import EventLog
from pipeline.following import LOST_SECONDS, SILENT_SECONDS, Follower, Screen, follow
from pipeline.lease import Lease
from pipeline.run import run
from pipeline.store import Store
from tests.faults.arithmetic import graph
from tests.faults.faulty import MemoryRoot
from tests.finished import MICRO, Finished
from tests.pipeline.test_steps_at_once import Several

KEY = "ab" * 32
PLAN = json.dumps({"study": "micro", "steps": {"numbers": {"stage": "numbers", "key": KEY}}}).encode()


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def begun(store: Store) -> EventLog:
    """The log of a run on another host that has just begun."""
    store.create("runs/r/plan.json", PLAN)
    events = EventLog(store, None)
    events.keep("r")
    events.emit("run_started", study="micro", host="another-host", pid=1)
    return events


def test_events_come_as_they_are_written_by_one_request_a_poll_until_the_run_ends() -> None:
    root = MemoryRoot()
    events = begun(root.process()[0])
    store, backend = root.process()
    follower = Follower(store, "r")
    assert follower.poll() == []
    events.flush()
    assert [event.kind for event in follower.poll()] == ["run_started"]
    before = backend.calls
    assert follower.poll() == []
    assert backend.calls == before + 1
    events.emit("step_started", "numbers", key=KEY)
    events.flush()
    for done in (1, 2):
        events.emit("progress", "numbers", done=done, total=4, metrics={}, attempt=1)
    events.emit("run_failed", message="a mistake")
    events.flush()
    before = backend.calls
    assert [event.kind for event in follow(follower, lambda seconds: pytest.fail("it has ended"))] == [
        "step_started",
        "progress",
        "run_failed",
    ]
    assert backend.calls == before + 3
    assert follower.progress == {"numbers": "2 of 4"}
    assert (follower.end, follower.message) == ("failed", "a mistake")


def test_a_run_that_is_silent_but_keeps_its_leases_alive_goes_on_and_one_that_was_killed_is_lost() -> None:
    root, clock = MemoryRoot(), Clock()
    store, _ = root.process()
    begun(store).flush()
    lease = Lease(store, f"numbers/{KEY[:16]}", "r")
    lease.acquire("fail", pytest.fail)
    follower = Follower(store, "r", clock)
    follower.poll()
    while clock.now < 5 * LOST_SECONDS:
        clock.now += SILENT_SECONDS
        lease.beat()
        assert follower.poll() == []
        assert follower.end == ""
    for _ in range(round(LOST_SECONDS / SILENT_SECONDS)):
        clock.now += SILENT_SECONDS
        follower.poll()
    assert follower.end == "lost"
    assert "no event and no heartbeat of the run for 180 s" in follower.message


def test_a_run_whose_process_was_here_and_is_gone_is_lost_at_once() -> None:
    store, _ = MemoryRoot().process()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    events = EventLog(store, None)
    events.keep("r")
    events.emit("run_started", study="micro", host=os.uname().nodename, pid=ended.pid)
    events.flush()
    follower = Follower(store, "r")
    follower.poll()
    assert follower.end == "lost"


class Terminal(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_is_drawn_over_and_another_stream_has_only_what_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "4")
    plain, terminal = io.StringIO(), Terminal()
    for stream in (plain, terminal):
        screen = Screen(stream)
        screen.draw(["a missing", "b missing"])
        screen.draw(["a done", "b missing"])
    assert plain.getvalue() == "a missing\nb missing\na done\n"
    assert terminal.getvalue() == "a missing\nb missing\n\x1b[2F\x1b[Ja done\nb missing\n"
    screen.draw(["1", "2", "3", "4", "x" * 30])
    assert terminal.getvalue().endswith("\x1b[2F\x1b[J… 3 more above\n4\n" + "x" * 19 + "\n")


def test_a_run_that_has_ended_is_followed_to_its_end_and_watched_once(finished: Finished) -> None:
    words = [str(finished.study), "--store", str(finished.store)]
    followed = CliRunner().invoke(main, ["log", *words, "--follow"])
    assert followed.exit_code == 0
    assert "run_done" in followed.stdout.splitlines()[-1]
    watched = CliRunner().invoke(main, ["status", *words, "--watch", "--check"])
    assert watched.exit_code == 0
    *steps, last = watched.stdout.splitlines()
    assert last.endswith(" is done.")
    assert all(" done " in step for step in steps)
    refused = CliRunner().invoke(main, ["log", *words, "--follow", "--step", "shards"])
    assert refused.exit_code == 2
    assert "expected one of --step, --follow and --tensorboard" in refused.stderr


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_following_quietly(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "r"
    (folder / "events").mkdir(parents=True)
    (folder / "plan.json").write_bytes(PLAN)
    fields = {"study": "micro", "host": "another-host", "pid": 1}
    event = {"kind": "run_started", "step": "", "time": 1.0, "fields": fields}
    (folder / "events" / "000000-1.jsonl").write_text(json.dumps(event) + "\n")
    command = [str(Path(sys.executable).with_name("repscope")), "log", str(MICRO), "--store", str(tmp_path), "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert "run_started" in follower.stdout.readline()
        follower.send_signal(signal.SIGINT)
        assert follower.communicate(timeout=60) == ("", "")
        assert follower.returncode == 130


@pytest.mark.parametrize("words", [["log"], ["plan", "--json"]])
def test_a_command_whose_output_nobody_reads_any_more_ends_quietly(words: list[str], finished: Finished) -> None:
    command = [str(Path(sys.executable).with_name("repscope")), words[0], str(MICRO), "--store", str(finished.store)]
    with subprocess.Popen([*command, *words[1:]], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as done:
        assert done.stdout is not None
        assert done.stderr is not None
        done.stdout.close()
        assert done.stderr.read() == ""
    assert done.returncode == 141


def test_a_run_whose_progress_nobody_reads_any_more_ends_once_and_keeps_what_is_finished() -> None:
    store, _ = MemoryRoot().process()
    heard: list[str] = []

    def listener(event: object) -> None:
        heard.append(repr(event))
        if len(heard) == 6:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run(graph(), store, Several, listener=listener)
    assert len(heard) == 6
    assert run(graph(), store, Several).summary("counting")
