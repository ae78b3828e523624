"""Versus: its rules in every branch, and an answer on samples that are painted by hand."""

from dataclasses import replace

import numpy as np
import pytest

from stages.embeddings.stage import Embeddings
from stages.encoders.spec import Untrained
from stages.errors import InputError
from stages.questions.answers import read
from stages.questions.asks.stage import Sources
from stages.questions.drawing import taps as styles
from stages.questions.format import Row, load_rows
from stages.questions.versus import rules
from stages.questions.versus.answer import _without_repeats, pairs_of
from stages.questions.versus.rules import CANNOT_TELL, EQUAL, LESS, MORE, Evidence
from stages.questions.versus.section import section
from stages.questions.versus.stage import Versus
from stages.readers.stage import Readers
from tests.artifacts import MemoryArtifact, run_stage
from tests.stages.questions.painters import ARCHITECTURE, EVERYTHING, PREPROCESSING, World, embedded

A, B = "small:projector", "small:backbone"
OTHER = "other:backbone"
NAN = float("nan")
SOUND = Evidence(
    sources=192,
    difference=(0.1, 0.3),
    shuffled=(-0.1, 0.1),
    probe=(0.1, 0.2),
    reader=0.99,
    ceiling=0.9,
    kept=(0.2, 0.5),
    dispersion=(0.0, 0.0),
)


@pytest.mark.parametrize(
    ("changed", "verdict", "why"),
    [
        ({}, MORE, "ept(B) − kept(A) is 0.10 to 0.30"),
        ({"difference": (-0.3, -0.1), "probe": (-0.2, -0.1)}, LESS, "−0.30 to −0.10"),
        ({"kept": (-0.4, 0.04)}, CANNOT_TELL, "as low as 0.04"),
        ({"difference": (-0.3, -0.1), "probe": (-0.2, -0.1), "kept": (NAN, 0.5)}, CANNOT_TELL, "as low as nan"),
        ({"difference": (-0.04, 0.04), "probe": (-0.1, 0.1)}, EQUAL, "−0.04 to 0.04"),
        ({"difference": (-0.04, 0.04), "probe": None, "ceiling": None, "kept": (0.5, 0.6)}, EQUAL, ""),
        ({"difference": (-0.1, 0.2)}, CANNOT_TELL, "less than 0.05 and more"),
        ({"reader": 0.94}, CANNOT_TELL, "reader scores 0.94"),
        ({"reader": NAN}, CANNOT_TELL, "reader"),
        ({"difference": (NAN, NAN)}, CANNOT_TELL, "too few sources"),
        ({"sources": 19}, CANNOT_TELL, "too few sources (19)"),
        ({"shuffled": (0.05, 0.2)}, CANNOT_TELL, "other sources differ too"),
        ({"shuffled": (NAN, NAN)}, CANNOT_TELL, "other sources differ too"),
        ({"probe": (-0.3, -0.05)}, CANNOT_TELL, "but the linear probe's difference is −0.30 to −0.05"),
        ({"difference": (-0.3, -0.1), "probe": (0.05, 0.2)}, CANNOT_TELL, "but the linear probe"),
        ({"difference": (-0.04, 0.04), "probe": (0.05, 0.2)}, CANNOT_TELL, "but the linear probe"),
        ({"difference": (-0.04, 0.04), "ceiling": 0.79}, CANNOT_TELL, "not known to show"),
        ({"difference": (-0.04, 0.04), "ceiling": None}, CANNOT_TELL, "not known to show"),
        ({"dispersion": (0.0, 0.1), "probe": (0.0, 0.2)}, CANNOT_TELL, "agree with each other"),
        ({"dispersion": (0.0, 0.1), "probe": None}, CANNOT_TELL, "difference is unknown"),
        ({"dispersion": (0.0, 0.1)}, MORE, ""),
        ({"dispersion": (0.1, 0.0), "probe": None}, MORE, ""),
    ],
)
def test_the_verdict_on_an_attribute(changed: dict[str, object], verdict: str, why: str) -> None:
    found = rules.judge(replace(SOUND, **changed))  # type: ignore[arg-type]
    assert found[0] == verdict
    assert why.lower() in found[1].lower()


