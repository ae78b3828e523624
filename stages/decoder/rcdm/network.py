"""The ADM U-Net with an embedding as its condition: the network of the published RCDM, tensor for tensor.

Architecture: Dhariwal & Nichol 2021 (arXiv 2105.05233), section 3 and appendix; conditioning: Bordes et al. 2022 (arXiv
2112.09164), as in their checkpoints, where the embedding is projected and added to the vector of the noise level.
The names and the numbering of the modules are those of the checkpoints, and so are not ours to choose.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.decoder.layers import GroupNorm, attention
from stages.decoder.rcdm.spec import GROUPS, AdmSettings

PERIOD = 10_000.0
"""The slowest frequency of the noise level's embedding has this period, in units of 2 pi steps."""


def time_embedding(t: Tensor, width: int) -> Tensor:
    """Cosines and sines of the step t [B], whole or not, at `width` / 2 frequencies from 1 down: float32 [B, width].

    Vaswani et al. 2017, section 3.5, with cosines first.
    """
    half = width // 2
    frequencies = torch.exp(-math.log(PERIOD) / half * torch.arange(half, dtype=torch.float32, device=t.device))
    angles = t.float()[:, None] * frequencies
    return functional.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, width % 2))


def _norm(channels: int) -> GroupNorm:
    return GroupNorm(GROUPS, channels)


def _silent(layer: nn.Conv1d | nn.Conv2d) -> nn.Conv1d | nn.Conv2d:
    """The layer with zero weights, so that the block that it ends starts as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _normed(layers: nn.Sequential, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """Norm and SiLU, the first of `layers`, as one; scale and shift stand between them."""
    out: Tensor = layers[0](x, scale, shift)
    return out


class ResBlock(nn.Module):
    """Two 3 x 3 convolutions with the vector e [B, width] between them; `resize` (2.0, 0.5) changes the side.

    [B, channels, H, W] -> [B, out, H * resize, W * resize].
    """

    def __init__(self, channels: int, out: int, width: int, scale_shift: bool, resize: float = 1.0) -> None:
        super().__init__()
        self.scale_shift, self.resize = scale_shift, resize
        self.in_layers = nn.Sequential(_norm(channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * out if scale_shift else out))
        # Index 2 is the checkpoints' dropout, whose rate was 0.
        last = _silent(nn.Conv2d(out, out, 3, padding=1))
        self.out_layers = nn.Sequential(_norm(out), nn.SiLU(), nn.Identity(), last)
        self.skip_connection = nn.Conv2d(channels, out, 1) if out != channels else nn.Identity()

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """[B, channels, H, W] and [B, width] -> [B, out, H * resize, W * resize]."""
        y = self.in_layers[-1](_resized(_normed(self.in_layers, x), self.resize))
        modulation = self.emb_layers(e)
        if self.scale_shift:
            y = _normed(self.out_layers, y, *modulation.chunk(2, dim=1))
        else:
            y = _normed(self.out_layers, y + modulation[:, :, None, None])
        out: Tensor = self.skip_connection(_resized(x, self.resize)) + self.out_layers[-1](y)
        return out


def _resized(x: Tensor, resize: float) -> Tensor:
    if resize > 1.0:
        return functional.interpolate(x, scale_factor=resize, mode="nearest")
    return functional.avg_pool2d(x, round(1 / resize)) if resize < 1.0 else x


class Attention(nn.Module):
    """Self-attention over the positions of [B, channels, H, W], added to what came in."""

    def __init__(self, channels: int, heads: int, new_order: bool) -> None:
        super().__init__()
        self.heads, self.new_order = heads, new_order
        self.norm = _norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = _silent(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] -> the same."""
        batch, channels, high, wide = x.shape
        # One row per position: channels-last images are that already.
        normed = self.norm(x, silu=False).permute(0, 2, 3, 1).reshape(batch, high * wide, channels)
        joint = functional.linear(normed, self.qkv.weight.squeeze(2), self.qkv.bias)
        if self.new_order:
            q, k, v = joint.view(batch, high * wide, 3, self.heads, -1).transpose(1, 3).unbind(2)
        else:
            q, k, v = joint.view(batch, high * wide, self.heads, 3, -1).transpose(1, 2).unbind(3)
        seen = attention(q, k, v).transpose(1, 2).reshape(batch, high * wide, channels)
        out = functional.linear(seen, self.proj_out.weight.squeeze(2), self.proj_out.bias)
        return x + out.view(batch, high, wide, channels).permute(0, 3, 1, 2)


