"""The `pretrain` step: trains an encoder on the train images of a dataset, by one of several methods.

The `checkpoint` step makes an encoder of what a training has kept of an earlier time.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from stages.contract import Added, Context, Estimate, Gang, Inputs, Output, Part, Stage, Summary, Unkeyed
from stages.encoders.augment import Augmentations
from stages.encoders.spec import Architecture, Preprocessing

OWN: Mapping[str, tuple[str, ...]] = {
    "simclr": ("temperature",),
    "vicreg": ("invariance", "variance", "covariance"),
    "barlow": ("redundancy",),
    "supervised": ("label",),
}
"""Fields of one method only, by method."""
Share = Annotated[float, Field(ge=0, lt=1)]
"""Of a training: 0 is before its first step."""


class Pretrain(Gang):
    """Trains a small ResNet with a projector on two augmented views of every image; input `shards`.

    Writes `encoder.safetensors` and `encoder.json` (see `stages.encoders.format`), and both again below
    `checkpoints/<share>/` for each of `checkpoints`. Any number of ranks trains the same encoder: BatchNorm and loss
    are over the whole batch. No method but `supervised` is given a label.
    """

    name: ClassVar[str] = "pretrain"
    version: ClassVar[int] = 1
    bitwise: ClassVar[bool] = False

    method: Literal["simclr", "vicreg", "barlow", "supervised"] = "simclr"
    """What is learned; all else, architecture and augmentations included, is the same for all methods."""
    architecture: Architecture = Architecture()
    preprocessing: Preprocessing = Preprocessing()
    augmentations: Augmentations = Augmentations()
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the initial weights, the order of the images and the augmentations."""
    num_images: PositiveInt = 224_000
    """Length of the training, in images; each is shown in two augmented views."""
    batch: Annotated[int, Field(ge=2)] = 256
    """Images per step, of all ranks together; to SimCLR the other images of the batch are the negatives."""
    learning_rate: PositiveFloat = 2e-3
    """Peak of the cosine schedule, reached after the first 5 % of the steps."""
    weight_decay: NonNegativeFloat = 1e-4
    """Of the optimiser."""
    temperature: PositiveFloat = 0.2
    """Of SimCLR's loss. Low, because a short training learns fine features (shapes) only where near negatives count."""
    invariance: Annotated[NonNegativeFloat, Added(when_absent=25.0)] = 25.0
    """Weights of the three terms of VICReg's loss; the defaults are the paper's."""
    variance: Annotated[NonNegativeFloat, Added(when_absent=25.0)] = 25.0
    """Weight of the variance term of VICReg's loss."""
    covariance: Annotated[NonNegativeFloat, Added(when_absent=1.0)] = 1.0
    """Weight of the covariance term of VICReg's loss."""
    redundancy: Annotated[NonNegativeFloat, Added(when_absent=5e-3)] = 5e-3
    """Weight of the off-diagonal term of Barlow Twins' loss; the default is the paper's."""
    label: Annotated[str | None, Added(when_absent=None)] = None
    """Class attribute that `supervised` learns. None: the only one that the dataset has."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the forward pass in training, bfloat16 where the device is fast in it; weights, BatchNorm statistics, loss and
    all later use are float32."""
    checkpoint_images: Annotated[PositiveInt, Unkeyed("resuming gives the same training")] = 65_536
    """Images between two checkpoints that an interrupted training goes on from."""
    checkpoints: Annotated[tuple[Share, ...], Added(when_absent=())] = ()
    """Shares of the training after which the network is kept as an encoder of its own, `<name>@<share>`; 0 is the
    network before any training."""

    def model_post_init(self, context: object) -> None:
        """Refuses a setting of another method than the one that is named."""
        for method, names in OWN.items():
            for name in names:
                if method != self.method and getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"expected {name} with method {method} only; found it with {self.method}")
        if list(self.checkpoints) != sorted(set(self.checkpoints)):
            raise ValueError(f"expected checkpoints that rise; found {list(self.checkpoints)}")

    @property
    def own_fields(self) -> tuple[str, ...]:
        """Names of the fields that only this method has."""
        return OWN[self.method]

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Rough cost: seconds measured at the default architecture and size, in proportion to the multiplications."""
        size, default = self.preprocessing.size, Architecture()
        scale = self.architecture.multiplications(size) / default.multiplications(32)
        seconds = self.num_images * 1.2e-3 + upstream["shards"].rows * 5e-4
        return Estimate(
            rows=1,
            size_bytes=round(5.5e6 * scale) * (1 + len(self.checkpoints)),
            cpu_seconds=10 + seconds * scale,
            image_seconds=self.architecture.image_seconds(size),
            features=self.architecture.features,
            precision=self.precision,
        )

    def train(self, context: Context, inputs: Inputs, out: Output) -> Summary:
        """Trains, scores and writes the encoder; the summary holds the scores."""
        from stages.pretrain.run import run

        return run(self, context, inputs, out)


class Checkpoint(Stage):
    """An encoder as it was earlier in its training, which is input `training`.

    Writes `encoder.safetensors` and `encoder.json`, as `pretrain` does: copies of what the training has kept.
    """

    name: ClassVar[str] = "checkpoint"
    version: ClassVar[int] = 1
    bitwise: ClassVar[bool] = True

    at: Share
    """Share of the training that was done."""

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Copying two files."""
        return replace(upstream["training"], size_bytes=5_500_000, cpu_seconds=1)

    def work(self, part: Part, state: None, inputs: Inputs, out: Output) -> Summary:
        """Copies the files; the summary says what the encoder is."""
        from stages.encoders import format

        training = inputs["training"]
        found = {
            name: out.put(name, training.read(format.checkpoint(self.at) + name))
            for name in (format.WEIGHTS, format.CARD)
        }
        card = format.parse_card(found[format.CARD])
        return {"taps": card.taps, "weights_sha256": card.weights_sha256, "versions": card.versions}
