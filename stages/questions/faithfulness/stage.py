"""Faithfulness: does the encoder embed the samples where it embeds their source?"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from stages.contract import Estimate, Inputs, Output, Part, Summary
from stages.questions.asks.stage import SOURCES, painted_rows
from stages.questions.question import SAMPLE_EMBEDDINGS, Question


class Faithfulness(Question):
    """Answers from the embedded samples of the `sources` ask.

    Inputs: `shards`, `embeddings.<encoder>`, `conditions`, `samples` and `sample_embeddings.<encoder>`, the last three
    again for each further tap group, as `samples.1`. Taps whose samples were not embedded (they do not read pixels) are
    left out. Writes `results.parquet`: rank of the source among all held-out images, for the samples and for controls;
    and distances, in units of two random images. Where the encoder sees larger images than the decoder paints, the same
    among images at the decoder's resolution, and how the source itself does at that resolution. Writes
    `ranks.parquet`: every single rank.
    """

    name: ClassVar[str] = "faithfulness"
    version: ClassVar[int] = 2
    bitwise: ClassVar[bool] = False
    """Networks and matrix products round differently with other numbers of threads."""

    ask = SOURCES
    reads = frozenset({SAMPLE_EMBEDDINGS})

    seed: Annotated[int, Field(ge=0)] = 0
    """Of the bootstrap, the shuffled control and the random images."""

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Distances of samples to the gallery."""
        return Estimate(rows=100, size_bytes=30_000, cpu_seconds=1 + painted_rows(upstream) * 5e-4)

    def work(self, part: Part, state: None, inputs: Inputs, out: Output) -> Summary:
        """Ranks and distances."""
        from stages.questions.faithfulness.answer import answer

        return answer(self, inputs, out)
