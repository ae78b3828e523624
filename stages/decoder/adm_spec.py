"""Settings of the ADM U-Net, by the names that its published checkpoints were trained with. Settings only."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

GROUPS = 32
"""Groups of every normalisation: all widths are multiples of it."""


class AdmSettings(BaseModel):
    """An ADM U-Net (Dhariwal & Nichol 2021, arXiv 2105.05233). The width of its condition, an embedding, is no setting.

    The defaults are the published RCDM of 128 px. No field but the sizes shows in the shapes of the weights: a wrong
    number of heads loads and paints nonsense.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: PositiveInt = 128
    """Side of the images, pixels."""
    model_channels: PositiveInt = 256
    """Width of the finest level; noise level and condition travel as a vector of four times that."""
    num_res_blocks: PositiveInt = 2
    """Residual blocks of each level on the way down; one more on the way up."""
    attention_resolutions: tuple[PositiveInt, ...] = (32, 16, 8)
    """Sides of the levels that have self-attention, pixels."""
    channel_mult: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 1, 2, 3, 4)
    """Width of each level in units of `model_channels`; each level halves the side of the one before."""
    num_heads: PositiveInt = 4
    """Heads of each self-attention, where `num_head_channels` is -1."""
    num_head_channels: int = -1
    """Width of each head; -1: as `num_heads` says."""
    use_scale_shift_norm: bool = True
    """Whether the vector scales and shifts after a normalisation; else it is added before it."""
    resblock_updown: bool = True
    """Whether residual blocks change the side; else a strided convolution, and nearest neighbours and a convolution."""
    use_new_attention_order: bool = False
    """Whether the joint projection of a self-attention stands as query, key, value of all heads; else head by head."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> "AdmSettings":
        smallest = 1 << (len(self.channel_mult) - 1)
        if self.image_size % smallest:
            raise ValueError(f"expected image_size to be a multiple of {smallest}; found {self.image_size}")
        if self.model_channels % GROUPS:
            raise ValueError(f"expected model_channels to be a multiple of {GROUPS}; found {self.model_channels}")
        for level, times in enumerate(self.channel_mult):
            if self.image_size >> level in self.attention_resolutions:
                self.heads(times * self.model_channels)
        return self

    def heads(self, channels: int) -> int:
        """Heads of a self-attention over `channels`; ValueError where they do not divide it."""
        width = self.num_head_channels if self.num_head_channels > 0 else max(1, channels // self.num_heads)
        if channels % width or (self.num_head_channels <= 0 and channels % self.num_heads):
            raise ValueError(f"expected heads that divide {channels} channels; found {self.num_heads}, width {width}")
        return channels // width
