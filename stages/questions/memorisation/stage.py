"""Memorisation: does the decoder paint what a vector says, or train images that it remembers?"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field, PositiveInt

from stages.contract import Estimate, Inputs, Output, Part, Summary
from stages.questions.asks.stage import SOURCES, painted_rows
from stages.questions.question import Question


class Memorisation(Question):
    """Answers from samples of the `sources` ask and from the pixels of train and held-out images.

    Inputs: `shards`, `conditions` and `samples`, the last two again for each further tap group, as `samples.1`. Writes
    `results.parquet` and figures: at each tap the distance of samples to the nearest train image over that to the
    nearest held-out image, among equally many; the same of the sources themselves is the control.
    """

    name: ClassVar[str] = "memorisation"
    version: ClassVar[int] = 2
    bitwise: ClassVar[bool] = False
    """Matrix products round differently with other numbers of threads."""

    ask = SOURCES

    images: Annotated[int, Field(ge=20)] = 5_000
    """Train images that are searched, and held-out images, at most: as many of each as the smaller split has."""
    shown: PositiveInt = 8
    """Rows of each figure, at most: the samples that are nearest to a train image."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the choice of images and of the bootstrap."""

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Decoding both sets, and the distances of all samples to them and to their mirror images."""
        samples = painted_rows(upstream)
        images = min(self.images, max(1, upstream["shards"].rows // 10)) if "shards" in upstream else self.images
        seconds = 3 + 4e-4 * images + 4 * samples * images * 2e-7
        return Estimate(rows=100, size_bytes=500_000, cpu_seconds=seconds)

    def work(self, part: Part, state: None, inputs: Inputs, out: Output) -> Summary:
        """Searches both sets and draws the figures."""
        from stages.questions.memorisation.answer import answer

        return answer(self, inputs, out)
