"""The decoder's network: a small U-Net around a sketch, as a denoiser D(x, sigma, h).

Image x is modelled as m + r: the sketch m = E[x | h] by a network without convolutions, and the residual r by
diffusion, D(x; sigma, h) = m + D_r(x - m; sigma, h), with EDM's preconditioning of D_r (`stages.diffusion.edm`). Where
noise hides everything the denoiser returns the sketch; capacity goes into what the sketch cannot express.

Norms are over the channels of each position (Ba et al. 2016, arXiv 1607.06450) because on CPUs they cost a quarter of
GroupNorm; scale and shift from noise level and condition follow them, as in ADM (Dhariwal & Nichol 2021, section 3).
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.decoder.conditioning import Projection, Sketch
from stages.decoder.spec import NetworkSettings
from stages.diffusion import edm


def channel_norm(x: Tensor) -> Tensor:
    """Zero mean and unit variance over the channels of each position, [B, C, H, W] channels-last."""
    return functional.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],)).permute(0, 3, 1, 2)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions; the vector e [B, width] scales and shifts between them. Starts as the identity."""

    def __init__(self, channels_in: int, channels_out: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.modulation = nn.Linear(width, 2 * channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """[B, C_in, H, W], [B, width] -> [B, C_out, H, W]."""
        y = self.conv1(functional.silu(channel_norm(x)))
        scale, shift = self.modulation(e)[:, :, None, None].chunk(2, dim=1)
        y = torch.addcmul(shift, channel_norm(y), 1 + scale)
        out: Tensor = self.shortcut(x) + self.conv2(functional.silu(y))
        return out


class UNet(nn.Module):
    """F(c_in r, m, e): scaled residual and sketch, both [B, 3, S, S], and vector e [B, width] -> [B, 3, S, S]."""

    def __init__(self, settings: NetworkSettings, size: int) -> None:
        super().__init__()
        channels, area = settings.channels, settings.patch**2
        self.patch = settings.patch
        self.stem = nn.Conv2d(6 * area + 2, channels[0], 3, padding=1)
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        self.rise = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(channels))
        below = channels[0]
        for wide, count in zip(channels, settings.blocks, strict=True):
            inward = [ResidualBlock(below if block == 0 else wide, wide, settings.width) for block in range(count)]
            outward = [ResidualBlock(wide, wide, settings.width) for _ in range(count)]
            self.down.append(nn.ModuleList(inward))
            self.up.append(nn.ModuleList(outward))
            below = wide
        self.out = nn.Conv2d(channels[0], 3 * area, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]
        side = torch.linspace(-1.0, 1.0, size // settings.patch)
        self.register_buffer("coordinates", torch.stack(torch.meshgrid(side, side, indexing="ij")), persistent=False)

    def forward(self, r: Tensor, m: Tensor, e: Tensor) -> Tensor:
        """[B, 3, S, S] twice and [B, width] -> [B, 3, S, S]."""
        coordinates: Tensor = self.get_buffer("coordinates").expand(r.shape[0], -1, -1, -1)
        patches = functional.pixel_unshuffle(torch.cat([r, m], dim=1), self.patch)
        x = torch.cat([patches, coordinates], dim=1).contiguous(memory_format=torch.channels_last)
        x = self.stem(x)
        skips = []
        for level, blocks in enumerate(self.down):
            if level:
                x = functional.avg_pool2d(x, 2)
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, e)
            skips.append(x)
        x = skips[-1]
        for level in reversed(range(len(self.up))):
            if level + 1 < len(self.up):
                # Added, not joined: convolutions of twice the width at the finest level would be a third of the cost.
                x = skips[level] + functional.interpolate(self.rise[level](x), scale_factor=2.0, mode="nearest")
            for block in self.up[level]:  # type: ignore[attr-defined]
                x = block(x, e)
        x = self.out(functional.silu(channel_norm(x)))
        return functional.pixel_shuffle(x, self.patch)


class Painter(nn.Module):
    """The diffusion model of what the sketch leaves: noise level and condition as one vector, and the U-Net."""

    def __init__(self, settings: NetworkSettings, widths: Sequence[int], size: int) -> None:
        super().__init__()
        self.projection = Projection(widths, settings.width)
        self.level = nn.Sequential(nn.Linear(64, settings.width), nn.SiLU(), nn.Linear(settings.width, settings.width))
        self.unet = UNet(settings, size)
        frequencies = 2 * math.pi * torch.exp(torch.linspace(math.log(0.05), math.log(4.0), 32))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, r: Tensor, c_noise: Tensor, h: Tensor, tap: Tensor, sketch: Tensor) -> Tensor:
        """F(c_in r; c_noise, h): scaled residual [B, 3, S, S], c_noise [B], condition, sketch -> [B, 3, S, S]."""
        angle = c_noise[:, None] * self.get_buffer("frequencies")
        level = self.level(torch.cat([angle.cos(), angle.sin()], dim=1))
        out: Tensor = self.unet(r, sketch, functional.silu(level + self.projection(h, tap)))
        return out


