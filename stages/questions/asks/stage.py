"""What questions ask to have painted: embeddings of held-out images, as they are or transformed."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field, PositiveInt

from stages.contract import Estimate, Inputs, Output, Part, Summary
from stages.questions.question import Ask, AskStage

EMBEDDINGS, ENCODER = "embeddings.", "encoder."
"""Inputs of a named encoder: its table of embeddings, and the encoder itself where it was pretrained."""

VARIANTS = 35
"""Transforms x strengths, for estimates."""


def painted_rows(upstream: Mapping[str, Estimate]) -> int:
    """Samples of all tap groups that an answer reads."""
    return sum(estimate.rows for name, estimate in upstream.items() if name.split(".")[0] == "samples")


def of_group(name: str, group: int) -> str:
    """Name of an input of a tap group: `samples` of the decoder's own taps, `samples.1` of its first extension."""
    return f"{name}.{group}" if group else name


class Sources(AskStage):
    """One condition per tap and source image.

    Inputs: `shards`, `embeddings.<encoder>` for the encoders of `taps`, and `encoder.<encoder>` for the pretrained ones
    (without it, that encoder has no light-crop control). Beside the conditions it writes `crops.safetensors`: per
    `encoder:tap` float32 [count, D], a light crop of each source, embedded; these are not painted.
    """

    name: ClassVar[str] = "sources"
    version: ClassVar[int] = 2
    bitwise: ClassVar[bool] = False
    gpu: ClassVar[bool] = True

    count: PositiveInt = 128
    """Source images, drawn from the held-out ones; all of them where there are fewer."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the choice among held-out images, and of the light crop."""

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Loading the encoders is most of it."""
        rows = len(self.taps) * self.count
        return Estimate(rows=rows, size_bytes=rows * 2000, cpu_seconds=5 + rows * 1e-3)

    def work(self, part: Part, state: str, inputs: Inputs, out: Output) -> Summary:
        """Chooses the sources and writes their embeddings."""
        from stages.questions.asks.work import ask_sources

        return ask_sources(self, inputs, out, state)

    def setup(self, inputs: Inputs, device: str) -> str:
        """The device, on which encoders are loaded."""
        return device


class Transformed(AskStage):
    """Held-out images, transformed and embedded. Taps that do not read pixels are left out.

    Inputs: `shards`, `embeddings.<encoder>` for the encoders of `taps`, `encoder.<encoder>` for the pretrained ones.
    Conditions are the embeddings of a few sources, as they are and under each transform at its middle strength; beside
    them `moved/<encoder>/<tap>.safetensors` holds the embeddings of all sources under every transform.
    """

    name: ClassVar[str] = "transformed"
    version: ClassVar[int] = 2
    bitwise: ClassVar[bool] = False
    gpu: ClassVar[bool] = True

    count: PositiveInt = 256
    """Source images, drawn from the held-out ones."""
    paint: PositiveInt = 4
    """Sources that are also painted."""
    draws: PositiveInt = 4
    """Draws from the encoder's own training augmentations for each source."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the choice among held-out images and of the transformations."""

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Embedding, by small encoders or as their steps have it; 13 conditions of each painted source and tap."""
        rows = len(self.taps) * self.paint * 13
        size = len(self.taps) * self.count * VARIANTS * 1000
        seconds = max(len(self.taps) * 1e-4, sum(estimate.image_seconds or 0 for estimate in upstream.values()))
        return Estimate(rows=rows, size_bytes=size, cpu_seconds=5 + self.count * VARIANTS * seconds)

    def setup(self, inputs: Inputs, device: str) -> str:
        """The device, on which encoders are loaded."""
        return device

    def work(self, part: Part, state: str, inputs: Inputs, out: Output) -> Summary:
        """Transforms, embeds and writes."""
        from stages.questions.asks.work import ask_transformed

        return ask_transformed(self, inputs, out, state)


SOURCES = Ask("sources", Sources, halfway="halfway")
INVARIANCE = Ask("invariance", Transformed, pixels_only=True)
"""Named after the question that first asked it."""
