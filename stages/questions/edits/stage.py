"""Edits: does a step along a direction of the embedding change one attribute of the samples, and no other?"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, ClassVar

from pydantic import Field, PositiveFloat, PositiveInt

from stages.contract import Estimate, Inputs, Output, Part, Summary
from stages.questions.asks.stage import painted_rows
from stages.questions.question import READERS, SAMPLE_EMBEDDINGS, Ask, AskStage, Question

TYPICAL_ATTRIBUTES = 9
"""Attributes of a dataset, for the estimate of an ask that names none."""
Ratio = Annotated[float, Field(gt=0, lt=1)]


class Edited(AskStage):
    """Embeddings of held-out images, edited.

    Inputs: `shards` and `embeddings.<encoder>` for the encoders of `taps`. For each attribute every source is given
    another value to go to. Three directions go there, computed from embeddings of train images alone: the difference
    of the two values' means; the direction of a linear probe between them; and the principal component that
    separates them most. All have the length of the first, times a strength. Controls: the way from one random train
    image to another, at equal length. Beside them: the dimensions that are active in most of the nearest train images,
    set to zero or to another source's, with as many random dimensions as their control; and paths to another source,
    linear and spherical. Everything happens in standardised space. `edits.json` has what each source was to become.
    """

    name: ClassVar[str] = "edited"
    version: ClassVar[int] = 1
    bitwise: ClassVar[bool] = False

    count: Annotated[int, Field(ge=2)] = 24
    """Source images, drawn from the held-out ones. All of them are painted under every edit."""
    attributes: tuple[str, ...] = ()
    """Attributes of the dataset that are edited. None named: all of them."""
    strengths: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.5, 1.0, 2.0)
    """Lengths of an edit by means, ascending, in units of the difference of the means. All other edits, and finding iv,
    are of the middle one."""
    neighbours: PositiveInt = 20
    """Nearest train images whose common dimensions are edited."""
    share: Ratio = 0.25
    """Share of the dimensions that is edited: those that are active in most neighbours."""
    ratios: Annotated[tuple[Ratio, ...], Field(min_length=1)] = (0.25, 0.5, 0.75)
    """Where paths from one source to another are painted, ascending."""
    limit: PositiveInt = 10_000
    """Train images that directions are computed from, at most."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the choice among held-out images, of the values that they are to take and of the random directions."""

    def model_post_init(self, context: object) -> None:
        """Refuses strengths and ratios that do not ascend."""
        for name, values in (("strengths", self.strengths), ("ratios", self.ratios)):
            if any(a >= b for a, b in pairwise(values)):
                raise ValueError(f"expected {name} to ascend; found {values}")

    @property
    def variants(self) -> int:
        """Conditions of each source and tap: plain, edits of each attribute, neighbours and paths."""
        return 1 + (len(self.attributes) or TYPICAL_ATTRIBUTES) * (len(self.strengths) + 3) + 5 + 2 * len(self.ratios)

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Reading train embeddings, and a covariance for each tap."""
        rows = len(self.taps) * self.count * self.variants
        return Estimate(rows=rows, size_bytes=rows * 1000, cpu_seconds=5 + 2 * len(self.taps))

    def work(self, part: Part, state: None, inputs: Inputs, out: Output) -> Summary:
        """Computes directions, edits and writes."""
        from stages.questions.edits.ask import ask_edited

        return ask_edited(self, inputs, out)


class Edits(Question):
    """Answers from samples of edited embeddings.

    Inputs: `shards`, `readers`, `embeddings.<encoder>`, `conditions` (of `edited`), `samples` and where they are there
    `sample_embeddings.<encoder>` (undo), the last three again for each further tap group, as `samples.1`. Writes
    `results.parquet`: the effect of each edit on its attribute and on all others, simultaneous intervals of their
    difference, the controls, paths and undo; and grids of samples.
    """

    name: ClassVar[str] = "edits"
    version: ClassVar[int] = 3
    bitwise: ClassVar[bool] = False
    """Networks and matrix products round differently with other numbers of threads."""

    gpu: ClassVar[bool] = True

    ask = Ask("edits", Edited)
    reads = frozenset({SAMPLE_EMBEDDINGS, READERS})

    shown: PositiveInt = 2
    """Sources of each attribute in the figures, drawn by a seed so that the classes take turns."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the bootstrap."""

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Reading the samples, and the bootstrap of every effect, is most of it."""
        return Estimate(rows=2000, size_bytes=2_000_000, cpu_seconds=10 + painted_rows(upstream) * 2e-3)

    def setup(self, inputs: Inputs, device: str) -> str:
        """The device, on which samples are read."""
        return device

    def work(self, part: Part, state: str, inputs: Inputs, out: Output) -> Summary:
        """Reads the samples, scores the edits and draws the figures."""
        from stages.questions.edits.answer import answer

        return answer(self, inputs, out, state)
