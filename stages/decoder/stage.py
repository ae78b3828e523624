"""The `decoder` step: trains one diffusion model that paints images from the embeddings of a group of taps."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field, PositiveInt

from stages.contract import Context, Estimate, Gang, Inputs, Output, Summary, Unkeyed
from stages.decoder.spec import NetworkSettings, TrainingSettings


class Decoder(Gang):
    """Inputs: `shards`, and `embeddings.<encoder>` for every encoder among the taps.

    Writes `decoder.safetensors`, `halfway.safetensors` and `decoder.json` (see `stages.decoder.format`). Any number of
    ranks trains the same decoder.
    """

    name: ClassVar[str] = "decoder"
    version: ClassVar[int] = 4
    bitwise: ClassVar[bool] = False

    taps: Annotated[tuple[Annotated[str, Field(pattern=r"^[^:]+:[^:]+$")], ...], Field(min_length=1)]
    """The tap group, each as `encoder:tap`."""
    size: PositiveInt = 32
    """Side of the painted images, pixels; images are cut to a square and resized."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the initial weights, the order of the images, the noise and the noise levels."""
    num_images: PositiveInt = 105_000
    """Length of the training, in images shown to the diffusion model; the sketch has a budget of its own."""
    network: NetworkSettings = NetworkSettings()
    training: TrainingSettings = TrainingSettings()
    checkpoint_images: Annotated[PositiveInt, Unkeyed("resuming gives the same training")] = 32_768
    """Images between two checkpoints."""

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Rough cost, from that of the default network at 32 px."""
        pixels = (self.size / 32) ** 2
        work = self.network.multiplications(self.size) / NetworkSettings().multiplications(32)
        seconds = 10 + work * self.num_images * 3.9e-3 + pixels * self.training.sketched(len(self.taps)) * 1.2e-4
        return Estimate(
            rows=1,
            size_bytes=int(40_000_000 * pixels),
            cpu_seconds=seconds,
            image_seconds=work * 1.2e-3,
            size=self.size,
            precision=self.training.precision,
        )

    def train(self, context: Context, inputs: Inputs, out: Output) -> Summary:
        """Trains and writes the decoder; the summary holds the losses at the end."""
        from stages.decoder.run import run

        return run(self, context, inputs, out)
