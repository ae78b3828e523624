"""Robustness: how far do attacks too small to be seen move an embedding, and what do samples of the moved one show?"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, ClassVar

from pydantic import Field, PositiveFloat, PositiveInt

from stages.contract import Estimate, Inputs, Output, Part, Summary
from stages.questions.asks.stage import ENCODER
from stages.questions.question import Ask, AskStage, Question

PASSES = 3.0
"""A forward and a backward pass, in forward passes."""
BARE_SECONDS = 1e-4
"""Of a forward pass of an encoder whose step has no estimate."""
RIGHTLY = "share of images whose {} is read rightly"
"""Unit of the rows on accuracy, filled in with the attribute: no other column of a row has a name for it."""


class Attacked(AskStage):
    """Held-out images, attacked and embedded, at every tap of a network.

    Inputs: `shards`, `embeddings.<encoder>` for the encoders of `taps`, `encoder.<encoder>` for the pretrained ones. An
    attack changes each pixel by at most eps / 255, on the square that the encoder is given, before its normalisation;
    pixels stay in [0, 1]. It is computed in float32. PGD and FGSM maximise the distance that the embedding moves; a
    second PGD makes a linear probe on the embedding wrong. Taps of oracles are left out: they have no gradient.
    Conditions are the embeddings of a few sources, plain, under PGD, and under random signs of the middle eps; beside
    them `attacks/<encoder>/<tap>.safetensors` holds the embeddings of all sources under every attack.
    """

    name: ClassVar[str] = "attacked"
    version: ClassVar[int] = 4
    bitwise: ClassVar[bool] = False
    gpu: ClassVar[bool] = True

    count: PositiveInt = 128
    """Source images, drawn from the held-out ones."""
    paint: PositiveInt = 4
    """Sources that are also painted, of which the classes of the dataset take turns."""
    eps: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.25, 0.5, 1.0, 2.0)
    """Largest change of a pixel, in 255ths of full intensity, ascending. Finding iii is judged at the middle one."""
    large: PositiveFloat = 8.0
    """An eps above those, as a control: there an attack must move most of a random pair."""
    steps: PositiveInt = 20
    """Gradient steps of PGD, each of 2.5 eps / steps."""
    restarts: PositiveInt = 3
    """Random starts of PGD; the one that moves the embedding farthest counts. The gradient at the image itself is 0."""
    attribute: str | None = None
    """Class attribute that the linear probe reads. None: the first one of the dataset."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the choice among held-out images, of the starts and of the random signs."""

    def model_post_init(self, context: object) -> None:
        """Refuses strengths that do not ascend."""
        strengths = (*self.eps, self.large)
        if any(a >= b for a, b in pairwise(strengths)):
            raise ValueError(f"expected eps to ascend and to end below large; found {self.eps} and {self.large:g}")

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Passes of every source at each tap: PGD on movement from every start, on the probe from one.

        Measured on the default network at 32 px, 16 sources at two taps: within a tenth of this.
        """
        levels = len(self.eps) + 1
        rows = len(self.taps) * self.paint * (levels + 2)
        passes = levels * (PASSES * (self.steps * (self.restarts + 1) + 1) + 5)
        seconds = 0.0
        for tap_id in self.taps:
            encoder = upstream.get(ENCODER + tap_id.partition(":")[0])
            seconds += (encoder.image_seconds if encoder else None) or BARE_SECONDS
        size = len(self.taps) * self.count * (3 * levels + 1) * 1000
        return Estimate(rows=rows, size_bytes=size, cpu_seconds=5 + self.count * passes * seconds)

    def setup(self, inputs: Inputs, device: str) -> str:
        """The device, on which encoders are loaded."""
        return device

    def work(self, part: Part, state: str, inputs: Inputs, out: Output) -> Summary:
        """Attacks, embeds and writes."""
        from stages.questions.robustness.ask import ask_attacked

        return ask_attacked(self, inputs, out, state)


class Robustness(Question):
    """Answers from the embeddings of attacked images and from samples of some of them.

    Inputs: `shards`, `embeddings.<encoder>`, `conditions` (of `attacked`) and `samples`, the last two again for each
    further tap group, as `samples.1`. Writes `results.parquet`: how far each attack moves each tap, the checks of the
    attacks, the probe's accuracy under attack, and the paired difference between each supervised encoder and each
    self-supervised one at every tap that both have; and grids of samples.
    """

    name: ClassVar[str] = "robustness"
    version: ClassVar[int] = 3
    bitwise: ClassVar[bool] = False
    """Networks and matrix products round differently with other numbers of threads."""

    ask = Ask("robustness", Attacked, networks_only=True)

    supervised: tuple[str, ...] = ()
    """Imported encoders that were trained with labels. Of encoders that are trained here it is known."""
    self_supervised: tuple[str, ...] = ()
    """Imported encoders that were trained without labels."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the bootstrap."""

    def model_post_init(self, context: object) -> None:
        """Refuses an encoder that is named as both."""
        if both := sorted(set(self.supervised) & set(self.self_supervised)):
            raise ValueError(f"expected each encoder in supervised or in self_supervised; found {both[0]} in both")

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Distances and their bootstrap."""
        return Estimate(rows=400, size_bytes=500_000, cpu_seconds=4)

    def work(self, part: Part, state: None, inputs: Inputs, out: Output) -> Summary:
        """Distances, differences and grids."""
        from stages.questions.robustness.answer import answer

        return answer(self, inputs, out)
