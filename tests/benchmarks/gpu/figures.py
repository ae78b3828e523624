"""What every section uses: its size, its clock, and where its figures go."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

Value = str | float | int | bool | None


@dataclass(frozen=True)
class Benchmark:
    """What a section is given."""

    device: str
    full: bool
    """False: the smallest size that runs the same code, for CPUs."""
    seconds: float
    """Time that the section may take; it is stopped after that, and what it has written counts."""
    folder: str
    """Scratch folder that all sections of one run share."""

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return torch.device(self.device).type == "cuda"

    def write(self, what: str, **values: Value) -> None:
        """Writes one figure: a line of JSON on standard output."""
        print(json.dumps({"what": what, **values}), flush=True)

    def wait(self) -> None:
        """Waits for the device, which computes on while Python continues."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def seconds_of(self, work: Callable[[], object], at_least: float = 1.0) -> float:
        """Seconds of one call, the mean over calls that take `at_least` seconds together, after one to warm up."""
        work()
        self.wait()
        began, calls = time.perf_counter(), 0
        while True:
            work()
            calls += 1
            self.wait()
            if (passed := time.perf_counter() - began) >= (at_least if self.full else 0.0):
                return passed / calls

    def first_seconds(self, work: Callable[[], object]) -> float:
        """Seconds of a single call, with all that is compiled and planned in it."""
        self.wait()
        began = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - began

    def reset_memory(self) -> None:
        """Starts a new peak."""
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak_gb(self) -> float | None:
        """Peak of the device's memory since `reset_memory`, 10^9 bytes; None on a CPU."""
        return torch.cuda.max_memory_allocated() / 1e9 if self.on_gpu else None


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative L2 distance, in float64 on the CPU. NaN where anything is not finite."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((found - expected).norm() / expected.norm())
