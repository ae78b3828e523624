"""Versus: what does one encoder know that another does not?"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field, PositiveInt

from stages.contract import Estimate, Inputs, Output, Part, Summary
from stages.questions.asks.stage import EMBEDDINGS, SOURCES, painted_rows
from stages.questions.question import READERS, SAMPLE_EMBEDDINGS, SEEDS, Question

TapId = Annotated[str, Field(pattern=r"^[^:]+:[^:]+$")]


class Versus(Question):
    """Answers from samples of the `sources` ask, embedded by the other encoder, and from stored embeddings.

    Inputs: `shards`, `readers`, `embeddings.<encoder>`, `conditions`, `samples`, `sample_embeddings.<encoder>` and,
    with `decoder_seeds`, `seed_samples.1` …; from `conditions` on again for each further tap group, as `samples.1`.
    Writes `results.parquet` and figures. For every pair of taps: the paired difference of kept and of a linear probe by
    attribute; how well neighbours at one tap predict those at the other; and whether samples of one tap, which are
    alike there, are separated at the other.
    """

    name: ClassVar[str] = "versus"
    version: ClassVar[int] = 2
    bitwise: ClassVar[bool] = False
    """Networks and matrix products round differently with other numbers of threads."""

    gpu: ClassVar[bool] = True

    ask = SOURCES
    reads: ClassVar[frozenset[str]] = frozenset({READERS, SAMPLE_EMBEDDINGS, SEEDS})

    pairs: tuple[tuple[TapId, TapId], ...] = ()
    """Taps to compare, as `[["a:backbone", "b:backbone"]]`, each among the decoder's. Empty: each two networks under
    study, at the first tap that both have; the first six pairs."""
    train: PositiveInt = 2_000
    """Train images that the linear probe is fitted to, at most."""
    images: Annotated[int, Field(ge=20)] = 4_000
    """Held-out images whose neighbours are compared, drawn at random; all of them where there are fewer."""
    shown: PositiveInt = 8
    """Rows of each figure, at most: the clearest ones."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the choice of images, of the shuffled controls and of the bootstrap."""

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Reading the samples once; for each pair all distances of the images, twice, and its linear probes.

        8 192 images of 1 024 features in both spaces took 5 s.
        """
        tables = sum(name.startswith(EMBEDDINGS) for name in upstream)
        pairs = len(self.pairs) or min(6, tables * (tables - 1) // 2)
        images = min(self.images, max(1, upstream["shards"].rows // 10)) if "shards" in upstream else self.images
        seconds = 5 + painted_rows(upstream) * 2e-3 + pairs * (3 + 10 * (images / 8192) ** 2)
        return Estimate(rows=60 * pairs, size_bytes=1_000_000 * pairs, cpu_seconds=seconds)

    def setup(self, inputs: Inputs, device: str) -> str:
        """The device, on which samples are read."""
        return device

    def work(self, part: Part, state: str, inputs: Inputs, out: Output) -> Summary:
        """Reads the samples, compares every pair and draws the figures."""
        from stages.questions.versus.answer import answer

        return answer(self, inputs, out, state)
