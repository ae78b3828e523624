"""Invariance: how far does a transform of the image move its embedding, and what do samples of the moved one show?"""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

from pydantic import Field, PositiveInt

from stages.contract import Estimate, Inputs, Output, Part, Stage, Summary

VARIANTS = 35
"""Transforms x strengths, for estimates."""


class Transformed(Stage):
    """The ask: held-out images, transformed and embedded.

    Inputs: `shards`, `embeddings.<encoder>` for the encoders of `taps`, `encoder.<encoder>` for the pretrained ones.
    Conditions are the embeddings of a few sources, as they are and under each transform at its middle strength; beside
    them `moved/<encoder>/<tap>.safetensors` holds the embeddings of all sources under every transform.
    """

    name: ClassVar[str] = "transformed"
    version: ClassVar[int] = 1
    bitwise: ClassVar[bool] = False
    gpu: ClassVar[bool] = True

    taps: tuple[str, ...] = ()
    """What is asked about, as `encoder:tap`; a study fills in the taps of its decoder. Those that do not read pixels
    are left out."""
    count: PositiveInt = 256
    """Source images, drawn from the held-out ones."""
    paint: PositiveInt = 4
    """Sources that are also painted."""
    draws: PositiveInt = 4
    """Draws from the encoder's own training augmentations for each source."""
    seed: Annotated[int, Field(ge=0)] = 0

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Embedding, by small encoders or as their steps have it; 13 conditions of each painted source and tap."""
        rows = len(self.taps) * self.paint * 13
        size = len(self.taps) * self.count * VARIANTS * 1000
        seconds = max(len(self.taps) * 1e-4, sum(estimate.image_seconds or 0 for estimate in upstream.values()))
        return Estimate(rows=rows, size_bytes=size, cpu_seconds=5 + self.count * VARIANTS * seconds)

    def setup(self, inputs: Inputs, device: str) -> str:
        """The device, on which encoders are loaded."""
        return device

    def work(self, part: Part, state: str, inputs: Inputs, out: Output) -> Summary:
        """Transforms, embeds and writes."""
        from stages.questions.asking import ask_transformed

        return ask_transformed(self, inputs, out, state)

    def merge(self, summaries: Sequence[Summary], inputs: Inputs, out: Output) -> Summary:
        """The summary of the one part."""
        return dict(summaries[0])


class Invariance(Stage):
    """Answers from the embeddings of transformed images and from samples of some of them.

    Inputs: `shards`, `embeddings.<encoder>`, `conditions` (of `transformed`) and `samples`, the last two again for each
    further tap group, as `samples.1`. Writes `results.parquet`: r of every transform and strength, of the encoder's own
    augmentations (`own`), of references, and paired differences between the ends of an encoder; and grids of the
    transformed images and the samples of their embeddings.
    """

    name: ClassVar[str] = "invariance"
    version: ClassVar[int] = 1
    bitwise: ClassVar[bool] = False
    """Networks and matrix products round differently with other numbers of threads."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Of the bootstrap."""

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Distances and their bootstrap."""
        return Estimate(rows=400, size_bytes=500_000, cpu_seconds=4)

    def work(self, part: Part, state: None, inputs: Inputs, out: Output) -> Summary:
        """Distances, ratios and grids."""
        from stages.questions.invariance_answer import answer

        return answer(self, inputs, out)

    def merge(self, summaries: Sequence[Summary], inputs: Inputs, out: Output) -> Summary:
        """The summary of the one part."""
        return dict(summaries[0])