@pytest.mark.parametrize(
    ("nearness", "here", "control", "verdict"),
    [
        (0.8, (0.05, 0.2), (0.05, 0.2), rules.SEPARATED),
        (0.8, (0.05, 0.2), (-0.1, 0.04), rules.NOT_SEPARATED),
        (0.8, (-0.1, 0.04), (0.05, 0.2), rules.NOT_SEPARATED),
        (0.8, (0.0, 0.2), (0.05, 0.2), CANNOT_TELL),
        (1.0, (0.05, 0.2), (0.05, 0.2), CANNOT_TELL),
        (None, (0.05, 0.2), (0.05, 0.2), CANNOT_TELL),
        (0.8, (NAN, NAN), (0.05, 0.2), CANNOT_TELL),
    ],
)
def test_the_verdict_on_twins(
    nearness: float | None, here: tuple[float, float], control: tuple[float, float], verdict: str
) -> None:
    assert rules.twins(nearness, here, control)[0] == verdict


@pytest.mark.parametrize(
    ("difference", "chance", "verdict"),
    [
        ((0.05, 0.2), (0.95, 1.05), rules.FINER),
        ((-0.2, -0.05), (0.95, 1.05), rules.COARSER),
        ((-0.04, 0.04), (0.95, 1.05), rules.ALIKE),
        ((-0.04, 0.06), (0.95, 1.05), CANNOT_TELL),
        ((0.05, 0.2), (0.8, 1.05), rules.FINER),
        ((0.05, 0.2), (0.7, 0.89), CANNOT_TELL),
        ((0.05, 0.2), (1.11, 1.2), CANNOT_TELL),
        ((0.05, 0.2), (NAN, NAN), CANNOT_TELL),
    ],
)
def test_which_tap_is_finer(difference: tuple[float, float], chance: tuple[float, float], verdict: str) -> None:
    assert rules.finer(difference, chance) == verdict


def test_a_pair_is_decided_by_any_attribute_and_undecided_where_none_can_be_judged() -> None:
    assert rules.outcome([CANNOT_TELL, MORE, EQUAL], MORE) == "shown"
    assert rules.outcome([CANNOT_TELL, MORE, EQUAL], LESS) == "not shown"
    assert rules.outcome([CANNOT_TELL], MORE) == "cannot tell"


def test_shown_pairs_have_no_image_in_common() -> None:
    pairs = np.array([[0, 1], [1, 2], [3, 4], [5, 0], [6, 7]])
    among = np.array([True, True, False, True, True])
    assert _without_repeats(pairs, among, 8).tolist() == [0, 4]
    assert _without_repeats(pairs, among, 1).tolist() == [0]


@pytest.fixture(scope="module")
def study() -> World:
    found = embedded()
    other = Untrained(architecture=ARCHITECTURE, preprocessing=PREPROCESSING, seed=3)
    found |= {"embeddings.other": run_stage(Embeddings(encoder=other), {"images": found["shards"]})}
    return World(found | {"readers": run_stage(Readers(num_images=640, widths=(4, 8)), {"shards": found["shards"]})})


@pytest.fixture(scope="module")
def answer(study: World) -> MemoryArtifact:
    """Samples of A keep nothing, those of B all."""
    conditions = study.ask(Sources(taps=(A, B, OTHER), count=40))
    painted = study.paint(conditions, {A: (), B: EVERYTHING, OTHER: ()}, per_source=3)
    return study.answer(Versus(pairs=((A, B), (A, OTHER)), train=100, images=60, shown=3), conditions, painted)


def rows(answer: MemoryArtifact, metric: str) -> dict[tuple[str, str], Row]:
    """Rows of a metric by (tap, subject)."""
    found = load_rows(answer.objects["results.parquet"])
    return {(f"{r.encoder}:{r.tap}", r.subject): r for r in found if r.metric == metric}


