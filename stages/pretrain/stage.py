"""The `pretrain` step: trains an encoder on the train images of a dataset, without looking at a label."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from stages.contract import Context, Estimate, Gang, Inputs, Output, Summary, Unkeyed
from stages.encoders.augment import Augmentations
from stages.encoders.spec import Architecture, Preprocessing


class Pretrain(Gang):
    """SimCLR (Chen et al. 2020, arXiv 2002.05709) on a small ResNet; input `shards`.

    Writes `encoder.safetensors` and `encoder.json` (see `stages.encoders.format`). One rank, because the loss and
    BatchNorm are over the whole batch.
    """

    name: ClassVar[str] = "pretrain"
    version: ClassVar[int] = 1
    bitwise: ClassVar[bool] = False
    max_ranks: ClassVar[int | None] = 1

    method: Literal["simclr"] = "simclr"
    architecture: Architecture = Architecture()
    preprocessing: Preprocessing = Preprocessing()
    augmentations: Augmentations = Augmentations()
    seed: Annotated[int, Field(ge=0)] = 0
    num_images: PositiveInt = 240_000
    """Length of the training, in images; each is shown in two augmented views."""
    batch: Annotated[int, Field(ge=2)] = 256
    """Images per step; the other images of the batch are the negatives."""
    learning_rate: PositiveFloat = 2e-3
    """Peak of the cosine schedule, reached after the first 5 % of the steps."""
    weight_decay: NonNegativeFloat = 1e-4
    temperature: PositiveFloat = 0.5
    """Of the loss; 0.5 is what the paper found best for small images (appendix B.9)."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the forward pass in training; weights, BatchNorm statistics, loss and all later use are float32."""
    checkpoint_images: Annotated[PositiveInt, Unkeyed("resuming gives the same training")] = 65_536
    """Images between two checkpoints."""

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Rough cost: seconds measured at the default architecture and size, in proportion to the multiplications."""
        size, default = self.preprocessing.size, Architecture()
        scale = self.architecture.multiplications(size) / default.multiplications(32)
        seconds = self.num_images * 1.1e-3 + upstream["shards"].rows * 5e-4
        return Estimate(rows=1, size_bytes=round(5.5e6 * scale), cpu_seconds=10 + seconds * scale)

    def train(self, context: Context, inputs: Inputs, out: Output) -> Summary:
        """Trains, scores and writes the encoder; the summary holds the scores."""
        from stages.pretrain.simclr import run

        return run(self, context, inputs, out)
