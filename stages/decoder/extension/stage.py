"""The `extension` step: teaches a finished decoder further taps, without touching what it has learned."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, ClassVar

from pydantic import Field, PositiveFloat, PositiveInt

from stages.contract import Context, Estimate, Gang, Inputs, Output, Summary, Unkeyed

SHARE, SKETCH_SHARE = 0.02, 0.6
"""The defaults: what each new tap is shown, as a share of what the decoder and its sketch were shown.

The sketch has the larger one because it costs next to nothing, and because what is won is won there: a U-Net that knows
its job starts where a few hundred images lead it."""


class Extension(Gang):
    """Inputs: `decoder`, `shards`, and `embeddings.<encoder>` for the encoders of new taps and of the decoder's own.

    Trains how the new taps enter the decoder's sketch and its U-Net; all other weights stay as they are, so the decoder
    goes on painting its own taps as before. Writes the files of a decoder of the new taps (`stages.decoder.format`),
    whose card says what it extends. Any number of ranks trains the same extension.
    """

    name: ClassVar[str] = "extension"
    version: ClassVar[int] = 4
    bitwise: ClassVar[bool] = False

    taps: Annotated[tuple[Annotated[str, Field(pattern=r"^[^:]+:[^:]+$")], ...], Field(min_length=1)]
    """The new taps, each as `encoder:tap`."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the order of the images, the noise and the noise levels."""
    num_images: PositiveInt | None = None
    """Length of the training, in images shown to the diffusion model. None: for each new tap 0.02 of the decoder's."""
    sketch_images: PositiveInt | None = None
    """Embeddings shown to the sketch before that. None: for each new tap 0.6 of what the decoder's sketch was shown."""
    learning_rate: PositiveFloat = 3e-4
    """Of the new taps' projections at the U-Net. It is low: from a good start, a high rate loses more in few steps than
    it wins."""
    sketch_learning_rate: PositiveFloat = 3e-3
    """Of the new taps' projections at the sketch."""
    checkpoint_images: Annotated[PositiveInt, Unkeyed("resuming gives the same training")] = 32_768
    """Images between two checkpoints."""
    micro_batch: Annotated[PositiveInt | None, Unkeyed("gradients are summed: the same training up to rounding")] = None
    """Images of one pass through the network, where a rank's share of the batch does not fit its memory; None: all."""
    compile: Annotated[bool, Unkeyed("the same arithmetic, in fewer kernels")] = True
    """On GPUs, whether torch.compile makes kernels for the U-Net. On CPUs never."""

    def lengths(self, num_images: int, sketch_images: int) -> tuple[int, int]:
        """Images and embeddings shown, given those that the decoder was shown."""
        more = len(self.taps)
        return (
            self.num_images or max(1, round(SHARE * more * num_images)),
            self.sketch_images or max(1, round(SKETCH_SHARE * more * sketch_images)),
        )

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Rough cost: by the lengths where they are given, else in proportion to the decoder's."""
        decoder = upstream["decoder"]
        whole = len(self.taps) * decoder.cpu_seconds
        painter = 0.013 * whole if self.num_images is None else self.num_images * 2.9e-3
        sketch = 0.055 * whole if self.sketch_images is None else self.sketch_images * 1.1e-4
        return replace(decoder, cpu_seconds=10 + painter + sketch)

    def train(self, context: Context, inputs: Inputs, out: Output) -> Summary:
        """Trains and writes the extension; the summary holds the losses at the end."""
        from stages.decoder.extension.train import run

        return run(self, context, inputs, out)
