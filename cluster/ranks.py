"""One rank of a gang, in whatever process it runs: torch.distributed around one attempt of a call."""

import fcntl
import os
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from cluster import environment
from cluster.executor import AttemptResult, Failure, GangContext, Loss, Progress, failure_of, perform

PEER_LOST = ("DistNetworkError", "DistBackendError", "DistStoreError", "ConnectionError")
"""Types that torch.distributed raises in the ranks that live on when another has died."""

PEER_LOST_WORDS = ("closed by peer", "reset by peer", "connection refused", "eaddrinuse", "broken pipe", "nccl")
"""What gloo and nccl say on that occasion in a plain RuntimeError."""

MEETING_TIMEOUT = timedelta(minutes=5)
"""The ranks wait this long for each other when they begin."""

INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
SIOCGIFADDR = 0x8915
"""Linux's request for the address of an interface."""

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""A collective waits this long for the slowest rank, which may be writing a checkpoint."""


@dataclass(frozen=True)
class Rank:
    """Which rank this is, and the rendezvous of all: `address` and `port` of rank 0."""

    rank: int
    world: int
    device: str
    attempt: int
    address: str = "127.0.0.1"
    port: int = 0


def run_rank(function: str, payload: str, rank: Rank, send: Callable[[Progress], None]) -> AttemptResult:
    """Runs `function(payload, context)` as one rank. With more than one, torch.distributed is set up around it."""
    context = GangContext(rank.rank, rank.world, rank.device, rank.attempt, send)
    if rank.world == 1:
        return perform(function, payload, context)
    with environment.changed(_listening(rank)):
        try:
            join(rank)
        except Exception as error:
            failure = replace(failure_of(error), transient=True)
            return AttemptResult(None, failure, socket.gethostname(), os.getpid(), 0.0)
        try:
            return perform(function, payload, context)
        finally:
            leave()


def join(rank: Rank) -> None:
    """Initialises torch.distributed: nccl where ranks have GPUs, gloo elsewhere.

    The ranks meet at a store of torch's on rank 0. Left to itself it would listen on all addresses of the machine; here
    it is given a socket that listens on the one at which the others look for it.
    """
    import torch
    import torch.distributed as dist

    on_gpu = rank.device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(rank.device)
    listening = None
    if rank.rank == 0:
        family = socket.AF_INET6 if ":" in rank.address else socket.AF_INET
        with socket.create_server((rank.address, rank.port), family=family) as server:
            listening = server.detach()
    store = dist.TCPStore(  # type: ignore[attr-defined]
        rank.address,
        rank.port,
        rank.world,
        is_master=rank.rank == 0,
        timeout=MEETING_TIMEOUT,
        master_listen_fd=listening,
    )
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=store,
        rank=rank.rank,
        world_size=rank.world,
        timeout=COLLECTIVE_TIMEOUT,
    )


def _listening(rank: Rank) -> dict[str, str]:
    """Environment by which gloo and nccl listen on the address alone by which this machine reaches rank 0."""
    family = socket.AF_INET6 if ":" in rank.address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            # No packet is sent: only the route is looked up.
            probe.connect((rank.address, rank.port))
        except OSError:
            # Without a route, joining will say what is wrong.
            return {}
        own = probe.getsockname()[0]
    names = [name for _, name in socket.if_nameindex() if _address(name) == own]
    return {variable: names[0] for variable in INTERFACES if names and variable not in os.environ}


def _address(interface: str) -> str:
    """The IPv4 address of a network interface; empty where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            found = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
        except OSError:
            return ""
    return socket.inet_ntoa(found[20:24])


def leave() -> None:
    """Takes torch.distributed down, as far as the other ranks still answer."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def attempt_result(
    attempt: int, answers: Mapping[int, AttemptResult], dead: Mapping[int, Loss]
) -> AttemptResult | Loss:
    """What an attempt came to: the loss of a rank, else the first error that is no echo, else rank 0's answer.

    A rank that died comes first, because what the others say then is only that they miss it.
    """
    for rank, loss in sorted(dead.items()):
        return replace(loss, reason=f"rank {rank}: {loss.reason}")
    failed = [answer for _, answer in sorted(answers.items()) if answer.error is not None]
    for answer in failed:
        assert answer.error is not None
        if not is_peer_loss(answer.error):
            return answer
    for answer in failed:
        assert answer.error is not None
        return Loss(attempt, f"{answer.error.type}: {answer.error.message}", answer.host, answer.pid)
    if 0 not in answers:
        return Loss(attempt, "rank 0 gave no answer", socket.gethostname(), 0)
    return answers[0]


def is_peer_loss(failure: Failure) -> bool:
    """Whether an error is only the echo of another rank's death."""
    message = failure.message.lower()
    return failure.type.endswith(PEER_LOST) or (
        failure.type == "RuntimeError" and any(word in message for word in PEER_LOST_WORDS)
    )


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
