"""A study kept in a bucket: run, run on Ray, server killed in the middle, answers late, lost, denied and cut."""

import json
import secrets
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

from cluster.inline import Inline
from pipeline.errors import StoreError
from pipeline.plan import plan
from pipeline.run import run
from pipeline.store import Store, open_store
from tests.faults import gated
from tests.faults.driver import graph
from tests.faults.processes import finish, start, wait_for
from tests.faults.truth import undisturbed
from tests.system.proxy import Fault, FaultProxy
from tests.system.s3 import BUCKET, S3Server, access
from tests.system.stored import stored_objects

pytestmark = pytest.mark.system


@cache
def expected() -> dict[str, dict[str, bytes]]:
    """What an undisturbed run in memory makes."""
    return undisturbed(graph())[0]


def new_prefix() -> str:
    """A prefix that nobody has used."""
    return f"s3://{BUCKET}/{secrets.token_hex(4)}"


def use(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Lets this process reach a server."""
    for name, value in access(endpoint).items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("executor", ["inline", "ray"])
def test_a_study_is_run_in_a_bucket_and_its_artifacts_are_those_of_any_other_store(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, executor: str
) -> None:
    url = new_prefix()
    code, lines, standard_error = finish(start(url, executor, **access(s3_server.url)))
    assert (code, standard_error) == (0, "")
    assert {event["executor"] for event in map(json.loads, lines) if event["kind"] == "part_done"} == {executor}
    use(monkeypatch, s3_server.url)
    assert stored_objects(open_store(url), graph()) == expected()
    assert run(graph(), open_store(url), Inline, study="driven").run_id is None


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[S3Server]:
    """A server that may be killed."""
    server = S3Server(tmp_path / "server")
    server.start()
    yield server
    server.close()


def in_the_middle(store: Store) -> bool:
    """Whether the waiting part has written its first object."""
    return any(entry.name.endswith(f"first-{gated.WAITING}.bin") for entry in store.entries("artifacts/gated"))


def killed_in_the_middle(server: S3Server, tmp_path: Path) -> tuple[str, Path, subprocess.Popen[str]]:
    """Starts a run, and kills the server in its first part: the store, the gate of that part, and the driver."""
    url, gate = new_prefix(), tmp_path / "gate"
    process = start(url, "inline", gate)
    wait_for(lambda: in_the_middle(open_store(url)), process)
    server.kill()
    return url, gate, process


def test_a_server_that_is_killed_and_comes_back_is_waited_for(
    own_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use(monkeypatch, own_server.url)
    url, gate, process = killed_in_the_middle(own_server, tmp_path)
    gate.touch()
    own_server.start()
    code, lines, standard_error = finish(process)
    assert (code, standard_error) == (0, "")
    assert [json.loads(line)["part"] for line in lines if '"part_done"' in line] == list(range(gated.PARTS))
    assert [state.state for state in plan(gated.graph(str(gate)), open_store(url))] == ["done"]


def test_after_server_and_driver_were_killed_the_next_run_does_the_rest(
    own_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use(monkeypatch, own_server.url)
    url, gate, process = killed_in_the_middle(own_server, tmp_path)
    process.send_signal(signal.SIGKILL)
    finish(process)
    own_server.start()
    state = plan(gated.graph(str(gate)), open_store(url))[0]
    assert (state.state, state.parts_done) == ("partial", gated.WAITING)
    gate.touch()
    result = run(gated.graph(str(gate)), open_store(url), Inline)
    assert result.steps[0].parts_run == gated.PARTS - gated.WAITING
    assert [state.state for state in plan(gated.graph(str(gate)), open_store(url))] == ["done"]


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    """A proxy before the server, without faults as yet."""
    expected = FaultProxy(s3_server.port)
    yield expected
    expected.close()


@pytest.mark.parametrize(
    "faults",
    [("drop",), ("lose",), ("busy",), ("deny after",), ("cut",), ("drop", "lose", "busy", "deny after", "cut")],
    ids="+".join,
)
def test_a_bad_line_to_the_bucket_changes_nothing_of_what_is_made(
    s3_server: S3Server, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, faults: tuple[Fault, ...]
) -> None:
    url = new_prefix()
    use(monkeypatch, proxy.url)
    store = open_store(url)
    proxy.faults, proxy.share, proxy.delay_seconds = faults, 0.2, 0.002
    for _ in range(5):
        with suppress(StoreError):
            run(graph(), store, Inline, study="driven")
            break
    assert set(proxy.met) == set(faults)
    proxy.share = 0.0
    assert stored_objects(store, graph()) == expected()
    assert run(graph(), store, Inline, study="driven").run_id is None
