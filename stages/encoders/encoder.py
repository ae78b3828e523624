"""A frozen encoder: uint8 images in, one float32 vector per tap out, all taps in one pass."""

import hashlib
from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from stages.encoders.format import digest
from stages.encoders.spec import Preprocessing
from stages.errors import InputError
from stages.images.framing import Framing, fit
from stages.images.pixels import to_unit
from stages.training.precision import Precision, half, unrounded

View = Literal["plain", "flip"]
Vectors = dict[str, NDArray[np.float32]]
"""Tap -> float32 [B, D]."""

PROBES = 4
TOLERANCE = 1e-3
"""Largest relative L2 distance between two embeddings of the probe batch by one encoder in float32."""
TOLERANCES: dict[Precision, float] = {"float32": TOLERANCE, "bfloat16": 2e-2}
"""The same by the precision of the forward pass."""


class Fingerprint(BaseModel):
    """What distinguishes one encoder from another: equal weights, preprocessing, taps, precision; alike embeddings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights_sha256: str
    preprocessing: Preprocessing
    taps: dict[str, int]
    probe: dict[str, tuple[float, ...]]
    """L2 norm of the embedding of each image of the probe batch, per tap that reads pixels."""
    precision: Precision = "float32"

    @property
    def tolerance(self) -> float:
        """Largest relative difference between two embeddings that is one of rounding."""
        return TOLERANCES[self.precision]

    def differences(self, other: "Fingerprint") -> str:
        """In what two fingerprints differ, in words; empty where they are of one encoder."""
        found = [
            f"{name} {getattr(self, name)} and {getattr(other, name)}"
            for name in ("weights_sha256", "preprocessing", "taps", "precision")
            if getattr(self, name) != getattr(other, name)
        ]
        for tap in self.probe.keys() & other.probe.keys():
            if not np.allclose(other.probe[tap], self.probe[tap], rtol=self.tolerance, atol=0):
                found.append(
                    f"embeddings of the probe batch at {tap} of length {self.probe[tap]} and {other.probe[tap]}"
                )
        return "; ".join(found)


class Encoder(ABC):
    """A network under study, or a reference in its place. It never learns and never changes."""

    preprocessing: Preprocessing
    taps: dict[str, int]
    """Name -> width of every tap, in the order of the forward pass."""
    weights_sha256: str
    precision: Precision = "float32"
    """Of the forward pass."""

    @property
    def tolerance(self) -> float:
        """Largest relative L2 distance between two embeddings of the same images."""
        return TOLERANCES[self.precision]

    @abstractmethod
    def embed(self, images: NDArray[np.uint8]) -> Vectors:
        """Embeds uint8 [B, H, W, 3] at every tap that reads pixels; normalising is done here.

        Images at the encoder's own size are taken as framed already (`preprocessing.framing`); others are framed here.
        """

    def embed_rows(self, rows: NDArray[np.int64], view: View) -> Vectors:
        """Vectors of the taps that do not read pixels but know the image by its row; none for a network."""
        return {}

    def fingerprint(self) -> Fingerprint:
        """The fingerprint, with the probe batch embedded anew."""
        return Fingerprint(
            weights_sha256=self.weights_sha256,
            preprocessing=self.preprocessing,
            taps=self.taps,
            probe={
                tap: tuple(float(f"{norm:.4g}") for norm in np.linalg.norm(vectors.astype(np.float64), axis=1))
                for tap, vectors in self.embed(probe_batch(self.preprocessing.size)).items()
            },
            precision=self.precision,
        )


class NetworkEncoder(Encoder):
    """An encoder that is a network: evaluation mode, no gradient of its weights, which stay float32."""

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing,
        device: str,
        precision: Precision = "float32",
        weights_sha256: str | None = None,
    ) -> None:
        """`network` maps normalised images [B, 3, H, W] to tap -> [B, D]; its digest is taken where it is not given."""
        self.preprocessing = preprocessing
        self.device = device
        self.precision = precision
        self.weights_sha256 = digest(network.state_dict()) if weights_sha256 is None else weights_sha256
        self._network = network.eval().requires_grad_(False).to(device)
        self._layout = torch.channels_last
        blank = torch.zeros(1, 3, preprocessing.size, preprocessing.size, device=device)
        try:
            given = self.forward(blank)
        # `view(B, -1)` works in torch's own layout only, and code of a user's may insist on it in its own way.
        except Exception:
            self._layout = torch.contiguous_format
            given = self.forward(blank)
        self.taps = {tap: vectors.shape[1] for tap, vectors in given.items()}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Pixels float32 [B, 3, H, W] in [0, 1], at the encoder's size, to tap -> [B, D]; passes gradients on."""
        normalised = self.preprocessing.normalise(images)
        taps: dict[str, Tensor] = self._network(normalised.contiguous(memory_format=self._layout))
        return taps

    @torch.no_grad()
    def embed(self, images: NDArray[np.uint8]) -> Vectors:
        """Embeds uint8 [B, H, W, 3] at every tap, in one forward pass."""
        # A quarter of the bytes travels to a GPU where they become numbers there.
        pixels = to_unit(torch.from_numpy(sized(images, self.preprocessing.framing)).to(self.device))
        # By default a GPU rounds the factors of a float32 convolution to 10 bits: further than `TOLERANCE` allows.
        with unrounded("float32", deterministic=True), half(self.precision, self.device):
            taps = self.forward(pixels)
        return {tap: vectors.float().cpu().numpy() for tap, vectors in taps.items()}


def sized(images: NDArray[np.uint8], framing: Framing) -> NDArray[np.uint8]:
    """uint8 [B, H, W, 3] as [B, size, size, 3]: framed, unless they have that size."""
    if images.shape[1:3] == (framing.size, framing.size):
        return np.ascontiguousarray(images)
    return np.stack([fit(image, framing) for image in images])


def probe_batch(size: int) -> NDArray[np.uint8]:
    """The fixed images that fingerprints are made with: uint8 [4, size, size, 3], coloured patches and fine noise."""
    generator = np.random.Generator(np.random.Philox(key=[0, size]))
    patches = generator.integers(32, 224, (PROBES, 4, 4, 3))
    side = -(-size // 4)
    coarse = patches.repeat(side, 1).repeat(side, 2)[:, :size, :size]
    return (coarse + generator.integers(-32, 32, coarse.shape)).astype(np.uint8)


def distances(expected: Vectors, found: Vectors, tolerance: float) -> str:
    """Taps at which two embeddings differ by more than `tolerance` (relative L2), and by how much; empty: none."""
    far = []
    for tap, reference in expected.items():
        if found[tap].shape != reference.shape:
            far.append(f"{tap}, of {found[tap].shape[1]} numbers instead of {reference.shape[1]}")
            continue
        distance = np.linalg.norm(found[tap] - reference) / max(float(np.linalg.norm(reference)), 1e-12)
        if not distance <= tolerance:
            far.append(f"{tap} by {distance:.2g}")
    return ", ".join(far)


def require_same(expected: Vectors, found: Vectors, tolerance: float = TOLERANCE) -> None:
    """Raises InputError where two embeddings of the probe batch differ by more than `tolerance`, naming the taps."""
    if far := distances(expected, found, tolerance):
        raise InputError(
            expected=f"the same embeddings of the probe batch as when the encoder was stored, within {tolerance:g}",
            found=f"a relative difference at {far}",
            remedy="Use the library versions of the stored encoder (its manifest has them), or make it again.",
        )


def bytes_digest(*pieces: bytes) -> str:
    """sha256 of some bytes, for encoders that have no weights."""
    return hashlib.sha256(b"\0".join(pieces)).hexdigest()
