"""Layers: with depth, does a network keep more of an attribute, or less?"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field, PositiveInt

from stages.contract import Estimate, Inputs, Output, Part, Summary
from stages.questions.asks.stage import INVARIANCE, SOURCES, reading_seconds
from stages.questions.question import ENCODERS, READERS, Ask, Question


class Layers(Question):
    """Answers from samples of the `sources` ask and from stored embeddings, for encoders of three or more taps.

    Inputs: `shards`, `readers`, `embeddings.<encoder>`, `encoder.<encoder>` of those that are steps of their own,
    `conditions` and `samples`, the last two again for each further tap group, as `samples.1`. Where the study asks
    *invariance*, also what that has asked, `asked.invariance`. Writes `results.parquet`: kept and what a linear probe
    reads at each tap, of every attribute of the dataset, r where that is known, and the trend of each over depth.
    """

    name: ClassVar[str] = "layers"
    version: ClassVar[int] = 2
    bitwise: ClassVar[bool] = False
    """Networks and matrix products round differently with other numbers of threads."""

    gpu: ClassVar[bool] = True

    ask = SOURCES
    reads: ClassVar[frozenset[str]] = frozenset({READERS, ENCODERS})
    reads_asks: ClassVar[tuple[Ask, ...]] = (INVARIANCE,)

    order: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """By encoder its taps from the first to the last, where their order is another than this: submodules as the study
    lists them, then `backbone`, then the layers of the projector."""
    train: PositiveInt = 5_000
    """Train images that the linear probe is fitted to, at most."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the choice among train images, of the shuffled control and of the bootstrap."""

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Reading the samples, and a linear map from each tap."""
        return Estimate(rows=200, size_bytes=20_000, cpu_seconds=reading_seconds(upstream))

    def setup(self, inputs: Inputs, device: str) -> str:
        """The device, on which samples are read."""
        return device

    def work(self, part: Part, state: str, inputs: Inputs, out: Output) -> Summary:
        """Reads the samples, fits the probes and the trends."""
        from stages.questions.layers.answer import answer

        return answer(self, inputs, out, state)
