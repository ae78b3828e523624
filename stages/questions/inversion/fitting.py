"""Images that are fitted to embeddings by gradients, with a penalty on their total variation."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

Embed: TypeAlias = Callable[[Tensor], Tensor]
"""float32 [B, 3, H, W] in [0, 1] to standardised embeddings [B, D]; passes gradients on."""

RATE = 0.1
"""Of Adam, on the logits of pixels; it falls to 0 along a cosine."""
START = 0.5
"""Standard deviation of the logits that a fit starts from: grey with some noise."""


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels of [B, 3, H, W]: [B]. 0 for an image of one colour."""
    down = (images[:, :, 1:] - images[:, :, :-1]).abs().mean(dim=(1, 2, 3))
    right = (images[..., 1:] - images[..., :-1]).abs().mean(dim=(1, 2, 3))
    return down + right


def fit(embed: Embed, targets: Tensor, starts: Tensor, steps: int, weight: float) -> Tensor:
    """Images [B, 3, H, W] in [0, 1] whose embeddings come near `targets` [B, D], from noise `starts` [B, 3, H, W].

    What falls is the mean squared difference of standardised features plus `weight` x the total variation. It is a
    function of each image alone, so images are fitted in batches without a difference.
    """
    logits = (START * starts).detach().requires_grad_(True)
    optimiser = torch.optim.Adam([logits], lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    with torch.enable_grad():
        for _ in range(steps):
            images = logits.sigmoid()
            loss = (embed(images) - targets).square().mean(dim=1) + weight * total_variation(images)
            (logits.grad,) = torch.autograd.grad(loss.sum(), logits)
            optimiser.step()
            schedule.step()
    return logits.detach().sigmoid()
