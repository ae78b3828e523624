"""Pixels of images that are decoded: the only place where they change range, size or layout.

Stored images are uint8 [B, H, W, 3] in [0, 255], RGB; networks see float32 [B, 3, H, W] in [-1, 1] (decoders and
encoders of the paper), in [0, 1] (attacks), or normalised by an encoder's own mean and standard deviation.
"""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stages.training.prefetch import sent

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


def encode_png(image: "NDArray[np.uint8]") -> bytes:
    """Encodes uint8 [H, W, 3] without loss as PNG; equal pixels give equal bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def to_network(images: "NDArray[np.uint8] | torch.Tensor") -> "torch.Tensor":
    """uint8 [B, H, W, 3] in [0, 255] to float32 [B, 3, H, W] in [-1, 1], on the device of `images`."""
    return to_unit(images) * 2.0 - 1.0


def to_unit(images: "NDArray[np.uint8] | torch.Tensor") -> "torch.Tensor":
    """uint8 [B, H, W, 3] in [0, 255] to float32 [B, 3, H, W] in [0, 1], on the device of `images`."""
    import torch

    tensor = images if isinstance(images, torch.Tensor) else torch.from_numpy(images)
    return tensor.permute(0, 3, 1, 2).to(torch.float32).contiguous() / 255.0


def from_network(images: "torch.Tensor") -> "NDArray[np.uint8]":
    """float [B, 3, H, W] in [-1, 1] (values beyond are clipped) to uint8 [B, H, W, 3], rounded to nearest."""
    return from_unit((images.float() + 1.0) / 2.0)


def from_unit(images: "torch.Tensor") -> "NDArray[np.uint8]":
    """float [B, 3, H, W] in [0, 1] (values beyond are clipped) to uint8 [B, H, W, 3], rounded to nearest."""
    import torch

    levels = (images.detach().float().clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
    array: NDArray[np.uint8] = levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return array


def resize(images: "torch.Tensor", size: int) -> "torch.Tensor":
    """float [B, C, H, W] to [B, C, size, size], bilinear with antialiasing; the range stays."""
    import torch

    if images.shape[-2:] == (size, size):
        return images
    return torch.nn.functional.interpolate(
        images, size=(size, size), mode="bilinear", antialias=True, align_corners=False
    )


def normalise(images: "torch.Tensor", mean: Sequence[float], std: Sequence[float]) -> "torch.Tensor":
    """float [B, 3, H, W] in [0, 1] to (images - mean) / std, per channel."""
    import torch

    centre, scale = (sent(torch.tensor(x, dtype=images.dtype), images.device)[:, None, None] for x in (mean, std))
    return (images - centre) / scale
