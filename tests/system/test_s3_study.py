"""A study kept in a bucket: run, run on Ray, server killed in the middle, answers late, lost, denied and cut."""

import json
import secrets
import signal
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
from tests.system.looks import looked_at
from tests.system.proxy import Fault, FaultProxy
from tests.system.s3 import BUCKET, S3Server, access

pytestmark = pytest.mark.system


@cache
def made() -> dict[str, dict[str, bytes]]:
    """What an undisturbed run in memory makes."""
    return undisturbed(graph())[0]


def place() -> str:
    """A prefix that nobody has used."""
    return f"s3://{BUCKET}/{secrets.token_hex(4)}"


def use(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Lets this process reach a server."""
    for name, value in access(endpoint).items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("executor", ["inline", "ray"])
def test_a_study_is_run_in_a_bucket_and_its_artifacts_are_those_of_any_other_place(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, executor: str
) -> None:
    url = place()
    code, lines, said = finish(start(url, executor, **access(s3_server.url)))
    assert (code, said) == (0, "")
    assert {event["executor"] for event in map(json.loads, lines) if event["kind"] == "part_done"} == {executor}
    use(monkeypatch, s3_server.url)
    assert looked_at(open_store(url), graph()) == made()
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


def test_a_server_that_is_killed_and_comes_back_is_waited_for(
    own_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url, gate = place(), tmp_path / "gate"
    use(monkeypatch, own_server.url)
    process = start(url, "inline", gate)
    wait_for(lambda: in_the_middle(open_store(url)), process)
    own_server.kill()
    gate.touch()
    own_server.start()
    code, lines, said = finish(process)
    assert (code, said) == (0, "")
    assert [json.loads(line)["part"] for line in lines if '"part_done"' in line] == list(range(gated.PARTS))
    assert [state.state for state in plan(gated.graph(str(gate)), open_store(url))] == ["done"]


def test_after_server_and_driver_were_killed_the_next_run_does_the_rest(
    own_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url, gate = place(), tmp_path / "gate"
    use(monkeypatch, own_server.url)
    process = start(url, "inline", gate)
    wait_for(lambda: in_the_middle(open_store(url)), process)
    own_server.kill()
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
    made = FaultProxy(s3_server.port)
    yield made
    made.close()


@pytest.mark.parametrize(
    "faults",
    [("drop",), ("lose",), ("busy",), ("deny after",), ("cut",), ("drop", "lose", "busy", "deny after", "cut")],
    ids="+".join,
)
def test_a_bad_line_to_the_bucket_changes_nothing_of_what_is_made(
    s3_server: S3Server, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, faults: tuple[Fault, ...]
) -> None:
    url = place()
    use(monkeypatch, proxy.url)
    store = open_store(url)
    proxy.faults, proxy.share, proxy.delay_seconds = faults, 0.2, 0.002
    for _ in range(5):
        with suppress(StoreError):
            run(graph(), store, Inline, study="driven")
            break
    assert set(proxy.met) == set(faults)
    proxy.share = 0.0
    assert looked_at(store, graph()) == made()
    assert run(graph(), store, Inline, study="driven").run_id is None
