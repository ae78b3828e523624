"""The records of the executor's protocol."""

import subprocess
import sys

import pytest

from cluster.errors import FunctionError, PayloadError
from cluster.executor import MAX_JSON_BYTES, Executor, GangContext, Progress, decode, encode, resolve
from cluster.inline import Inline
from cluster.on_ray import OnRay


def test_both_executors_have_the_protocol() -> None:
    assert isinstance(Inline(), Executor)
    assert isinstance(OnRay(), Executor)


@pytest.mark.parametrize("module", ["executor", "inline", "on_ray", "connect", "resources"])
def test_a_module_of_cluster_imports_neither_ray_nor_torch(module: str) -> None:
    program = f"import sys, cluster.{module}; print(sorted({{'ray', 'torch', 'numpy'}} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_small_json_comes_back_as_it_was() -> None:
    document = {"a": [1, 2.5, None, True, "ü"], "b": {}}
    assert decode(encode(document, "it")) == document
    assert encode({"a": "x" * (MAX_JSON_BYTES - 20)}, "it")


@pytest.mark.parametrize("document", [[], "text", None, {"a": {1}}, {"a": float("inf")}, {"a": "x" * MAX_JSON_BYTES}])
def test_everything_else_is_refused(document: object) -> None:
    with pytest.raises(PayloadError, match="expected it"):
        encode(document, "it")


def test_a_module_that_fails_on_import_shows_its_own_error() -> None:
    with pytest.raises(FunctionError, match="no such module"):
        resolve("cluster.nothing:f")
    with pytest.raises(FunctionError, match="no such function"):
        resolve("cluster.errors:__doc__")


def test_progress_leaves_rank_zero_rarely_but_the_end_always() -> None:
    seen: list[Progress] = []
    context = GangContext(0, 2, "cpu", 3, seen.append, seconds_between=1000)
    for step in range(1, 101):
        context.report(step, 100, {"loss": step})
    assert [progress.done for progress in seen] == [1, 100]
    assert seen[-1] == Progress(100, 100, {"loss": 100.0}, 3)


def test_other_ranks_keep_silent() -> None:
    seen: list[Progress] = []
    GangContext(1, 2, "cpu", 1, seen.append).report(1, 1, {})
    assert seen == []
