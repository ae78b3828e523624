"""Dynamics: since when, by rule; which checkpoints belong together; an answer on samples that are painted by hand."""

import json
import math

import pytest
from pydantic import ValidationError

from stages.encoders.format import CARD, IMAGES_SEEN
from stages.encoders.spec import Architecture, Oracle, Preprocessing, Untrained
from stages.errors import InputError
from stages.questions import trend
from stages.questions.answers import read
from stages.questions.asks.stage import Sources, Transformed
from stages.questions.drawing import taps as styles
from stages.questions.dynamics.answer import runs_of
from stages.questions.dynamics.rules import lasting
from stages.questions.dynamics.section import section
from stages.questions.dynamics.stage import Dynamics
from stages.questions.format import Row, load_rows
from stages.readers.score import Interval
from stages.readers.stage import Readers
from tests.artifacts import MemoryArtifact, run_stage
from tests.stages.questions.painters import EVERYTHING, World, embedded, encoder

SPECS = {
    name: Untrained(
        architecture=Architecture(widths=(4, 8), blocks=(1, 1), projector=(8, 4)),
        preprocessing=Preprocessing(size=16),
        seed=seed,
    )
    for seed, name in enumerate(("early", "middle", "late"))
}
RUN = {"late": 300.0, "early": 0.0, "middle": 100.0}
TAPS = ("early:projector", "middle:projector", "late:projector", "late:backbone", "oracle:pixels")


def change(low: float, high: float) -> Interval:
    return Interval((low + high) / 2, low, high, 10)


UP, DOWN, NONE = change(0.05, 0.2), change(-0.2, -0.05), change(-0.04, 0.2)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([UP, UP, UP], 0),
        ([NONE, DOWN, DOWN], 1),
        ([UP, NONE, UP], 2),
        ([DOWN, UP], 1),
        ([UP, UP, NONE], None),
        ([change(math.nan, math.nan)], None),
        ([], None),
    ],
)
def test_a_change_lasts_from_the_checkpoint_on_after_which_all_lie_on_its_side(
    changes: list[Interval], expected: int | None
) -> None:
    assert lasting(changes) == expected


def card(**training: float) -> MemoryArtifact:
    """An encoder that says how it was trained."""
    found = encoder()
    about = json.loads(found.objects[CARD]) | {"training": training}
    return MemoryArtifact(found.objects | {CARD: json.dumps(about).encode()})


def test_checkpoints_of_a_training_belong_together_with_its_end_by_the_images_they_have_seen() -> None:
    inputs = {
        "encoder.a": card(num_images=1000),
        "encoder.a@0.1": card(num_images=1000, **{IMAGES_SEEN: 96}),
        "encoder.a@0": card(num_images=1000, **{IMAGES_SEEN: 0}),
        "encoder.b@0": card(num_images=1000, **{IMAGES_SEEN: 0}),
        "encoder.c": card(num_images=1000),
    }
    tap_ids = [f"{name}:x" for name in ("a", "a@0.1", "a@0", "b@0", "c", "untrained", "oracle")]
    runs = runs_of(Dynamics(), inputs, tap_ids)
    assert [dict(run.positions) for run in runs] == [{"a@0": 0, "a@0.1": 96, "a": 1000}, {"b@0": 0}]
    assert [run.name for run in runs] == ["a", "b@0"]


def test_a_study_may_name_its_own_checkpoints_and_one_that_is_not_there_is_refused() -> None:
    named = Dynamics(runs=({"c": 30.0, "untrained": 0.0, "a": 2.5},))
    (run,) = runs_of(named, {}, ["a:x", "c:x", "untrained:x"])
    assert list(run.positions.items()) == [("untrained", 0), ("a", 2.5), ("c", 30)]
    with pytest.raises(InputError, match="encoder under `runs`"):
        runs_of(named, {}, ["a:x", "c:x"])


def test_runs_that_could_not_be_told_apart_are_refused() -> None:
    Dynamics(runs=({"raw": 0, "a": 1, "b": 2}, {"raw": 0, "c": 1, "d": 2}))
    with pytest.raises(ValidationError, match="no encoder but the first in common; found 'b'"):
        Dynamics(runs=({"raw": 0, "b": 2}, {"raw": 0, "b": 1, "d": 2}))
    with pytest.raises(ValidationError, match="another position for each encoder"):
        Dynamics(runs=({"a": 1, "b": 1},))


