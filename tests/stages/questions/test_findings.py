"""Findings: every outcome, on made-up rows."""

import math
from dataclasses import replace
from typing import Any

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
        ((0.3, 0.4), (-0.02, 0.02), "not shown"),
        ((0.3, 0.4), (-0.2, -0.01), "not shown"),
        ((0.05, 0.1), (0.01, 0.02), "opposite"),
        ((0.3, 0.4), (-0.2, -0.1), "opposite"),
    ],
)
def test_finding_one_has_three_outcomes(backbone: tuple[float, float], gap: tuple[float, float], outcome: str) -> None:
    more = row("r difference - untrained", BOTH, "own", *gap)
    found = findings.backbone_moves(row("r", "backbone", "own", *backbone), more)
    assert (found.number, found.encoder, found.outcome) == ("i", "simclr", outcome)
    assert f"[{backbone[0]:.2f}, {backbone[1]:.2f}]" in found.why


def compared(subject: str, low: float, high: float, backbone: float = 0.4, projector: float = 0.2) -> findings.Compared:
    """kept(backbone) - kept(projector) of an attribute, and the lower bounds of both."""
    return findings.Compared(row("kept difference", BOTH, subject, low, high), backbone, projector)


SPECIFIC = row("difference in differences", BOTH, "own", -0.8, -0.2)


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
    kept = [compared(f"a{i}", *d) for i, d in enumerate(differences)]
    found = findings.projector_rests(row("r ratio", BOTH, "own", *share), SPECIFIC, kept)
    assert (found.number, found.outcome) == ("ii", outcome)


@pytest.mark.parametrize(
    ("specific", "outcome"),
    [((-0.8, -0.2), "shown"), ((-0.8, -0.04), "not shown"), ((-0.1, 0.1), "not shown"), ((0.06, 0.2), "not shown")],
)
def test_a_projector_that_rests_under_everything_alike_does_not_show_finding_two(
    specific: tuple[float, float], outcome: str
) -> None:
    kept = [compared(name, 0.1, 0.3) for name in ("hue", "x")]
    taught = row("difference in differences", BOTH, "own", *specific)
    assert findings.projector_rests(row("r ratio", BOTH, "own", 0.2, 0.4), taught, kept).outcome == outcome


def test_attributes_that_measure_the_same_count_once() -> None:
    kept = [compared("x", 0.1, 0.3), compared("centre_x", 0.1, 0.3), compared("hue", -0.1, 0.1)]
    share = row("r ratio", BOTH, "own", 0.2, 0.4)
    assert findings.projector_rests(share, SPECIFIC, kept).outcome == "shown"
    once = findings.projector_rests(share, SPECIFIC, kept, {"centre_x": "x"})
    assert once.outcome == "not shown"
    assert "of 2 attributes" in once.why


def test_what_the_backbone_keeps_more_of_than_a_projector_that_is_wrong_does_not_count() -> None:
    share = row("r ratio", BOTH, "own", 0.2, 0.4)
    nothing = [compared(name, 0.1, 0.3, backbone=0.04, projector=-0.3) for name in ("hue", "x")]
    found = findings.projector_rests(share, SPECIFIC, nothing)
    assert (found.outcome, "keeps more of none" in found.why) == ("not shown", True)
    nothing = [compared(name, -0.3, -0.1, backbone=-0.3, projector=0.04) for name in ("hue", "x")]
    assert findings.projector_rests(share, SPECIFIC, nothing).outcome == "not shown"
    unknown = [compared(name, 0.1, 0.3, backbone=math.nan) for name in ("hue", "x")]
    assert findings.projector_rests(share, SPECIFIC, unknown).outcome == "not shown"


def test_findings_of_few_sources_are_open() -> None:
    gap, share = row("r difference - untrained", BOTH, "own", 0.1, 0.2), row("r ratio", BOTH, "own", 0.2, 0.4)
    kept = [compared(name, 0.1, 0.3) for name in ("hue", "x")]
    found = [
        findings.backbone_moves(row("r", "backbone", "own", 0.3, 0.4), replace(gap, n=19)),
        findings.projector_rests(replace(share, n=19), SPECIFIC, kept),
        findings.attacks_move([replace(each, n=19) for each in gaps((0.1, 0.2), (0.1, 0.2))], seeds(3, 3)),
    ]
    assert [(each.outcome, "19 of 20 sources" in each.why) for each in found] == [("cannot tell", True)] * 3


