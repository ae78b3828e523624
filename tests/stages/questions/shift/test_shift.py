"""Shift: its rules in every branch, and an answer on samples of which it is known what they lose of unseen images."""

from dataclasses import replace

import numpy as np
import pytest

from stages.datasets import scenes
from stages.encoders.spec import Pretrained
from stages.images.sets import open_images
from stages.listing.unseen import Combination
from stages.questions.answers import read
from stages.questions.drawing import taps as styles
from stages.questions.format import Row, load_rows, read_conditions
from stages.questions.painted import painting
from stages.questions.shift import rules
from stages.questions.shift.ask import BETWEEN
from stages.questions.shift.section import section
from stages.questions.shift.stage import Shift, Shifted
from stages.readers.data import rows_of, unseen_rows
from stages.readers.stage import Readers
from tests.artifacts import MemoryArtifact, run_stage
from tests.stages.questions.painters import EVERYTHING, SEED, SIZE, World, embedded, samples

NAN = float("nan")
UNDEFINED = (NAN, NAN)
GOOD = rules.Evidence((-0.02, 0.03), (-0.01, 0.02), (-0.04, 0.04), (0.99, 0.99), 0.8, 100)
LOST = (0.2, 0.3)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, rules.HOLDS),
        ({"gap": (-0.4, -0.3)}, rules.HOLDS),
        ({"gap": (-0.02, 0.2)}, rules.CANNOT_TELL),
        ({"gap": LOST}, rules.DECODER),
        ({"gap": LOST, "probe": (0.05, 0.2)}, rules.EMBEDDING),
        ({"gap": LOST, "probe": (0.01, 0.2)}, rules.FAILS),
        ({"gap": LOST, "probe": None}, rules.FAILS),
        ({"gap": LOST, "probe": UNDEFINED}, rules.FAILS),
        ({"gap": LOST, "control": (0.05, 0.1)}, rules.CANNOT_TELL),
        ({"gap": LOST, "control": (-0.1, -0.05)}, rules.CANNOT_TELL),
        ({"gap": LOST, "reader": (0.99, 0.93)}, rules.CANNOT_TELL),
        ({"gap": LOST, "reader": (0.89, 0.99)}, rules.CANNOT_TELL),
        ({"gap": LOST, "held": 0.1}, rules.CANNOT_TELL),
        ({"gap": LOST, "sources": 19}, rules.CANNOT_TELL),
        ({"gap": UNDEFINED}, rules.CANNOT_TELL),
        ({"reader": UNDEFINED}, rules.CANNOT_TELL),
    ],
)
def test_the_verdict_on_an_attribute(changes: dict[str, object], verdict: str) -> None:
    assert rules.judge(replace(GOOD, **changes))[0] == verdict  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("gap", "control", "nearer", "sources", "verdict"),
    [
        ((-0.1, 0.04), (-0.01, 0.01), 0.05, 20, rules.HOLDS),
        ((0.05, 0.1), (-0.01, 0.01), 0.3, 20, rules.FAILS),
        ((0.04, 0.1), (-0.01, 0.01), 0.3, 20, rules.CANNOT_TELL),
        ((0.05, 0.1), (0.06, 0.1), 0.3, 20, rules.CANNOT_TELL),
        ((0.05, 0.1), (-0.01, 0.01), 0.3, 19, rules.CANNOT_TELL),
        (UNDEFINED, (-0.01, 0.01), 0.3, 20, rules.CANNOT_TELL),
        # A decoder that ignores its condition paints all sources equally far.
        ((-0.01, 0.01), (-0.01, 0.01), 0.04, 20, rules.CANNOT_TELL),
        ((-0.1, 0.04), (-0.01, 0.01), NAN, 20, rules.CANNOT_TELL),
    ],
)
def test_the_verdict_on_distances(
    gap: tuple[float, float], control: tuple[float, float], nearer: float, sources: int, verdict: str
) -> None:
    assert rules.judge_distance(gap, control, nearer, sources)[0] == verdict


