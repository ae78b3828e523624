"""What a served page is asked about a photograph: the nearest images at each tap, and samples of it."""

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from stages.embeddings.neighbours import Vectors, nearest, random_pair
from stages.embeddings.query import INSTALL, TapTable
from stages.errors import InputError
from stages.explorer.content import Content
from stages.explorer.content import Study as ContentStudy
from stages.images.image_file import inspect
from stages.images.pixels import encode_png

if TYPE_CHECKING:
    from stages.contract import Input
    from stages.encoders.encoder import Encoder
    from stages.show.shown import Shown


class Study(ContentStudy, Protocol):
    """What is needed of a study besides what the page shows."""

    def encoder(self, name: str) -> "Input | None":
        """The artifact of an encoder by the study's name for it; None where settings alone make it."""


def painted(shown: "Shown") -> dict[str, Any]:
    """Samples of the one image that is shown, by tap: data URIs, their mean distance and the image's median rank."""
    return {
        tap.id: {
            "samples": [
                f"data:image/png;base64,{base64.b64encode(encode_png(sample)).decode('ascii')}"
                for sample in tap.samples[0]
            ],
            "distance": float(tap.distances[0].mean()),
            "rank": float(np.median(tap.ranks[0])),
            "among": shown.gallery + 1,
        }
        for tap in shown.taps
    }


class Asked:
    """The vectors of the shown images, in memory; `near` compares a photograph with them.

    The encoders of the shown taps are loaded when the first photograph comes, and kept.
    """

    def __init__(self, study: Study, content: Content) -> None:
        self._study = study
        self._k = content.taps[0].near.shape[1]
        self._tables = [study.tap(tap.id) for tap in content.taps]
        row_of = {key: row for row, key in enumerate(self._tables[0].rows.column("key").to_pylist())}
        rows = [row_of[key] for key in content.keys]
        self._vectors = [table.numpy(rows) for table in self._tables]
        self._units = [random_pair(vectors, "l2") or 1.0 for vectors in self._vectors]
        self._shards = study.artifact("shards")
        self._encoders: dict[str, Encoder] = {}

    def encoder(self, name: str) -> "Encoder":
        """An encoder of a shown tap by the study's name for it, on the CPU.

        InputError where it gives other embeddings here than those of the table, or what runs studies is not installed.
        """
        if name not in self._encoders:
            try:
                from stages.embeddings.photographs import load_checked
            except ModuleNotFoundError as error:
                raise InputError("what runs studies, to embed a photograph", str(error), INSTALL) from error
            table = next(table for table in self._tables if table.name.partition(":")[0] == name)
            self._encoders[name] = load_checked(table.attributes, self._shards, self._study.encoder(name))
        return self._encoders[name]

    def near(self, photograph: bytes) -> dict[str, dict[str, Any]]:
        """By tap `near` (numbers of images, nearest first) and `distances`, or `why` there are none.

        InputError where the photograph cannot be read, or what runs studies is not installed.
        """
        inspect(photograph)
        found: dict[str, dict[str, Any]] = {}
        embedded: dict[str, Mapping[str, Vectors] | str] = {}
        for table, vectors, unit in zip(self._tables, self._vectors, self._units, strict=True):
            encoder, _, tap = table.name.partition(":")
            if encoder not in embedded:
                embedded[encoder] = self._embedded(table, encoder, photograph)
            own = embedded[encoder]
            if isinstance(own, str):
                found[table.name] = {"why": own}
            elif tap not in own:
                found[table.name] = {"why": "This tap does not read pixels."}
            else:
                query = own[tap].astype(table.dtype).astype(np.float32)[None]
                answer = nearest(query, [(np.arange(len(vectors)), vectors)], self._k, "l2", np.array([-1]))
                distances = (answer.distances[0] / unit).tolist()
                found[table.name] = {"near": answer.rows[0].tolist(), "distances": distances}
        return found

    def _embedded(self, table: TapTable, encoder: str, photograph: bytes) -> Mapping[str, Vectors] | str:
        """The vectors of a photograph by tap, or why this encoder gives none here."""
        try:
            loaded = self.encoder(encoder)
            from stages.embeddings.photographs import embed

            return embed(loaded, self._shards, photograph, table.views[0])
        except InputError as error:
            return str(error)
