"""The precision that a network computes in, on any device: bfloat16 by autocast, or the whole of float32."""

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch

with warnings.catch_warnings():
    # torch 2.9 warns when the setting of TF32 is first read in a process, as `cudnn.flags` does, too.
    warnings.filterwarnings("ignore", "Please use the new API settings to control TF32", UserWarning)
    _ = torch.backends.cudnn.allow_tf32


def unrounded(precision: Literal["bfloat16", "float32"], deterministic: bool = False) -> AbstractContextManager[None]:
    """Float32 is float32: by default a GPU rounds the factors of such a convolution to 10 bits (TF32).

    A backward pass stands in it too, and not in autocast. With `deterministic`, a convolution in float32 gives the same
    bytes each time.
    """
    if precision == "float32":
        return torch.backends.cudnn.flags(enabled=True, deterministic=deterministic, allow_tf32=False)
    return nullcontext()


@contextmanager
def arithmetic(precision: Literal["bfloat16", "float32"], device: str) -> Iterator[None]:
    """What a forward pass stands in."""
    half = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bfloat16")
    with unrounded(precision), half:
        yield
