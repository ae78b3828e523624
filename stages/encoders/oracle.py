"""The oracle: reference rows that need no network. `attributes` knows the truth, `pixels` is the image seen small."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stages import attributes as attribute_format
from stages.attributes import Attribute
from stages.contract import Input
from stages.encoders.encoder import Encoder, Vectors, View, bytes_digest, sized
from stages.encoders.spec import Preprocessing
from stages.images.pixels import resize, to_unit

ATTRIBUTES = "attributes.json"
INDEX = "index.parquet"
GRID = 8


class OracleEncoder(Encoder):
    """Taps `attributes` (only where the images' true attributes are known) and `pixels` (8 x 8 x 3 averages)."""

    def __init__(self, images: Input | None) -> None:
        self.preprocessing = Preprocessing(size=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        self._attributes: list[Attribute] = []
        self._values: dict[str, NDArray[np.float64]] = {}
        document = b"[]"
        if images is not None and {ATTRIBUTES, INDEX} <= set(images.names()):
            document = images.read(ATTRIBUTES)
            self._attributes = attribute_format.load(document)
            self._values = _columns(images, self._attributes)
        self.weights_sha256 = bytes_digest(document)
        self.taps = {"pixels": GRID * GRID * 3}
        if self._attributes:
            self.taps = {"attributes": sum(width(attribute) for attribute in self._attributes)} | self.taps

    def embed(self, images: NDArray[np.uint8]) -> Vectors:
        """`pixels` of uint8 [B, H, W, 3]: values in [0, 1], float32 [B, 192]."""
        small = resize(to_unit(sized(images, self.preprocessing.framing)), GRID)
        return {"pixels": small.flatten(1).numpy()}

    def embed_rows(self, rows: NDArray[np.int64], view: View) -> Vectors:
        """`attributes` of the images in `rows`, those of the mirror image where `view` is flip."""
        if not self._attributes:
            return {}
        chosen = {name: values[rows] for name, values in self._values.items()}
        if view == "flip":
            chosen = {a.name: a.mirrored(chosen[a.name]) for a in self._attributes}
        return {"attributes": vectors(self._attributes, chosen)}


def width(attribute: Attribute) -> int:
    """Features that an attribute takes in a vector."""
    return {"scalar": 1, "circle": 2, "class": len(attribute.classes)}[attribute.kind]


def vectors(attributes: Sequence[Attribute], values: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float32]:
    """Attributes as vectors, float32 [N, D]: scalars as they are, circles as cosine and sine, classes one-hot.

    What is undefined (NaN) becomes 0, which for a circle and a class is a value of its own.
    """
    columns = []
    for attribute in attributes:
        value = values[attribute.name]
        if attribute.kind == "scalar":
            columns.append(value[:, None])
        elif attribute.kind == "circle":
            angle = 2 * np.pi * value[:, None]
            columns.append(np.concatenate([np.cos(angle), np.sin(angle)], axis=1))
        else:
            columns.append((value[:, None] == np.arange(len(attribute.classes))).astype(np.float64))
    return np.nan_to_num(np.concatenate(columns, axis=1)).astype(np.float32)


def _columns(images: Input, attributes: Sequence[Attribute]) -> dict[str, NDArray[np.float64]]:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(io.BytesIO(images.read(INDEX)))
    columns = attribute_format.label_columns(attributes, file.schema_arrow.names)
    return attribute_format.values(attributes, file.read(columns=list(columns.values())))
