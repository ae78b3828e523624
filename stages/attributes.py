"""Attributes: what is measurable about an image, and how far two values of one lie apart.

Values are float64 arrays; NaN means undefined (the rotation of a disc, the hue of a grey image). A scalar is any real
number, a circle is in turns [0, 1), a class is an integer index into `classes`.
"""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import numpy as np

PREFIX = "attribute."
"""Columns of a table that hold attributes are named `attribute.<name>`."""


class Attribute(BaseModel):
    """Name and kind of an attribute, and what becomes of its value when the image is mirrored left to right."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Literal["scalar", "circle", "class"]
    classes: tuple[str, ...] = ()
    mirror: Literal["same", "complement", "negate", "unknown"] = "same"
    """`complement`: 1 - value (a position); `negate`: -value modulo 1 turn (an angle)."""

    def difference(self, a: "np.ndarray", b: "np.ndarray") -> "np.ndarray":
        """Difference d of two arrays of values (broadcast): squared error, 1 - cos, or 0/1; NaN where undefined."""
        import numpy as np

        gap = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
        if self.kind == "scalar":
            return gap**2
        if self.kind == "circle":
            return 1.0 - np.cos(2.0 * np.pi * gap)
        return np.where(np.isnan(gap), np.nan, (gap != 0).astype(np.float64))

    def mirrored(self, values: "np.ndarray") -> "np.ndarray":
        """The values after a left-right flip of the image."""
        import numpy as np

        if self.mirror == "complement":
            return 1.0 - values
        if self.mirror == "negate":
            negated: np.ndarray = np.mod(-values, 1.0)
            return negated
        if self.mirror == "unknown":
            return np.full_like(values, np.nan)
        return values


def dump(attributes: Iterable[Attribute]) -> bytes:
    """The attributes as the bytes of `attributes.json`."""
    return json.dumps([a.model_dump(mode="json") for a in attributes], indent=1).encode()


def load(data: bytes) -> list[Attribute]:
    """The attributes from the bytes of `attributes.json`."""
    return [Attribute.model_validate(entry) for entry in json.loads(data)]