@pytest.fixture(scope="module")
def answer() -> MemoryArtifact:
    found = embedded(SPECS | {"oracle": Oracle()})
    study = World(found | {"readers": run_stage(Readers(num_images=640, widths=(4, 8)), {"shards": found["shards"]})})
    conditions = study.ask(Sources(taps=TAPS, count=30))
    keeps = {"early:projector": EVERYTHING, "middle:projector": ("shape",), "late:projector": ()}
    painted = study.paint(conditions, keeps | dict.fromkeys(TAPS[3:], EVERYTHING), per_source=2)
    given = study.artifacts | {"conditions": conditions, "samples": painted}
    given["asked.invariance"] = study.ask(Transformed(taps=TAPS, count=20, paint=1, draws=1))
    return run_stage(Dynamics(runs=(RUN,), train=100), given)


def rows(answer: MemoryArtifact, metric: str) -> dict[tuple[str, str], Row]:
    """Rows of a metric by (tap, subject)."""
    found = load_rows(answer.objects["results.parquet"])
    return {(f"{r.encoder}:{r.tap}", r.subject): r for r in found if r.metric == metric}


def test_what_later_checkpoints_do_not_keep_falls_from_the_position_on_at_which_it_is_gone(
    answer: MemoryArtifact,
) -> None:
    found = rows(answer, "kept by position trend")["late:projector", "background_hue"]
    assert found.high < -0.2
    assert found.why.startswith("0 → 100 → 300")
    changes = rows(answer, "kept by position - first")
    assert {tap for tap, _ in changes} == {"middle:projector", "late:projector"}
    assert changes["middle:projector", "background_hue"].high < -0.05
    # The reader was trained for a moment: what it cannot read is not judged.
    since = rows(answer, "kept by position changed from")["late:projector", "background_hue"]
    assert found.verdict == trend.CANNOT_TELL
    assert math.isnan(since.value)
    assert "its reader scores" in since.why
    floors = rows(answer, "kept by position trend floor")
    assert floors["late:projector", "background_hue"].high > -0.2


def test_the_linear_probe_and_r_are_measured_at_every_checkpoint_and_compared_with_the_first(
    answer: MemoryArtifact,
) -> None:
    for metric, subject in (("linear probe", "brightness"), ("r", "usual augmentations"), ("r", "other transforms")):
        values = [rows(answer, f"{metric} by position")[tap, subject].value for tap in TAPS[:3]]
        trends = rows(answer, f"{metric} by position trend")
        assert trends["late:projector", subject].value == pytest.approx(values[2] - values[0])
        changes = rows(answer, f"{metric} by position - first")
        assert changes["late:projector", subject].value == pytest.approx(values[2] - values[0])
        assert changes["middle:projector", subject].value == pytest.approx(values[1] - values[0])


def test_a_tap_of_too_few_checkpoints_is_left_out_with_a_reason(answer: MemoryArtifact) -> None:
    (found,) = rows(answer, "left out").values()
    assert found.why == "late: 1 of the 3 checkpoints that a trend needs have the tap backbone."
    assert {tap for tap, _ in rows(answer, "kept by position")} == {*TAPS[:3]}


def test_the_section_has_a_chart_for_r_and_for_each_attribute_and_says_what_falls(answer: MemoryArtifact) -> None:
    styled = styles.assign_styles(list(TAPS), {"early", "middle", "late"}, {})
    (part,) = section(read("dynamics", answer), {}, styled).parts
    assert part.html.count("<figure ") == 1 + len(EVERYTHING)
    assert "0 → 100 → 300" in part.html
    assert part.html.count("Every attribute at late:projector") == 1
    assert "position in the study" in part.html
    assert "usual augmentations" in part.html
    assert "have the tap backbone" in part.html


def test_a_study_without_checkpoints_gets_the_reason() -> None:
    found = embedded({"oracle": Oracle()})
    study = World(found | {"readers": run_stage(Readers(num_images=64, widths=(4, 8)), {"shards": found["shards"]})})
    conditions = study.ask(Sources(taps=("oracle:pixels",), count=10))
    painted = study.paint(conditions, {"oracle:pixels": ()}, per_source=1)
    given = study.artifacts | {"conditions": conditions, "samples": painted}
    answer = run_stage(Dynamics(train=50), given)
    assert "No encoder under study keeps checkpoints" in rows(answer, "left out")[":", ""].why
    (part,) = section(read("dynamics", answer), {}, []).parts
    assert "No encoder under study keeps checkpoints" in part.html