def augmentation(name: str) -> Row:
    return row("augmentation", "", name, float("nan"), float("nan"))


READ = {"hue": 0.99, "x": 0.95, "y": 0.99, "scale": 0.94, "brightness": 0.99}


def test_findings_are_written_for_encoders_whose_rows_are_there() -> None:
    rows = [
        row("r", "backbone", "own", 0.3, 0.4),
        row("r", "projector", "own", 0.05, 0.06),
        row("r difference - untrained", BOTH, "own", 0.2, 0.3),
        row("r ratio", BOTH, "own", 0.1, 0.2),
        SPECIFIC,
        augmentation("crop"),
        augmentation("hue"),
        row("kept difference", BOTH, "hue", 0.1, 0.2),
        row("kept difference", BOTH, "x", 0.1, 0.2),
        *(row("kept", "backbone", name, 0.8, 0.9) for name in ("hue", "x", "y", "scale")),
        *(Row("q", "reader", "", "", name, score, math.nan, math.nan, 9, "") for name, score in READ.items()),
        # The reader of scale is weak, and few images have a y.
        row("kept difference", BOTH, "scale", -0.3, -0.2),
        replace(row("kept difference", BOTH, "y", -0.3, -0.2), n=19),
        row("kept difference", BOTH, "pattern", -0.2, -0.1),
        row("kept difference", BOTH, "brightness", -0.2, -0.1),
        Row("q", "r", "oracle", "pixels", "own", 0.5, 0.4, 0.6, 128, ""),
    ]
    found = findings.findings(rows)
    assert [(f.number, f.encoder, f.outcome) for f in found] == [("i", "simclr", "shown"), ("ii", "simclr", "shown")]
    assert "hue and x" in found[1].why
    assert "of 2 attributes" in found[1].why
    assert findings.findings(rows[:2]) == []


def test_attributes_are_those_that_the_encoders_own_augmentations_change() -> None:
    rows = [augmentation("brightness"), augmentation("hue")]
    assert findings.augmented(rows, "simclr") == {"brightness", "mean_brightness", "hue", "background_hue", "mean_hue"}
    assert findings.augmented(rows, "another") == frozenset()


def gap(supervised: str, other: str, eps: str, low: float, high: float) -> Row:
    return Row("robustness", "gap at backbone", supervised, "", f"{other} {eps}", (low + high) / 2, low, high, 128, "")


def gaps(first: tuple[float, float], others: tuple[float, float]) -> list[Row]:
    """Every pair of three supervised and three self-supervised encoders."""
    pairs = [(f"labels{i}", f"simclr{j}") for i in range(3) for j in range(3)]
    return [gap(*pair, "1", *(first if number == 0 else others)) for number, pair in enumerate(pairs)]


def seeds(supervised: int, self_supervised: int) -> list[Row]:
    """What three encoders of each kind were trained from, of which so many seeds differ."""
    groups = {"labels": ("supervised shape", supervised), "simclr": ("simclr", self_supervised)}
    return [
        Row("robustness", "trained", f"{name}{i}", "", method, i % different, float("nan"), float("nan"), 1, "")
        for name, (method, different) in groups.items()
        for i in range(3)
    ]


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
    found = findings.attacks_move(gaps(first, second), seeds(3, 3))
    assert (found.number, found.encoder, found.outcome) == ("iii", "labels0, labels1 and labels2", outcome)
    assert f"labels0 - simclr1 {sum(second) / 2:.2f}" in found.why


def test_finding_three_is_judged_at_the_middle_eps_whatever_the_others_say() -> None:
    rows = [
        *(gap(f"labels{i}", f"simclr{i}", "10", -0.5, -0.4) for i in range(3)),
        *(gap(f"labels{i}", f"simclr{i}", "1", 0.1, 0.2) for i in range(3)),
        *(gap(f"labels{i}", f"simclr{i}", "0.25", -0.5, -0.4) for i in range(3)),
        Row("robustness", "gap at projector", "labels0", "", "simclr0 1", -0.3, -0.4, -0.2, 128, ""),
        *seeds(3, 3),
    ]
    (found,) = findings.findings(rows)
    assert (found.outcome, "at eps 1 / 255" in found.why) == ("shown", True)