class Parts(nn.Module):
    """What a training trains: a sketch by itself and then a painter, which are all its weights."""

    sketch: nn.Module
    painter: nn.Module
    residual_std: Tensor
    """Standard deviation of what the sketch leaves, float32 [taps + 1]: of each tap, and of the null, which is last."""

    def compile_kernels(self) -> None:
        """Has torch.compile make kernels for what is slow without; they are compiled when the network first runs."""
        raise NotImplementedError

    @property
    def matrices(self) -> Sequence[Tensor]:
        """Weights of the painter that map many features to many, whose updates may be made orthogonal."""
        return ()

    @property
    def shares(self) -> Mapping[Tensor, float]:
        """What parameters take of the learning rate, where it is not all of it."""
        return {}


class DecoderNetwork(Parts):
    """Sketch and painter. `residual_std` is measured when the sketch is trained."""

    sketch: Sketch
    painter: Painter

    def __init__(self, settings: NetworkSettings, widths: Sequence[int], size: int) -> None:
        super().__init__()
        self.sketch = Sketch(widths, settings.sketch, size)
        self.painter = Painter(settings, widths, size)
        self.register_buffer("residual_std", torch.full((len(widths) + 1,), 0.5), persistent=False)

    def compile_kernels(self) -> None:
        """Those of the U-Net; what stands before it is small."""
        self.painter.unet.compile()

    @property
    def matrices(self) -> Sequence[Tensor]:
        """The U-Net's convolutions but the first and the last, which touch pixels."""
        unet = self.painter.unet
        inner = [m for m in unet.modules() if isinstance(m, nn.Conv2d) and m not in (unet.stem, unet.out)]
        return [convolution.weight for convolution in inner]

    @property
    def shares(self) -> Mapping[Tensor, float]:
        """Those of the projections of wide embeddings."""
        projections = (self.sketch.projection, self.painter.projection)
        return {weight: share for projection in projections for weight, share in projection.shares.items()}

    def denoise(self, x: Tensor, sigma: Tensor, h: Tensor, tap: Tensor, sketch: Tensor) -> Tensor:
        """D(x; sigma, h), float32 [B, 3, S, S], given the sketch of h.

        x [B, 3, S, S] is an image in [-1, 1] plus noise of standard deviation sigma [B]; h [B, widest], tap int64 [B].
        """

        def raw(scaled: Tensor, c_noise: Tensor) -> Tensor:
            out: Tensor = self.painter(scaled, c_noise, h, tap, sketch)
            return out

        return sketch + edm.denoise(raw, x - sketch, sigma, self.residual_std[tap])

    def forward(self, x: Tensor, sigma: Tensor, h: Tensor, tap: Tensor) -> Tensor:
        """D(x; sigma, h): see `denoise`."""
        return self.denoise(x, sigma, h, tap, self.sketch(h, tap))
