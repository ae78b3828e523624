"""The random transforms of contrastive pretraining, on whole batches; the invariance question draws from the same code.

`draw` turns (seed, image number) into the parameters of one transform per image, whatever the batch; `apply` does them.
The recipe is SimCLR's for small images (Chen et al. 2020, arXiv 2002.05709, appendix B.9): resized crop, left-right
flip, colour jitter, greyscale, and no blur unless it is asked for. Within the jitter the order is fixed: brightness,
contrast, saturation, hue.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from stages.contract import Added
from stages.training.prefetch import sent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Probability = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(ge=0, le=1)]

TRANSFORMS = ("crop", "flip", "brightness", "contrast", "saturation", "hue", "greyscale", "blur")
"""What `Draws` can hold, in the order in which `apply` does it."""

BLUR_REACH = 4.0
"""Standard deviations after which the kernel of a blur ends: all beyond weigh less than 1e-4."""


class Augmentations(BaseModel):
    """Which transforms with which strength; the defaults are SimCLR's for CIFAR-10."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Bounds of the crop's area, as a share of the image's."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Bounds of the crop's width over its height."""
    flip: Probability = 0.5
    """Probability that an image is mirrored, left to right."""
    jitter: Probability = 0.8
    """Probability that brightness, contrast, saturation and hue are changed at all."""
    brightness: Strength = 0.4
    """The factor lies in 1 ± this; the same for contrast and saturation."""
    contrast: Strength = 0.4
    """The factor lies in 1 ± this."""
    saturation: Strength = 0.4
    """The factor lies in 1 ± this."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Largest change of hue, turns."""
    greyscale: Probability = 0.2
    """Probability that an image loses its colours."""
    blur: Annotated[Probability, Added(when_absent=0.0)] = 0.0
    """Probability that an image is blurred by a Gaussian."""
    blur_sigma: Annotated[tuple[float, float], Added(when_absent=(0.0005, 0.009))] = (0.0005, 0.009)
    """Bounds of its standard deviation, as a share of the image's width: SimCLR's 0.1 to 2 pixels of 224."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not 0.0 <= self.blur_sigma[0] <= self.blur_sigma[1] <= 0.25:
            raise ValueError(f"expected blur_sigma to be two shares from 0 to 0.25, in order; found {self.blur_sigma}")
        return self

    def used(self) -> tuple[str, ...]:
        """Which of `TRANSFORMS` change an image."""
        jitters = {name: self.jitter * getattr(self, name) for name in ("brightness", "contrast", "saturation", "hue")}
        cropped = self.crop_scale != (1.0, 1.0) or self.crop_ratio != (1.0, 1.0)
        blurred = self.blur * self.blur_sigma[1]
        strengths = {"crop": float(cropped), "flip": self.flip, "greyscale": self.greyscale, "blur": blurred} | jitters
        return tuple(name for name in TRANSFORMS if strengths[name] > 0)


@dataclass(frozen=True)
class Draws:
    """One transform per image, as arrays over the batch; None: that transform is left out."""

    crop: "np.ndarray | None" = None
    """float64 [B, 4]: left, top, width, height in fractions of the image."""
    flip: "np.ndarray | None" = None
    """bool [B]."""
    brightness: "np.ndarray | None" = None
    """Factor, float64 [B]; the same for contrast and saturation."""
    contrast: "np.ndarray | None" = None
    saturation: "np.ndarray | None" = None
    hue: "np.ndarray | None" = None
    """Turns, float64 [B]."""
    greyscale: "np.ndarray | None" = None
    """bool [B]."""
    blur: "np.ndarray | None" = None
    """Standard deviation of a Gaussian as a share of the width, float64 [B]; 0: none."""

    def only(self, *transforms: str) -> "Draws":
        """The same draws with every other transform left out; names are those of `TRANSFORMS`."""
        return replace(self, **{field.name: None for field in fields(self) if field.name not in transforms})


def uniform(seed: int, numbers: "np.ndarray", stream: int) -> "NDArray[np.float64]":
    """Uniform in [0, 1), float64 [B], each a function of (seed, number, stream): SplitMix64 (Steele et al. 2014).

    A counter-based hash rather than a generator, because one generator per image costs more than the transform.
    """
    import numpy as np

    def mix(z: "NDArray[np.uint64]") -> "NDArray[np.uint64]":
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))

    step = np.uint64(0x9E3779B97F4A7C15)
    # Arrays throughout: the products are meant to wrap, and NumPy warns of that for scalars only.
    state = mix(np.array([seed % 2**64], dtype=np.uint64) + step)
    state = mix(state + step * np.array([stream + 1], dtype=np.uint64))
    bits = mix(state + step * (numbers.astype(np.uint64) + np.uint64(1))) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


def draw(settings: Augmentations, seed: int, numbers: "np.ndarray") -> Draws:
    """Parameters for the images numbered `numbers` (int64 [B], non-negative)."""
    import numpy as np

    def between(stream: int, low: float, high: float) -> "np.ndarray":
        return low + (high - low) * uniform(seed, numbers, stream)

    area = between(0, *settings.crop_scale)
    ratio = np.exp(between(1, *np.log(settings.crop_ratio)))
    width, height = np.minimum(np.sqrt(area * ratio), 1.0), np.minimum(np.sqrt(area / ratio), 1.0)
    left, top = between(2, 0, 1) * (1 - width), between(3, 0, 1) * (1 - height)
    jittered = uniform(seed, numbers, 5) < settings.jitter
    return Draws(
        crop=np.stack([left, top, width, height], axis=1),
        flip=uniform(seed, numbers, 4) < settings.flip,
        brightness=np.where(jittered, between(6, 1 - settings.brightness, 1 + settings.brightness), 1.0),
        contrast=np.where(jittered, between(7, 1 - settings.contrast, 1 + settings.contrast), 1.0),
        saturation=np.where(jittered, between(8, 1 - settings.saturation, 1 + settings.saturation), 1.0),
        hue=np.where(jittered, between(9, -settings.hue, settings.hue), 0.0),
        greyscale=uniform(seed, numbers, 10) < settings.greyscale,
        blur=np.where(uniform(seed, numbers, 11) < settings.blur, between(12, *settings.blur_sigma), 0.0),
    )


def apply(images: "Tensor", draws: Draws) -> "Tensor":
    """Transforms float32 [B, 3, H, W] in [0, 1]; shape, range and memory layout stay."""
    if draws.crop is not None or draws.flip is not None:
        images = cropped(images, draws.crop, draws.flip)
    # Each step is clamped, as it would be on stored pixels.
    if draws.brightness is not None:
        images = (images * _column(draws.brightness, images)).clamp_(0, 1)
    if draws.contrast is not None:
        mean = luma(images.mean((2, 3), keepdim=True))
        images = mean.lerp(images, _column(draws.contrast, images)).clamp_(0, 1)
    if draws.saturation is not None:
        images = luma(images).lerp(images, _column(draws.saturation, images)).clamp_(0, 1)
    if draws.hue is not None:
        images = hue_turned(images, draws.hue)
    if draws.greyscale is not None:
        images = luma(images).lerp(images, _column(~draws.greyscale, images))
    if draws.blur is not None and draws.blur.any():
        images = blurred(images, draws.blur)
    return images


def cropped(images: "Tensor", boxes: "np.ndarray | None", flips: "np.ndarray | None") -> "Tensor":
    """Cuts a box (left, top, width, height in fractions, [B, 4]) out of each image and enlarges it bilinearly to H x W.

    `flips` (bool [B]) mirrors the result left to right. Boxes lie inside the image, so nothing is padded at its edge.
    """
    import numpy as np
    import torch

    count, _, height, width = images.shape
    boxes = np.tile([0.0, 0.0, 1.0, 1.0], (count, 1)) if boxes is None else boxes
    flips = np.zeros(count, dtype=np.bool_) if flips is None else flips

    def coordinates(start: "np.ndarray", length: "np.ndarray", mirrored: "np.ndarray", pixels: int) -> "Tensor":
        """Where the pixels of the result lie in the image, along one axis: [B, pixels], -1 to 1 from edge to edge."""
        centres = (np.arange(pixels) + 0.5) / pixels
        centres = np.where(mirrored[:, None], 1 - centres, centres)
        found = 2 * (start[:, None] + length[:, None] * centres) - 1
        return sent(torch.as_tensor(found, dtype=images.dtype), images.device)

    across = coordinates(boxes[:, 0], boxes[:, 2], flips, width)[:, None, :].expand(-1, height, -1)
    down = coordinates(boxes[:, 1], boxes[:, 3], np.zeros_like(flips), height)[:, :, None].expand(-1, -1, width)
    return torch.nn.functional.grid_sample(
        images, torch.stack([across, down], 3), mode="bilinear", padding_mode="border", align_corners=False
    )


def luma(images: "Tensor") -> "Tensor":
    """Grey value of each pixel, [B, 3, H, W] -> [B, 1, H, W] (ITU-R BT.601)."""
    red, green, blue = images.unbind(1)
    return (0.299 * red + 0.587 * green + 0.114 * blue).unsqueeze(1)


def hue_turned(images: "Tensor", turns: "np.ndarray") -> "Tensor":
    """Adds `turns` [B] to the hue of every pixel of [B, 3, H, W] in [0, 1], value and saturation staying (HSV)."""
    import torch

    red, green, blue = images.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    # A grey pixel has no hue; its differences are 0, whatever they are divided by.
    scale = chroma.clamp_min(1e-12).reciprocal_()
    # Hue in sixths of a turn, counted from the brightest channel; `torch.where` and `torch.remainder` take ten times as
    # long as these products.
    sixths = (red - green) * scale + 4
    sixths = sixths.lerp((blue - red) * scale + 2, (value == green).to(images.dtype))
    sixths = sixths.lerp((green - blue) * scale, (value == red).to(images.dtype))
    sixths += 6 * _column(turns, images).squeeze(1)
    channels = []
    for offset in (5, 3, 1):
        position = sixths + offset
        position -= 6 * (position / 6).floor_()
        channels.append(value - chroma * torch.minimum(position, 4 - position).clamp_(0, 1))
    return torch.stack(channels, 1)


def blurred(images: "Tensor", sigmas: "np.ndarray") -> "Tensor":
    """Blurs each of [B, 3, H, W] by a Gaussian of its own. `sigmas` [B]: in shares of the width."""
    import torch

    count, _, height, width = images.shape
    radius = min(math.ceil(BLUR_REACH * float(sigmas.max()) * width), height - 1, width - 1)
    offsets = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    # Of no width a Gaussian is one pixel.
    pixels = (_column(sigmas, images).view(-1, 1) * width).clamp_min(1e-3)
    kernels = torch.softmax(-0.5 * (offsets / pixels) ** 2, dim=1).repeat_interleave(3, dim=0)[:, None]
    # Every channel of every image is a group of its own.
    flat = images.reshape(1, 3 * count, height, width)
    flat = torch.nn.functional.pad(flat, (radius, radius, radius, radius), mode="reflect")
    flat = torch.nn.functional.conv2d(flat, kernels[:, :, None, :], groups=3 * count)
    flat = torch.nn.functional.conv2d(flat, kernels[:, :, :, None], groups=3 * count)
    last = images.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    return flat.view(images.shape).contiguous(memory_format=layout)


def _column(values: "np.ndarray", images: "Tensor") -> "Tensor":
    import torch

    return sent(torch.as_tensor(values, dtype=images.dtype), images.device).view(-1, 1, 1, 1)
