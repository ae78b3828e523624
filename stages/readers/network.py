"""The network that reads attributes from pixels: a few residual blocks that keep where things are."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stages.images.pixels import resize, to_network
from stages.readers.score import Floats
from stages.readers.targets import Targets
from stages.training.precision import arithmetic

GRID = 4
"""Side of the last feature map: coarse positions stay apart, so that x and y can be read."""

BATCH = 512
"""Images read together."""


class ReaderBlock(nn.Module):
    """Two 3 x 3 convolutions at half the resolution, with a shortcut: [B, I, H, W] -> [B, O, H / 2, W / 2]."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels_in, channels_out, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)
        self.conv = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.norm_out = nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, I, H, W] -> [B, O, H / 2, W / 2]."""
        y = torch.relu(self.norm(self.down(x)))
        # Ceiling, as the strided convolution rounds.
        across = self.shortcut(nn.functional.avg_pool2d(x, 2, ceil_mode=True))
        return torch.relu(self.norm_out(self.conv(y)) + across)


class ReaderNetwork(nn.Module):
    """Images float32 [B, 3, size, size] in [-1, 1] -> [B, outputs]."""

    def __init__(self, size: int, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        stride = max(1, size // 32)
        self.stem = nn.Conv2d(3, widths[0], max(3, stride), stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        self.blocks = nn.Sequential(*(ReaderBlock(i, o) for i, o in pairwise(widths)))
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(GRID),
            nn.Flatten(),
            nn.Linear(widths[-1] * GRID**2, 256),
            nn.ReLU(),
            nn.Linear(256, outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """float32 [B, 3, size, size] in [-1, 1] -> [B, outputs]."""
        read: Tensor = self.head(self.blocks(torch.relu(self.norm(self.stem(x)))))
        return read


def build(size: int, widths: Sequence[int], outputs: int, seed: int) -> ReaderNetwork:
    """The network at its initial weights, a function of `seed`; global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ReaderNetwork(size, widths, outputs).to(memory_format=torch.channels_last)


def fit(
    network: ReaderNetwork,
    targets: Targets,
    images: NDArray[np.uint8],
    values: dict[str, Floats],
    *,
    num_images: int,
    batch: int,
    learning_rate: float,
    seed: int,
    device: str,
    report: Callable[[int, float], None],
) -> None:
    """Trains on uint8 [N, size, size, 3] and values by name, each image mirrored every other time; eval mode after.

    AdamW with a one-cycle schedule over `num_images` images; forward passes in bfloat16 where `device` is fast in it,
    float32 weights. `report` is called with the number of images seen and the loss.
    """
    mirrored = {a.name: a.mirrored(values[a.name]) for a in targets.attributes}
    wanted = torch.stack([targets.encode(values), targets.encode(mirrored)]).to(device)  # [2, N, attributes]
    pixels = torch.from_numpy(images).to(device)
    network.to(device).train()
    batch = min(batch, len(images))
    steps = -(-num_images // batch)
    optimiser = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps + 1, pct_start=0.15)
    rng = np.random.Generator(np.random.Philox(key=[seed, len(images)]))
    order = np.empty(0, dtype=np.int64)
    for step in range(steps):
        while len(order) < batch:
            order = np.concatenate([order, rng.permutation(len(images))])
        rows, order = torch.from_numpy(order[:batch]).to(device), order[batch:]
        flip = torch.from_numpy(rng.integers(0, 2, batch)).to(device)
        shown = to_network(pixels[rows])
        shown = torch.where(flip.bool()[:, None, None, None], shown.flip(3), shown)
        with arithmetic("bfloat16", device):
            outputs = network(shown.contiguous(memory_format=torch.channels_last))
        loss = targets.losses(outputs.float(), wanted[flip, rows]).sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if (step + 1) % 10 == 0 or step + 1 == steps:
            report((step + 1) * batch, float(loss.detach()))
    network.eval()


def read(network: ReaderNetwork, targets: Targets, images: NDArray[np.uint8], size: int) -> dict[str, Floats]:
    """Attributes of uint8 [B, H, W, 3] by name, float64 [B]; images of another size are resized."""
    device = next(network.parameters()).device
    outputs = [torch.empty(0, targets.width)]
    with torch.inference_mode():
        for start in range(0, len(images), BATCH):
            shown = resize(to_network(images[start : start + BATCH]).to(device), size)
            outputs.append(network(shown.contiguous(memory_format=torch.channels_last)).float().cpu())
    return targets.decode(torch.cat(outputs))
