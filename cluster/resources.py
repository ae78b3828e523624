"""How many workers, and how wide each: from the CPUs and GPUs there are to a `Layout` for parts and one for a gang.

Parts run in actors of one CPU each, as many as CPUs and memory allow, because one thread per process loses nothing to
synchronisation; those that compute on a GPU run in one actor for each GPU. A gang of one rank gets a whole machine.
"""

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ResourceError

WORKER_MEMORY_BYTES = 2 * 1024**3
"""What a worker is allowed to need when workers are counted: torch alone takes 0.5 GB."""

DRIVERS = ("/dev/nvidiactl", "/dev/dxg")
"""Device files of a driver of GPUs: NVIDIA's own, and that of Linux inside Windows (WSL2), for GPUs of any maker."""


@dataclass(frozen=True)
class Machine:
    """What one machine offers to us. `id` is Ray's number of it and `host` its name; empty where nobody asks."""

    cpus: int
    gpus: int
    memory_bytes: int
    id: str = ""
    host: str = ""


@dataclass(frozen=True)
class Layout:
    """`workers` processes with `cpus` (= threads) and `gpus` each."""

    workers: int
    cpus: int
    gpus: int


def this_machine(cpus: int | None = None, gpus: int | None = None) -> Machine:
    """CPUs, GPUs and memory that this process may use: its affinity and its container's limits count.

    Numbers given replace those found; more CPUs than there are is the caller's business. Raises `ResourceError` for
    less than one CPU.
    """
    if cpus is not None and cpus < 1:
        raise ResourceError("at least 1 CPU", str(cpus), "Leave the number out to use all CPUs of this machine.")
    if gpus is not None and gpus < 0:
        raise ResourceError("0 GPUs or more", str(gpus), "Leave the number out to use all GPUs of this machine.")
    return Machine(
        cpus=available_cpus() if cpus is None else cpus,
        gpus=visible_gpus() if gpus is None else gpus,
        memory_bytes=memory_bytes(),
    )


def available_cpus() -> int:
    """CPUs of this process's affinity, cut to its container's quota."""
    count = len(os.sched_getaffinity(0))
    quota = _numbers("/sys/fs/cgroup/cpu.max")
    if len(quota) == 2:
        count = min(count, max(1, math.floor(quota[0] / quota[1])))
    return count


def memory_bytes() -> int:
    """Memory of this machine, cut to its container's limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _numbers("/sys/fs/cgroup/memory.max")
    return min([total, *limit])


def visible_gpus() -> int:
    """NVIDIA GPUs that this process may use. Without a device file torch is not even imported."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in {"", "-1"}:
        return 0
    if not any(Path(driver).exists() for driver in DRIVERS):
        return 0
    import torch

    return int(torch.cuda.device_count())


def device() -> str:
    """Where this process computes: `cuda:0` where it was given a GPU, else `cpu`."""
    return "cuda:0" if visible_gpus() else "cpu"


def set_threads(count: int) -> None:
    """Threads of this process's numerical libraries; call it before the first of them is imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(count)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)


def layout_for_parts(machines: Sequence[Machine], workers: int | None = None, gpu: bool = False) -> Layout:
    """One worker per CPU, fewer and wider where memory is short; with `gpu` one per GPU where there are any.

    `workers` replaces the number found. Raises `ResourceError` where there is no CPU.
    """
    machines = _working(machines)
    gpus = sum(machine.gpus for machine in machines)
    if gpu and gpus:
        cpus = max(1, min(machine.cpus // machine.gpus for machine in machines if machine.gpus))
        return Layout(min(workers or gpus, gpus), cpus, 1)
    total = sum(machine.cpus for machine in machines)
    memory = sum(machine.memory_bytes for machine in machines)
    cpus = max(1, math.ceil(total * WORKER_MEMORY_BYTES / max(memory, 1)))
    cpus = min(cpus, max(machine.cpus for machine in machines))
    found = max(1, sum(machine.cpus // cpus for machine in machines))
    if workers is None or workers >= found:
        return Layout(found, cpus, 0)
    return Layout(workers, min(total // workers, max(machine.cpus for machine in machines)), 0)


def layout_for_gang(machines: Sequence[Machine], ranks: int, least: int | None = None) -> Layout:
    """The ranks of a gang, each as wide as fits: `ranks`, or as many as there is room for but no fewer than `least`.

    Raises `ResourceError` where there are fewer GPUs (or, without GPUs, CPUs) than that. `least` None: `ranks`.
    """
    least = ranks if least is None else least
    if not 1 <= least <= ranks:
        raise ResourceError("1 rank or more, and no more than the most", f"{least} to {ranks}", "Set both to 1.")
    machines = _working(machines)
    gpus = sum(machine.gpus for machine in machines)
    devices = [machine.gpus if gpus else machine.cpus for machine in machines]
    if sum(devices) < least:
        raise ResourceError(
            f"{least} {'GPUs' if gpus else 'CPUs'}, one for each rank",
            str(sum(devices)),
            f"Set the number of ranks to {sum(devices)} or less.",
        )
    ranks = min(ranks, sum(devices))
    width = max(machine.cpus for machine in machines)
    while width > 1 and sum(ranks_that_fit(machine, width, bool(gpus)) for machine in machines) < ranks:
        width -= 1
    return Layout(ranks, width, 1 if gpus else 0)


def ranks_that_fit(machine: Machine, width: int, on_gpu: bool) -> int:
    """How many ranks of `width` CPUs a machine takes."""
    return min(machine.cpus // width, machine.gpus) if on_gpu else machine.cpus // width


def _working(machines: Sequence[Machine]) -> list[Machine]:
    working = [machine for machine in machines if machine.cpus]
    if not working:
        raise ResourceError("a machine with a CPU", "none", "Wait for the cluster to start, or add a worker to it.")
    return working


def _numbers(path: str) -> list[int]:
    """The whole numbers of a control file; none where it is missing or says `max`."""
    file = Path(path)
    words = file.read_text().split() if file.exists() else []
    return [int(word) for word in words] if all(word.isdigit() for word in words) else []
