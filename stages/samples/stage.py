"""The `samples` step: paints each condition `per_source` times."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from stages.contract import Added, Estimate, Inputs, Output, Part, Stage, Summary

if TYPE_CHECKING:
    from stages.samples.paint import PaintingState

PUBLISHED = "published"
"""The sampler of the authors of RCDM, which walks a decoder's own steps in place of noise levels."""


class Samples(Stage):
    """Paints each condition `per_source` times.

    Inputs: `conditions` (of a question's ask) and `decoder`. A part is `part_conditions` conditions: one Zarr shard.

    The noise of a sample is a function of (seed, row of the source, its number among the source's samples, step) and of
    nothing else, so samples of one source are matched across taps, edits and decoders.
    """

    name: ClassVar[str] = "samples"
    version: ClassVar[int] = 3
    bitwise: ClassVar[bool] = False
    gpu: ClassVar[bool] = True

    per_source: PositiveInt = 8
    """Samples of each condition."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the noise. A sample's noise depends on this, its source and its number only."""
    sampler: Literal["ancestral", "ddim", "dpm++2m", "euler", "heun", "published", "sde-dpm++2m"] = "sde-dpm++2m"
    """`sde-dpm++2m`, `ancestral` and `published` add new noise at each step, which mends what earlier steps got wrong;
    the others go from the noise of the start straight to one image. `published`: the steps and the learned variance of
    a decoder with an ADM U-Net, as its authors sampled; no other has them."""
    steps: Annotated[int, Field(ge=2)] = 20
    """Noise levels from `sigma_max` to `sigma_min`; Heun evaluates the decoder nearly twice for each. `published`: how
    many of the schedule's steps are taken, evenly spaced."""
    sigma_min: PositiveFloat = 0.1
    """Smallest noise level."""
    sigma_max: PositiveFloat = 20.0
    """Pixels lie in [-1, 1]. Above the default noise hides nearly all that a sketch leaves to be painted."""
    rho: Annotated[PositiveFloat, Added(7.0)] = 3.0
    """Noise levels are evenly spaced in sigma^(1/rho): the larger, the more of them are small."""
    snapshot: Literal["final", "halfway"] = "final"
    """Which weights paint: those at the end of training, or those at half of it."""
    part_conditions: PositiveInt = 64
    """Conditions of a part; their samples are one Zarr shard."""

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Rough cost: that of the decoder's evaluations, and three bytes a pixel."""
        rows = upstream["conditions"].rows * self.per_source
        evaluations = self.steps * 2 - 1 if self.sampler == "heun" else self.steps
        decoder = upstream["decoder"]
        seconds = 3 + rows * evaluations * (decoder.image_seconds or 0.0)
        size_bytes = rows * 3 * (decoder.size or 0) ** 2
        return Estimate(rows=rows, size_bytes=size_bytes, cpu_seconds=seconds, precision=decoder.precision)

    def split(self, inputs: Inputs) -> list[Part]:
        """One part per `part_conditions` conditions."""
        from stages.samples.format import read_conditions

        count = read_conditions(inputs["conditions"]).num_rows
        return [Part(index=part) for part in range(-(-count // self.part_conditions))]

    def setup(self, inputs: Inputs, device: str) -> "PaintingState":
        """Loads the decoder and the conditions."""
        from stages.samples.paint import PaintingState

        return PaintingState.load(self, inputs, device)

    def work(self, part: Part, state: "PaintingState", inputs: Inputs, out: Output) -> Summary:
        """Paints one part and writes its shard."""
        from stages.samples.paint import paint_part

        return paint_part(self, part.index, state, out)

    def merge(self, summaries: Sequence[Summary], inputs: Inputs, out: Output) -> Summary:
        """Writes `samples.parquet`, and last the root of the pixels' group."""
        from stages.samples.paint import merge

        return merge(self, summaries, inputs, out)
