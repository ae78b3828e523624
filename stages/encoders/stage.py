"""The `encoder` step: brings an encoder of the user's into the store, checked, with its weights and its fingerprint."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from stages.contract import Estimate, External, Inputs, Output, Part, Stage, Summary
from stages.encoders.augment import Augmentations
from stages.encoders.sources.settings import RESERVED, TAP_NAME, AnySource, Override, Overrides, Tap, Taps

if TYPE_CHECKING:
    from stages.encoders.sources.settings import EncoderSource


def _seconds(parameters: float, size: int) -> float:
    """Of one CPU for an image of `size` x `size` pixels: a ResNet-50 with 23.5 million parameters took 66 ms at 224.

    Convolutional networks and transformers make 110 to 210 multiplications per parameter at 224 px, networks for phones
    fewer; the number grows with the pixels.
    """
    return 0.066 * parameters / 23.5e6 * (size / 224) ** 2


def _valid_names(taps: dict[str, Tap]) -> dict[str, Tap]:
    """Refuses names that have a meaning already or cannot be part of an object's name."""
    for name in taps:
        if not TAP_NAME.fullmatch(name):
            raise ValueError(f"expected names of taps to match {TAP_NAME.pattern}; found {name!r}")
        if name.partition(".")[0] in RESERVED:
            raise ValueError(f"expected another name than {', '.join(RESERVED)}; found {name!r}")
    return taps


class Imported(Stage):
    """Builds the network of `source` twice, refuses it where the two differ, and keeps it with its weights.

    No inputs. Writes `network.json` and `weights-00000.safetensors` … (see `stages.encoders.imported`). What uses the
    encoder later reads it from there: a file of weights is opened once, by its URL, wherever this step runs.
    """

    name: ClassVar[str] = "encoder"
    version: ClassVar[int] = 1
    bitwise: ClassVar[bool] = False

    source: AnySource
    taps: Annotated[Taps, AfterValidator(_valid_names)] = Field(default_factory=dict)
    """Submodules to read beside the taps that the source has."""
    preprocessing: Overrides = Override()
    """What to change of the preprocessing that comes with the network."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the forward pass; bfloat16 where the device is fast in it."""
    augmentations: Augmentations | None = None
    """What the encoder was trained with, where it is known: `invariance` draws from it."""

    @model_validator(mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """A study writes the fields of the source beside the others."""
        if not isinstance(value, dict) or "source" in value:
            return value
        own = {name: entry for name, entry in value.items() if name in cls.model_fields}
        return own | {"source": {name: entry for name, entry in value.items() if name not in cls.model_fields}}

    def tap_names(self) -> tuple[str, ...]:
        """All taps, in the order of the table."""
        source: EncoderSource = self.source
        return (*source.taps(), *self.taps)

    def external(self) -> Mapping[str, External]:
        """The files of the source."""
        return self.source.external()

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Rough cost, by the size of the weights where they lie on this machine; else that of a ResNet-50."""
        parameters = (self.source.weights_bytes() or 100_000_000) / 4
        size = self.preprocessing.size or self.source.usual_size()
        return Estimate(
            rows=1,
            size_bytes=round(4 * parameters),
            cpu_seconds=8 + parameters * 5e-7,
            image_seconds=_seconds(parameters, size),
            features=2048,
        )

    def refined(self, guess: Estimate, summary: Summary) -> Estimate:
        """What the network turned out to be."""
        return replace(
            guess,
            image_seconds=_seconds(summary["parameters"], summary["preprocessing"]["size"]),
            features=sum(summary["taps"].values()),
        )

    def work(self, part: Part, state: Any, inputs: Inputs, out: Output) -> Summary:
        """Imports the encoder; the summary says what was found."""
        from stages.encoders.imported import run

        return run(self, out)

    def merge(self, summaries: Sequence[Summary], inputs: Inputs, out: Output) -> Summary:
        """The summary of the one part."""
        return summaries[0]
