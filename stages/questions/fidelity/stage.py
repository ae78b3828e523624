"""Fidelity: do samples look like images of the dataset, to an encoder that is not under study?"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field, PositiveInt

from stages.contract import Estimate, Inputs, Output, Part, Summary
from stages.questions.asks.stage import SOURCES, painted_rows
from stages.questions.question import Question


class Fidelity(Question):
    """Answers from samples of the `sources` ask, embedded by `reference`.

    Inputs: `shards`, `conditions` and `samples` for each tap group, `reference.<encoder>`: the embeddings of all images
    by the reference encoder, and `encoder.<encoder>` where it is a step. Writes `results.parquet`: kernel distance
    (KID), precision and recall of the samples of every tap against held-out images that are no sources, beside those of
    the sources themselves. All images are seen at the decoder's resolution.
    """

    name: ClassVar[str] = "fidelity"
    version: ClassVar[int] = 2
    bitwise: ClassVar[bool] = False
    """Networks and matrix products round differently with other numbers of threads."""

    gpu: ClassVar[bool] = True

    ask = SOURCES

    reference: Annotated[str, Field(pattern=r"^[^:]+:[^:]+$")]
    """Tap of an encoder that is not under study, as `encoder:tap`. It should be no relative of those under study: an
    encoder's own samples always look right to itself."""
    count: Annotated[int, Field(ge=100)] = 2_000
    """Held-out images that are no sources, drawn at random; all of them where there are fewer."""
    neighbours: PositiveInt = 3
    """An image is covered where it is nearer to another than that one's neighbour of this rank."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the choice among held-out images, and of the bootstrap."""

    def reference_taps(self) -> tuple[str, ...]:
        """See `Question`."""
        return (self.reference,)

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Embedding samples and images, then all distances between them."""
        painted = painted_rows(upstream)
        return Estimate(rows=60, size_bytes=10_000, cpu_seconds=5 + 4e-3 * (painted + self.count))

    def setup(self, inputs: Inputs, device: str) -> str:
        """The device, on which the reference encoder runs."""
        return device

    def work(self, part: Part, state: str, inputs: Inputs, out: Output) -> Summary:
        """Embeds the samples and compares them with images."""
        from stages.questions.fidelity.answer import answer

        return answer(self, inputs, out, state)
