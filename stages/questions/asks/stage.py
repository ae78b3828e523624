"""What questions ask to have painted: embeddings of held-out images, as they are or transformed."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field, NonNegativeInt, PositiveInt

from stages.contract import Added, Estimate, Inputs, Output, Part, Summary
from stages.questions.question import Ask, AskStage

EMBEDDINGS, ENCODER = "embeddings.", "encoder."
"""Inputs of a named encoder: its table of embeddings, and the encoder itself where it was pretrained."""

DOWNSIZED = "downsized"
"""Held-out images at the decoder's resolution stand in `downsized/<encoder>/<tap>.safetensors`: `rows` int64 [G],
ascending, and `embeddings` float32 [G, D]. Absent where the encoder sees images at just that resolution."""

VARIANTS = 35
"""Transforms x strengths, for estimates."""
MIDDLES = 12
"""Transforms at their middle strength, and the encoder's own augmentations, for estimates."""


def painted_rows(upstream: Mapping[str, Estimate]) -> int:
    """Samples of all tap groups that an answer reads."""
    return sum(estimate.rows for name, estimate in upstream.items() if name.split(".")[0] == "samples")


def reading_seconds(upstream: Mapping[str, Estimate]) -> float:
    """CPU seconds to read attributes from all samples, and to fit a linear map to each table of embeddings."""
    tables = sum(name.startswith(EMBEDDINGS) for name in upstream)
    return 5 + painted_rows(upstream) * 2e-3 + 2 * tables


def of_group(name: str, group: int) -> str:
    """Name of an input of a tap group: `samples` of the decoder's own taps, `samples.1` of its first extension."""
    return f"{name}.{group}" if group else name


class Sources(AskStage):
    """One condition per tap and source image.

    Inputs: `shards`, `embeddings.<encoder>` for the encoders of `taps`, and `encoder.<encoder>` for the pretrained ones
    (without it, that encoder has no light-crop control). Beside the conditions it writes `crops.safetensors`: per
    `encoder:tap` float32 [count, D], a light crop of each source, embedded; these are not painted. Where an encoder
    sees images larger than a decoder paints them, held-out images are also embedded as the decoder could show them at
    best, downsized to `size`: `downsized/<encoder>/<tap>.safetensors`.
    """

    name: ClassVar[str] = "sources"
    version: ClassVar[int] = 3
    bitwise: ClassVar[bool] = False
    gpu: ClassVar[bool] = True

    count: PositiveInt = 128
    """Source images, drawn from the held-out ones; all of them where there are fewer."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the choice among held-out images, and of the light crop."""
    size: PositiveInt | None = None
    """Side of the images that the decoder paints, pixels; a study fills in that of its decoder."""
    gallery: PositiveInt = 10_000
    """Held-out images that are embedded downsized, the sources among them, at most."""

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Loading the encoders, and embedding downsized images."""
        rows = len(self.taps) * self.count
        downsized = min(self.gallery, upstream["shards"].rows // 10) if "shards" in upstream else 0
        seconds = downsized * sum(estimate.image_seconds or 0 for estimate in upstream.values())
        return Estimate(rows=rows, size_bytes=rows * 2000, cpu_seconds=5 + rows * 1e-3 + seconds)

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
    them `moved/<encoder>/<tap>.safetensors` holds the embeddings of all sources under every transform, and, where it is
    known what an encoder was trained with, those by its network before any training. With `train`,
    `moved-train/<encoder>/<tap>/<transform>.safetensors` holds the embeddings of train images, transformed.
    """

    name: ClassVar[str] = "transformed"
    version: ClassVar[int] = 4
    bitwise: ClassVar[bool] = False
    gpu: ClassVar[bool] = True

    count: PositiveInt = 256
    """Source images, drawn from the held-out ones."""
    paint: PositiveInt = 4
    """Sources that are also painted, of which the classes of the dataset take turns."""
    draws: PositiveInt = 4
    """Draws from the encoder's own training augmentations for each source."""
    train: Annotated[NonNegativeInt, Added(when_absent=0)] = 0
    """Train images that are transformed and embedded too, under each transform at its middle strength: from them
    *invariance* learns whether what has moved can be mapped back. 0: none, and it is not asked."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the choice among held-out images and of the transformations."""

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Embedding, by small encoders or as their steps have it; 13 conditions of each painted source and tap."""
        rows = len(self.taps) * self.paint * 13
        size = len(self.taps) * self.count * VARIANTS * 1000
        seconds = max(len(self.taps) * 1e-4, sum(estimate.image_seconds or 0 for estimate in upstream.values()))
        size += len(self.taps) * self.train * MIDDLES * 1000
        passes = self.count * VARIANTS + self.train * MIDDLES
        return Estimate(rows=rows, size_bytes=size, cpu_seconds=5 + passes * seconds)

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
