"""Inversion: does an image that is fitted to an embedding by gradients show more of the source than samples do?"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field, NonNegativeFloat, PositiveInt

from stages.contract import Estimate, Inputs, Output, Part, Summary
from stages.questions.asks.stage import EMBEDDINGS, ENCODER, SOURCES
from stages.questions.question import ENCODERS, Question

PASSES = 3.0
"""A forward and a backward pass, in forward passes."""
BARE_SECONDS = 1e-4
"""Of a forward pass of an encoder whose step has no estimate."""
CHOICE = 8
"""Train images by which the weight of the total variation is chosen."""


class Inversion(Question):
    """Answers from samples of the `sources` ask and from images that are fitted here.

    Inputs: `shards`, `embeddings.<encoder>`, `encoder.<encoder>` of those that are steps of their own, `conditions` and
    `samples` for each tap group, and `reference.<encoder>`: the embeddings of all images by the encoder that judges.
    An image is fitted so that the network's embedding of it is that of the source, with a penalty on the total
    variation (Mahendran & Vedaldi 2015, arXiv 1412.0035). Of `weights` that counts whose images of some train images
    the judge finds nearest. Writes `results.parquet` and a figure for each tap. Taps of oracles are left out: they have
    no gradient.
    """

    name: ClassVar[str] = "inversion"
    version: ClassVar[int] = 2
    bitwise: ClassVar[bool] = False
    """Networks and matrix products round differently with other numbers of threads, and seconds are measured."""

    gpu: ClassVar[bool] = True

    ask = SOURCES
    reads: ClassVar[frozenset[str]] = frozenset({ENCODERS})

    reference: Annotated[str, Field(pattern=r"^[^:]+:[^:]+$")]
    """Tap of an encoder that is not under study, as `encoder:tap`: it judges how near an image is to its source."""
    count: PositiveInt = 64
    """Sources, of those that were painted."""
    steps: PositiveInt = 300
    """Gradient steps."""
    starts: Annotated[int, Field(ge=2)] = 2
    """Random images that fits start from; all of them count."""
    weights: Annotated[tuple[NonNegativeFloat, ...], Field(min_length=1)] = (0.0, 0.1, 1.0, 10.0)
    """Weights of the total variation that are tried."""
    shown: PositiveInt = 8
    """Sources in each figure, drawn by a seed so that the classes take turns."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the starts, of the train images and of the bootstrap."""

    def reference_taps(self) -> tuple[str, ...]:
        """See `Question`."""
        return (self.reference,)

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Passes of every start of every source; how many taps there are is not known before the ask is there."""
        images = self.count * self.starts + CHOICE * len(self.weights)
        judge = ENCODER + self.reference.partition(":")[0]
        names = [name for name in upstream if name.startswith(EMBEDDINGS)]
        seconds = 0.0
        for name in names:
            encoder = upstream.get(ENCODER + name.removeprefix(EMBEDDINGS))
            if encoder is not None and name.removeprefix(EMBEDDINGS) != judge:
                seconds += 2 * (encoder.image_seconds or BARE_SECONDS)
        return Estimate(rows=30, size_bytes=300_000, cpu_seconds=5 + images * self.steps * PASSES * seconds)

    def setup(self, inputs: Inputs, device: str) -> str:
        """The device, on which networks run."""
        return device

    def work(self, part: Part, state: str, inputs: Inputs, out: Output) -> Summary:
        """Fits the images, embeds them and draws the figures."""
        from stages.questions.inversion.answer import answer

        return answer(self, inputs, out, state)