@pytest.mark.parametrize(
    ("gap", "control", "verdict"),
    [
        ((-0.1, 0.04), (0.1, 0.2), rules.HOLDS),
        ((0.05, 0.1), (0.1, 0.2), rules.FAILS),
        ((0.04, 0.1), (0.1, 0.2), rules.CANNOT_TELL),
        ((-0.1, 0.04), (-0.01, 0.2), rules.CANNOT_TELL),
        (UNDEFINED, (0.1, 0.2), rules.CANNOT_TELL),
    ],
)
def test_the_verdict_on_walks(gap: tuple[float, float], control: tuple[float, float], verdict: str) -> None:
    assert rules.judge_walk(gap, control)[0] == verdict


@pytest.mark.parametrize(
    ("verdicts", "outcome"),
    [
        ([rules.HOLDS, rules.CANNOT_TELL], "shown"),
        ([rules.HOLDS, rules.DECODER], "opposite"),
        ([rules.CANNOT_TELL], "cannot tell"),
    ],
)
def test_the_finding_of_a_tap(verdicts: list[str], outcome: str) -> None:
    assert rules.outcome(verdicts) == outcome


TAPS = ("small:backbone", "oracle:attributes")
UNSEEN: tuple[Combination, ...] = ({"shape": scenes.SHAPES[:4], "pattern": ("plain", "stripes")}, {"hue": (0.9, 0.1)})


@pytest.fixture(scope="module")
def study() -> World:
    tables = embedded(unseen=UNSEEN)
    readers = run_stage(Readers(num_images=64, widths=(4, 8)), {"shards": tables["shards"]})
    return World(tables | {"readers": readers})


@pytest.fixture(scope="module")
def conditions(study: World) -> MemoryArtifact:
    return study.ask(Shifted(taps=TAPS, count=60, walks=6, steps=2))


@pytest.fixture(scope="module")
def answer(study: World, conditions: MemoryArtifact) -> MemoryArtifact:
    """Samples are their source; but at the network's tap, those of unseen combinations have backgrounds of others."""
    asked = read_conditions(conditions)
    heldout = set(rows_of(study.artifacts["shards"], "heldout").tolist())
    rows = np.repeat([c.source_row for c in asked], 2)
    lost = np.repeat([c.encoder == "small" and c.source_row not in heldout for c in asked], 2)
    own, other = scenes.sample(SEED, rows.tolist()), scenes.sample(SEED + 1, range(len(rows)))
    foreign = ("background_hue", "brightness")
    values = {name: np.where(lost & (name in foreign), other[name], own[name]) for name in EVERYTHING}
    painted = samples(scenes.draw(values, SIZE), conditions, 2)
    return study.answer(Shift(shown=2), conditions, painted)


def rows(answer: MemoryArtifact, metric: str) -> dict[tuple[str, str], Row]:
    """Rows of a metric by (tap id, subject)."""
    found = load_rows(answer.objects["results.parquet"])
    return {(f"{row.encoder}:{row.tap}", row.subject): row for row in found if row.metric == metric}


def test_sources_are_heldout_images_and_unseen_ones_from_which_no_reader_learned(
    study: World, conditions: MemoryArtifact
) -> None:
    shards = study.artifacts["shards"]
    of_readers, asked_about = unseen_rows(shards)
    assert abs(len(of_readers) - len(asked_about)) <= 1
    asked = {c.source_row for c in read_conditions(conditions)}
    heldout = set(rows_of(shards, "heldout").tolist())
    assert asked - heldout == set(asked_about.tolist())
    assert len(asked & heldout) == min(60, len(heldout))


def test_a_walk_meets_no_image_twice_and_its_vectors_lie_halfway(study: World, conditions: MemoryArtifact) -> None:
    given = {"conditions": conditions, "samples": study.paint(conditions, dict.fromkeys(TAPS, ()), per_source=1)}
    walked = painting(given, only=[f"{BETWEEN} 1", f"{BETWEEN} 2"])
    assert walked.tap_ids == ("small:backbone",)
    assert len(walked.rows) == 6
    assert {c.strength for c in read_conditions(conditions) if c.variant != "plain"} == {0.5}
    whole = painting(given, only=["plain"])
    assert whole.tap_ids == TAPS
    assert whole.variants == ("plain",)


