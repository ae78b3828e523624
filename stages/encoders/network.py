"""A small residual network with a projector: the architecture that `pretrain` trains and `untrained` leaves random.

He et al. 2016 (arXiv 1512.03385), basic blocks, with a stem for small images; the projector is SimCLR's (Chen et al.
2020, arXiv 2002.05709).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stages.encoders.spec import Architecture


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with BatchNorm and a shortcut, [B, C_in, H, W] -> [B, C_out, H / stride, W / stride]."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C_out, H / stride, W / stride]."""
        y = torch.relu_(self.norm1(self.conv1(x)))
        return torch.relu_(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """The backbone: normalised images [B, 3, H, W] -> [B, D], pooled over positions."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        first = architecture.widths[0]
        self.stem = nn.Conv2d(3, first, 3, architecture.stem, 1, bias=False)
        self.norm = nn.BatchNorm2d(first)
        stages: list[nn.Module] = []
        channels = first
        for number, (width, blocks) in enumerate(zip(architecture.widths, architecture.blocks, strict=True)):
            for block in range(blocks):
                stages.append(BasicBlock(channels, width, stride=2 if number > 0 and block == 0 else 1))
                channels = width
        self.stages = nn.Sequential(*stages)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images [B, 3, H, W] -> [B, D]."""
        x = torch.relu_(self.norm(self.stem(x)))
        features: Tensor = self.stages(x)
        # Not `mean((2, 3))`, whose gradient is laid out channel by channel: the layers below would take far longer.
        return features.permute(0, 2, 3, 1).flatten(1, 2).mean(1)


def projector(width: int, widths: Sequence[int], last_norm: bool = True) -> nn.Sequential:
    """Linear layers without bias, each with BatchNorm, ReLU between them: SimCLR's head.

    Without `last_norm` the last layer has no BatchNorm: the head of VICReg and Barlow Twins.
    """
    layers: list[nn.Module] = []
    for number, wide in enumerate(widths):
        last = number == len(widths) - 1
        layers.append(nn.Linear(width, wide, bias=False))
        if last_norm or not last:
            layers.append(nn.BatchNorm1d(wide))
        if not last:
            layers.append(nn.ReLU())
        width = wide
    return nn.Sequential(*layers)


class EncoderNetwork(nn.Module):
    """Backbone and projector, read at every tap in one pass; `projector_norm`: see `projector`."""

    def __init__(self, architecture: Architecture, projector_norm: bool = True) -> None:
        super().__init__()
        self.backbone = ResNet(architecture)
        self.projector = projector(architecture.widths[-1], architecture.projector, projector_norm)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised images [B, 3, H, W] -> tap -> [B, D]: `backbone`, `projector.0`, …, `projector`."""
        h = self.backbone(x)
        taps = {"backbone": h}
        layer = 0
        for module in self.projector:
            if isinstance(module, nn.Linear) and layer > 0:
                taps[f"projector.{layer - 1}"] = h
            h = module(h)
            layer += isinstance(module, nn.Linear)
        taps["projector"] = h
        return taps


def initialise(architecture: Architecture, seed: int, projector_norm: bool = True) -> EncoderNetwork:
    """A network whose weights are a function of `architecture` and `seed`, in channels-last layout on the CPU."""
    network = EncoderNetwork(architecture, projector_norm)
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
    return network.to(memory_format=torch.channels_last)
