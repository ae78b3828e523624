"""What workers print is kept under the run, in bounded size and without credentials, and read back from any machine."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner

from cluster.inline import Inline
from pipeline.cli import main
from pipeline.errors import StepFailedError, StoreError
from pipeline.events import run_ids
from pipeline.run import run
from pipeline.step import Step
from pipeline.store import Store, open_store
from pipeline.worker_log import FIRST, LAST, Excerpt, kept, read_logs
from stages.contract import Estimate, Inputs, Output, Part, Stage, Summary
from tests.faults.arithmetic import graph
from tests.finished import Finished


class Printing(Stage):
    """Says something in each way that there is, and fails where it is asked to."""

    name = "printing"
    version = 1
    bitwise = True

    bad: bool = False

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        return Estimate(rows=0, size_bytes=0, cpu_seconds=0)

    def split(self, inputs: Inputs) -> list[Part]:
        return [Part(index=0), Part(index=1)]

    def work(self, part: Part, state: Any, inputs: Inputs, out: Output) -> Summary:
        import logging
        import sys
        import warnings

        if part.index == 1:
            return {}
        print("printed, from https://user:SECRET@host/x?token=SECRET too")
        print("on the error stream", file=sys.stderr)
        warnings.warn("a warning", stacklevel=1)
        logging.getLogger("some.library").warning("logged")
        if self.bad:
            raise ValueError("a mistake")
        return {}


SCRIPT = """
import logging, sys
from cluster.inline import Inline
from pipeline.run import run
from pipeline.step import Step
from pipeline.store import open_store
from tests.pipeline.test_worker_log import Printing

if sys.argv[2] == "configured":
    logging.basicConfig()
run([Step("printing", Printing())], open_store(sys.argv[1]), Inline)
print("after")
"""


@pytest.mark.parametrize("logging", ["configured", "as it comes"])
def test_what_a_part_prints_warns_of_and_logs_is_kept_and_is_printed_as_before(logging: str, tmp_path: Path) -> None:
    words = [sys.executable, "-c", SCRIPT, str(tmp_path), logging]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    store = open_store(str(tmp_path))
    [log] = read_logs(store, run_ids(store)[-1], "printing")
    assert log.work == "part00000"
    first, second, third, *_, last = log.text.splitlines()
    assert first == "printed, from https://***@host/x?token=*** too"
    assert second == "on the error stream"
    assert third.endswith("UserWarning: a warning")
    assert last == ("WARNING:some.library:logged" if logging == "configured" else "logged")
    assert done.stdout.splitlines()[-1] == "after"
    assert "logged" in done.stderr


def test_what_a_part_prints_before_it_fails_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warnings.warn", lambda *words, **more: None)
    store = open_store(str(tmp_path))
    with pytest.raises(StepFailedError, match="a mistake"):
        run([Step("printing", Printing(bad=True))], store, Inline)
    [log] = read_logs(store, run_ids(store)[-1], "printing")
    assert "on the error stream" in log.text


def test_parts_that_print_nothing_leave_nothing_and_progress_is_no_output_of_a_worker(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    result = run(graph(), store, Inline, listener=lambda event: print(event.kind))
    assert {entry.name.split("/")[2] for entry in store.entries(f"runs/{result.run_id}")} == {"events", "plan.json"}


def test_a_long_output_keeps_its_ends_and_says_what_it_left_out() -> None:
    excerpt = Excerpt()
    for number in range(100_000):
        excerpt.write(f"line {number:06d}\n")
    text = excerpt.text()
    first, _, rest = text.partition("[")
    left_out, _, last = rest.partition(" characters left out]")
    assert first.startswith("line 000000\nline 000001\n")
    assert last.endswith("line 099999\n")
    assert len(first) + len(last) - 2 + int(left_out) == 100_000 * 12
    assert len(text) <= FIRST + LAST + 50
    excerpt.write("x" * 1_000_000)
    assert len(excerpt.text()) <= FIRST + LAST + 50


def test_half_a_url_where_the_middle_is_left_out_shows_no_credentials() -> None:
    url = "https://user:SECRET@host/a?token=SECRET"
    for offset in range(len(url)):
        excerpt = Excerpt()
        excerpt.write(" " * (FIRST - offset) + url + " " * 1000)
        # What is kept of the end begins in the midst of another URL.
        excerpt.write(url + " " * (LAST - offset))
        assert "SEC" not in excerpt.text().replace("***", "")
        assert "RET" not in excerpt.text()


def test_of_a_progress_bar_the_last_state_is_kept() -> None:
    excerpt = Excerpt()
    for percent in range(101):
        excerpt.write(f"\r{percent:3d}%")
    excerpt.write("\ndone\n")
    assert excerpt.text() == "100%\ndone\n"


class Refusing:
    """A store that takes nothing."""

    def create_or_read(self, name: str, data: bytes) -> tuple[bytes, bool]:
        raise StoreError("to write", "a full disk", "Free some space.")


def test_a_log_that_the_store_does_not_take_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with kept(cast(Store, Refusing()), "run", "step", "part00000"):
        print("something")
    assert "what step printed is not kept: expected to write; found a full disk" in capsys.readouterr().err


def test_the_log_of_a_step_is_read_by_its_name_from_the_newest_run_that_has_one(
    finished: Finished, tmp_path: Path
) -> None:
    store = open_store(str(tmp_path))
    for name in ("runs", "studies"):
        shutil.copytree(finished.store / name, tmp_path / name)
    shutil.copy(finished.store / "store.json", tmp_path)
    (run_id,) = run_ids(store)
    with kept(store, run_id, "shards", "part00003"):
        print("hello from shards")
    words = ["log", str(finished.study), "--store", str(tmp_path), "--step"]
    shown = CliRunner().invoke(main, [*words, "shards"]).stdout
    assert shown.startswith("== part00003 on ")
    assert shown.endswith("\nhello from shards\n\n")
    found = json.loads(CliRunner().invoke(main, [*words, "shards", "--json"]).stdout)
    assert (found["run"], found["step"], found["text"]) == (run_id, "shards", "hello from shards\n")
    assert CliRunner().invoke(main, [*words, "listing"]).stdout == "Nothing was printed during listing.\n"
    refused = CliRunner().invoke(main, [*words, "shard"])
    assert refused.exit_code == 2
    assert "expected one of the steps" in refused.stderr
