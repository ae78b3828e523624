"""How many ranks a training gets: what a person writes, and what reaches the executor."""

from pathlib import Path

import click
import pytest

from cluster.executor import ALONE, Call, Claim, OnProgress, Outcome
from cluster.inline import Inline
from pipeline.options import RanksOption
from pipeline.run import run
from pipeline.store import open_store
from tests.faults.arithmetic import graph


@pytest.mark.parametrize(("text", "ranks"), [("4", (4, 4)), ("2-8", (2, 8)), ("1-1", (1, 1))])
def test_ranks_are_a_number_or_a_range(text: str, ranks: tuple[int, int]) -> None:
    assert RanksOption().convert(text, None, None) == ranks
    assert RanksOption().convert(RanksOption.text(ranks), None, None) == ranks


@pytest.mark.parametrize("text", ["0", "8-2", "2-", "-2", "two", "1-2-3", "0-2"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="2-8"):
        RanksOption().convert(text, None, None)


class Recording(Inline):
    """Runs on one rank and remembers what was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, int | None]] = []

    def gang(
        self,
        call: Call,
        ranks: int,
        on_progress: OnProgress | None = None,
        least: int | None = None,
        claim: Claim = ALONE,
    ) -> Outcome:
        self.asked.append((ranks, least))
        return super().gang(call, 1, on_progress)


@pytest.mark.parametrize(("least", "asked"), [(None, (1, None)), (2, (1, 1))])
def test_a_stage_for_one_rank_is_never_elastic(
    least: int | None, asked: tuple[int, int | None], tmp_path: Path
) -> None:
    executor = Recording()
    run(graph(), open_store(str(tmp_path)), lambda: executor, ranks=4, least_ranks=least)
    assert executor.asked == [asked]
