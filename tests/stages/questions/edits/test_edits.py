"""Edits from end to end: a decoder that draws what the oracle's vector holds, and a reader that knows the drawings."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.numpy import load

from stages.attributes import load as load_attributes
from stages.contract import Estimate
from stages.datasets import scenes
from stages.datasets.sources import ScenesSource
from stages.embeddings.stage import Embeddings
from stages.errors import FormatError, InputError
from stages.listing.stage import Listing
from stages.questions.answers import read
from stages.questions.drawing import taps as styles
from stages.questions.edits.section import section
from stages.questions.edits.stage import Edited, Edits
from stages.questions.findings import findings
from stages.questions.format import Row, load_rows, read_conditions
from stages.readers import format as readers_format
from stages.readers.format import ReaderCard, Score
from stages.samples.format import read_conditions as read_table
from stages.samples.format import read_vectors
from stages.shards.stage import Shards
from tests.artifacts import MemoryArtifact, run_stage
from tests.stages.questions.painters import SEED, SIZE, SPECS, World, encoder, samples

Values = dict[str, NDArray[np.float64]]
ORACLE, BACKBONE = "oracle:attributes", "small:backbone"
EDITED = ("pattern", "hue", "x")
COUNT = 24
SMALL = {"count": COUNT, "attributes": EDITED, "strengths": (0.5, 1.0, 2.0), "ratios": (0.5,), "seed": 1}
PER_SOURCE = 2


class Exact(readers_format.Reader):
    """Reads the attributes that pictures were drawn from; those that it has not seen drawn are undefined."""

    def __init__(self, drawn: NDArray[np.uint8], values: Values, scores: Mapping[str, float]) -> None:
        """`drawn`: uint8 [N, H, W, 3] of `values`, [N] each."""
        card = ReaderCard(
            size=SIZE,
            widths=(1, 1),
            network=scenes.ATTRIBUTES,
            scaling={},
            pixel=(),
            scores={a.name: Score(value=scores.get(a.name, 1.0), measure="R2", n=9) for a in scenes.ATTRIBUTES},
        )
        super().__init__(card, None)
        self._values = values
        self._number = {image.tobytes(): i for i, image in enumerate(drawn)}

    def read(self, images: NDArray[np.uint8]) -> Values:
        numbers = np.array([self._number.get(image.tobytes(), -1) for image in images])
        return {name: np.where(numbers < 0, np.nan, values[numbers]) for name, values in self._values.items()}


@dataclass(frozen=True)
class Drawn:
    """Conditions of both taps, and what was drawn from them."""

    study: World
    conditions: MemoryArtifact
    values: Values
    """float64 [conditions]."""

    def answer(
        self,
        monkeypatch: pytest.MonkeyPatch,
        change: Callable[[Values, list[str]], None] = lambda values, variants: None,
        scores: Mapping[str, float] = {},
        conditions: MemoryArtifact | None = None,
    ) -> MemoryArtifact:
        """The answer, where the decoder also does `change` to what it draws."""
        values = {name: column.copy() for name, column in self.values.items()}
        change(values, [c.variant for c in read_conditions(self.conditions)])
        repeated = {name: np.repeat(column, PER_SOURCE) for name, column in values.items()}
        images = scenes.draw(repeated, SIZE)
        monkeypatch.setattr(readers_format, "load", lambda artifact, device: Exact(images, repeated, scores))
        painted = samples(images, self.conditions, PER_SOURCE)
        return self.study.answer(Edits(), conditions or self.conditions, painted)


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    listing = run_stage(Listing(source=ScenesSource(kind="scenes", count=1200, seed=SEED), holdout=0.1))
    shards = run_stage(Shards(shard_rows=1200), {"listing": listing})
    small = encoder()
    tables = {
        f"embeddings.{name}": run_stage(Embeddings(encoder=spec), {"images": shards, "encoder": small})
        for name, spec in SPECS.items()
    }
    study = World({"shards": shards, "readers": MemoryArtifact({}), "encoder.small": small} | tables)
    conditions = study.ask(Edited(taps=(BACKBONE, ORACLE), **SMALL))
    asked = read_conditions(conditions)
    known = scenes.sample(SEED, [c.source_row for c in asked])
    vectors = read_vectors(conditions, read_table(conditions))
    for i, condition in enumerate(asked):
        if condition.tap_id == ORACLE:
            for name, value in values_in(vectors[i]).items():
                known[name][i] = value
    return Drawn(study, conditions, known)


def values_in(vector: NDArray[np.float32]) -> dict[str, float]:
    """The attributes that a vector of the oracle holds, to the nearest value that can be drawn."""
    found, at = {}, 0
    for attribute in scenes.ATTRIBUTES:
        width = {"scalar": 1, "circle": 2, "class": len(attribute.classes)}[attribute.kind]
        piece = vector[at : at + width].astype(np.float64)
        at += width
        if attribute.kind == "scalar":
            found[attribute.name] = piece[0]
        elif attribute.kind == "circle":
            found[attribute.name] = np.arctan2(piece[1], piece[0]) / (2 * np.pi) % 1.0
        else:
            found[attribute.name] = float(piece.argmax())
    turns = scenes.SYMMETRY[int(found["shape"])]
    return found if turns else found | {"rotation": np.nan}


def rows(answer: MemoryArtifact, metric: str) -> dict[tuple[str, str], Row]:
    """Rows of a metric by (tap, subject)."""
    found = load_rows(answer.objects["results.parquet"])
    return {(f"{r.encoder}:{r.tap}", r.subject): r for r in found if r.metric == metric}


@pytest.fixture(scope="module")
def exact(drawn: Drawn) -> MemoryArtifact:
    """The answer where the oracle's decoder draws what the vector holds, and the other one always the source."""
    with pytest.MonkeyPatch.context() as patch:
        return drawn.answer(patch)


