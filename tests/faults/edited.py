"""A study whose code can be edited: every object says which edition of its stage's code has written it, and of what.

Parts and a merge that are bitwise (counts, sums), parts and a merge of two objects that differ from attempt to attempt
(draws), and a training with checkpoints and two files (learned).
"""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.step import Step
from stages.contract import Context, Gang, Inputs, Output, Part, Stage, Summary
from stages.errors import FormatError

EDITIONS: dict[str, int] = {}
"""Stage -> the edition of its code; 0 where it has none here."""

PARTS = 2
PAIR = ("a", "b")

_attempts = itertools.count()


def code_of(stage: type[Stage], edition: int | None = None) -> str:
    """The digest of a stage's code in an edition, today's by default."""
    today = EDITIONS.get(stage.name, 0)
    return hashlib.sha256(f"{stage.name} {today if edition is None else edition}".encode()).hexdigest()


def _written(stage: Stage, **content: Any) -> bytes:
    return json.dumps({"edition": EDITIONS.get(stage.name, 0)} | content).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Counts(Stage):
    """Three numbers a part, from `first` on."""

    name = "counts"
    version = 1
    bitwise = True

    first: int

    def split(self, inputs: Inputs) -> list[Part]:
        return [Part(index=index) for index in range(PARTS)]

    def work(self, part: Part, state: Any, inputs: Inputs, out: Output) -> Summary:
        first = self.first + 3 * part.index
        out.put(f"counts-{part.index}.json", _written(self, numbers=[first, first + 1, first + 2]))
        return {"count": 3}

    def merge(self, summaries: Sequence[Summary], inputs: Inputs, out: Output) -> Summary:
        of = [_sha256(out.read(f"counts-{index}.json")) for index in range(len(summaries))]
        out.put("index.json", _written(self, of=of))
        return {"count": sum(summary["count"] for summary in summaries)}


class Sums(Stage):
    """The sums of powers of the numbers, object by object."""

    name = "sums"
    version = 1
    bitwise = True

    power: int

    def split(self, inputs: Inputs) -> list[Part]:
        return [Part(index=index) for index in range(PARTS)]

    def work(self, part: Part, state: Any, inputs: Inputs, out: Output) -> Summary:
        data = inputs["counts"].read(f"counts-{part.index}.json")
        total = sum(number**self.power for number in json.loads(data)["numbers"])
        out.put(f"sum-{part.index}.json", _written(self, of=_sha256(data), total=total))
        return {"total": total}

    def merge(self, summaries: Sequence[Summary], inputs: Inputs, out: Output) -> Summary:
        total = sum(json.loads(out.read(f"sum-{index}.json"))["total"] for index in range(len(summaries)))
        out.put("total.json", _written(self, of=_sha256(inputs["counts"].read("index.json")), total=total))
        return {"total": total}


class Draws(Stage):
    """Pairs of objects that no two attempts write alike; those of a pair name one attempt."""

    name = "draws"
    version = 1
    bitwise = False

    seed: int

    def split(self, inputs: Inputs) -> list[Part]:
        return [Part(index=index) for index in range(PARTS)]

    def work(self, part: Part, state: Any, inputs: Inputs, out: Output) -> Summary:
        data = inputs["counts"].read(f"counts-{part.index}.json")
        self._put(out, str(part.index), _sha256(data))
        return {}

    def merge(self, summaries: Sequence[Summary], inputs: Inputs, out: Output) -> Summary:
        self._put(out, "merged", _sha256(inputs["counts"].read("index.json")))
        return {}

    def _put(self, out: Output, name: str, of: str) -> None:
        attempt = next(_attempts)
        for side in PAIR:
            out.put(f"{side}/{name}.json", _written(self, of=of, attempt=attempt), check=_is_json)


class Learned(Gang):
    """Adds the total up in steps, with a checkpoint after each; its two files name the attempt that wrote them."""

    name = "learned"
    version = 1
    bitwise = False
    max_ranks = 1

    steps: int

    def train(self, context: Context, inputs: Inputs, out: Output) -> Summary:
        data = inputs["sums"].read("total.json")
        checkpoint = context.checkpoints.latest()
        done = checkpoint.step if checkpoint else 0
        found = json.loads(checkpoint.read("value.json")) if checkpoint else {}
        value: int = found.get("value", 0)
        before: list[int] = found.get("before", [])
        for step in range(done + 1, self.steps + 1):
            value += json.loads(data)["total"]
            before = sorted({*before, EDITIONS.get(self.name, 0)})
            context.checkpoints.save(step, {"value.json": _written(self, value=value, before=before)})
            context.report(step, self.steps, {"value": value})
        attempt = next(_attempts)
        for name in PAIR:
            written = _written(self, of=_sha256(data), value=value, before=before, attempt=attempt)
            out.put(f"{name}.json", written, check=_is_json)
        return {"value": value}


def _is_json(data: bytes) -> None:
    try:
        json.loads(data)
    except ValueError as error:
        raise FormatError("JSON", str(error), "Delete it.") from error


STAGES: tuple[type[Stage], ...] = (Counts, Sums, Draws, Learned)


def graph(first: int, power: int, seed: int, steps: int) -> list[Step]:
    """The study: counts -> sums -> learned, and counts -> draws."""
    return [
        Step("counts", Counts(first=first)),
        Step("sums", Sums(power=power), {"counts": "counts"}),
        Step("draws", Draws(seed=seed), {"counts": "counts"}),
        Step("learned", Learned(steps=steps), {"sums": "sums"}),
    ]


def editions(objects: Mapping[str, bytes]) -> set[int]:
    """The editions of the code that has written these objects, and the checkpoints that they come from."""
    contents: list[dict[str, Any]] = [json.loads(data) for data in objects.values()]
    own = {content["edition"] for content in contents}
    return own | {edition for content in contents for edition in content.get("before", [])}


def mistakes(stage: Stage, objects: Mapping[str, bytes], source: Mapping[str, bytes]) -> list[str]:
    """What is wrong with the objects of a finished step, by its fields and the objects of its input, as sentences."""
    content = {name: json.loads(data) for name, data in objects.items()}
    parts = range(PARTS)
    if isinstance(stage, Counts):
        wanted = [[stage.first + 3 * part + i for i in range(3)] for part in parts]
        right = [content[f"counts-{part}.json"]["numbers"] for part in parts] == wanted
        of = content["index.json"]["of"] == [_sha256(objects[f"counts-{part}.json"]) for part in parts]
    elif isinstance(stage, Sums):
        numbers = [json.loads(source[f"counts-{part}.json"])["numbers"] for part in parts]
        totals = [sum(number**stage.power for number in of_part) for of_part in numbers]
        right = [content[f"sum-{part}.json"]["total"] for part in parts] == totals
        right = right and content["total.json"]["total"] == sum(totals)
        of = all(content[f"sum-{part}.json"]["of"] == _sha256(source[f"counts-{part}.json"]) for part in parts)
    elif isinstance(stage, Draws):
        names = [*map(str, parts), "merged"]
        right = all(content[f"a/{name}.json"] == content[f"b/{name}.json"] for name in names)
        of = all(content[f"a/{part}.json"]["of"] == _sha256(source[f"counts-{part}.json"]) for part in parts)
    else:
        assert isinstance(stage, Learned)
        right = content["a.json"] == content["b.json"]
        right = right and content["a.json"]["value"] == stage.steps * json.loads(source["total.json"])["total"]
        of = content["a.json"]["of"] == _sha256(source["total.json"])
    return [*([] if right else ["other content than its fields say"]), *([] if of else ["made from other objects"])]
