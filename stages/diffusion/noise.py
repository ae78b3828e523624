"""Noise that depends on what it is for and never on batch, device or rank.

Each image has a stream of its own, seeded by a hash of a few integers; it is always drawn on the CPU.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Noise: TypeAlias = Callable[[int], Tensor]
"""Standard normal noise [B, C, H, W] by the number of the step that asks for it."""

_MASK = (1 << 64) - 1


def mix(*numbers: int) -> int:
    """A 63-bit seed from integers: SplitMix64's finaliser (Steele, Lea & Flood 2014) chained over them."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = (state ^ (number & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state >> 1


def normal(streams: Iterable[Sequence[int]], shape: Sequence[int]) -> Tensor:
    """Standard normal noise, one row per stream: float32 [len(streams), *shape] on the CPU."""
    generator = torch.Generator()
    rows = [torch.randn(tuple(shape), generator=generator.manual_seed(mix(*stream))) for stream in streams]
    return torch.stack(rows) if rows else torch.empty((0, *shape))


def around(noise: Noise, centre: Tensor) -> Noise:
    """The noise, with `centre` [B, C, H, W] added to that of step 0, which a sampler starts from."""
    return lambda step: noise(step) if step else noise(step) + centre


def by_step(streams: Sequence[Sequence[int]], shape: Sequence[int], device: str) -> Noise:
    """Noise of a sampler, a row per stream: that of step 0 from the streams, of any other from (*stream, step)."""

    def drawn(step: int) -> Tensor:
        return normal(((*stream, step) if step else stream for stream in streams), shape).to(device)

    return drawn
