"""A study of three small stages: numbers in parts, their squares added up, and a training that counts towards the sum.

Small enough to be run hundreds of times, and whole: parts, a merge, a gang with checkpoints that resumes.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pipeline.step import Step
from stages.contract import Context, Estimate, Gang, Inputs, Output, Part, Stage, Summary, Unkeyed


class Numbers(Stage):
    """Writes `per_part` numbers a part; part i begins at `first` + i x `per_part`."""

    name = "numbers"
    version = 1
    bitwise = True

    first: int = 1
    parts: int = 3
    per_part: int = 4
    indent: Annotated[int, Unkeyed("how many bytes are written at once")] = 0

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        rows = self.parts * self.per_part
        return Estimate(rows=rows, size_bytes=4 * rows, cpu_seconds=0.1)

    def split(self, inputs: Inputs) -> list[Part]:
        return [Part(index=i, fields={"start": self.first + i * self.per_part}) for i in range(self.parts)]

    def work(self, part: Part, state: Any, inputs: Inputs, out: Output) -> Summary:
        start = part.fields["start"]
        numbers = list(range(start, start + self.per_part))
        stored = json.loads(out.put(f"numbers-{part.index:05d}.json", json.dumps(numbers).encode()))
        out.put(f"text/{part.index:05d}.txt", " ".join(map(str, numbers)).encode())
        return {"count": len(stored)}

    def merge(self, summaries: Sequence[Summary], inputs: Inputs, out: Output) -> Summary:
        count = sum(summary["count"] for summary in summaries)
        out.put("index.json", json.dumps({"count": count, "parts": len(summaries)}).encode())
        return {"count": count}


class Squares(Stage):
    """Adds up the squares of the numbers, object by object."""

    name = "squares"
    version = 1
    bitwise = True

    power: int = 2

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        return Estimate(rows=upstream["numbers"].rows, size_bytes=100, cpu_seconds=0.2)

    def split(self, inputs: Inputs) -> list[Part]:
        names = [name for name in inputs["numbers"].names() if name.startswith("numbers-")]
        return [Part(index=index, fields={"name": name}) for index, name in enumerate(names)]

    def setup(self, inputs: Inputs, device: str) -> Any:
        return json.loads(inputs["numbers"].read("index.json"))

    def work(self, part: Part, state: Any, inputs: Inputs, out: Output) -> Summary:
        assert state["count"] == inputs["numbers"].summary["count"]
        numbers = json.loads(inputs["numbers"].read(part.fields["name"]))
        total = sum(number**self.power for number in numbers)
        out.put(f"total-{part.index:05d}.json", json.dumps(total).encode())
        return {"total": total}

    def merge(self, summaries: Sequence[Summary], inputs: Inputs, out: Output) -> Summary:
        total = sum(json.loads(out.read(f"total-{index:05d}.json")) for index in range(len(summaries)))
        assert total == sum(summary["total"] for summary in summaries)
        out.put("total.json", json.dumps(total).encode())
        return {"total": total}


class Counting(Gang):
    """Trains: adds a fraction of the sum in every step, with a checkpoint after each."""

    name = "counting"
    version = 1
    bitwise = False
    max_ranks = 1

    steps: int = 4

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        return Estimate(rows=1, size_bytes=20, cpu_seconds=0.5)

    def train(self, context: Context, inputs: Inputs, out: Output) -> Summary:
        total = json.loads(inputs["squares"].read("total.json"))
        checkpoint = context.checkpoints.latest()
        done = checkpoint.step if checkpoint else 0
        value = json.loads(checkpoint.read("value.json")) if checkpoint else 0
        for step in range(done + 1, self.steps + 1):
            value += total // self.steps
            context.checkpoints.save(step, {"value.json": json.dumps(value).encode()})
            context.report(step, self.steps, {"value": value})
        stored = out.put("value.json", json.dumps(value).encode(), check=_is_number)
        return {"value": json.loads(stored)}


def _is_number(data: bytes) -> None:
    assert isinstance(json.loads(data), int)


def graph(first: int = 1, parts: int = 3, power: int = 2, steps: int = 4) -> list[Step]:
    """The study: numbers -> squares -> counting."""
    return [
        Step("numbers", Numbers(first=first, parts=parts)),
        Step("squares", Squares(power=power), {"numbers": "numbers"}),
        Step("counting", Counting(steps=steps), {"squares": "squares"}),
    ]
