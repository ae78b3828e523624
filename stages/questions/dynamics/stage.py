"""Dynamics: when in pretraining does invariance appear, and when do attributes go?"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field, NonNegativeFloat, PositiveInt, field_validator

from stages.contract import Estimate, Inputs, Output, Part, Summary
from stages.questions.asks.stage import INVARIANCE, SOURCES, reading_seconds
from stages.questions.question import ENCODERS, READERS, Ask, Question

Run = Annotated[dict[str, NonNegativeFloat], Field(min_length=1)]
"""Encoders by name, each with its position in the training."""


class Dynamics(Question):
    """Answers from samples of the `sources` ask and stored embeddings, for trainings of three or more checkpoints.

    Inputs: `shards`, `readers`, `embeddings.<encoder>`, `encoder.<encoder>` of those that are steps of their own,
    `conditions` and `samples`, the last two again for each further tap group, as `samples.1`. Where the study asks
    *invariance*, also what that has asked, `asked.invariance`. Writes `results.parquet`: kept and what a linear probe
    reads at each tap of each checkpoint, r where that is known, the trend of each over the training, how far each
    checkpoint is from the first, and from which position on that lasts.
    """

    name: ClassVar[str] = "dynamics"
    version: ClassVar[int] = 2
    bitwise: ClassVar[bool] = False
    """Networks and matrix products round differently with other numbers of threads."""

    gpu: ClassVar[bool] = True

    ask = SOURCES
    reads: ClassVar[frozenset[str]] = frozenset({READERS, ENCODERS})
    reads_asks: ClassVar[tuple[Ask, ...]] = (INVARIANCE,)

    runs: tuple[Run, ...] = ()
    """Checkpoints of each training, as encoders of the study with their positions: images seen, or epochs; 0 is the
    network before any training. Empty: every training that keeps `checkpoints`, with the images seen."""
    train: PositiveInt = 5_000
    """Train images that the linear probe is fitted to, at most."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the choice among train images, of the shuffled control and of the bootstrap."""

    @field_validator("runs")
    @classmethod
    def _distinct(cls, value: tuple[dict[str, float], ...]) -> tuple[dict[str, float], ...]:
        """Rows have the names of encoders alone."""
        seen: set[str] = set()
        for run in value:
            if len(set(run.values())) < len(run):
                raise ValueError(f"expected another position for each encoder of a run; found {run}")
            later = sorted(run, key=run.__getitem__)[1:]
            if shared := seen & {*later}:
                raise ValueError(f"expected runs to have no encoder but the first in common; found {min(shared)!r}")
            seen |= {*later}
        return value

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Reading the samples, and a linear map from each tap."""
        return Estimate(rows=400, size_bytes=40_000, cpu_seconds=reading_seconds(upstream))

    def setup(self, inputs: Inputs, device: str) -> str:
        """The device, on which samples are read."""
        return device

    def work(self, part: Part, state: str, inputs: Inputs, out: Output) -> Summary:
        """Reads the samples, fits the probes and the trends."""
        from stages.questions.dynamics.answer import answer

        return answer(self, inputs, out, state)
