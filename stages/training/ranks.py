"""What the ranks of a training exchange before it starts: objects, a barrier, the checkpoint to go on from."""

from typing import Any

from stages.contract import Checkpoint, Context
from stages.errors import RaceError


def of_all(value: Any, world: int) -> list[Any]:
    """The values of all ranks, in their order. All call this together."""
    if world == 1:
        return [value]
    import torch

    found: list[Any] = [None] * world
    torch.distributed.all_gather_object(found, value)
    return found


def wait_for_all(world: int) -> None:
    """Returns when all ranks have come here."""
    of_all(None, world)


def newest_checkpoint(context: Context) -> Checkpoint | None:
    """The checkpoint that all ranks go on from, or None. All call this together.

    Raises RaceError where they see different ones: an attempt that had been given up and was not yet dead published one
    meanwhile. Ranks with different weights would sum gradients that do not belong together.
    """
    newest = context.checkpoints.latest()
    seen = of_all("none" if newest is None else newest.name, context.world)
    if len(set(seen)) > 1:
        raise RaceError(
            "all ranks to go on from one checkpoint",
            ", ".join(f"{name} on rank {rank}" for rank, name in enumerate(seen)),
            "Trying again is enough: checkpoints are complete.",
        )
    return newest
