"""What the page shows of invariance: strengths of transforms, and how figures are cut."""

import numpy as np
import pytest

from stages.questions.drawing import taps
from stages.questions.invariance.section import transform, transformed_sheets
from tests.stages.report import synthetic


@pytest.mark.parametrize(
    ("subject", "found"),
    [("crop 0.5", ("crop", 0.5)), ("own", ("own", 1.0)), ("same shape", ("same shape", 1.0))],
)
def test_the_subject_of_a_transform_is_its_name_and_strength(subject: str, found: tuple[str, float]) -> None:
    assert transform(subject) == found


def test_transformed_images_that_two_encoders_see_alike_are_shown_once() -> None:
    same = np.zeros((1, 2, 8, 8, 3), dtype=np.uint8)
    figures = [
        synthetic.figure("grid", at, same + value, ["image 1"], ["as it is", "flip 1"], 0)
        for at, value in (("a", 0), ("b", 0), ("c", 9), ("a:backbone", 30))
    ]
    (sheet,) = transformed_sheets(figures, taps.assign_styles(["a:backbone"], {"a"}, {}))
    assert [strip.label for strip in sheet.strips] == ["what a sees", "what c sees", ""]
    assert sheet.columns == ("as it is", "flip 1")
