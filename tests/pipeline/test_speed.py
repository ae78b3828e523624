"""Estimates are those of this machine: by one trial, kept, and never made by a command that only reads."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.inline import Inline
from pipeline import speed
from pipeline.plan import plan
from pipeline.run import run
from pipeline.speed import MEASURED, REFERENCE, Speed, cached
from pipeline.store import open_store
from stages.contract import Estimate
from tests.faults.arithmetic import Counting, graph
from tests.finished import MICRO, repscope

SLOW = Speed("a laptop", {"bfloat16": 40e-3, "float32": 3 * MEASURED["float32"]})


class Rounded(Counting):
    """A training that computes in bfloat16."""

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        return replace(super().estimate(upstream), precision="bfloat16")


def measured() -> Speed:
    """As in a process of its own."""
    speed.measured.cache_clear()
    return speed.measured()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which trials are kept; it is not there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    speed.measured.cache_clear()
    return tmp_path / "repscope" / speed.CACHE


def test_the_machine_that_was_measured_takes_the_seconds_that_were_measured() -> None:
    assert [REFERENCE.factor(precision) for precision in MEASURED] == [1.0, 1.0]


def test_work_in_bfloat16_takes_what_it_takes_in_float32_where_that_is_quicker() -> None:
    assert SLOW.chosen == "float32"
    assert SLOW.factor("float32") == pytest.approx(3)
    convolutions = 3 * MEASURED["float32"] / MEASURED["bfloat16"]
    assert SLOW.factor("bfloat16") == pytest.approx((convolutions + 3) / 2)


def test_a_plan_is_scaled_by_precision_and_what_was_measured_here_is_not(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    steps = [*graph()[:2], replace(graph()[2], stage=Rounded())]
    found = plan(steps, store, speed=lambda: SLOW)
    assert [state.seconds for state in found] == pytest.approx([0.3, 0.6, 0.5 * SLOW.factor("bfloat16")])
    run(steps, store, Inline)

    def never() -> Speed:
        raise AssertionError("nothing is estimated")

    assert all(state.measured for state in plan(steps, store, speed=never))


def test_a_trial_is_made_once_and_kept_for_the_same_cpu_with_the_same_limits(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cached() is None
    found = measured()
    assert found.seconds["bfloat16"] > 0 < found.seconds["float32"]
    assert (found.cpu, found.trouble) == (speed.cpu_name(), "")
    assert len(json.loads(cache.read_bytes())) == 1

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("there is no second trial")

    monkeypatch.setattr(subprocess, "run", refused)
    assert cached() == measured() == found
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert cached() is None


@pytest.mark.parametrize("kept", [1, {}, {"bfloat16": 0.1}, {"bfloat16": "x", "float32": 0.1}, {"float32": 0.0}])
def test_what_is_kept_and_damaged_is_as_if_there_were_nothing(kept: object, cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text(json.dumps({speed._cache_key(speed.cpu_name()): kept}))
    assert cached() is None


def test_where_the_trial_fails_the_seconds_are_those_that_were_measured_and_the_plan_says_so(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    found = measured()
    assert found.seconds == MEASURED
    assert "could not be tried" in found.basis
    assert "/nowhere/python" in found.basis
    assert not cache.exists()


def test_plan_says_what_it_rests_on_and_status_makes_no_trial(cache: Path, tmp_path: Path) -> None:
    words = (MICRO, "--store", tmp_path / "store")
    status = json.loads(repscope("status", *words, "--json").stdout)
    assert not cache.exists()
    basis = repscope("plan", *words).stdout.splitlines()[-1]
    assert speed.cpu_name() in basis
    assert cache.exists()
    # Now that the trial is known, both commands count alike.
    again = json.loads(repscope("status", *words, "--json").stdout)
    assert again == json.loads(repscope("plan", *words, "--json").stdout)
    assert [state["size_bytes"] for state in again] == [state["size_bytes"] for state in status]
