"""What a study says about an encoder: where it comes from, how it is built, how it sees an image. Settings only."""

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveInt

from stages.contract import Added, Settings
from stages.errors import InputError
from stages.images.framing import Framing, Interpolation
from stages.images.pixels import normalise

if TYPE_CHECKING:
    from torch import Tensor

Colour = tuple[float, float, float]
"""One number each for red, green and blue."""
Positives = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


class Preprocessing(Settings):
    """How an encoder sees an image: framed as a square, then (pixel - mean) / std on pixels in [0, 1]."""

    size: PositiveInt = 32
    """Side of the square, pixels."""
    mean: Colour = (0.5, 0.5, 0.5)
    """Subtracted from pixels in [0, 1]: red, green, blue."""
    std: Colour = (0.25, 0.25, 0.25)
    """Divides what is left: red, green, blue."""
    resize: Annotated[PositiveInt | None, Added(when_absent=None)] = None
    """The shorter side is resized to this many pixels, then the centre is cut out. None: the centre square is resized
    to `size` and nothing more is lost."""
    squash: Annotated[bool, Added(when_absent=False)] = False
    """Both sides are resized to `resize` (or `size`), whatever the image's proportions."""
    interpolation: Annotated[Interpolation, Added(when_absent="bicubic")] = "bicubic"
    """Of the resizing."""
    rounding: Annotated[Literal["even", "down"], Added(when_absent="even")] = "even"
    """Of half a pixel of margin when the centre is cut out: torchvision's, or that of transformers."""
    halve: Annotated[bool, Added(when_absent=False)] = False
    """As guided-diffusion does: both sides are halved while the shorter is 2 x `resize` or longer, then resized."""
    channels: Annotated[Literal["rgb", "bgr"], Added(when_absent="rgb")] = "rgb"
    """Order in which the network is given the normalised channels."""

    def model_post_init(self, context: object) -> None:
        """Refuses a cut that is larger than what it is cut from, and halving towards no side."""
        if self.halve and (self.resize is None or self.squash):
            raise ValueError("expected resize, a number of pixels, and no squash, where halve is true")
        if self.resize is not None and self.resize < self.size:
            raise ValueError(f"expected resize to be at least size, {self.size}; found {self.resize}")

    @property
    def framing(self) -> Framing:
        """How an image becomes the square that the encoder is given."""
        return Framing(self.size, self.resize, self.squash, self.interpolation, self.rounding, self.halve)

    @property
    def words(self) -> str:
        """How an encoder sees an image, in words."""
        size, wanted = f"{self.size} x {self.size} px", self.resize or self.size
        if self.squash:
            framed = f"the image squeezed to {wanted} x {wanted} px"
            framed += f", of which the centre, {size}" if wanted != self.size else ""
        elif self.resize is None:
            framed = f"the centre square at {size}"
        else:
            shorter = "both sides halved while that leaves enough, the shorter" if self.halve else "the shorter side"
            framed = f"{shorter} resized to {wanted} px, of which the centre, {size}"
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        order = "; channels in the order blue, green, red" if self.channels == "bgr" else ""
        return f"{framed} ({self.interpolation}); mean {mean}; standard deviation {std}{order}"

    def normalise(self, images: "Tensor") -> "Tensor":
        """Pixels float32 [B, 3, H, W] in [0, 1] as the network is given them; passes gradients on."""
        normalised = normalise(images, self.mean, self.std)
        return normalised.flip(1) if self.channels == "bgr" else normalised


class Architecture(Settings):
    """A residual network for small images, and the projector on top of it."""

    stem: Literal[1, 2] = 2
    """Stride of the first convolution."""
    widths: Positives = (32, 64, 256)
    """Channels of each stage; every stage but the first halves the resolution. The last is the width of `backbone`."""
    blocks: Positives = (1, 1, 1)
    """Residual blocks of each stage."""
    projector: Positives = (256, 128)
    """Width of each layer of the projector; the last is the width of `projector`."""

    def model_post_init(self, context: object) -> None:
        """Refuses a different number of widths and blocks."""
        if len(self.widths) != len(self.blocks):
            raise ValueError(
                f"expected one number of blocks per width; found {len(self.blocks)} for {len(self.widths)}"
            )

    @property
    def features(self) -> int:
        """Widths of all taps together."""
        return self.widths[-1] + sum(self.projector)

    def image_seconds(self, size: int) -> float:
        """Seconds of one CPU to embed an image of `size` x `size` pixels, measured with the default; for estimates."""
        return 2.7e-4 * self.multiplications(size) / Architecture().multiplications(32)

    def multiplications(self, size: int) -> int:
        """Multiply-adds of the 3 x 3 convolutions for one image of `size` x `size` pixels; estimates use it."""
        side, channels = -(-size // self.stem), self.widths[0]
        total = side**2 * 27 * channels
        for number, (width, blocks) in enumerate(zip(self.widths, self.blocks, strict=True)):
            side = side if number == 0 else -(-side // 2)
            total += side**2 * 9 * (channels * width + (2 * blocks - 1) * width**2)
            channels = width
        return total


class Pretrained(Settings):
    """An encoder trained by the `pretrain` stage."""

    kind: Literal["pretrained"] = "pretrained"
    input: str = "encoder"
    """Name of the input that holds it."""


class Untrained(Settings):
    """The same network at random initialisation, the reference for what architecture alone keeps.

    Its BatchNorm statistics stay as initialised (mean 0, variance 1), so that it is a function of `architecture` and
    `seed` alone and needs no images; the scale of its embeddings is taken out by the standardisation of every user.
    """

    kind: Literal["untrained"] = "untrained"
    architecture: Architecture = Architecture()
    preprocessing: Preprocessing = Preprocessing()
    seed: int = 0
    """Of the initial weights."""


class Oracle(Settings):
    """No network: the true attributes (`attributes`) and the image downsized to 8 x 8 (`pixels`), as reference rows."""

    kind: Literal["oracle"] = "oracle"


EncoderSpec = Annotated[Pretrained | Untrained | Oracle, Field(discriminator="kind")]
"""Where an encoder comes from, told apart by `kind`."""


def require(what: str, name: str, known: Iterable[str]) -> None:
    """Raises InputError where `name` is not among `known`; the message lists those that exist and the likeliest meant.

    `what` says what kind of name it is, for example "tap of simclr" or "encoder".
    """
    names = list(known)
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=1)
    remedy = f"Did you mean {near[0]!r}?" if near else "Choose one of them."
    raise InputError(expected=f"a {what}: {', '.join(names) or 'none exists'}", found=repr(name), remedy=remedy)