def test_what_samples_lose_of_unseen_combinations_is_found_and_nothing_else(answer: MemoryArtifact) -> None:
    gaps = rows(answer, "kept, seen - unseen")
    lost = gaps["small:backbone", "mean_brightness"]
    assert lost.value > 0.3
    assert lost.verdict in (rules.DECODER, rules.FAILS, rules.EMBEDDING)
    assert rows(answer, "kept, seen")["small:backbone", "mean_brightness"].value > 0.95
    # At the other tap samples are their sources.
    assert gaps["oracle:attributes", "mean_brightness"].verdict == rules.HOLDS
    assert rows(answer, "kept, half - half of seen")["small:backbone", "mean_brightness"].value == pytest.approx(
        0, abs=0.02
    )


def test_the_linear_probe_and_the_distances_have_both_groups(answer: MemoryArtifact) -> None:
    probe = rows(answer, "linear probe, unseen")["oracle:attributes", "x"]
    assert probe.value == pytest.approx(1, abs=0.02)
    near, far = (rows(answer, f"distance, {group}")["small:backbone", ""] for group in ("seen", "unseen"))
    assert near.value < 0.01
    assert far.value > 0.2
    assert rows(answer, "distance, unseen - seen")["small:backbone", ""].verdict == rules.FAILS
    assert rows(answer, "distance to another source - to its own, seen")["small:backbone", ""].low > 0.5
    assert ("oracle:attributes", "") not in rows(answer, "distance, seen")


def test_samples_of_a_walk_are_compared_with_those_of_its_first_image(answer: MemoryArtifact) -> None:
    walks = rows(answer, "walk distance")
    # All samples here are the first image of their walk, which is not halfway.
    assert walks["small:backbone", "images"].value < 0.01
    assert walks["small:backbone", "between"].value > 0.1
    assert walks["small:backbone", "across"].value > 1.5 * walks["small:backbone", "between"].value
    assert rows(answer, "walk distance - images")["small:backbone", ""].verdict == rules.FAILS


def test_the_page_says_what_is_lost_and_shows_both_groups(study: World, answer: MemoryArtifact) -> None:
    found = read("shift", answer)
    grid = next(figure for figure in found.kind("grid") if figure.encoder == "small")
    assert [label.split()[0] for label in grid.rows] == ["seen", "seen", "unseen", "unseen"]
    seen = int(grid.rows[0].split()[1])
    assert np.array_equal(grid.tiles[0, 0], open_images(study.artifacts["shards"]).decode([seen], SIZE)[0])
    shown = section(found, {}, styles.assign_styles(TAPS, {"small"}, {}))
    assert "mean brightness" in shown.parts[0].html
    assert {finding.encoder: finding.outcome for finding in shown.findings} == {"small:backbone": "opposite"}


def test_without_unseen_combinations_there_are_walks_alone(answer: MemoryArtifact) -> None:
    plain = World(embedded({"small": Pretrained()}))
    asked = plain.ask(Shifted(taps=TAPS[:1], count=5, walks=3, steps=1))
    readers = run_stage(Readers(num_images=64, widths=(4, 8)), {"shards": plain.artifacts["shards"]})
    painted = plain.paint(asked, {TAPS[0]: EVERYTHING}, per_source=1)
    alone = plain.answer(Shift(), asked, painted, readers=readers)
    assert "unseen" in rows(alone, "left out")[":", ""].why
    assert ("small:backbone", "images") in rows(alone, "walk distance")
    shown = section(read("shift", alone), {}, styles.assign_styles(TAPS[:1], {"small"}, {}))
    assert "there are walks alone" in shown.parts[0].html
