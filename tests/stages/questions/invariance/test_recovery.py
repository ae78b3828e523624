"""Lost or re-encoded: the rule, and the rows and table of an answer."""

import pytest

from stages.questions.answers import read
from stages.questions.asks.stage import Transformed
from stages.questions.asks.transforms import TRANSFORMS
from stages.questions.drawing import taps as styles
from stages.questions.format import Row, load_rows
from stages.questions.invariance import recovery
from stages.questions.invariance.section import section
from stages.questions.invariance.stage import Invariance
from tests.artifacts import MemoryArtifact
from tests.stages.questions.painters import World, embedded

TAPS = ("small:backbone", "oracle:pixels")


@pytest.mark.parametrize(
    ("r", "recovered", "gap", "per_feature", "expected"),
    [
        ((0.02, 0.1), (0.9, 0.95), 0.9, 5.0, recovery.INVARIANT),
        ((0.05, 0.2), (0.9, 0.95), 0.9, 5.0, recovery.CANNOT_TELL),
        ((float("nan"), float("nan")), (0.9, 0.95), 0.9, 5.0, recovery.CANNOT_TELL),
        ((0.2, 0.3), (0.5, 0.7), 0.4, 5.0, recovery.RE_ENCODED),
        ((0.2, 0.3), (0.1, 0.2), 0.1, 3.0, recovery.LOST),
        ((0.2, 0.3), (0.4, 0.7), 0.4, 5.0, recovery.PARTLY),
        # What the control reaches too is not found in the embedding.
        ((0.2, 0.3), (0.5, 0.7), 0.04, 5.0, recovery.PARTLY),
        # A map that few images could not teach may be there; one that they have taught is.
        ((0.2, 0.3), (0.1, 0.2), 0.1, 2.9, recovery.CANNOT_TELL),
        ((0.2, 0.3), (0.4, 0.7), 0.4, 1.0, recovery.CANNOT_TELL),
        ((0.2, 0.3), (0.5, 0.7), 0.4, 1.0, recovery.RE_ENCODED),
    ],
)
def test_the_verdict(
    r: tuple[float, float], recovered: tuple[float, float], gap: float, per_feature: float, expected: str
) -> None:
    def row(low: float, high: float, sources: int = 20) -> Row:
        return Row("invariance", "", "a", "backbone", "flip 1", low, low, high, sources, "")

    assert recovery.judge(row(*r), row(*recovered), row(gap, 1.0), per_feature) == expected
    assert recovery.judge(row(*r, 19), row(*recovered), row(gap, 1.0), per_feature) == recovery.CANNOT_TELL


@pytest.fixture(scope="module")
def study() -> World:
    return World(embedded())


@pytest.fixture(scope="module")
def answer(study: World) -> MemoryArtifact:
    conditions = study.ask(Transformed(taps=TAPS, count=30, paint=1, draws=1, train=180))
    return study.answer(Invariance(), conditions, study.paint(conditions, dict.fromkeys(TAPS, ()), per_source=1))


def rows(answer: MemoryArtifact, metric: str) -> dict[tuple[str, str], Row]:
    """Rows of a metric by (tap, subject)."""
    found = load_rows(answer.objects["results.parquet"])
    return {(f"{r.encoder}:{r.tap}", r.subject): r for r in found if r.metric == metric}


def test_every_transform_is_mapped_back_at_its_middle_strength(answer: MemoryArtifact) -> None:
    back, control, gaps = (rows(answer, f"recovered{end}") for end in ("", " control", " - control"))
    middles = {f"{name} {transform.painted:g}" for name, transform in TRANSFORMS.items()}
    assert {subject for tap, subject in back if tap == "small:backbone"} == middles | {"own"}
    assert {subject for tap, subject in back if tap == "oracle:pixels"} == middles | {"usual augmentations"}
    # A mirrored image has the same pixels in another order.
    mirrored = back["oracle:pixels", "flip 1"]
    assert mirrored.value > 0.5
    assert gaps["oracle:pixels", "flip 1"].value == pytest.approx(
        mirrored.value - control["oracle:pixels", "flip 1"].value
    )
    assert mirrored.verdict == recovery.RE_ENCODED
    assert all(control[key].value < 0.2 for key in control)


def test_attributes_are_read_from_the_moved_embedding_beside_the_unmoved_one(answer: MemoryArtifact) -> None:
    read_, less = rows(answer, "read"), rows(answer, "read difference")
    plain, grey = read_["oracle:pixels", "background_hue"], read_["oracle:pixels", "background_hue after greyscale 1"]
    assert plain.value > 0.3
    assert grey.value < 0.3
    found = less["oracle:pixels", "background_hue after greyscale 1"]
    assert found.value == pytest.approx(plain.value - grey.value)


def test_the_section_shows_it_where_it_was_asked_and_no_word_of_it_elsewhere(answer: MemoryArtifact) -> None:
    whole = read("invariance", answer)
    styled = styles.assign_styles(list(TAPS), {"small"}, {})
    shown = section(whole, {}, styled)
    assert "RE-ENCODED" in shown.parts[0].html
    assert "as it is" in shown.parts[0].html
    assert shown.parts[0].html.count('href="#invariance/recovered/') == len(whole.where("recovered"))
    unasked = type(whole)("invariance", "", tuple(r for r in whole.rows if r.metric[:4] not in ("reco", "read")), ())
    without = section(unasked, {}, styled)
    assert "RE-ENCODED" not in without.parts[0].html
    assert {term for term, _ in shown.measures} - {term for term, _ in without.measures} == {"Lost or re-encoded"}


def test_without_train_images_the_ask_and_its_key_are_what_they_were(study: World) -> None:
    plain, more = (study.ask(Transformed(taps=TAPS[:1], count=5, paint=1, draws=1, train=n)) for n in (0, 9))
    assert {name for name in more.objects if name not in plain.objects} == {
        f"moved-train/small/backbone/{name}.safetensors" for name in (*TRANSFORMS, "own")
    }
    different = {name for name in plain.objects if plain.objects[name] != more.objects[name]}
    assert different - {"conditions.parquet"} == {"transforms.json"}
