"""Layers: the trend and its rule, the order of taps, and an answer on samples that are painted by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from stages.errors import InputError
from stages.questions import trend
from stages.questions.answers import read
from stages.questions.asks.stage import Sources, Transformed
from stages.questions.drawing import taps as styles
from stages.questions.format import Row, load_rows
from stages.questions.layers.answer import in_order
from stages.questions.layers.section import section
from stages.questions.layers.stage import Layers
from stages.questions.series import moved
from stages.readers import score
from stages.readers.stage import Readers
from tests.artifacts import MemoryArtifact, run_stage
from tests.stages.questions.painters import EVERYTHING, World, embedded

TAPS = ("small:projector", "small:backbone", "small:projector.0", "oracle:pixels")


def test_the_trend_is_the_least_squares_change_from_the_first_tap_to_the_last() -> None:
    values = np.random.Generator(np.random.Philox(1)).normal(size=(4, 30)) + np.array([[0.0], [1.0], [1.5], [3.0]])
    found = trend.trend([score.mean(each) for each in values])(np.ones((1, 30)))
    assert found[0] == pytest.approx(np.polyfit(np.linspace(0, 1, 4), values.mean(axis=1), 1)[0])


def test_a_trend_is_paired_so_that_what_sources_have_in_common_does_not_widen_it() -> None:
    common = 10 * np.random.Generator(np.random.Philox(2)).normal(size=40)
    found = score.interval(trend.trend([score.mean(common + step) for step in (0.0, 0.1, 0.2)]), 40, seed=0)
    assert (found.low, found.high) == pytest.approx((0.2, 0.2))


FLAT, NAN = (-0.04, 0.04), float("nan")
LEVEL = trend.Evidence(trend=FLAT, changes=[FLAT, FLAT], sources=64, reader=0.99, largest=0.5)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"trend": (0.05, 0.3)}, trend.RISES),
        ({"trend": (-0.3, -0.05)}, trend.FALLS),
        ({}, trend.STAYS),
        # The middle tap keeps far more than both ends, which no line shows.
        ({"changes": [(0.3, 0.6), FLAT]}, trend.BENDS),
        ({"trend": (-0.1, 0.2), "changes": [(-0.6, -0.05), FLAT]}, trend.BENDS),
        ({"changes": [(0.04, 0.6), FLAT]}, trend.CANNOT_TELL),
        ({"trend": (-0.1, 0.2)}, trend.CANNOT_TELL),
        ({"trend": (0.05, 0.3), "reader": 0.94}, trend.CANNOT_TELL),
        ({"trend": (0.05, 0.3), "reader": NAN}, trend.CANNOT_TELL),
        ({"trend": (0.05, 0.3), "sources": 19}, trend.CANNOT_TELL),
        # From samples that are wrong to samples that know nothing.
        ({"trend": (0.05, 0.3), "largest": 0.04}, trend.CANNOT_TELL),
        ({"largest": NAN}, trend.CANNOT_TELL),
        ({"trend": (NAN, NAN)}, trend.CANNOT_TELL),
        ({"changes": [(NAN, NAN), FLAT]}, trend.CANNOT_TELL),
    ],
)
def test_the_verdict(changed: dict[str, Any], expected: str) -> None:
    assert trend.judge(replace(LEVEL, **changed)) == expected


@pytest.fixture(scope="module")
def study() -> World:
    found = embedded()
    return World(found | {"readers": run_stage(Readers(num_images=640, widths=(4, 8)), {"shards": found["shards"]})})


@pytest.fixture(scope="module")
def answer(study: World) -> MemoryArtifact:
    conditions = study.ask(Sources(taps=TAPS, count=30))
    keeps = {"small:backbone": EVERYTHING, "small:projector.0": ("shape",), "small:projector": ()}
    painted = study.paint(conditions, keeps | {"oracle:pixels": EVERYTHING}, per_source=2)
    transformed = study.ask(Transformed(taps=TAPS, count=20, paint=1, draws=1))
    return study.answer(Layers(train=100), conditions, painted, **{"asked.invariance": transformed})


def rows(answer: MemoryArtifact, metric: str) -> dict[tuple[str, str], Row]:
    """Rows of a metric by (tap, subject)."""
    found = load_rows(answer.objects["results.parquet"])
    return {(f"{r.encoder}:{r.tap}", r.subject): r for r in found if r.metric == metric}


def test_what_is_painted_less_with_depth_falls_and_samples_of_others_have_no_trend(answer: MemoryArtifact) -> None:
    kept, trends = rows(answer, "kept by depth"), rows(answer, "kept by depth trend")
    floors = rows(answer, "kept by depth trend floor")
    order = ("backbone", "projector.0", "projector")
    values = [kept[f"small:{tap}", "background_hue"].value for tap in order]
    found = trends["small:", "background_hue"]
    # Of three taps at equal distances the line changes by as much as the outer two differ.
    assert found.value == pytest.approx(values[2] - values[0])
    assert found.high < -0.2
    assert found.why.startswith("backbone → projector.0 → projector")
    assert floors["small:", "background_hue"].high > -0.2
    # The reader was trained for a moment: what it cannot read is not judged.
    assert trends["small:", "brightness"].verdict == trend.CANNOT_TELL
    assert "its reader scores" in trends["small:", "brightness"].why
    assert {tap for tap, _ in trends} == {"small:"}
    assert rows(answer, "kept by depth")["oracle:", ""].why == "oracle has 1 of the 3 taps that a trend needs."


def test_the_linear_probe_is_read_at_every_tap_beside_it(answer: MemoryArtifact) -> None:
    read_, trends = rows(answer, "linear probe by depth"), rows(answer, "linear probe by depth trend")
    assert {tap for tap, _ in read_} == set(TAPS[:3])
    values = [read_[f"small:{tap}", "brightness"].value for tap in ("backbone", "projector")]
    assert trends["small:", "brightness"].value == pytest.approx(values[1] - values[0])


def test_r_is_that_of_invariance_at_every_tap_and_has_its_trend(answer: MemoryArtifact) -> None:
    r, trends = rows(answer, "r by depth"), rows(answer, "r by depth trend")
    for subject in ("own", "other transforms"):
        values = [r[f"small:{tap}", subject].value for tap in ("backbone", "projector.0", "projector")]
        assert all(value > 0 for value in values)
        assert trends["small:", subject].value == pytest.approx(values[2] - values[0])
    assert "r by depth trend floor" not in {row.metric for row in load_rows(answer.objects["results.parquet"])}


def test_without_invariance_layers_has_no_r(study: World) -> None:
    assert moved(study.artifacts, TAPS) is None


def test_the_study_may_say_the_order_of_the_taps(study: World) -> None:
    inputs = dict(study.artifacts)
    given = ("projector", "backbone", "projector.0")
    assert in_order(Layers(), inputs, "small", TAPS) == ["small:backbone", "small:projector.0", "small:projector"]
    assert in_order(Layers(order={"small": given}), inputs, "small", TAPS) == [f"small:{tap}" for tap in given]
    with pytest.raises(InputError, match=r"projector\.9"):
        in_order(Layers(order={"small": ("projector.9",)}), inputs, "small", TAPS)
    with pytest.raises(InputError, match="encoder under `order`"):
        in_order(Layers(order={"smal": given}), inputs, "small", TAPS)


def test_the_section_has_a_chart_for_each_attribute_and_all_trends(answer: MemoryArtifact) -> None:
    found = section(read("layers", answer), {}, styles.assign_styles(list(TAPS), {"small"}, {}))
    (part,) = found.parts
    assert "backbone → projector.0 → projector" in part.html
    assert part.html.count("<figure ") == len(EVERYTHING) + 1
    assert "its own augmentations" in part.html
    assert "taps that a trend needs" in part.html
