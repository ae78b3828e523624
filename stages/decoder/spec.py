"""Settings of the decoder's network and training. Settings only: nothing heavy is imported."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from stages.contract import Added, Settings, Unkeyed

WITHOUT_SKETCH: Mapping[str, Any] = {"sigma_max": 80.0, "rho": 7.0}
"""How to sample where a study does not say and no sketch was trained: from noise that hides whole images."""


SKETCH_IMAGES, SKETCH_EPOCHS = 60_000, 12
"""Embeddings of each tap that the sketch is shown by default: at most so many, and each image so often."""


class NetworkSettings(Settings):
    """A U-Net on patches of pixels, and the sketch that it starts from."""

    patch: PositiveInt = 2
    """Side of the square of pixels that is one position of the finest level."""
    channels: tuple[PositiveInt, ...] = (64, 128, 256)
    """Width of each level; each halves the resolution of the one before."""
    blocks: tuple[PositiveInt, ...] = (1, 2, 1)
    """Residual blocks of each level, on the way down and again on the way up."""
    width: PositiveInt = 256
    """Length of the vector that carries noise level and condition into every block."""
    sketch: tuple[PositiveInt, ...] = (512, 1024)
    """Hidden widths of the sketch: the first is where the taps' projections meet."""

    @model_validator(mode="after")
    def _one_number_of_blocks_per_level(self) -> "NetworkSettings":
        if len(self.channels) != len(self.blocks) or not self.channels:
            raise ValueError(f"expected one number of blocks per level; found {self.blocks} for {self.channels}")
        return self

    @property
    def multiple(self) -> int:
        """The image's side must be a multiple of this."""
        return self.patch << (len(self.channels) - 1)

    def multiplications(self, size: int) -> int:
        """Multiply-adds of the convolutions for one image of `size` x `size` pixels; estimates use it."""
        area, positions = self.patch**2, (size // self.patch) ** 2
        total = positions * 9 * self.channels[0] * (6 * area + 2 + 3 * area)
        below = self.channels[0]
        for wide, count in zip(self.channels, self.blocks, strict=True):
            total += positions * 9 * ((below + wide) * wide + (4 * count - 2) * wide**2)
            positions, below = positions // 4, wide
        return total


class TrainingSettings(Settings):
    """Optimiser, noise levels and averaging."""

    batch: PositiveInt = 32
    """Images per step over all ranks."""
    optimiser: Annotated[Literal["muon", "adamw"], Added(when_absent="adamw")] = "muon"
    """Of the U-Net's convolutions but its first and its last; all other weights are AdamW's. Muon (Jordan et al. 2024)
    makes the update of each matrix orthogonal; updates are scaled as by Liu et al. 2025 (arXiv 2502.16982)."""
    learning_rate: PositiveFloat = 1.5e-3
    """At its highest, of the U-Net's convolutions but its first and its last. Both optimisers' updates are as long."""
    outer: Annotated[PositiveFloat, Added(when_absent=1.0)] = 2.0
    """How many times that rate everything else in the U-Net takes: pixels in and out, and how noise level and condition
    enter."""
    warm_up: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """Share of training in which the learning rate rises from 0; it falls to 0 over `cool_down`."""
    cool_down: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of training, its last part, in which the learning rate falls linearly to 0."""
    ema: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Length of the moving average of the weights, as a fraction of the images seen so far."""
    log_sigma_mean: float = -0.2
    """Mean of ln sigma of the noise levels in training."""
    log_sigma_std: PositiveFloat = 1.2
    """Noise levels in training: ln sigma ~ N(mean, std^2); pixels lie in [-1, 1]."""
    null: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of conditions replaced by the learned null."""
    sketch_images: NonNegativeInt | None = None
    """Embeddings shown to the sketch, by itself, before the diffusion model starts. None: for each tap 12 of every
    train image, at most 60 000. 0: it stays grey, and the diffusion model does everything."""
    sketch_batch: PositiveInt = 128
    """Embeddings per step of the sketch."""
    sketch_learning_rate: PositiveFloat = 4e-3
    """Peak learning rate of the sketch. Projections of embeddings of more than 256 numbers take less, by the root of
    256 / width."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the network's arithmetic, bfloat16 where the device is fast in it; weights, averages, losses and
    preconditioning are float32 always."""
    micro_batch: Annotated[PositiveInt | None, Unkeyed("gradients are summed: the same training up to rounding")] = None
    """Images of one pass through the network, where a rank's share of the batch does not fit its memory; None: all."""
    compile: Annotated[bool, Unkeyed("the same arithmetic, in fewer kernels")] = True
    """On GPUs, whether torch.compile makes kernels for the U-Net. On CPUs never: it takes minutes there, as long as
    a small training."""

    def sketched(self, taps: int, train_images: int | None = None) -> int:
        """Embeddings shown to the sketch of so many taps; at most, where the number of train images is not known."""
        if self.sketch_images is not None:
            return self.sketch_images
        most = SKETCH_IMAGES if train_images is None else SKETCH_EPOCHS * train_images
        return taps * min(SKETCH_IMAGES, most)
