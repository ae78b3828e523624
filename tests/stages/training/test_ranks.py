"""Ranks go on from one checkpoint or not at all: with different weights they would train nonsense together."""

from collections.abc import Callable
from pathlib import Path

from stages.datasets.scenes import render
from stages.decoder.loop import fit as fit_decoder
from stages.errors import RaceError
from tests.artifacts import InlineContext, MemoryCheckpoints
from tests.stages.decoder.small import training
from tests.stages.pretrain.small import STAGE, fit
from tests.two_ranks import on_two_ranks


def decoder(context: InlineContext) -> None:
    run = training(16, rank=context.rank, world=context.world)
    fit_decoder(run, context, 10**6, ("a:colour", "b:colour"))


def encoder(context: InlineContext) -> None:
    fit(STAGE.model_copy(update={"num_images": 32}), render(7, range(20))[0], context)


TRAININGS: dict[str, Callable[[InlineContext], None]] = {"decoder": decoder, "encoder": encoder}


def on_a_rank(rank: int, saved: dict[str, list[MemoryCheckpoints]]) -> list[str]:
    """What each training says on a rank that sees its own checkpoints."""
    messages = []
    for name, train in TRAININGS.items():
        for seen in ([saved[name][0], MemoryCheckpoints()], saved[name], [saved[name][0]] * 2):
            try:
                train(InlineContext(rank=rank, world=2, checkpoints=seen[rank]))
                messages.append("")
            except RaceError as error:
                messages.append(error.found)
    return messages


def test_ranks_that_see_different_checkpoints_train_nothing(tmp_path: Path) -> None:
    saved = {name: [MemoryCheckpoints("first"), MemoryCheckpoints("second")] for name in TRAININGS}
    for name, train in TRAININGS.items():
        for checkpoints in saved[name]:
            train(InlineContext(checkpoints=checkpoints))
    first, second = on_two_ranks(on_a_rank, tmp_path, saved)
    assert first == second
    expected = []
    for alike, _ in saved.values():
        step = alike.kept[-1].step
        one, other = f"first/{step} on rank 0", f"second/{step} on rank 1"
        expected += [f"{one}, none on rank 1", f"{one}, {other}", ""]
    assert first == expected


def test_a_rank_alone_asks_nobody() -> None:
    checkpoints = MemoryCheckpoints()
    encoder(InlineContext(checkpoints=checkpoints))
    context = InlineContext(checkpoints=checkpoints)
    encoder(context)
    assert context.reports == []
