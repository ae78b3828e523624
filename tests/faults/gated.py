"""A study for processes that are killed: its third part begins and then waits for a file, as long work would."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pipeline.step import Step
from stages.contract import Estimate, Inputs, Output, Part, Stage, Summary, Unkeyed

PARTS = 5
WAITING = 2


class Gated(Stage):
    """Writes two objects a part; part `WAITING` writes the second only once the file `gate` exists."""

    name = "gated"
    version = 1
    bitwise = True

    gate: Annotated[str, Unkeyed("when, not what")]

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        return Estimate(rows=PARTS, size_bytes=10 * PARTS, cpu_seconds=0.1)

    def split(self, inputs: Inputs) -> list[Part]:
        return [Part(index=index) for index in range(PARTS)]

    def work(self, part: Part, state: Any, inputs: Inputs, out: Output) -> Summary:
        out.put(f"first-{part.index}.bin", b"1" * 100_000)
        while part.index == WAITING and not Path(self.gate).exists():
            time.sleep(0.01)
        out.put(f"second-{part.index}.bin", b"2" * 100_000)
        return {"part": part.index}

    def merge(self, summaries: Sequence[Summary], inputs: Inputs, out: Output) -> Summary:
        return {"parts": [summary["part"] for summary in summaries]}


def graph(gate: str) -> list[Step]:
    """One gated step."""
    return [Step("gated", Gated(gate=gate))]
