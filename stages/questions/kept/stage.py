"""Kept: what of each attribute the samples of an embedding still show, per tap; and the verdict on it."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field, PositiveInt

from stages.contract import Added, Estimate, Inputs, Output, Part, Summary
from stages.questions.asks.stage import SOURCES, painted_rows
from stages.questions.question import HALFWAY, PROBES, READERS, SAMPLE_EMBEDDINGS, SEEDS, Question


class Kept(Question):
    """Answers from samples of the `sources` ask.

    Inputs: `shards`, `readers`, `embeddings.<encoder>`, `conditions`, `samples`, and where they are there `probes`,
    `sample_embeddings.<encoder>` (twins, faithfulness) and `halfway_samples` (the same conditions painted by the
    decoder at half of its training). From `conditions` on they come again for each further tap group, as `samples.1`.
    Where a study names `decoder_seeds`, `seed_samples.1` … are the same conditions painted by those decoders; kept and
    comparisons of it are then means over all of them. For each encoder of `references` also its embeddings of all
    images, `reference.<encoder>`, and `encoder.<encoder>` where it is a step.
    Writes `results.parquet` and figures: twins, grids and maps per tap.
    """

    name: ClassVar[str] = "kept"
    version: ClassVar[int] = 5
    bitwise: ClassVar[bool] = False
    """Networks and matrix products round differently with other numbers of threads."""

    gpu: ClassVar[bool] = True

    ask = SOURCES
    reads = frozenset({SAMPLE_EMBEDDINGS, HALFWAY, SEEDS, READERS, PROBES})
    by_default = True

    shown: PositiveInt = 8
    """Sources in each figure, drawn by a seed so that the classes take turns."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the bootstrap and of the shuffled control."""
    references: Annotated[tuple[Annotated[str, Field(pattern=r"^[^:]+:[^:]+$")], ...], Added(when_absent=())] = ()
    """Taps of encoders that are not under study, as `encoder:tap`. How such an encoder reads images is an attribute
    too: the nearest class of each class attribute, and the first principal directions of its embeddings."""

    def reference_taps(self) -> tuple[str, ...]:
        """See `Question`."""
        return self.references

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Reading the samples is most of it."""
        return Estimate(rows=500, size_bytes=1_000_000, cpu_seconds=5 + painted_rows(upstream) * 2e-3)

    def setup(self, inputs: Inputs, device: str) -> str:
        """The device, on which samples are read."""
        return device

    def work(self, part: Part, state: str, inputs: Inputs, out: Output) -> Summary:
        """Reads the samples, scores them and draws the figures."""
        from stages.questions.kept.answer import answer

        return answer(self, inputs, out, state)
