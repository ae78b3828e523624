"""The order in which sources are shown."""

import numpy as np

from stages.attributes import Attribute, dump
from stages.images.sets import ATTRIBUTES
from stages.questions.turns import in_turns, order
from tests.artifacts import MemoryArtifact

SORTED_BY_CLASS = [0.0] * 5 + [1.0] * 5 + [2.0] * 5


def test_every_class_is_shown_once_before_any_is_shown_again() -> None:
    found = order(SORTED_BY_CLASS).tolist()
    classes = [SORTED_BY_CLASS[position] for position in found]
    assert sorted(found) == list(range(15))
    assert all(set(classes[first : first + 3]) == {0.0, 1.0, 2.0} for first in range(0, 15, 3))
    assert found == order(SORTED_BY_CLASS).tolist()
    assert [position for position in found if position < 5] != [0, 1, 2, 3, 4]


def test_images_without_a_class_are_shown_in_random_order() -> None:
    shards = MemoryArtifact({ATTRIBUTES: dump([Attribute(name="hue", kind="circle")])})
    found = in_turns(shards, np.arange(100, 140))
    assert sorted(found.tolist()) == list(range(40))
    assert found.tolist() != sorted(found.tolist())
