"""Shift: does what samples show hold for images that neither encoder nor decoder was trained on the like of?"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field, PositiveInt

from stages.contract import Estimate, Inputs, Output, Part, Summary
from stages.questions.asks.stage import EMBEDDINGS, painted_rows
from stages.questions.question import READERS, SAMPLE_EMBEDDINGS, Ask, AskStage, Question


class Shifted(AskStage):
    """Embeddings of held-out images, of images of unseen combinations, and vectors between neighbours.

    Inputs: `shards` and `embeddings.<encoder>` for the encoders of `taps`. The combinations are those that the listing
    names under `unseen`; where it names none there are walks alone. A walk goes from a held-out image to its nearest
    neighbour that it has not met, and so on, in standardised space; its conditions are the vectors halfway. The control
    goes halfway to an image of another walk. Oracles have no walks. `walks.json` has the images of each walk.
    """

    name: ClassVar[str] = "shifted"
    version: ClassVar[int] = 1
    bitwise: ClassVar[bool] = False
    """Matrix products round differently with other numbers of threads."""

    count: PositiveInt = 256
    """Held-out images, and as many of unseen combinations; all of them where there are fewer."""
    walks: Annotated[int, Field(ge=2)] = 32
    """Walks, each from another of the held-out images; fewer where these are fewer."""
    steps: PositiveInt = 3
    """Steps of a walk."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the choice of images and of the control."""

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Twice `count` conditions of each tap, and twice the steps of all walks."""
        each = 2 * self.count + 2 * self.walks * self.steps
        rows = len(self.taps) * each
        return Estimate(rows=rows, size_bytes=rows * 1000, cpu_seconds=3 + 0.5 * len(self.taps))

    def work(self, part: Part, state: None, inputs: Inputs, out: Output) -> Summary:
        """Chooses the images, walks and writes."""
        from stages.questions.shift.ask import ask_shifted

        return ask_shifted(self, inputs, out)


class Shift(Question):
    """Answers from samples of the ask `shifted`.

    Inputs: `shards`, `readers`, `embeddings.<encoder>`, `conditions` (of `shifted`), `samples` and
    `sample_embeddings.<encoder>`, the last three again for each further tap group, as `samples.1`. Writes
    `results.parquet`: kept, a linear probe and the distance of samples to their source for seen and unseen
    combinations, their unpaired differences, the same between two random halves of the seen ones, and walks; and grids
    of samples.
    """

    name: ClassVar[str] = "shift"
    version: ClassVar[int] = 2
    bitwise: ClassVar[bool] = False
    """Networks and matrix products round differently with other numbers of threads."""

    gpu: ClassVar[bool] = True

    ask = Ask("shift", Shifted)
    reads: ClassVar[frozenset[str]] = frozenset({READERS, SAMPLE_EMBEDDINGS})

    train: PositiveInt = 5_000
    """Train images that the linear probe is fitted to, at most."""
    shown: PositiveInt = 3
    """Images of each group, and walks, in the figures of a tap."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the choice among train images, of the random halves and of the bootstrap."""

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Reading the samples and ranking them, and a linear map from each tap."""
        tables = sum(name.startswith(EMBEDDINGS) for name in upstream)
        seconds = 5 + painted_rows(upstream) * 2.5e-3 + 3 * tables
        return Estimate(rows=1000, size_bytes=1_000_000, cpu_seconds=seconds)

    def setup(self, inputs: Inputs, device: str) -> str:
        """The device, on which samples are read."""
        return device

    def work(self, part: Part, state: str, inputs: Inputs, out: Output) -> Summary:
        """Reads the samples, compares both groups and draws the figures."""
        from stages.questions.shift.answer import answer

        return answer(self, inputs, out, state)
