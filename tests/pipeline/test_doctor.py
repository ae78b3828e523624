"""What `repscope doctor` says of what a cluster has shown: one fault with its remedy for each thing that is wrong."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.doctor import COLUMNS, Seen, judged
from pipeline.node_checks import code_digest, facts_here
from pipeline.store import open_store

STORE = "s3://bucket/store"
EXPECTED = {"code": "c" * 64, "python": "3.11.7", "ray": "2.60.0", "torch": "2.14.1"}
FIT: dict[str, Any] = EXPECTED | {
    "cores": 8,
    "gpus": 1,
    "shared_memory": 10 * 10**9,
    "time": 1000.5,
    "offset": 0.0,
    "created": False,
    "winner": "one",
    "store": "",
}
RESOURCES = {"CPU": 8.0, "GPU": 1.0, "object_store_memory": 9e9}


def seen(**changes: Any) -> Seen:
    """Two nodes, of which `b` has these changes and nothing is wrong with `a`."""
    answers: dict[str, dict[str, Any] | Exception] = {"a": FIT | {"created": True}, "b": FIT | changes}
    return Seen(answers, {"a": RESOURCES, "b": RESOURCES}, 1000.0, 1001.0, True, "", embedded=False)


def test_a_fit_cluster_has_a_row_per_node_and_no_fault() -> None:
    found = judged(seen(), EXPECTED, STORE)
    assert found.faults == []
    assert found.remarks == ["authentication: by token", "dashboard: none"]
    row = dict(zip(COLUMNS, found.rows[1], strict=True))
    assert row["node"] == "b"
    assert (row["CPUs"], row["GPUs"], row["clock"], row["store"]) == ("8/8", "1/1", "+0.0 s", "yes")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"code": "d" * 64}, "Repscope's code is another (dddddddddddd, here cccccccccccc). Install the same on"),
        ({"python": "3.11.8"}, "python 3.11.8, here 3.11.7. Install the same version."),
        ({"ray": "2.59.0"}, "ray 2.59.0, here 2.60.0. Install the same version."),
        ({"torch": "2.13.0"}, "torch 2.13.0, here 2.14.1. Install the same version."),
        ({"cores": 2}, "Ray counts 8 CPUs, and its threads share 2. Give `ray start` --num-cpus."),
        ({"gpus": 0}, "Ray counts 1 GPUs of 0. Check the driver, or give `ray start` --num-gpus."),
        ({"gpus": 4}, "Ray counts 1 GPUs of 4."),
        ({"shared_memory": 64 * 10**6}, "64 MB of shared memory, and Ray wants 9 GB. Give the container more"),
        ({"offset": 61.0}, "the clock is 61 s ahead. Set it by NTP."),
        ({"offset": -7200.0}, "the clock is 7200 s behind. Set it by NTP."),
        ({"store": "no bucket."}, f"the store {STORE} cannot be used: no bucket. Name one that every machine reaches"),
    ],
)
def test_what_is_wrong_with_a_node_is_one_fault_by_its_name(changes: dict[str, Any], fault: str) -> None:
    [found] = judged(seen(**changes), EXPECTED, STORE).faults
    assert found.startswith(f"b: {fault}")


@pytest.mark.parametrize("offset", [60.0, -60.0])
def test_a_clock_may_be_a_minute_off(offset: float) -> None:
    assert judged(seen(offset=offset), EXPECTED, STORE).faults == []


@pytest.mark.parametrize(("time", "clock"), [(900.0, "100 s behind"), (1201.0, "200 s ahead")])
def test_the_clock_is_held_against_this_machines_where_the_store_is_out_of_reach(time: float, clock: str) -> None:
    faults = judged(seen(store="no bucket", offset=None, time=time), EXPECTED, STORE).faults
    assert faults[0] == f"b: the clock is {clock}. Set it by NTP."
    assert len(faults) == 2


def test_a_node_that_gives_no_answer_has_an_empty_row_and_the_last_line_of_its_error() -> None:
    silent = replace(seen(), answers={"a": FIT | {"created": True}, "b": ImportError("trace\nno module pipeline")})
    found = judged(silent, EXPECTED, STORE)
    assert found.rows[1] == ("b", *["-"] * (len(COLUMNS) - 1))
    assert found.faults == ["b: the checks could not run: no module pipeline. Install the same Repscope there."]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"created": True}, "2 nodes created one object in s3://bucket/store, and 1 contents were read. Two runs"),
        ({"created": True, "winner": "other"}, "2 nodes created one object in s3://bucket/store, and 2 contents"),
        ({"winner": "other"}, "1 nodes created one object in s3://bucket/store, and 2 contents were read. Two runs"),
    ],
)
def test_a_store_in_which_not_exactly_one_node_creates_an_object_is_a_fault(
    changes: dict[str, Any], fault: str
) -> None:
    [found] = judged(seen(**changes), EXPECTED, STORE).faults
    assert found.startswith(fault)


@pytest.mark.parametrize(
    ("token_asked", "dashboard", "embedded", "faults"),
    [
        (True, "0.0.0.0:8265", False, []),
        (False, "", False, ["the cluster asks for no token"]),
        (False, "127.0.0.1:8265", False, ["the cluster asks for no token"]),
        (False, "[::1]:8265", False, ["the cluster asks for no token"]),
        (
            False,
            "10.0.0.1:8265",
            False,
            ["the cluster asks for no token", "the dashboard, which runs any job, listens on 10.0.0.1"],
        ),
        (False, "", True, []),
    ],
)
def test_a_cluster_without_a_token_and_its_open_dashboard_are_faults(
    token_asked: bool, dashboard: str, embedded: bool, faults: list[str]
) -> None:
    exposed = replace(seen(), token_asked=token_asked, dashboard=dashboard, embedded=embedded)
    found = judged(exposed, EXPECTED, STORE)
    assert [line.partition(":")[0].partition(". ")[0] for line in found.faults] == faults
    assert found.remarks[1] == f"dashboard: {dashboard or 'none'}"


def test_a_node_uses_the_store_of_the_request_and_leaves_nothing_of_its_own(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.prepare()
    store.create("probes/marker", b"")
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    facts = facts_here({"store": store.url, "marker": "probes/marker", "contested": "probes/contested"})
    assert (facts["store"], facts["created"], facts["code"]) == ("", True, code_digest())
    assert facts["winner"] == store.read("probes/contested").decode()
    assert {path for path in tmp_path.rglob("*") if path.is_file()} - before == {tmp_path / "probes" / "contested"}


def test_a_node_with_another_store_of_the_same_url_says_so(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.prepare()
    facts = facts_here({"store": store.url, "marker": "probes/marker", "contested": "probes/contested"})
    assert facts["store"].endswith("is not there")
    assert facts["offset"] is None
