"""The answers of questions as a page reads them: rows and figures in memory."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stages.contract import Input
from stages.errors import FormatError
from stages.images import image_file
from stages.questions.format import BOTH, RANKS, RESULTS, Figure, Ranks, Row, load_ranks, load_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FIGURES = "figures/"


@dataclass(frozen=True)
class Answer:
    """The rows and figures of one question, its single ranks if it has any, and the key of the artifact."""

    question: str
    key: str
    rows: tuple[Row, ...]
    figures: tuple[Figure, ...]
    ranks: tuple[Ranks, ...] = ()

    def where(self, metric: str) -> list[Row]:
        """Rows of one metric, in their order."""
        return [row for row in self.rows if row.metric == metric]

    def kind(self, kind: str) -> list[Figure]:
        """Figures of one kind, in their order."""
        return [figure for figure in self.figures if figure.kind == kind]


def read(question: str, artifact: Input) -> Answer:
    """Reads an answer artifact; FormatError where it has no table, or where a figure and its JSON disagree."""
    names = artifact.names()
    if RESULTS not in names:
        raise FormatError(
            f"{RESULTS} in the answer to `{question}`",
            ", ".join(names[:5]) or "nothing",
            f"Run again with --force {question}.",
        )
    figures = [
        figure(json.loads(artifact.read(name)), artifact.read(name.removesuffix(".json") + ".png"))
        for name in names
        if name.startswith(FIGURES) and name.endswith(".json")
    ]
    figures.sort(key=lambda found: (found.order, found.name))
    ranks = load_ranks(artifact.read(RANKS)) if RANKS in names else ()
    return Answer(question, artifact.key, tuple(load_rows(artifact.read(RESULTS))), tuple(figures), tuple(ranks))


def figure(about: dict[str, Any], png: bytes) -> Figure:
    """A figure from what stands in its JSON and PNG; FormatError where the picture is of another size."""
    image = image_file.decode(png, pixel_limit=2**62)
    r, c, size = len(about["rows"]), len(about["columns"]), int(about["tile_px"])
    if image.shape[:2] != (r * size, c * size):
        raise FormatError(
            f"figure {about['name']} of {c} x {r} tiles, {c * size} x {r * size} pixels",
            f"{image.shape[1]} x {image.shape[0]} pixels",
            "Run again with --force for the step of that question.",
        )
    return Figure(
        name=about["name"],
        kind=about["kind"],
        title=about["title"],
        caption=about["caption"],
        tiles=image.reshape(r, size, c, size, 3).transpose(0, 2, 1, 3, 4),
        rows=tuple(about["rows"]),
        columns=tuple(about["columns"]),
        order=about["order"],
        seeds=about["seeds"],
        encoder=about["encoder"],
        tap=about["tap"],
    )


def sheet(tiles: "NDArray[np.uint8]") -> "NDArray[np.uint8]":
    """Tiles [rows, columns, size, size, 3] as one picture [rows x size, columns x size, 3]."""
    r, c, size = tiles.shape[:3]
    return tiles.transpose(0, 2, 1, 3, 4).reshape(r * size, c * size, 3)


def tap_id_of(found: Row | Figure) -> str:
    """`encoder:tap`, as a study writes it; empty where a row or figure is about no single tap."""
    return f"{found.encoder}:{found.tap}" if found.encoder and found.tap else found.encoder


def tap_ids(answers: Iterable[Answer]) -> list[str]:
    """Every `encoder:tap` that has a row of its own, in the order of its first row."""
    rows = (row for answer in answers for row in answer.rows if row.encoder and row.tap not in ("", BOTH))
    return list(dict.fromkeys(tap_id_of(row) for row in rows))


def first(rows: Sequence[Row], at: str, subject: str) -> Row | None:
    """The row of a tap and a subject, or None."""
    return next((row for row in rows if tap_id_of(row) == at and row.subject == subject), None)
