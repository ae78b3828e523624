"""A function on two ranks of one machine, each a process of its own, joined by gloo."""

import multiprocessing
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

PROCESSES = multiprocessing.get_context("forkserver")
"""Ranks are forked from a process that has imported torch, and what an optimiser imports at its first step."""
PROCESSES.set_forkserver_preload(["torch", "torch._dynamo"])


def on_two_ranks(work: Callable[..., Any], folder: Path, *given: Any) -> tuple[Any, Any]:
    """What `work(rank, *given)`, a function of a module, returns on rank 0 and on rank 1; `folder` is for scratch."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    processes = [PROCESSES.Process(target=_rank, args=(rank, port, folder, work, given)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    first, second = (pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(2))
    return first, second


def _rank(rank: int, port: int, folder: Path, work: Callable[..., Any], given: tuple[Any, ...]) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(work(rank, *given)))
    torch.distributed.destroy_process_group()
