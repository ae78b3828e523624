"""Findings: every outcome, on made-up rows."""

import pytest

from stages.questions import findings
from stages.questions.format import BOTH, Row


def row(metric: str, tap: str, subject: str, low: float, high: float) -> Row:
    return Row("q", metric, "simclr", tap, subject, (low + high) / 2, low, high, 128, "")


@pytest.mark.parametrize(
    ("backbone", "gap", "outcome"),
    [
        ((0.3, 0.4), (0.1, 0.2), "shown"),
        ((0.1, 0.4), (0.1, 0.2), "not shown"),
        ((0.3, 0.4), (0.04, 0.2), "not shown"),
        ((0.3, 0.4), (-0.2, -0.01), "not shown"),
        ((0.05, 0.1), (0.01, 0.02), "opposite"),
        ((0.3, 0.4), (-0.2, -0.1), "opposite"),
    ],
)
def test_finding_one_has_three_outcomes(backbone: tuple[float, float], gap: tuple[float, float], outcome: str) -> None:
    found = findings.backbone_moves(row("r", "backbone", "own", *backbone), row("r difference", BOTH, "own", *gap))
    assert (found.number, found.encoder, found.outcome) == ("i", "simclr", outcome)
    assert f"[{backbone[0]:.2f}, {backbone[1]:.2f}]" in found.why


@pytest.mark.parametrize(
    ("share", "differences", "outcome"),
    [
        ((0.2, 0.4), [(0.1, 0.3), (0.2, 0.4), (-0.1, 0.1)], "shown"),
        ((0.2, 0.4), [(0.1, 0.3)], "shown"),
        ((0.2, 0.5), [(0.1, 0.3), (0.2, 0.4)], "not shown"),
        ((0.2, 0.4), [(0.1, 0.3), (-0.1, 0.4)], "not shown"),
        ((0.2, 0.4), [(0.1, 0.3), (0.1, 0.4), (-0.4, -0.1)], "not shown"),
        ((0.2, 0.4), [(0.1, 0.3), (0.1, 0.4), (-0.04, -0.01)], "shown"),
        ((0.2, 0.4), [(0.1, 0.3), (0.01, 0.04)], "not shown"),
        ((0.2, 0.4), [], "not shown"),
        ((1.1, 1.4), [(0.1, 0.3), (0.2, 0.4)], "opposite"),
        ((0.2, 0.4), [(-0.3, -0.1), (-0.2, -0.1)], "opposite"),
    ],
)
def test_finding_two_has_three_outcomes(
    share: tuple[float, float], differences: list[tuple[float, float]], outcome: str
) -> None:
    kept = [row("kept difference", BOTH, f"a{i}", *d) for i, d in enumerate(differences)]
    found = findings.projector_rests(row("r ratio", BOTH, "own", *share), kept)
    assert (found.number, found.outcome) == ("ii", outcome)


def test_findings_are_written_for_encoders_whose_rows_are_there() -> None:
    rows = [
        row("r", "backbone", "own", 0.3, 0.4),
        row("r", "projector", "own", 0.05, 0.06),
        row("r difference", BOTH, "own", 0.2, 0.3),
        row("r ratio", BOTH, "own", 0.1, 0.2),
        row("kept difference", BOTH, "hue", 0.1, 0.2),
        row("kept difference", BOTH, "x", 0.1, 0.2),
        row("kept difference", BOTH, "pattern", -0.2, -0.1),
        Row("q", "r", "oracle", "pixels", "own", 0.5, 0.4, 0.6, 128, ""),
    ]
    found = findings.findings(rows)
    assert [(f.number, f.encoder, f.outcome) for f in found] == [("i", "simclr", "shown"), ("ii", "simclr", "shown")]
    assert "hue and x" in found[1].why
    assert findings.findings(rows[:2]) == []


def gap(supervised: str, other: str, eps: str, low: float, high: float) -> Row:
    return Row("robustness", "gap at backbone", supervised, "", f"{other} {eps}", (low + high) / 2, low, high, 128, "")


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [
        ((0.02, 0.05), (0.05, 0.2), "shown"),
        ((0.02, 0.05), (0.01, 0.2), "not shown"),
        ((0.02, 0.05), (-0.2, -0.1), "not shown"),
        ((-0.005, 0.005), (-0.005, 0.005), "not shown"),
        ((-0.2, -0.1), (-0.2, 0.0), "not shown"),
        ((-0.2, -0.1), (-0.05, -0.011), "opposite"),
    ],
)
def test_finding_three_needs_every_pair_and_more_than_the_minimum(
    first: tuple[float, float], second: tuple[float, float], outcome: str
) -> None:
    found = findings.attacks_move([gap("labels", "simclr", "1", *first), gap("labels", "simclr_2", "1", *second)])
    assert (found.number, found.encoder, found.outcome) == ("iii", "labels", outcome)
    assert f"labels - simclr_2 {sum(second) / 2:.2f}" in found.why


def test_finding_three_is_judged_at_the_middle_eps_whatever_the_others_say() -> None:
    rows = [
        gap("labels", "simclr", "10", -0.5, -0.4),
        gap("labels", "simclr", "1", 0.1, 0.2),
        gap("labels", "simclr", "0.25", -0.5, -0.4),
        Row("robustness", "gap at projector", "labels", "", "simclr 1", -0.3, -0.4, -0.2, 128, ""),
    ]
    (found,) = findings.findings(rows)
    assert (found.outcome, "at eps 1 / 255" in found.why) == ("shown", True)
