"""What the ranks of a training exchange before it starts: JSON, a barrier, the checkpoint to go on from.

torch's own exchange of objects sends pickles, which run code where they are read.
"""

import json
from typing import Any

from stages.contract import Checkpoint, Context
from stages.errors import RaceError


def of_all(value: Any, world: int) -> list[Any]:
    """The values of all ranks, in their order, each plain JSON. All call this together."""
    if world == 1:
        return [value]
    import torch
    from torch import distributed

    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(device)
    lengths = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world)]
    distributed.all_gather(lengths, torch.tensor([len(data)], device=device))
    longest = max(int(length) for length in lengths)
    texts = [torch.zeros(longest, dtype=torch.uint8, device=device) for _ in range(world)]
    distributed.all_gather(texts, torch.nn.functional.pad(data, (0, longest - len(data))))
    return [
        json.loads(text[: int(length)].cpu().numpy().tobytes()) for text, length in zip(texts, lengths, strict=True)
    ]


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
