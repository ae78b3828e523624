"""Which sources the page shows, and in which order: drawn over the classes of the images by a seed.

The figures of an answer show sources in the order of their rows. In a folder that is sorted by class the first of
these are of one class and much alike. So the page draws an order in which the classes take turns, and what is shown
at once is of many. It is the same order in every figure.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from stages.attributes import load
from stages.contract import Inputs
from stages.images.sets import ATTRIBUTES, open_images
from stages.questions.answers import Answer
from stages.questions.format import Figure

SEED = 0
IMAGE = re.compile(r"image (\d+)$")
"""How the label of a figure's row names its source."""


def chosen(
    answers: Mapping[str, Answer], inputs: Inputs, most: int | None
) -> tuple[dict[str, Answer], tuple[tuple[str, str], ...]]:
    """The answers with the sources of their figures in the drawn order, at most so many; and that in words."""
    figures = [figure for answer in answers.values() for figure in answer.figures]
    rows = sorted({row for figure in figures for label in figure.rows if (row := row_of(label)) is not None})
    if not rows:
        return dict(answers), ()
    name, classes = _classes(inputs, rows)
    order = {row: position for position, row in enumerate(drawn(rows, classes))}
    found = {
        question: replace(answer, figures=tuple(_arranged(figure, order, most) for figure in answer.figures))
        for question, answer in answers.items()
    }
    words = "The sources in the figures of an answer, in an order that is drawn by a seed"
    words += f", in which the classes of {name} take turns." if name else "."
    if most is not None:
        words += f" No figure shows more than {most}, for the page to stay small; the figures in the store have all."
    return found, (("Pictures", words),)


def drawn(rows: Sequence[int], classes: Sequence[float]) -> list[int]:
    """The rows in random order, so that each class comes once before any comes again."""
    shuffled = np.random.Generator(np.random.Philox(key=[SEED, len(rows)])).permutation(len(rows))
    seen: dict[float, int] = {}
    turns: list[tuple[int, int, int]] = []
    for index in shuffled.tolist():
        turns.append((seen.setdefault(classes[index], 0), len(turns), rows[index]))
        seen[classes[index]] += 1
    return [row for _, _, row in sorted(turns)]


def row_of(label: str) -> int | None:
    """The row of the source that a figure's row shows; None where it names none."""
    found = IMAGE.search(label)
    return None if found is None else int(found[1])


def _classes(inputs: Inputs, rows: Sequence[int]) -> tuple[str, list[float]]:
    """Name and values of the first class attribute of the dataset; no name and one class where it has none."""
    if "shards" in inputs and ATTRIBUTES in inputs["shards"].names():
        for attribute in load(inputs["shards"].read(ATTRIBUTES)):
            if attribute.kind == "class":
                values = open_images(inputs["shards"]).values([attribute.name])[attribute.name]
                # Where a label is not known it is a class of its own.
                return attribute.name, np.nan_to_num(values[list(rows)], nan=-1.0).tolist()
    return "", [0.0] * len(rows)


def _arranged(figure: Figure, order: Mapping[int, int], most: int | None) -> Figure:
    """A figure with its sources in this order, at most so many; rows that name none keep their place at its end."""
    rows = [row_of(label) for label in figure.rows]
    sources = sorted({row for row in rows if row is not None}, key=order.__getitem__)
    if most is not None:
        sources = sources[:most]
    position = {row: number for number, row in enumerate(sources)}
    lines = [index for index, row in enumerate(rows) if row is None or row in position]
    lines.sort(key=lambda index: len(position) if (row := rows[index]) is None else position[row])
    return replace(figure, rows=tuple(figure.rows[index] for index in lines), tiles=figure.tiles[lines])
