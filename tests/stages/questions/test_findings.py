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
