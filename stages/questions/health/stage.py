"""Health: does a tap use its dimensions, and which taps are alike? Neither labels nor samples are needed."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field, PositiveInt

from stages.contract import Estimate, Inputs, Output, Part, Summary
from stages.questions.asks.stage import EMBEDDINGS
from stages.questions.question import ENCODERS, Question

IMAGES_MIN = 20
"""Images below which nothing is measured."""


class Health(Question):
    """Answers from stored embeddings of held-out images, without a decoder, labels or samples.

    Inputs: `shards`, `embeddings.<encoder>`, and `encoder.<encoder>` of those that are steps of their own. Writes
    `results.parquet`. For every tap of every table: effective rank, RankMe, alignment, uniformity, features that are
    constant or zero, and the norm of its vectors. For every pair of taps, also of two encoders: linear CKA and mutual
    nearest neighbours. Beside them the same of the network untrained, where the study has one, or of rows that do not
    belong together.
    """

    name: ClassVar[str] = "health"
    version: ClassVar[int] = 1
    bitwise: ClassVar[bool] = False
    """Matrix products round differently with other numbers of threads."""

    reads: ClassVar[frozenset[str]] = frozenset({ENCODERS})

    count: Annotated[int, Field(ge=IMAGES_MIN)] = 2_000
    """Held-out images, drawn at random; all of them where there are fewer."""
    neighbours: PositiveInt = 10
    """Nearest neighbours of an image that are compared between two taps."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the choice among held-out images, of the order of rows in the control, and of the bootstrap."""

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Two eigenvalue problems and all distances of each tap, and the bootstrap of each pair of taps.

        Measured on one core; how wide taps are is known from the size of their tables.
        """
        tables = [estimate for name, estimate in upstream.items() if name.startswith(EMBEDDINGS)]
        # Two views of float32.
        features = sum(table.size_bytes / max(1, 8 * table.rows) for table in tables)
        # How many taps share the features is not known before the tables are there.
        taps = 3 * len(tables)
        pairs = taps * (taps - 1) // 2
        seconds = 2 + 2e-3 * features * (self.count / 2_000) ** 2 + 0.05 * pairs
        return Estimate(rows=20 * taps + 6 * pairs, size_bytes=20_000, cpu_seconds=seconds)

    def work(self, part: Part, state: None, inputs: Inputs, out: Output) -> Summary:
        """Measures every tap, then every pair."""
        from stages.questions.health.answer import answer

        return answer(self, inputs, out)
