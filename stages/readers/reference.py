"""Attributes as an encoder reads them that is not under study: for photographs, of which little is known but a class.

Two kinds: for each class attribute of the dataset the class whose mean embedding is nearest, and the position along the
first principal directions of the embeddings. The reading of a sample is compared with the reading of its source.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.attributes import Attribute
from stages.contract import Input
from stages.embeddings.format import Statistics, open_table
from stages.encoders.encoder import Encoder
from stages.images.framing import fit
from stages.images.sets import open_images
from stages.readers.data import rows_of, table_attributes
from stages.readers.score import Floats, Numbers

REFERENCE = "reference."
"""Inputs that hold the embeddings of all images by a reference encoder are named `reference.<encoder>`."""
DIRECTIONS = 3
"""Principal directions that are attributes."""
LIMIT = 20_000
"""Train images that means and directions are taken from, at most."""
BATCH = 64
"""Images that the encoder is given at once."""


@dataclass(frozen=True)
class Reference:
    """A tap of a reference encoder, and how its embeddings are read."""

    tap: str
    statistics: Statistics
    means: tuple[tuple[Attribute, Floats], ...]
    """By class attribute float64 [C, D], standardised; NaN for a class without a train image."""
    directions: tuple[tuple[Attribute, Floats], ...]
    """Unit vectors, float64 [D]."""

    @classmethod
    def of(cls, tap_id: str, shards: Input, table: Input) -> "Reference":
        """From the train images' embeddings at `encoder:tap`."""
        encoder, _, tap = tap_id.partition(":")
        embeddings = open_table(table)
        statistics = embeddings.statistics(tap)
        rows = rows_of(shards, "train")
        rows = np.sort(np.random.Generator(np.random.Philox(key=[0, len(rows)])).permutation(rows)[:LIMIT])
        x = embeddings.standardised(tap, rows)
        means, values = [], open_images(shards).values()
        for a in table_attributes(shards):
            if a.kind == "class":
                labels = values[a.name][rows]
                own = [
                    x[labels == number].mean(axis=0) if (labels == number).any() else np.full(x.shape[1], np.nan)
                    for number in range(len(a.classes))
                ]
                named = Attribute(name=f"{a.name} by {encoder}", kind="class", classes=a.classes, mirror="unknown")
                means.append((named, np.stack(own)))
        _, _, directions = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
        # A direction has no sign of its own; it must not depend on the machine.
        signs = np.sign(np.take_along_axis(directions, np.abs(directions).argmax(axis=1)[:, None], axis=1))
        along = [
            (Attribute(name=f"direction {number + 1} by {encoder}", kind="scalar", mirror="unknown"), direction)
            for number, direction in enumerate((directions * signs)[:DIRECTIONS])
        ]
        return cls(tap, statistics, tuple(means), tuple(along))

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """Classes first."""
        return tuple(attribute for attribute, _ in (*self.means, *self.directions))

    def read(self, embeddings: NDArray[np.float32]) -> dict[str, Floats]:
        """Attributes of embeddings [N, D] by name, float64 [N]."""
        x = self.statistics.standardise(embeddings).astype(np.float64)
        found = {}
        for attribute, means in self.means:
            distances = (means**2).sum(axis=1) - 2.0 * x @ means.T
            found[attribute.name] = np.nanargmin(distances, axis=1).astype(np.float64)
        return found | {attribute.name: x @ direction for attribute, direction in self.directions}

    def read_rows(self, table: Input, rows: Numbers) -> dict[str, Floats]:
        """Attributes of stored images, by name, float64 [N]."""
        return self.read(open_table(table).read(self.tap, "plain", rows))

    def read_images(self, encoder: Encoder, images: NDArray[np.uint8]) -> dict[str, Floats]:
        """Attributes of uint8 [N, H, W, 3] by name, float64 [N]."""
        return self.read(embed(encoder, self.tap, images))


def embed(encoder: Encoder, tap: str, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Embeddings [N, D] of uint8 [N, H, W, 3] at a tap, in batches."""
    vectors = []
    for start in range(0, len(images), BATCH):
        framed = [fit(image, encoder.preprocessing.framing) for image in images[start : start + BATCH]]
        vectors.append(encoder.embed(np.stack(framed))[tap])
    return np.concatenate(vectors)
