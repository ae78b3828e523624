"""Which sources the page shows, and in which order: the same in the figures of all answers, the classes in turns."""

import re
from collections.abc import Mapping
from dataclasses import replace

from stages.contract import Inputs
from stages.questions import turns
from stages.questions.answers import Answer
from stages.questions.format import Figure
from stages.questions.turns import classes_of

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
    name, classes = classes_of(inputs["shards"], rows) if "shards" in inputs else ("", [0.0] * len(rows))
    order = {rows[index]: position for position, index in enumerate(turns.order(classes).tolist())}
    found = {
        question: replace(answer, figures=tuple(_arranged(figure, order, most) for figure in answer.figures))
        for question, answer in answers.items()
    }
    words = "The sources in the figures of an answer, in an order that is drawn by a seed"
    words += f", in which the classes of {name} take turns." if name else "."
    if most is not None:
        words += f" No figure shows more than {most}, for the page to stay small; the figures in the store have all."
    return found, (("Pictures", words),)


def row_of(label: str) -> int | None:
    """The row of the source that a figure's row shows; None where it names none."""
    found = IMAGE.search(label)
    return None if found is None else int(found[1])


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
