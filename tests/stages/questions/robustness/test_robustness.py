"""Robustness from end to end: an untrained encoder under attack, painted by hand, answered and shown."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import load

from stages.contract import Estimate
from stages.embeddings.stage import Embeddings
from stages.encoders.spec import Pretrained
from stages.errors import FormatError, InputError
from stages.questions.answers import read
from stages.questions.drawing import taps as styles
from stages.questions.findings import findings, unasked
from stages.questions.format import Row, load_rows, read_conditions
from stages.questions.robustness.ask import _method
from stages.questions.robustness.section import section
from stages.questions.robustness.stage import Attacked, Robustness
from stages.questions.turns import in_turns
from tests.artifacts import MemoryArtifact, run_stage
from tests.stages.questions.painters import EVERYTHING, World, encoder, world

TAPS = ("small:backbone", "small:projector", "labelled:backbone", "oracle:pixels")
SMALL = {"count": 20, "paint": 2, "steps": 5, "restarts": 2, "eps": (0.5, 1.0, 2.0), "attribute": "pattern"}
LEVELS = ("0.5", "1", "2", "8")


@dataclass(frozen=True)
class Asked:
    """A study whose second encoder is the first one under another method, and what was made of it."""

    study: World
    conditions: MemoryArtifact
    painted: MemoryArtifact
    answer: MemoryArtifact


def of_method(encoder: MemoryArtifact, method: str) -> MemoryArtifact:
    """An encoder whose card names another method."""
    training = {"seed": 4} | ({"label": "shape"} if method == "supervised" else {})
    card = json.loads(encoder.objects["encoder.json"]) | {"method": method, "training": training}
    return MemoryArtifact(encoder.objects | {"encoder.json": json.dumps(card).encode()})


@pytest.fixture(scope="module")
def asked() -> Asked:
    study = world()
    small = study.artifacts["encoder.small"]
    study.artifacts["encoder.small"] = of_method(small, "simclr")
    study.artifacts["encoder.labelled"] = of_method(small, "supervised")
    given = {"images": study.artifacts["shards"], "encoder": study.artifacts["encoder.labelled"]}
    study.artifacts["embeddings.labelled"] = run_stage(Embeddings(encoder=Pretrained()), given)
    conditions = study.ask(Attacked(taps=TAPS, **SMALL))
    painted = study.paint(conditions, dict.fromkeys(TAPS, EVERYTHING), per_source=2)
    return Asked(study, conditions, painted, study.answer(Robustness(), conditions, painted))


def rows(answer: MemoryArtifact, metric: str) -> dict[tuple[str, str], Row]:
    """Rows of a metric by (tap, subject)."""
    found = load_rows(answer.objects["results.parquet"])
    return {(f"{r.encoder}:{r.tap}", r.subject): r for r in found if r.metric == metric}


def test_networks_are_attacked_at_every_tap_and_oracles_are_left_out_and_named(asked: Asked) -> None:
    conditions = read_conditions(asked.conditions)
    assert {c.tap_id for c in conditions} == set(TAPS[:3])
    assert {c.variant for c in conditions} == {"plain", *(f"pgd {eps}" for eps in LEVELS), "signs 1"}
    assert len({c.source_row for c in conditions}) == 2
    assert asked.conditions.summary["left_out"] == ["oracle:pixels"]
    assert asked.answer.summary["left_out"] == ["oracle:pixels"]
    tensors = load(asked.conditions.objects["attacks/small/backbone.safetensors"])
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        "plain": (20, 8),
        "pgd": (4, 20, 8),
        "fgsm": (4, 20, 8),
        "signs": (4, 20, 8),
        "transfer": (1, 20, 8),
        "correct": (5, 20),
    }
    vectors = load(asked.conditions.objects["conditions.safetensors"])["small:backbone"]
    sources = np.array(json.loads(asked.conditions.objects["attacks.json"])["rows"])
    first = in_turns(asked.study.artifacts["shards"], sources)[:2]
    assert [c.source_row for c in conditions[:2]] == sources[first].tolist() != sources[:2].tolist()
    np.testing.assert_array_equal(vectors[:2], tensors["plain"][first])
    np.testing.assert_array_equal(vectors[4:6], tensors["pgd"][1, first])
    np.testing.assert_array_equal(vectors[-2:], tensors["signs"][1, first])


def test_movement_grows_with_eps_and_an_attack_moves_more_than_random_signs(asked: Asked) -> None:
    moved, checks = rows(asked.answer, "movement"), rows(asked.answer, "check")
    for tap_id in TAPS[:3]:
        pgd = [moved[tap_id, f"pgd {eps}"].value for eps in LEVELS]
        assert pgd == sorted(pgd)
        for eps in LEVELS:
            assert 0 < moved[tap_id, f"signs {eps}"].value < moved[tap_id, f"pgd {eps}"].value
            difference = checks[tap_id, f"pgd - fgsm {eps}"].value
            assert difference == pytest.approx(moved[tap_id, f"pgd {eps}"].value - moved[tap_id, f"fgsm {eps}"].value)
            assert difference >= 0
        assert checks[tap_id, "pgd 8 - 2"].low > 0


def test_equal_encoders_move_alike_under_their_own_and_each_others_attack_and_one_seed_is_too_few(
    asked: Asked,
) -> None:
    moved, gaps = rows(asked.answer, "movement"), rows(asked.answer, "gap at backbone")
    assert moved["labelled:backbone", "transfer from small 1"].value == pytest.approx(
        moved["small:backbone", "pgd 1"].value
    )
    assert ("small:projector", "transfer from labelled 1") not in moved
    assert {subject for _, subject in gaps} == {f"small {eps}" for eps in LEVELS[:3]}
    assert all(row.value == 0.0 for row in gaps.values())
    (finding,) = findings(load_rows(asked.answer.objects["results.parquet"]))
    assert (finding.number, finding.encoder, finding.outcome) == ("iii", "labelled", "cannot tell")
    assert finding.why.startswith("1 of 3 seeds of each method. Of 1 pairs 0 are above 0.01 and 0 below -0.01. ")
    assert "Movement under PGD at eps 1 / 255: labelled - small 0.00" in finding.why
    assert "iii" not in unasked(["robustness"])


def test_method_label_and_seed_of_each_compared_encoder_are_rows(asked: Asked) -> None:
    found = {key: row.value for key, row in rows(asked.answer, "trained").items()}
    assert found == {("labelled:", "supervised shape"): 4.0, ("small:", "simclr"): 4.0}


def test_the_probe_is_wrong_more_often_the_larger_the_eps(asked: Asked) -> None:
    accuracy, relative = rows(asked.answer, "accuracy"), rows(asked.answer, "relative accuracy")
    values = [accuracy["small:backbone", subject] for subject in ("no attack", *(f"pgd {eps}" for eps in LEVELS))]
    assert "pattern" in values[0].unit
    assert values[0].value > 0.4
    assert [row.value for row in values] == sorted((row.value for row in values), reverse=True)
    assert values[-1].value <= 0.1
    assert relative["small:backbone", "pgd 1"].value == pytest.approx(values[2].value / values[0].value)


def test_the_first_class_attribute_is_read_where_none_is_named_and_one_that_is_no_class_is_refused(
    asked: Asked,
) -> None:
    unnamed = asked.study.ask(Attacked(taps=TAPS[:1], **SMALL | {"attribute": None}))
    assert json.loads(unnamed.objects["attacks.json"])["attribute"] == "shape"
    with pytest.raises(InputError, match="class attribute"):
        asked.study.ask(Attacked(taps=TAPS[:1], **SMALL | {"attribute": "hue"}))


def test_asking_of_no_network_is_refused(asked: Asked) -> None:
    with pytest.raises(InputError, match="at least one tap of a network"):
        asked.study.ask(Attacked(taps=("oracle:pixels",), **SMALL))


def test_without_a_pair_the_answer_says_so_and_no_finding_is_judged(asked: Asked) -> None:
    encoders = {"encoder.small": of_method(asked.study.artifacts["encoder.small"], "none")}
    alone = World(asked.study.artifacts | encoders)
    conditions = alone.ask(Attacked(taps=TAPS[:2], **SMALL))
    painted = alone.paint(conditions, dict.fromkeys(TAPS, EVERYTHING), per_source=2)
    answer = alone.answer(Robustness(), conditions, painted)
    assert "finding iii is not judged" in rows(answer, "gap")[":", ""].why
    assert findings(load_rows(answer.objects["results.parquet"])) == []
    with pytest.raises(InputError, match="attacked encoder"):
        alone.answer(Robustness(supervised=("other",)), conditions, painted)


def test_a_checkpoint_stands_for_no_method() -> None:
    inputs = {"encoder.a": of_method(encoder(), "simclr")}
    assert _method(inputs, "a") == "simclr"
    card = json.loads(inputs["encoder.a"].objects["encoder.json"]) | {"training": {"images_seen": 0}}
    inputs["encoder.a"].objects["encoder.json"] = json.dumps(card).encode()
    assert _method(inputs, "a") == ""


def test_a_study_says_how_an_encoder_without_a_method_was_trained(asked: Asked) -> None:
    about = json.loads(asked.conditions.objects["attacks.json"])
    about |= {"methods": {"small": "", "labelled": ""}, "trainings": {"small": {}, "labelled": {}}}
    changed = MemoryArtifact(asked.conditions.objects | {"attacks.json": json.dumps(about).encode()})
    stage = Robustness(supervised=("small",), self_supervised=("labelled",))
    answer = asked.study.answer(stage, changed, asked.painted)
    assert {(tap_id, subject) for tap_id, subject in rows(answer, "gap at backbone")} == {
        ("small:", f"labelled {eps}") for eps in LEVELS[:3]
    }
    assert {name for _, name in rows(answer, "trained")} == {
        "imported, supervised",
        "imported, self-supervised",
    }
    with pytest.raises(InputError, match="small, trained by simclr"):
        asked.study.answer(stage, asked.conditions, asked.painted)


def test_encoders_that_frame_images_differently_are_not_compared_and_it_is_reported(asked: Asked) -> None:
    about = json.loads(asked.conditions.objects["attacks.json"])
    about["framings"]["small"] = "another"
    changed = MemoryArtifact(asked.conditions.objects | {"attacks.json": json.dumps(about).encode()})
    answer = asked.study.answer(Robustness(), changed, asked.painted)
    assert not rows(answer, "gap at backbone")
    assert "frame images differently" in rows(answer, "gap")["labelled:", ""].why


def test_groups_that_were_attacked_otherwise_are_refused(asked: Asked) -> None:
    other = asked.study.ask(Attacked(taps=("labelled:projector",), **SMALL | {"eps": (0.25, 1.0, 2.0)}))
    more = {"conditions.1": other, "samples.1": asked.study.paint(other, {"labelled:projector": ()}, per_source=2)}
    with pytest.raises(FormatError):
        asked.study.answer(Robustness(), asked.conditions, asked.painted, **more)


def test_the_section_shows_movement_differences_accuracy_and_samples(asked: Asked) -> None:
    answer = read("robustness", asked.answer)
    (part,) = section(answer, {}, styles.assign_styles(list(TAPS[:3]), {"small", "labelled"}, {})).parts
    for text in (
        "random signs, the control",
        "labelled − small",
        "transfer from small 1",
        "no attack",
        "Accuracy of a linear probe",
        "share of images whose pattern is read rightly",
        "eps none less",
    ):
        assert text in part.html
    assert part.html.count("<img") == 2 * 3


def test_the_page_names_encoders_that_learned_what_the_probe_reads(asked: Asked) -> None:
    answer = read("robustness", asked.answer)
    learned = [replace(r, subject="supervised pattern") if r.metric == "trained" else r for r in answer.rows]
    styled = styles.assign_styles(list(TAPS[:3]), {"small", "labelled"}, {})
    before, after = (section(one, {}, styled).parts[0].html for one in (answer, replace(answer, rows=tuple(learned))))
    assert "Trained with" not in before
    assert "Trained with this attribute as their label: labelled, small." in after


def test_a_check_that_fails_stands_on_the_page(asked: Asked) -> None:
    answer = read("robustness", asked.answer)
    weak = Row("robustness", "check", "small", "backbone", "pgd - fgsm 1", -0.5, -0.6, -0.4, 20, "")
    styled = styles.assign_styles(list(TAPS[:3]), {"small", "labelled"}, {})
    (part,) = section(type(answer)("robustness", "", (*answer.rows, weak), ()), {}, styled).parts
    assert "weaker than it must be: small:backbone: pgd - fgsm 1 is" in part.html


@pytest.mark.parametrize("eps", [(1.0, 0.5), (1.0, 1.0), (2.0, 9.0)])
def test_strengths_that_do_not_ascend_are_refused(eps: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match="expected eps to ascend"):
        Attacked(eps=eps)


def test_an_encoder_is_not_both_supervised_and_self_supervised() -> None:
    with pytest.raises(ValidationError, match="found a in both"):
        Robustness(supervised=("a",), self_supervised=("a",))


def test_the_estimate_grows_with_passes_and_with_the_encoders() -> None:
    def seconds(upstream: Mapping[str, Estimate], **fields: int) -> float:
        return Attacked(taps=("a:backbone",)).model_copy(update=fields).estimate(upstream).cpu_seconds

    heavy = {"encoder.a": Estimate(rows=1, size_bytes=1, cpu_seconds=1, image_seconds=0.1)}
    assert seconds(heavy) > 100 * seconds({})
    assert seconds({}, steps=40) > 1.5 * seconds({})
