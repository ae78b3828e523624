"""The `rcdm` step: trains a decoder as the published RCDM was trained, on one tap."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from stages.contract import Context, Estimate, Gang, Inputs, Output, Summary, Unkeyed
from stages.decoder.rcdm.spec import AdmSettings, AdmTraining


class Rcdm(Gang):
    """Inputs: `shards`, and `embeddings.<encoder>` of the tap's encoder.

    Writes `decoder-00.safetensors` …, `halfway-00.safetensors` … and `decoder.json` (`stages.decoder.rcdm.format`). Any
    number of ranks trains the same decoder. It is the reference for the `decoder` step, which is the better recipe.
    """

    name: ClassVar[str] = "rcdm"
    version: ClassVar[int] = 1
    bitwise: ClassVar[bool] = False

    architecture: Literal["adm"] = "adm"
    """What a study writes to have this training."""
    taps: Annotated[tuple[Annotated[str, Field(pattern=r"^[^:]+:[^:]+$")]], Field(min_length=1)]
    """The one tap whose embeddings are its condition, as `encoder:tap`; they enter as they are."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the initial weights, the order of the images, the noise and the steps."""
    num_images: PositiveInt = 76_800_000
    """Length of the training, in images shown: 300 000 steps."""
    network: AdmSettings = AdmSettings()
    schedule: Literal["linear", "cosine"] = "linear"
    """How noise grows over the steps: linear (Ho et al. 2020) or cosine (Nichol and Dhariwal 2021)."""
    steps: Annotated[PositiveInt, Field(ge=2)] = 1000
    """Steps of the schedule; training draws them uniformly."""
    training: AdmTraining = AdmTraining()
    checkpoint_images: Annotated[PositiveInt, Unkeyed("resuming gives the same training")] = 262_144
    """Images between two checkpoints."""

    @property
    def size(self) -> int:
        """Side of the painted images, pixels."""
        return self.network.image_size

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Rough cost by the arithmetic: the way back through the network takes as long as two ways there."""
        forward = self.network.image_seconds(self.training.precision)
        return Estimate(
            rows=1,
            size_bytes=8 * self.network.cost()[0],
            cpu_seconds=10 + 3 * self.num_images * forward,
            image_seconds=forward,
            size=self.size,
            precision=self.training.precision,
        )

    def train(self, context: Context, inputs: Inputs, out: Output) -> Summary:
        """Trains and writes the decoder; the summary holds the losses at the end."""
        from stages.decoder.rcdm.train import run

        return run(self, context, inputs, out)