def test_every_variant_of_every_source_is_a_condition_and_the_first_is_the_embedding_as_it_is(drawn: Drawn) -> None:
    stage = Edited(taps=(ORACLE, BACKBONE), **SMALL)
    conditions = read_conditions(drawn.conditions)
    assert len(conditions) == 2 * COUNT * stage.variants
    assert len({c.variant for c in conditions}) == stage.variants
    assert stage.estimate({}).rows == len(conditions)
    vectors = read_vectors(drawn.conditions, read_table(drawn.conditions))
    table = load(drawn.conditions.objects["conditions.safetensors"])[BACKBONE]
    np.testing.assert_array_equal(table[:COUNT], np.stack(vectors[:COUNT]))
    about = json.loads(drawn.conditions.objects["edits.json"])
    assert about["rows"] == [c.source_row for c in conditions[:COUNT]]
    assert list(about["goals"]) == list(EDITED)


def test_edits_of_one_attribute_have_the_length_of_the_difference_of_means_and_the_strength(drawn: Drawn) -> None:
    vectors = np.stack(read_vectors(drawn.conditions, read_table(drawn.conditions))[: COUNT * 25])
    names = list(dict.fromkeys(c.variant for c in read_conditions(drawn.conditions)))
    by = dict(zip(names, vectors.reshape(-1, COUNT, 8), strict=False))
    half, whole, double = (by[f"means {s} hue"] - by["plain"] for s in ("0.5", "1", "2"))
    np.testing.assert_allclose(2 * half, whole, atol=1e-4)
    np.testing.assert_allclose(double, 2 * whole, atol=1e-4)
    assert not np.array_equal(by["random 1 hue"], by["random 1 x"])


def test_a_decoder_that_draws_what_the_vector_holds_shows_edits_of_one_attribute_alone(exact: MemoryArtifact) -> None:
    found = rows(exact, "selectivity")
    for name in EDITED:
        row = found[ORACLE, f"means {name}"]
        assert row.verdict == "EDITS", row.why
        assert row.low > 0.3
        effects = [rows(exact, "effect")[ORACLE, f"means {s} {name}"].value for s in ("0.5", "1", "2")]
        assert effects == sorted(effects)
        assert rows(exact, "effect")[ORACLE, f"random 1 {name}"].value < 0.5 * effects[1]
        assert rows(exact, "over random")[ORACLE, f"means {name}"].low > 0.2


def test_a_decoder_that_ignores_edits_shows_none_and_so_does_finding_four(exact: MemoryArtifact) -> None:
    for name in EDITED:
        row = rows(exact, "selectivity")[BACKBONE, f"means {name}"]
        assert (row.verdict, row.value) == ("NO EDIT", 0.0)
    (finding,) = findings(load_rows(exact.objects["results.parquet"]))
    assert (finding.number, finding.encoder, finding.outcome) == ("iv", "small", "not shown")


