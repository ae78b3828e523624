"""A training and fan-outs whose work waits for a file, so that machines can come and go meanwhile."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pipeline.step import Step
from stages.contract import Context, Estimate, Gang, Inputs, Output, Part, Stage, Summary, Unkeyed

PARTS = 8


def note(folder: str, name: str) -> None:
    """Writes down that this process does something."""
    (Path(folder) / f"{name}-{os.getpid()}").touch()


class Fan(Stage):
    """Parts that wait."""

    name = "fan"
    version = 1
    bitwise = True

    which: int
    folder: Annotated[str, Unkeyed("when, not what")]

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        return Estimate(rows=1, size_bytes=1, cpu_seconds=1)

    def split(self, inputs: Inputs) -> list[Part]:
        return [Part(index=index) for index in range(PARTS)]

    def work(self, part: Part, state: Any, inputs: Inputs, out: Output) -> Summary:
        note(self.folder, f"fan{self.which}")
        while not Path(self.folder, "go").exists():
            time.sleep(0.05)
        out.put(f"{part.index}", b"1")
        return {}


class Training(Gang):
    """A training that waits."""

    name = "training"
    version = 1
    bitwise = False
    max_ranks = 1

    folder: Annotated[str, Unkeyed("when, not what")]

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        return Estimate(rows=1, size_bytes=1, cpu_seconds=100)

    def train(self, context: Context, inputs: Inputs, out: Output) -> Summary:
        note(self.folder, "training")
        while not Path(self.folder, "go").exists():
            time.sleep(0.05)
        out.put("weights", b"1")
        return {}


def graph(folder: str) -> list[Step]:
    """Two fan-outs and a training, none of which needs another."""
    fans = [Step(f"fan{which}", Fan(which=which, folder=folder)) for which in (1, 2)]
    return [*fans, Step("training", Training(folder=folder))]
