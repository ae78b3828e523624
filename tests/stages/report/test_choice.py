"""Which sources the page shows first."""

import numpy as np

from stages.attributes import Attribute, dump
from stages.images.sets import ATTRIBUTES
from stages.questions.answers import Answer
from stages.report import choice
from tests.artifacts import MemoryArtifact
from tests.stages.report import synthetic


def test_all_figures_show_the_sources_in_one_order_with_their_own_pixels() -> None:
    labels = [f"image {row}" for row in (3, 7, 20)]
    tiles = np.arange(3, dtype=np.uint8)[:, None, None, None, None] * np.ones((1, 2, 4, 4, 3), dtype=np.uint8)
    grid = synthetic.figure("grid", "a:backbone", tiles, labels, ["source", "k = 0"], 0)
    edited = synthetic.figure("edits", "a:backbone", tiles, ["hue, image 3", "x, image 7", "x, image 3"], ["0", "1"], 0)
    answers = {"kept": Answer("kept", "k", (), (grid,)), "edits": Answer("edits", "k", (), (edited,))}
    found, _ = choice.chosen(answers, {}, None)
    (shown,) = found["kept"].figures
    for label, pixels in zip(shown.rows, shown.tiles, strict=True):
        assert (pixels == labels.index(label)).all()
    (steps,) = found["edits"].figures
    first = next(label for label in shown.rows if label != "image 20")
    assert steps.rows[0].endswith(first)
    assert set(steps.rows) == set(edited.rows)


def test_at_most_so_many_sources_are_shown_and_the_page_says_so() -> None:
    labels = [f"image {row}" for row in range(6)]
    grid = synthetic.figure("grid", "a:b", np.zeros((6, 2, 4, 4, 3), dtype=np.uint8), labels, ["source", "k = 0"], 0)
    found, words = choice.chosen({"kept": Answer("kept", "k", (), (grid,))}, {}, 2)
    assert len(found["kept"].figures[0].rows) == 2
    assert "No figure shows more than 2" in words[0][1]


def test_a_dataset_without_classes_is_drawn_from_as_a_whole() -> None:
    shards = MemoryArtifact({ATTRIBUTES: dump([Attribute(name="hue", kind="circle")])})
    grid = synthetic.figure("grid", "a:b", np.zeros((1, 2, 4, 4, 3), dtype=np.uint8), ["image 4"], ["0", "1"], 0)
    _, words = choice.chosen({"kept": Answer("kept", "k", (), (grid,))}, {"shards": shards}, None)
    assert words[0][1].endswith("drawn by a seed.")
