"""A test that leaves something behind fails and says what. One that clears up passes, whatever wider fixtures keep."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

TESTS = '''
import os, signal, subprocess, sys, threading
from pathlib import Path
import pytest
from tests import leaks

leaks.GRACE_SECONDS = 0.5
ended = threading.Event()
LONG = [sys.executable, "-c", "input()"]
started = []

def start(command):
    started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    return started[-1]

@pytest.fixture(scope="session", autouse=True)
def wide():
    """Has a thread, a process and a handler of its own, and ends them."""
    thread = threading.Thread(target=ended.wait)
    thread.start()
    process = start(LONG)
    before = signal.signal(signal.SIGUSR1, lambda number, frame: None)
    yield process
    signal.signal(signal.SIGUSR1, before)
    ended.set()
    thread.join()
    for process in started:
        process.communicate(b"\\n")

@pytest.fixture(scope="module")
def careless():
    os.environ["CARELESS"] = "yes"

@pytest.fixture(scope="module")
def leaves_a_thread_for_good():
    threading.Thread(target=threading.Event().wait, name="for good", daemon=True).start()

def test_clean(monkeypatch, tmp_path, wide):
    monkeypatch.setenv("GONE", "1")
    monkeypatch.chdir(tmp_path)
    folder = Path.home() / ".cache" / "repscope"
    folder.mkdir(parents=True)
    (folder / "memo.json").touch()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    thread = threading.Thread(target=print)
    thread.start()
    assert wide.poll() is None

def test_sets_a_variable():
    os.environ["LEFT"] = "1"

def test_removes_a_variable():
    del os.environ["HOME"], os.environ["PATH"]
    os.environ["HOME"] = "/"

def test_uses_a_careless_fixture(careless):
    pass

def test_follows_one_that_was_careless(careless):
    assert "CARELESS" not in os.environ

def test_changes_the_folder(tmp_path):
    os.chdir(tmp_path)

def test_takes_a_signal():
    signal.signal(signal.SIGTERM, lambda number, frame: None)

def test_leaves_a_thread():
    threading.Thread(target=ended.wait, name="endless").start()

def test_leaves_a_process():
    start(LONG)

def test_leaves_a_process_without_a_parent():
    program = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'input()'])"
    process = start([sys.executable, "-c", program])
    process.wait()

def test_writes_into_the_home():
    (Path.home() / ".secret").touch()

def test_of_a_fixture_that_leaves_a_thread(leaves_a_thread_for_good):
    pass

def test_last():
    pass
'''

LEFT = {
    "test_sets_a_variable": ["variable LEFT: None became '1'"],
    "test_removes_a_variable": ["variable HOME: '", "variable PATH: '"],
    "test_uses_a_careless_fixture": ["variable CARELESS: None became 'yes'"],
    "test_changes_the_folder": ["working folder: /"],
    "test_takes_a_signal": ["handler of signal 15: "],
    "test_leaves_a_thread": ["thread endless"],
    "test_leaves_a_process": ["process "],
    "test_leaves_a_process_without_a_parent": ["process "],
    "test_writes_into_the_home": ["file in the home folder: .secret"],
    # The session ends with it.
    "test_last": ["thread for good"],
}


def test_a_test_that_leaves_something_fails_and_the_next_does_not(tmp_path: Path) -> None:
    (tmp_path / "test_these.py").write_text(TESTS)
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.leaks", "-p", "no:randomly", "-rpE", "-c", os.devnull, "."],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    blocks = re.split(r"_+ ERROR at teardown of (\w+) _+\n", ended.stdout.partition("= short test summary")[0])[1:]
    assert list(blocks[::2]) == list(LEFT), ended.stdout + ended.stderr
    for test, block in zip(blocks[::2], blocks[1::2], strict=True):
        lines = [line for line in block.strip().splitlines()[1:] if not line.startswith("===")]
        assert len(lines) == len(LEFT[test]), block
        for line, begins in zip(lines, LEFT[test], strict=True):
            assert line.startswith(begins), test
    assert f"= 13 passed, {len(LEFT)} errors in " in ended.stdout
