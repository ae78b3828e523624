"""What the contract suite of executors runs in workers. Failures come from a table: call x attempt -> what happens."""

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

from cluster.executor import GangContext

SETUPS: list[int] = []


class TransientError(Exception):
    """An error that may be gone the next time."""

    transient = True


class UnnamedResult:
    """Not JSON."""


def act(payload: dict[str, Any]) -> Any:
    """Does what the table says for this attempt: `payload["plan"][attempt]`, its last entry for all later ones."""
    plan = payload.get("plan", ["ok"])
    attempt = count_attempt(payload)
    return happen(plan[min(attempt, len(plan)) - 1], payload, attempt)


def count_attempt(payload: dict[str, Any]) -> int:
    """Attempts of this call so far, kept as files because processes die."""
    if "folder" not in payload:
        return 1
    for attempt in range(1, 1000):
        try:
            (Path(payload["folder"]) / f"{payload['id']}.{attempt}").touch(exist_ok=False)
        except FileExistsError:
            continue
        return attempt
    raise AssertionError("a thousand attempts")


def happen(what: str, payload: dict[str, Any], attempt: int) -> Any:
    """One entry of a table."""
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    if what == "raise":
        raise ValueError("a bad value")
    if what == "transient":
        raise TransientError("not now")
    if what == "not json":
        return {"thing": UnnamedResult()}
    if what == "nan":
        return {"thing": float("nan")}
    if what == "no dict":
        return [1]
    if what == "large":
        return {"thing": "x" * 1_000_001}
    if what == "sleep":
        time.sleep(payload.get("seconds", 0.2))
    if what == "wait for ever":
        Path(payload["folder"], "started").touch()
        time.sleep(3600)
    return {"id": payload.get("id"), "attempt": attempt, "number": payload.get("number", 0) * 2}


def change_payload(payload: dict[str, Any]) -> dict[str, Any]:
    """Changes what it was given, as no function should."""
    payload["list"].append(1)
    return {"length": len(payload["list"])}


def set_up_once(payload: dict[str, Any]) -> dict[str, Any]:
    """Memoises per process, as the pipeline's worker does."""
    if not SETUPS:
        SETUPS.append(os.getpid())
        time.sleep(0.05)
        return {"pid": os.getpid(), "set_up": True}
    return {"pid": os.getpid(), "set_up": False}


def threads(payload: dict[str, Any]) -> dict[str, Any]:
    """How wide this process is."""
    import torch

    return {"torch": torch.get_num_threads(), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")}


def where(payload: dict[str, Any]) -> dict[str, Any]:
    """Which process this is, how wide, and which GPUs it sees."""
    names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    return {"pid": os.getpid(), **{name: os.environ.get(name) for name in names}}


def gang_threads(payload: dict[str, Any], context: GangContext) -> dict[str, Any]:
    """How wide a rank is."""
    return threads(payload)


def describe(payload: dict[str, Any], context: GangContext) -> dict[str, Any]:
    """What a rank's context holds; needs no torch."""
    return {
        "rank": context.rank,
        "world": context.world,
        "device": context.device,
        "attempt": context.attempt,
        "pid": os.getpid(),
    }


def report_steps(payload: dict[str, Any], context: GangContext) -> dict[str, Any]:
    """Reports every step of a short training."""
    steps = payload["steps"]
    for step in range(1, steps + 1):
        context.report(step, steps, {"loss": 1.0 / step})
        time.sleep(payload["seconds"])
    return {"steps": steps}


def fall_silent(payload: dict[str, Any], context: GangContext) -> dict[str, Any]:
    """Reports a step, and in the first attempt nothing more; a later one ends."""
    context.report(1, 2, {})
    while context.attempt == 1:
        time.sleep(0.1)
    context.report(2, 2, {})
    return {"attempt": context.attempt}


def last_rank_falls_silent(payload: dict[str, Any], context: GangContext) -> dict[str, Any]:
    """All ranks wait for each other in every step; in the first attempt the last rank never comes to the fourth.

    The first report has waited for the ranks to start, which the distance of the next two does not.
    """
    import torch
    import torch.distributed as dist

    for step in (1, 2, 3, 4):
        while step == 4 and context.attempt == 1 and context.rank == context.world - 1:
            time.sleep(0.1)
        dist.all_reduce(torch.ones(1))
        context.report(step, 4, {})
    return {"attempt": context.attempt, "world": context.world}


def sum_of_ranks(payload: dict[str, Any], context: GangContext) -> dict[str, Any]:
    """Every rank gives rank + 1 and gets the sum; what `plan` says happens to the last rank first."""
    import torch
    import torch.distributed as dist

    plan = payload.get("plan", ["ok"])
    if context.rank == context.world - 1:
        happen(plan[min(context.attempt, len(plan)) - 1], payload, context.attempt)
    total = torch.tensor([context.rank + 1.0])
    if context.world > 1:
        dist.all_reduce(total)
    context.report(1, 1, {"sum": float(total)})
    return {"sum": float(total), "attempt": context.attempt, "world": context.world}


def exchange(payload: dict[str, Any], context: GangContext) -> dict[str, Any]:
    """Every rank gives its number and a text of its own length; and where this process listens meanwhile."""
    from stages.training.ranks import of_all

    given = of_all([context.rank, "x" * (context.rank * 1000)], context.world)
    return {"given": [[rank, len(text)] for rank, text in given], "listens": listening()}


def listening() -> list[str]:
    """The addresses that this process listens on, as Linux writes them: hex, all zeros for any address."""
    sockets = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            sockets.add(os.readlink(entry))
    lines = [
        line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/self/net/{table}").read_text().splitlines()
    ]
    return [fields[1].partition(":")[0] for fields in lines if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets]


def wait_for_ever(payload: dict[str, Any], context: GangContext) -> dict[str, Any]:
    """A training that never ends."""
    Path(payload["folder"], "started").touch()
    while True:
        time.sleep(0.1)


def wait_for_word(payload: dict[str, Any], context: GangContext) -> dict[str, Any]:
    """A training that ends once the file `go` is there."""
    Path(payload["folder"], "started").touch()
    while not Path(payload["folder"], "go").exists():
        time.sleep(0.05)
    return {}