class Downsample(nn.Module):
    """Halves the side by a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] -> [B, channels, H / 2, W / 2]."""
        out: Tensor = self.op(x)
        return out


class Upsample(nn.Module):
    """Doubles the side by nearest neighbours and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] -> [B, channels, 2 H, 2 W]."""
        out: Tensor = self.conv(_resized(x, 2.0))
        return out


class Chain(nn.Sequential):
    """Layers one after another; those that take the vector are given it."""

    def forward(self, x: Tensor, e: Tensor) -> Tensor:  # type: ignore[override]
        """[B, C, H, W] and [B, width] -> [B, C', H', W']."""
        for layer in self:
            x = layer(x, e) if isinstance(layer, ResBlock) else layer(x)
        return x


class Adm(nn.Module):
    """The U-Net: x_t [B, 3, S, S] at unit scale, step t [B], embedding h [B, D] -> [B, 6, S, S].

    The first three channels estimate the noise in x_t, the others say where the variance of the reverse step lies
    (`stages.diffusion.discrete`). The step may be a fraction; it counts from 0, the least noise.
    """

    def __init__(self, settings: AdmSettings, embedding: int) -> None:
        super().__init__()
        self.settings = settings
        base = settings.model_channels
        width = 4 * base
        self.time_embed = nn.Sequential(nn.Linear(base, width), nn.SiLU(), nn.Linear(width, width))
        self.ssl_emb = nn.Linear(embedding, width)
        channels = [base * times for times in settings.channel_mult]
        sides = [settings.image_size >> level for level in range(len(channels))]

        def block(inward: int, outward: int, resize: float = 1.0) -> ResBlock:
            return ResBlock(inward, outward, width, settings.use_scale_shift_norm, resize)

        def looking(wide: int) -> Attention:
            return Attention(wide, settings.heads(wide), settings.use_new_attention_order)

        def attentive(wide: int, side: int) -> list[nn.Module]:
            return [looking(wide)] if side in settings.attention_resolutions else []

        self.input_blocks = nn.ModuleList([Chain(nn.Conv2d(3, channels[0], 3, padding=1))])
        here = channels[0]
        skips = [here]
        for level, (wide, side) in enumerate(zip(channels, sides, strict=True)):
            for _ in range(settings.num_res_blocks):
                self.input_blocks.append(Chain(block(here, wide), *attentive(wide, side)))
                here = wide
                skips.append(here)
            if level + 1 < len(channels):
                self.input_blocks.append(
                    Chain(block(here, here, 0.5) if settings.resblock_updown else Downsample(here))
                )
                skips.append(here)
        self.middle_block = Chain(block(here, here), looking(here), block(here, here))
        self.output_blocks = nn.ModuleList()
        for level, (wide, side) in reversed(list(enumerate(zip(channels, sides, strict=True)))):
            for number in range(settings.num_res_blocks + 1):
                layers = [block(here + skips.pop(), wide), *attentive(wide, side)]
                here = wide
                if level and number == settings.num_res_blocks:
                    layers.append(block(here, here, 2.0) if settings.resblock_updown else Upsample(here))
                self.output_blocks.append(Chain(*layers))
        self.out = nn.Sequential(_norm(here), nn.SiLU(), _silent(nn.Conv2d(here, 6, 3, padding=1)))

    def forward(self, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
        """[B, 3, S, S], [B] and [B, D] -> [B, 6, S, S]."""
        e = self.time_embed(time_embedding(t, self.settings.model_channels)) + self.ssl_emb(h)
        skips = []
        for chain in self.input_blocks:
            x = chain(x, e)
            skips.append(x)
        x = self.middle_block(x, e)
        for chain in self.output_blocks:
            x = chain(torch.cat([x, skips.pop()], dim=1), e)
        out: Tensor = self.out[-1](_normed(self.out, x))
        return out
