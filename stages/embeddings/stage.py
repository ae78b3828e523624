"""The `embeddings` step: embeds every image of `shards` or `samples` at every tap of one encoder."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from stages.contract import Estimate, Inputs, Output, Part, Stage, Summary, Unkeyed
from stages.encoders.spec import EncoderSpec, Oracle, Untrained

if TYPE_CHECKING:
    from stages.embeddings.table import EmbeddingState


class Embeddings(Stage):
    """Inputs: `images` (of `shards` or `samples`), and the encoder's own where its spec names one.

    Writes `embeddings.zarr/<tap>/<view>`, `rows.parquet`, a card and, where the images have a split,
    `statistics.safetensors` (see `stages.embeddings.format`). One part is one tar or one shard of samples.
    """

    name: ClassVar[str] = "embeddings"
    version: ClassVar[int] = 2
    bitwise: ClassVar[bool] = False
    gpu: ClassVar[bool] = True

    encoder: EncoderSpec
    views: Annotated[tuple[Literal["plain", "flip"], ...], Field(min_length=1)] = ("plain", "flip")
    """`flip` is the image mirrored left to right before the encoder's preprocessing."""
    dtype: Literal["float16", "float32"] = "float32"
    """Of the stored vectors, whatever the encoder computes in."""
    batch: Annotated[
        PositiveInt | None, Unkeyed("an encoder sees each image alone; rounding is within the tolerance")
    ] = None
    """Images of a forward pass. None: by the image's size on a CPU, found by trying on a GPU."""

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Rough cost: as the encoder's step has it, and for one that is settings by its multiplications."""
        rows, views = upstream["images"].rows, len(self.views)
        if isinstance(self.encoder, Oracle):
            features, seconds = 220, 2e-5
        elif isinstance(self.encoder, Untrained):
            architecture = self.encoder.architecture
            features, seconds = architecture.features, architecture.image_seconds(self.encoder.preprocessing.size)
        else:
            encoder = upstream[self.encoder.input]
            features, seconds = encoder.features or 0, encoder.image_seconds or 0.0
        width = 2 if self.dtype == "float16" else 4
        return Estimate(
            rows=rows, size_bytes=rows * views * features * width, cpu_seconds=4 + rows * (views * seconds + 8e-5)
        )

    def split(self, inputs: Inputs) -> list[Part]:
        """One part per tar, or per shard of samples."""
        from stages.images.sets import open_images

        return [Part(index=part) for part in range(open_images(inputs["images"]).parts)]

    def setup(self, inputs: Inputs, device: str) -> "EmbeddingState":
        """Loads the encoder and the index of the images."""
        from stages.embeddings.table import EmbeddingState

        return EmbeddingState.load(self.encoder, inputs, device, self.batch)

    def work(self, part: Part, state: "EmbeddingState", inputs: Inputs, out: Output) -> Summary:
        """Embeds one part and writes its shards; the summary has the counts and the part's sums for the statistics."""
        from stages.embeddings.table import embed_part

        return embed_part(self, part.index, state, out)

    def merge(self, summaries: Sequence[Summary], inputs: Inputs, out: Output) -> Summary:
        """Writes rows, statistics and the store's metadata, its root last."""
        from stages.embeddings.table import merge

        return merge(self, summaries, inputs, out)