@pytest.mark.parametrize(("supervised", "self_supervised", "least"), [(3, 2, 2), (1, 3, 1)])
def test_finding_three_has_no_outcome_with_fewer_than_three_seeds_of_a_method(
    supervised: int, self_supervised: int, least: int
) -> None:
    found = findings.attacks_move(gaps((0.1, 0.2), (0.1, 0.2)), seeds(supervised, self_supervised))
    assert found.outcome == "cannot tell"
    assert found.why.startswith(f"{least} of 3 seeds of each method.")


def test_seeds_of_encoders_that_are_in_no_pair_do_not_count() -> None:
    pair = [gap("labels0", "simclr0", "1", 0.1, 0.2)]
    assert "1 of 3 seeds" in findings.attacks_move(pair, seeds(3, 3)).why
    assert "0 of 3 seeds" in findings.attacks_move(pair, []).why


WORKS = findings.EditEvidence(reader=0.99, held=0.9, selectivity=0.3, over_random=0.4, step=0.1, sources=24)


@pytest.mark.parametrize(
    ("changed", "verdict", "why"),
    [
        ({}, "EDITS", "exceeds that on others by 0.30"),
        ({"step": -0.04}, "EDITS", "exceeds that on others"),
        ({"reader": 0.9}, "CANNOT TELL", "reader scores 0.90"),
        ({"reader": math.nan}, "CANNOT TELL", "reader"),
        ({"sources": 19}, "CANNOT TELL", "19 of 20 sources"),
        ({"held": 0.4}, "CANNOT TELL", "unedited samples keep 0.40"),
        ({"held": math.nan}, "CANNOT TELL", "unedited samples"),
        ({"selectivity": math.nan}, "CANNOT TELL", "no other attribute"),
        ({"selectivity": 0.05}, "NO EDIT", "on others by 0.05"),
        ({"over_random": 0.0}, "NO EDIT", "random directions by 0.00"),
        ({"over_random": math.nan}, "NO EDIT", "random directions"),
        ({"step": -0.2}, "NO EDIT", "less effect, by 0.20"),
    ],
)
def test_an_edit_of_one_attribute_has_three_verdicts(changed: dict[str, Any], verdict: str, why: str) -> None:
    found = findings.edit_works(replace(WORKS, **changed))
    assert found[0] == verdict
    assert why in found[1]


def edit(attribute: str, verdict: str, encoder: str = "simclr", tap: str = "backbone", method: str = "means") -> Row:
    return Row("edits", "selectivity", encoder, tap, f"{method} {attribute}", 0.4, 0.3, 0.5, 24, "", verdict, "because")


@pytest.mark.parametrize(
    ("verdicts", "outcome"),
    [
        (["EDITS", "EDITS", "NO EDIT"], "shown"),
        (["EDITS", "NO EDIT", "NO EDIT"], "not shown"),
        (["EDITS", "NO EDIT", "CANNOT TELL"], "not shown"),
        (["EDITS", "CANNOT TELL", "CANNOT TELL"], "shown"),
        (["NO EDIT", "CANNOT TELL"], "not shown"),
        (["CANNOT TELL", "CANNOT TELL"], "cannot tell"),
    ],
)
def test_finding_four_needs_two_attributes_that_change_alone_of_those_that_are_judged(
    verdicts: list[str], outcome: str
) -> None:
    found = findings.edits_work([edit(f"a{i}", verdict) for i, verdict in enumerate(verdicts)])
    assert (found.number, found.encoder, found.outcome) == ("iv", "simclr", outcome)
    assert ("Not judged" in found.why) == ("CANNOT TELL" in verdicts)


def test_finding_four_is_judged_at_each_backbone_by_edits_along_the_difference_of_means() -> None:
    rows = [
        edit("hue", "EDITS"),
        edit("x", "EDITS"),
        edit("hue", "NO EDIT", encoder="vicreg"),
        edit("x", "NO EDIT", tap="projector"),
        edit("x", "NO EDIT", method="probe"),
    ]
    found = findings.findings(rows)
    assert [(f.number, f.encoder, f.outcome) for f in found] == [
        ("iv", "simclr", "shown"),
        ("iv", "vicreg", "not shown"),
    ]
    assert "hue 0.40 [0.30, 0.50]; x" in found[0].why
    assert "iv" not in findings.unasked(["edits"])
