"""Invariance: how far does a transform of the image move its embedding, and what do samples of the moved one show?"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from stages.contract import Estimate, Inputs, Output, Part, Summary
from stages.questions.asks.stage import INVARIANCE
from stages.questions.question import Question


class Invariance(Question):
    """Answers from the embeddings of transformed images and from samples of some of them.

    Inputs: `shards`, `embeddings.<encoder>`, `conditions` (of `transformed`) and `samples`, the last two again for each
    further tap group, as `samples.1`. Writes `results.parquet`: r of every transform and strength, of the encoder's
    own augmentations (`own`), of references, and paired differences between the ends of an encoder, also against the
    same network untrained and against transforms that it was not trained with; and grids of the transformed images and
    the samples of their embeddings. Where the ask has train images: how well the embedding of an image is computed
    from that of the transformed one by a linear map, and what such a map reads of attributes from both.
    """

    name: ClassVar[str] = "invariance"
    version: ClassVar[int] = 3
    bitwise: ClassVar[bool] = False
    """Networks and matrix products round differently with other numbers of threads."""

    ask = INVARIANCE

    seed: Annotated[int, Field(ge=0)] = 0
    """Of the bootstrap."""

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Distances and their bootstrap."""
        return Estimate(rows=400, size_bytes=500_000, cpu_seconds=4)

    def work(self, part: Part, state: None, inputs: Inputs, out: Output) -> Summary:
        """Distances, ratios and grids."""
        from stages.questions.invariance.answer import answer

        return answer(self, inputs, out)