def test_an_edit_that_changes_another_attribute_as_well_is_none(drawn: Drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    def drag(values: Values, variants: list[str]) -> None:
        turned = np.array([variant == "means 1 hue" for variant in variants])
        values["background_hue"][turned] = (values["background_hue"][turned] + 0.5) % 1.0

    answer = drawn.answer(monkeypatch, drag)
    found = rows(answer, "selectivity")
    assert found[ORACLE, "means hue"].verdict == "NO EDIT"
    assert found[ORACLE, "means x"].verdict == "EDITS"
    assert rows(answer, "effect on background_hue")[ORACLE, "means hue"].value > 1.0


def test_no_verdict_is_given_on_what_the_reader_or_the_samples_do_not_hold(
    drawn: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forget(values: Values, variants: list[str]) -> None:
        values["x"][:] = np.random.default_rng(0).permutation(values["x"])

    found = rows(drawn.answer(monkeypatch, forget, scores={"hue": 0.9}), "selectivity")
    assert (found[ORACLE, "means hue"].verdict, found[ORACLE, "means x"].verdict) == ("CANNOT TELL", "CANNOT TELL")
    assert "its reader scores 0.90" in found[ORACLE, "means hue"].why
    assert "unedited samples keep" in found[ORACLE, "means x"].why


def test_paths_go_from_one_source_to_the_other_and_blends_of_pixels_are_their_control(exact: MemoryArtifact) -> None:
    path, jumps = rows(exact, "path"), rows(exact, "largest step")
    for kind in ("linear", "spherical"):
        shares = [path[ORACLE, f"{kind} {ratio}"].value for ratio in ("0", "0.5", "1")]
        assert shares == pytest.approx([0.0, 0.5, 1.0], abs=0.25)
        assert 0.4 < jumps[ORACLE, kind].value < 1.0
    assert {subject for _, subject in path if subject.startswith("pixels")} == {"pixels 0", "pixels 0.5", "pixels 1"}


def test_an_edit_that_was_ignored_is_farther_from_the_source_once_it_is_taken_back(exact: MemoryArtifact) -> None:
    undone = rows(exact, "undone")
    assert undone[BACKBONE, "not edited"].value == pytest.approx(0.0, abs=1e-3)
    assert undone[BACKBONE, "edited hue"].value == pytest.approx(0.0, abs=1e-3)
    assert undone[BACKBONE, "taken back hue"].low > 0.01
    assert "not embedded at oracle:attributes" in undone[ORACLE, ""].why


def test_dimensions_that_neighbours_share_are_changed_beside_random_ones(exact: MemoryArtifact) -> None:
    found = rows(exact, "dimensions on pattern")
    assert {subject for tap, subject in found if tap == ORACLE} == {"zero", "swap", "zero random", "swap random"}
    assert found[ORACLE, "swap"].value > 0


def test_groups_with_other_edits_are_refused(drawn: Drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    about = json.loads(drawn.conditions.objects["edits.json"]) | {"strengths": [1.0]}
    other = MemoryArtifact(drawn.conditions.objects | {"edits.json": json.dumps(about).encode()})
    painted = samples(np.zeros((len(drawn.values["x"]), SIZE, SIZE, 3), dtype=np.uint8), drawn.conditions, 1)
    more = {"conditions.1": other, "samples.1": painted}
    with pytest.raises(FormatError, match="the same edits"):
        drawn.study.answer(Edits(), drawn.conditions, painted, **more)


def test_an_attribute_that_the_dataset_does_not_have_is_refused(drawn: Drawn) -> None:
    with pytest.raises(InputError, match="attribute of the dataset"):
        drawn.study.ask(Edited(taps=(ORACLE,), attributes=("colour",)))


def test_without_a_name_every_attribute_is_edited(drawn: Drawn) -> None:
    conditions = drawn.study.ask(Edited(taps=(ORACLE,), count=2))
    known = [a.name for a in load_attributes(drawn.study.artifacts["shards"].read("attributes.json"))]
    assert list(json.loads(conditions.objects["edits.json"])["goals"]) == known


def test_the_section_shows_strips_effects_verdicts_and_paths(exact: MemoryArtifact) -> None:
    styled = styles.assign_styles([BACKBONE, ORACLE], {"small"}, {})
    (part,) = section(read("edits", exact), {}, styled).parts
    for text in ("unedited", "x 0.5", "changes it alone", "not shown", "blended pixels, the control", "zero random"):
        assert text in part.html
    # Two sources of each attribute, and two sources on three paths, at two taps.
    assert part.html.count("<img") == 2 * (2 * 3 + 2 * 3)


@pytest.mark.parametrize("fields", [{"strengths": (1.0, 0.5)}, {"ratios": (0.5, 0.5)}])
def test_strengths_and_ratios_that_do_not_ascend_are_refused(fields: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ValidationError, match="to ascend"):
        Edited(**fields)


def test_the_estimates_grow_with_what_is_painted() -> None:
    few, many = Edited(taps=("a:b",), attributes=("x",)), Edited(taps=("a:b",))
    assert many.estimate({}).rows > 3 * few.estimate({}).rows
    painted = {"samples": Estimate(rows=10_000, size_bytes=1, cpu_seconds=1)}
    assert Edits().estimate(painted).cpu_seconds > Edits().estimate({}).cpu_seconds + 10
