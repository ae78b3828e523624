"""Settings of the ADM U-Net and of its training, by the names and values of the published RCDM. Settings only."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from stages.contract import Unkeyed

GROUPS = 32
"""Groups of every normalisation: all widths are multiples of it."""


SAMPLING: Mapping[str, Any] = {
    "sampler": "dpm++2m",
    "steps": 30,
    "sigma_min": 0.02,
    "sigma_max": 157.0,
    "rho": 7.0,
}
"""How to sample where a study does not say: over the noise levels of the published schedule, whose last is 157."""


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
    num_head_channels: Literal[-1] | PositiveInt = -1
    """Width of each head; -1: as `num_heads` says."""
    use_scale_shift_norm: bool = True
    """Whether the vector scales and shifts after a normalisation; else it is added before it."""
    resblock_updown: bool = True
    """Whether residual blocks change the side; else a strided convolution, and nearest neighbours and a convolution."""
    use_new_attention_order: bool = False
    """Whether the joint projection of a self-attention stands as query, key, value of all heads; else head by head."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> "AdmSettings":
        if self.image_size % self.multiple:
            raise ValueError(f"expected image_size to be a multiple of {self.multiple}; found {self.image_size}")
        if self.model_channels % GROUPS:
            raise ValueError(f"expected model_channels to be a multiple of {GROUPS}; found {self.model_channels}")
        for level, times in enumerate(self.channel_mult):
            if self.image_size >> level in self.attention_resolutions:
                self.heads(times * self.model_channels)
        # The middle has self-attention whatever the resolutions say.
        self.heads(self.channel_mult[-1] * self.model_channels)
        return self

    @property
    def multiple(self) -> int:
        """The image's side must be a multiple of this."""
        return 1 << (len(self.channel_mult) - 1)

    def cost(self) -> tuple[int, int]:
        """Number of weights, and multiply-adds for one image, roughly: within a tenth for the published network."""
        weights = multiplications = 0
        below = self.model_channels
        blocks = self.num_res_blocks
        for level, times in enumerate(self.channel_mult):
            wide, side = times * self.model_channels, self.image_size >> level
            # On the way down, on the way up beside as wide a skip, and where the side changes.
            here = 9 * wide * (below + wide + 2 * (blocks - 1) * wide) + (blocks + 1) * 29 * wide**2
            here += 36 * wide**2 if level + 1 < len(self.channel_mult) else 36 * wide**2 + 4 * wide**2
            if side in self.attention_resolutions:
                here += (2 * blocks + 1) * 4 * wide**2
            weights += here + (2 * blocks + 3) * 8 * self.model_channels * wide
            multiplications += here * side**2
            below = wide
        return weights, multiplications

    def image_seconds(self, precision: Literal["bfloat16", "float32"]) -> float:
        """Seconds of one CPU for one image to pass through the network, by the arithmetic; for estimates."""
        operations_per_second = 4e11 if precision == "bfloat16" else 1.4e11
        return 2 * self.cost()[1] / operations_per_second

    def heads(self, channels: int) -> int:
        """Heads of a self-attention over `channels`; ValueError where they do not divide it."""
        width = self.num_head_channels if self.num_head_channels > 0 else max(1, channels // self.num_heads)
        if channels % width or (self.num_head_channels <= 0 and channels % self.num_heads):
            raise ValueError(f"expected heads that divide {channels} channels; found {self.num_heads}, width {width}")
        return channels // width


class AdmTraining(BaseModel):
    """The training of the published RCDM: AdamW at one learning rate without decay, and no condition is dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: PositiveInt = 256
    """Images per step over all ranks."""
    learning_rate: PositiveFloat = 1e-4
    """Of AdamW, constant."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] = 0.9999
    """What is left of the moving average of the weights after each step."""
    precision: Literal["bfloat16", "float32"] = "float32"
    """Of the network's arithmetic, bfloat16 where the device is fast in it; weights, averages and losses are float32
    always."""
    micro_batch: Annotated[PositiveInt | None, Unkeyed("gradients are summed: the same training up to rounding")] = 16
    """Images of one pass through the network, each of which takes some 0.7 GB at 128 px in float32; None: all."""
    compile: Annotated[bool, Unkeyed("the same arithmetic, in fewer kernels")] = True
    """On GPUs, whether torch.compile makes kernels for the U-Net's norms. On CPUs never."""
