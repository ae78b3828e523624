"""Sentences on the classes of a listing: those without images, and those whose names are nearly the same."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from stages.attributes import PREFIX, Attribute
from stages.listing import OK

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

NAMED = 5
"""Classes that a sentence names."""


def alike(attributes: Sequence[Attribute]) -> list[str]:
    """A sentence for each attribute of which several classes differ in case alone."""
    found = []
    for attribute in attributes:
        by_letters: dict[str, list[str]] = {}
        for name in attribute.classes:
            by_letters.setdefault(name.casefold(), []).append(name)
        groups = [" and ".join(names) for names in by_letters.values() if len(names) > 1]
        if groups:
            found.append(f"classes of {attribute.name} that differ in case alone are taken apart: {_some(groups)}")
    return found


class ClassCounts:
    """Sound images of each class in each split, counted while the tables of a listing pass."""

    def __init__(self, known: Sequence[Attribute]) -> None:
        self._known = [attribute for attribute in known if attribute.kind == "class"]
        self._counts: dict[tuple[str, str], NDArray[np.int64]] = {}

    def counting(self, tables: Iterable["pa.Table"]) -> Iterator["pa.Table"]:
        """The same tables."""
        import numpy as np
        import pyarrow.compute as pc

        for table in tables:
            sound = table.filter(pc.equal(table.column("status"), OK)) if self._known else table
            for split in sound.column("split").unique().to_pylist() if self._known else ():
                rows = sound.filter(pc.equal(sound.column("split"), split))
                for attribute in self._known:
                    numbers = rows.column(PREFIX + attribute.name).to_numpy()
                    counts = np.bincount(
                        numbers[~np.isnan(numbers)].astype(np.int64), minlength=len(attribute.classes)
                    ).astype(np.int64)
                    key = (attribute.name, split)
                    self._counts[key] = self._counts[key] + counts if key in self._counts else counts
            yield table

    def sentences(self, held_out: bool) -> list[str]:
        """What is missing, when all tables have passed. `held_out`: whether any image is."""
        import numpy as np

        found = []
        for attribute in self._known:
            none = np.zeros(len(attribute.classes), dtype=np.int64)
            train, heldout, unseen = (
                self._counts.get((attribute.name, split), none) for split in ("train", "heldout", "unseen")
            )
            there = train + heldout + unseen > 0
            lacks = {
                "sound image": ~there,
                "train image": there & (train + unseen == 0),
                "held-out image": there & (heldout + unseen == 0) & held_out,
            }
            for what, missing in lacks.items():
                names = [attribute.classes[number] for number in np.flatnonzero(missing)]
                if names:
                    number = f"{len(names)} of {len(attribute.classes)} classes of {attribute.name}"
                    found.append(f"{number} have no {what}: {_some(names)}")
            if there.sum() == 1:
                found.append(f"{attribute.name} is {attribute.classes[int(there.argmax())]} wherever it is known")
        return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
