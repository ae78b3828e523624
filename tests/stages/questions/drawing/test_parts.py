"""What sections are drawn with: how taps are styled, how numbers are written."""

import pytest

from stages.questions.drawing import numbers, taps

TAP_IDS = ["oracle:attributes", "simclr:backbone", "simclr:projector.0", "simclr:projector", "other:backbone"]


def test_encoders_under_study_come_first_and_empty_on_the_way_to_the_projector() -> None:
    styled = taps.assign_styles(TAP_IDS, {"simclr", "other"}, {"simclr:backbone": 256})
    assert [tap.id for tap in styled][-1] == "oracle:attributes"
    shapes = {tap.id: tap.shape for tap in styled}
    assert shapes["simclr:backbone"] == "circle"
    assert shapes["simclr:projector.0"] == "circle-dot"
    assert shapes["simclr:projector"] == "circle-open"
    assert shapes["other:backbone"] == "square"
    assert [tap.numbers for tap in styled][:2] == ["256 numbers", "a vector"]


def test_no_two_taps_look_the_same() -> None:
    tap_ids = [f"{encoder}:{tap}" for encoder in "abcd" for tap in ("backbone", "projector.0", "projector")]
    tap_ids += [f"reference{number}:backbone" for number in range(8)]
    styled = taps.assign_styles(tap_ids, set("abcd"), {})
    assert len({(tap.shape, tap.colour) for tap in styled}) == len(tap_ids)
    assert len({tap.style for tap in styled}) == len(tap_ids)


@pytest.mark.parametrize(
    ("value", "written"), [(0.126, "0.13"), (-0.126, "−0.13"), (-0.001, "0.00"), (float("nan"), "–"), (1.0, "1.00")]
)
def test_scores_are_written_for_people(value: float, written: str) -> None:
    assert numbers.number(value) == written


@pytest.mark.parametrize(
    ("value", "written"), [(2.5, "2.5"), (3.0, "3"), (1234567.0, "1\u202f234\u202f567"), (float("inf"), "–")]
)
def test_counts_are_written_for_people(value: float, written: str) -> None:
    assert numbers.count(value) == written