def test_what_samples_of_b_alone_show_is_found_and_the_control_finds_nothing(answer: MemoryArtifact) -> None:
    gaps = rows(answer, "kept by tap of the other - of this")
    shuffled = rows(answer, "kept by tap of the other - of this of other sources")
    found = gaps[A, f"{B} mean_brightness"]
    kept = rows(answer, "kept by tap")
    assert found.value == pytest.approx(kept[B, "mean_brightness"].value - kept[A, "mean_brightness"].value)
    assert found.low > 0.3
    assert found.verdict == MORE
    control = shuffled[A, f"{B} mean_brightness"]
    assert control.low < 0 < control.high
    # The reader was trained for a moment: what it cannot read is not judged.
    assert gaps[A, f"{B} shape"].verdict == CANNOT_TELL
    assert "reader scores" in gaps[A, f"{B} shape"].why
    # Neither shows anything of it.
    assert gaps[A, f"{OTHER} mean_brightness"].verdict in (CANNOT_TELL, EQUAL)
    probes = rows(answer, "linear probe by tap")
    gap = rows(answer, "linear probe by tap of the other - of this")[A, f"{B} mean_brightness"]
    assert gap.value == pytest.approx(probes[B, "mean_brightness"].value - probes[A, "mean_brightness"].value)


def test_the_imbalance_of_images_that_do_not_belong_together_is_about_1(answer: MemoryArtifact) -> None:
    found = rows(answer, "information imbalance")
    assert 0 < found[A, B].value < 0.9
    assert rows(answer, "imbalance of images that do not belong")[A, B].value == pytest.approx(1, abs=0.2)
    difference = rows(answer, "imbalance there - back")[A, B]
    assert difference.value == pytest.approx(found[A, B].value - found[B, A].value)


def test_samples_that_differ_spread_at_both_taps_and_equal_ones_at_none(answer: MemoryArtifact) -> None:
    spread = rows(answer, "spread of samples")
    assert spread[B, B].value == pytest.approx(0, abs=1e-6)
    assert spread[B, A].value == pytest.approx(0, abs=1e-6)
    assert spread[A, A].value > 0.5
    gaps, controls = rows(answer, "spread there - here"), rows(answer, "spread there - of its own samples there")
    assert gaps[A, B].value == pytest.approx(spread[A, B].value - spread[A, A].value)
    assert controls[A, B].value == pytest.approx(spread[A, B].value - spread[B, B].value)
    # Samples that keep nothing are no twins of their source.
    assert gaps[A, B].verdict == CANNOT_TELL
    assert gaps[B, A].verdict == rules.NOT_SEPARATED
    # The samples are not embedded by the other network.
    assert "not embedded there" in gaps[A, OTHER].why


def test_by_default_networks_under_study_are_compared_and_what_is_left_out_is_said(study: World) -> None:
    inputs = study.artifacts
    assert pairs_of(Versus(), inputs, [A, B, OTHER]) == (
        [],
        ["There are no two networks under study. Name pairs of taps under `versus`."],
    )
    many = dict(inputs) | {f"embeddings.n{i}": inputs["embeddings.small"] for i in range(5)}
    taps = [f"n{i}:{tap}" for i in range(5) for tap in ("backbone", "projector")]
    pairs, left_out = pairs_of(Versus(), many, taps)
    assert pairs[0] == ("n0:backbone", "n1:backbone")
    assert len(pairs) == 6
    assert "4 further pairs are not compared" in left_out[0]
    with pytest.raises(InputError, match="tap of the decoder under `pairs`"):
        pairs_of(Versus(pairs=((A, "small:backbon"),)), inputs, [A, B])
    with pytest.raises(InputError, match="tap beside small:projector"):
        pairs_of(Versus(pairs=((A, A),)), inputs, [A, B])


def test_the_section_has_both_taps_their_pictures_and_a_finding_in_each_direction(answer: MemoryArtifact) -> None:
    found = section(read("versus", answer), {}, styles.assign_styles([A, B, OTHER], {"small"}, {}))
    (part,) = found.parts
    assert f"{B} knows more of" in part.html
    assert part.html.count('<div class="plot ') + part.html.count('<div class="plot"') >= 2 * len(EVERYTHING)
    assert f"{A} confuses, {B} separates" in part.html
    outcomes = {finding.encoder: finding.outcome for finding in found.findings}
    assert outcomes[f"{B}, not {A}"] == "shown"
    assert outcomes[f"{A}, not {B}"] == "not shown"
    assert "mean_brightness (" in found.findings[0].why
