"""The `released` step: takes a published RCDM into the store as a decoder, without any training."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveInt, field_validator

from stages.contract import Estimate, External, Inputs, Output, Part, Stage, Summary, Unkeyed
from stages.decoder.rcdm.spec import AdmSettings
from stages.external.files import absolute


class ReleasedDecoder(Stage):
    """Reads one published file, a plain state dict of averaged weights written by `torch.save`.

    Inputs: `encoder` of the tap, where it was imported: its summary has the width of the tap, which must be the file's.

    Writes `decoder-00.safetensors` … and `decoder.json` (see `stages.decoder.rcdm.format`).
    """

    name: ClassVar[str] = "released"
    version: ClassVar[int] = 1
    bitwise: ClassVar[bool] = True

    url: Annotated[str, Field(min_length=1), Unkeyed("sha256 says which bytes stand there")]
    """The published file, by path or any URL that fsspec opens."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of the file; one with another is refused."""
    taps: Annotated[tuple[Annotated[str, Field(pattern=r"^[^:]+:[^:]+$")]], Field(min_length=1)]
    """The one tap whose embeddings it was trained with, as `encoder:tap`."""
    network: AdmSettings = AdmSettings()
    """The defaults are those of every published file of 128 px."""
    schedule: Literal["linear", "cosine"] = "linear"
    """Noise schedule that it was trained with."""
    steps: Annotated[PositiveInt, Field(ge=2)] = 1000
    """Steps of the schedule that it was trained with."""
    precision: Literal["bfloat16", "float32"] = "float32"
    """Of the network's arithmetic when it paints; bfloat16 where the device is fast in it."""
    preprocessing: Annotated[Literal["rcdm", "unchecked"], Unkeyed("it only says what a study may be")] = "rcdm"
    """How the encoder of a study must see images: `rcdm`, as in the authors' training, since the file does not say;
    `unchecked`: in any way, for a decoder that was trained with another."""

    _absolute_url = field_validator("url")(absolute)

    @property
    def size(self) -> int:
        """Side of the painted images, pixels."""
        return self.network.image_size

    def external(self) -> Mapping[str, External]:
        """The file, identified by its sha256, so that the key is computed without reading it."""
        return {"weights": External(self.url, self.sha256)}

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Rough cost."""
        size_bytes = 4 * self.network.cost()[0]
        return Estimate(
            rows=1,
            size_bytes=size_bytes,
            cpu_seconds=3 + size_bytes / 60_000_000,
            image_seconds=self.network.image_seconds(self.precision),
            size=self.network.image_size,
            precision=self.precision,
        )

    def work(self, part: Part, state: Any, inputs: Inputs, out: Output) -> Summary:
        """Converts the weights; the summary says which files hold them, and the width of the embedding."""
        from stages.decoder.rcdm.published_run import convert

        return convert(self, inputs.get("encoder"), out)

    def merge(self, summaries: Sequence[Summary], inputs: Inputs, out: Output) -> Summary:
        """Writes `decoder.json`."""
        from stages.decoder.rcdm.published_run import describe

        return describe(self, summaries[0], out)
