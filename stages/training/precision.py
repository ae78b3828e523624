"""The precision that networks compute in: float32, or bfloat16 on a device that is fast in it.

A CPU without instructions for bfloat16 takes up to four times as long in it as in float32, and a GPU without units for
it takes longer too. There `bfloat16` comes to float32. That changes rounding and nothing else, as another device does:
weights, sums and losses are float32 in any case, so keys are the same, and a training may go on on a device of the
other kind. The receipt of a part says what was computed in.

A CPU is asked by a short trial and not by its list of instructions: some have instructions for bfloat16 that gain
nothing, and ONEDNN_MAX_CPU_ISA may forbid those that do.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Literal, TypeAlias

from stages.training.ranks import of_all

if TYPE_CHECKING:
    import torch

Precision: TypeAlias = Literal["bfloat16", "float32"]
PRECISIONS: tuple[Precision, ...] = ("bfloat16", "float32")

IMAGES, CHANNELS, SIDE = 2, 64, 16
"""Of the trial: the decoder's U-Net has its finest level so, with more images."""
ROUNDS = 3
"""Of the trial after the first, which also compiles kernels. The quickest of them counts."""


def computed(precision: Precision, device: str) -> Precision:
    """What `precision` comes to on a device: float32 for bfloat16 where the device is not fast in that."""
    if precision == "float32" or not fast_in_bfloat16(device):
        return "float32"
    return "bfloat16"


def agreed(precision: Precision, device: str, world: int) -> Precision:
    """What `precision` comes to for the ranks of a training: bfloat16 where all are fast in it. All call it together.

    The slowest rank is waited for, and one that is slow in bfloat16 is slower by more than others gain.
    """
    found = of_all(computed(precision, device), world)
    return "bfloat16" if set(found) == {"bfloat16"} else "float32"


def fast_in_bfloat16(device: str) -> bool:
    """Whether networks take no longer in bfloat16 than in float32. A CPU is tried once in a process."""
    import torch

    if torch.device(device).type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    seconds = trial()
    return seconds["bfloat16"] <= seconds["float32"]


@cache
def trial(rounds: int = ROUNDS) -> dict[Precision, float]:
    """Seconds of one CPU for a 3 x 3 convolution with its gradients, in each precision.

    One thread and its own time, not that of the clock on the wall: what else the machine does must not decide.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        once = {"bfloat16": _convolution(torch.bfloat16), "float32": _convolution(torch.float32)}
        found: dict[Precision, list[float]] = {precision: [] for precision in PRECISIONS}
        for _ in range(1 + rounds):
            for precision, times in found.items():
                started = time.thread_time()
                once[precision]()
                times.append(time.thread_time() - started)
    finally:
        torch.set_num_threads(threads)
    return {precision: min(times[1:]) for precision, times in found.items()}


def _convolution(dtype: "torch.dtype") -> Callable[[], object]:
    """A convolution with its gradients, in a type."""
    import torch

    def filled(*shape: int) -> torch.Tensor:
        return torch.ones(shape, dtype=dtype).contiguous(memory_format=torch.channels_last)

    x, weight = filled(IMAGES, CHANNELS, SIDE, SIDE), filled(CHANNELS, CHANNELS, 3, 3)

    def once() -> object:
        # Without autograd: its first use in a process takes half a second, and a process that paints has none for it.
        shape = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)
        out = torch.ops.aten.convolution(x, weight, None, *shape)
        return torch.ops.aten.convolution_backward(out, x, weight, [CHANNELS], *shape, [True, True, False])

    return once


def half(precision: Precision, device: str) -> AbstractContextManager[object]:
    """Autocast, for what `precision` comes to on a device."""
    import torch

    found = computed(precision, device)
    for seen in _NOTED:
        seen.add(found)
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=found == "bfloat16")


def unrounded(precision: Precision, deterministic: bool = False) -> AbstractContextManager[None]:
    """Float32 is float32: by default a GPU rounds the factors of such a convolution to 10 bits (TF32).

    A backward pass stands in it too, and not in autocast. With `deterministic`, a convolution in float32 gives the same
    bytes each time.
    """
    import torch

    if precision == "float32":
        _read_tf32_once()
        return torch.backends.cudnn.flags(enabled=True, deterministic=deterministic, allow_tf32=False)
    return nullcontext()


@cache
def _read_tf32_once() -> None:
    """torch 2.9 warns when the setting of TF32 is first read in a process, as `cudnn.flags` does, too."""
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Please use the new API settings to control TF32", UserWarning)
        _ = torch.backends.cudnn.allow_tf32


@contextmanager
def arithmetic(precision: Precision, device: str) -> Iterator[None]:
    """What a forward pass stands in."""
    with unrounded(precision), half(precision, device):
        yield


_NOTED: list[set[Precision]] = []
"""What is filled with the precisions that networks compute in; see `noted`."""


@contextmanager
def noted() -> Iterator[set[Precision]]:
    """The precisions that networks compute in until the end, in this process."""
    _NOTED.append(set())
    try:
        yield _NOTED[-1]
    finally:
        _NOTED.pop()
