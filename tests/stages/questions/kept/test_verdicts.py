"""Verdicts: every branch, on made-up evidence."""

from dataclasses import replace
from typing import Any

import pytest

from stages.questions.kept import verdicts
from stages.questions.kept.verdicts import Evidence

GONE = Evidence(low=-0.05, high=0.15, reader=0.99, ceiling=0.95, probe=0.2, nearness=0.7, rise_low=-0.02)


@pytest.mark.parametrize(
    ("change", "verdict", "says"),
    [
        ({}, "LOST", "probe reads only 0.20"),
        ({"high": 0.2, "probe": 0.3, "rise_low": 0.0}, "LOST", "to 0.20"),
        ({"high": 0.21}, "PARTLY", "neither kept"),
        ({"probe": 0.31}, "PARTLY", "the probe reads 0.31"),
        ({"probe": None}, "PARTLY", "no probe was trained"),
        ({"nearness": 1.0}, "PARTLY", "1.00 times as far"),
        ({"nearness": None}, "PARTLY", "were not embedded"),
        ({"rise_low": 0.01}, "PARTLY", "still rising"),
        ({"rise_low": None}, "PARTLY", "half of training is not known"),
        ({"probe": 0.5}, "DECODER LIMIT", "do not show it"),
        ({"probe": 0.9, "low": 0.3, "high": 0.49}, "DECODER LIMIT", "0.30 to 0.49: the samples show less than half"),
        ({"probe": 0.9, "low": 0.3, "high": 0.5}, "PARTLY", "neither kept"),
        ({"low": 0.5, "high": 0.6}, "KEPT", "Kept / ceiling is 0.50 to 0.60"),
        ({"low": 0.49, "high": 0.9}, "PARTLY", "neither kept"),
        ({"low": 0.9, "high": 1.0, "reader": 0.949}, "CANNOT TELL", "The reader scores 0.95"),
        ({"low": 0.9, "high": 1.0, "ceiling": 0.79}, "CANNOT TELL", "keeps 0.79"),
        ({"low": 0.9, "high": 1.0, "ceiling": None}, "KEPT", "Kept is 0.90"),
        ({"ceiling": None}, "LOST", "Kept is -0.05 to 0.15"),
        ({"low": float("nan")}, "CANNOT TELL", "too few"),
        ({"reader": float("nan")}, "CANNOT TELL", "reader"),
        ({"ceiling": float("nan")}, "CANNOT TELL", "truth"),
    ],
)
def test_each_verdict_follows_from_its_evidence_and_says_why(change: dict[str, Any], verdict: str, says: str) -> None:
    found, why = verdicts.judge(replace(GONE, **change))
    assert found == verdict
    assert says in why
    assert why.endswith(".")


def test_the_printed_rules_hold_every_threshold() -> None:
    for threshold in ("0.95", "0.8", "0.5", "0.2", "0.3"):
        assert threshold in verdicts.THRESHOLDS


def test_the_sentence_of_a_tap_names_each_attribute_once() -> None:
    found = [
        ("y", "KEPT"),
        ("pattern", "KEPT"),
        ("scale", "KEPT"),
        ("hue", "LOST"),
        ("x", "DECODER LIMIT"),
        ("shape", "CANNOT TELL"),
        ("rotation", "CANNOT TELL"),
        ("brightness", "PARTLY"),
    ]
    assert verdicts.sentence("simclr:backbone", found) == (
        "simclr:backbone keeps y, pattern and scale; stands between kept and lost on brightness; has let go of hue; "
        "holds x, which the decoder does not show; nothing can be told of shape and rotation."
    )
    assert verdicts.sentence("a:b", [("x", "CANNOT TELL")]) == "a:b is such that nothing can be told of x."
    assert verdicts.sentence("a:b", []) == "a:b was asked about no attribute."
