"""Verdicts: every branch, on made-up evidence."""

from dataclasses import replace
from typing import Any

import pytest

from stages.questions.kept import verdicts
from stages.questions.kept.verdicts import Evidence

GONE = Evidence(
    sources=192,
    low=-0.05,
    high=0.15,
    kept_low=-0.05,
    reader=0.99,
    ceiling=0.95,
    probe=(0.01, 0.1),
    power=0.9,
    dispersion=(-0.02, 0.04),
    nearness=0.7,
    rise_high=0.02,
)
HALF = replace(GONE, low=0.55, high=0.7, kept_low=0.5, probe=(0.55, 0.6))


@pytest.mark.parametrize(
    ("evidence", "change", "verdict", "reason"),
    [
        (GONE, {}, "LOST", "probe reads only 0.01 to 0.10"),
        (GONE, {"high": 0.2, "probe": (0.1, 0.2), "rise_high": 0.049}, "LOST", "to 0.20"),
        (GONE, {"dispersion": None, "power": None}, "LOST", "faithful"),
        (GONE, {"high": 0.21}, "PARTLY", "neither kept"),
        (GONE, {"probe": (0.1, 0.21)}, "PARTLY", "the probe reads 0.10 to 0.21"),
        (GONE, {"probe": None}, "CANNOT TELL", "no probe was trained"),
        (GONE, {"nearness": 1.0}, "CANNOT TELL", "1.00 times as far"),
        (GONE, {"nearness": None}, "CANNOT TELL", "were not embedded"),
        (GONE, {"rise_high": 0.05}, "CANNOT TELL", "may still be rising (by up to 0.05)"),
        (GONE, {"rise_high": None}, "CANNOT TELL", "half of training is not known"),
        (GONE, {"power": 0.49}, "CANNOT TELL", "finds 0.49 of a planted attribute"),
        (GONE, {"dispersion": (0.06, 0.1)}, "CANNOT TELL", "agree with each other more than with their source"),
        (GONE, {"dispersion": (-0.1, -0.06)}, "CANNOT TELL", "agree with each other less than with their source"),
        (GONE, {"dispersion": (0.0, 0.2)}, "LOST", "faithful"),
        (GONE, {"kept_low": 0.11}, "CANNOT TELL", "The probe is weaker than the decoder: the probe reads 0.01 to 0.10"),
        (GONE, {"kept_low": 0.11, "dispersion": (0.06, 0.1)}, "CANNOT TELL", "so kept is too high"),
        (GONE, {"probe": (0.5, 0.6)}, "DECODER LIMIT", "do not show it"),
        (
            GONE,
            {"probe": (0.8, 0.9), "low": 0.3, "high": 0.49},
            "DECODER LIMIT",
            "0.30 to 0.49: the samples show less than half",
        ),
        (GONE, {"probe": (0.8, 0.9), "low": 0.3, "high": 0.5}, "PARTLY", "neither kept"),
        (GONE, {"probe": (0.49, 0.9), "low": 0.3, "high": 0.49}, "PARTLY", "neither kept"),
        (HALF, {"low": 0.5, "high": 0.6}, "KEPT", "Kept / ceiling is 0.50 to 0.60"),
        (HALF, {"low": 0.49, "high": 0.9}, "PARTLY", "neither kept"),
        (HALF, {"probe": None}, "KEPT", "at least 0.5"),
        (HALF, {"probe": (0.4, 0.52), "kept_low": 0.53}, "KEPT", "at least 0.5"),
        (HALF, {"probe": (0.4, 0.49), "kept_low": 0.5}, "CANNOT TELL", "The probe is weaker"),
        (HALF, {"probe": (0.4, 0.49), "kept_low": 0.45}, "KEPT", "at least 0.5"),
        (HALF, {"dispersion": (0.06, 0.2)}, "KEPT", "at least 0.5"),
        (HALF, {"dispersion": (0.06, 0.2), "probe": (0.49, 0.6)}, "CANNOT TELL", "so kept is too high"),
        (HALF, {"dispersion": (0.06, 0.2), "probe": None}, "CANNOT TELL", "no probe was trained"),
        (HALF, {"reader": 0.949}, "CANNOT TELL", "The reader scores 0.95"),
        (HALF, {"ceiling": 0.79}, "CANNOT TELL", "keeps 0.79"),
        (HALF, {"ceiling": None}, "KEPT", "Kept is 0.55"),
        (GONE, {"ceiling": None}, "LOST", "Kept is -0.05 to 0.15"),
        (GONE, {"low": float("nan")}, "CANNOT TELL", "too few"),
        (GONE, {"sources": 19}, "CANNOT TELL", "too few sources (19)"),
        (HALF, {"sources": 2, "low": 0.9, "high": 0.9}, "CANNOT TELL", "too few sources (2)"),
        # An interval that holds both thresholds is no statement that the attribute stands between them.
        (GONE, {"low": 0.2, "high": 0.5}, "CANNOT TELL", "kept or lost"),
        (GONE, {"low": 0.21, "high": 0.5}, "PARTLY", "neither kept"),
        (GONE, {"low": 0.2, "high": 0.49}, "PARTLY", "neither kept"),
        (GONE, {"reader": float("nan")}, "CANNOT TELL", "reader"),
        (GONE, {"ceiling": float("nan")}, "CANNOT TELL", "truth"),
    ],
)
def test_each_verdict_follows_from_its_evidence_and_says_why(
    evidence: Evidence, change: dict[str, Any], verdict: str, reason: str
) -> None:
    found, why = verdicts.judge(replace(evidence, **change))
    assert found == verdict
    assert reason in why
    assert why.endswith(".")


def test_the_printed_rules_hold_every_threshold() -> None:
    for threshold in ("0.95", "0.8", "0.5", "0.2", "0.05"):
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
        "holds x, which the decoder does not show; no verdict is possible on shape and rotation."
    )
    assert verdicts.sentence("a:b", [("x", "CANNOT TELL")]) == "a:b is such that no verdict is possible on x."
    assert verdicts.sentence("a:b", []) == "a:b was asked about no attribute."
