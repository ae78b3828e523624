"""The three questions from artifacts to rows and figures, on samples painted by hand."""

import json

import numpy as np
import pytest
from safetensors.numpy import load

from stages.contract import Part, Stage
from stages.encoders import augment
from stages.errors import FormatError, InputError
from stages.images import image_file
from stages.images.sets import open_images
from stages.questions import measures
from stages.questions.asks.stage import Sources, Transformed
from stages.questions.asks.transforms import TRANSFORMS
from stages.questions.faithfulness.stage import Faithfulness
from stages.questions.findings import findings
from stages.questions.format import BOTH, Row, load_ranks, load_rows, read_conditions
from stages.questions.invariance.stage import Invariance
from stages.questions.kept import verdicts
from stages.questions.kept.stage import Kept
from stages.questions.painted import painting
from stages.questions.turns import classes_of, in_turns
from stages.readers import pixel
from stages.readers.data import rows_of
from stages.readers.stage import Probes
from tests.artifacts import MemoryArtifact, run_stage
from tests.stages.questions.painters import EVERYTHING, SIZE, World, samples, world

TAPS = ("small:backbone", "small:projector", "oracle:attributes", "oracle:pixels")
COUNT = 40
KEEPS = {
    "small:backbone": EVERYTHING,
    "small:projector": ("background_hue", "pattern", "brightness"),
    "oracle:attributes": EVERYTHING,
    "oracle:pixels": (),
}


@pytest.fixture(scope="module")
def small() -> World:
    return world()


@pytest.fixture(scope="module")
def conditions(small: World) -> MemoryArtifact:
    return small.ask(Sources(taps=TAPS, count=COUNT))


@pytest.fixture(scope="module")
def painted(small: World, conditions: MemoryArtifact) -> MemoryArtifact:
    return small.paint(conditions, KEEPS)


@pytest.fixture(scope="module")
def kept(small: World, conditions: MemoryArtifact, painted: MemoryArtifact) -> MemoryArtifact:
    return small.answer(Kept(), conditions, painted, halfway_samples=painted)


@pytest.fixture(scope="module")
def faithfulness(small: World, conditions: MemoryArtifact, painted: MemoryArtifact) -> MemoryArtifact:
    return small.answer(Faithfulness(), conditions, painted)


@pytest.fixture(scope="module")
def transformed(small: World) -> MemoryArtifact:
    return small.ask(Transformed(taps=TAPS, count=30, paint=3, draws=2))


@pytest.fixture(scope="module")
def invariance(small: World, transformed: MemoryArtifact) -> MemoryArtifact:
    painted = small.paint(transformed, KEEPS, per_source=2)
    return small.answer(Invariance(), transformed, painted)


def rows(answer: MemoryArtifact, metric: str) -> dict[tuple[str, str], Row]:
    """Rows of a metric by (tap id, subject)."""
    return {
        (f"{r.encoder}:{r.tap}", r.subject): r
        for r in load_rows(answer.objects["results.parquet"])
        if r.metric == metric
    }


def test_sources_are_heldout_images_and_their_conditions_are_the_stored_embeddings(
    small: World, conditions: MemoryArtifact
) -> None:
    asked = read_conditions(conditions)
    chosen = [c.source_row for c in asked[:COUNT]]
    assert len(set(chosen)) == COUNT
    assert set(chosen) <= set(rows_of(small.artifacts["shards"], "heldout").tolist())
    assert [c.tap_id for c in asked] == [tap_id for tap_id in TAPS for _ in range(COUNT)]
    assert [c.source_row for c in asked] == chosen * len(TAPS)
    vectors = load(conditions.objects["conditions.safetensors"])
    for number, tap_id in enumerate(TAPS):
        assert vectors[f"condition.{tap_id}"].tolist() == list(range(number * COUNT, (number + 1) * COUNT))
        assert vectors[tap_id].dtype == np.float32
        assert np.isfinite(vectors[tap_id]).all()
    crops = load(conditions.objects["crops.safetensors"])
    assert sorted(crops) == ["oracle:pixels", "small:backbone", "small:projector"]
    assert crops["small:backbone"].shape == vectors["small:backbone"].shape


def test_without_the_encoder_there_is_no_light_crop_and_no_invariance(small: World) -> None:
    given = {name: artifact for name, artifact in small.artifacts.items() if name != "encoder.small"}
    asked = run_stage(Sources(taps=TAPS[:1], count=5), given)
    assert load(asked.objects["crops.safetensors"]) == {}
    with pytest.raises(InputError, match="at least one tap that reads pixels"):
        run_stage(Transformed(taps=TAPS[:1], count=5), given)


def test_asking_again_chooses_the_same_sources_and_another_seed_others(
    small: World, conditions: MemoryArtifact
) -> None:
    again = small.ask(Sources(taps=TAPS, count=COUNT))
    assert again.objects["conditions.parquet"] == conditions.objects["conditions.parquet"]
    other = small.ask(Sources(taps=TAPS[:1], count=COUNT, seed=1))
    assert {c.source_row for c in read_conditions(other)} != {c.source_row for c in read_conditions(conditions)}


@pytest.mark.parametrize("stage", [Sources, Transformed])
def test_an_ask_without_taps_or_embeddings_says_what_is_missing(
    small: World, stage: type[Sources] | type[Transformed]
) -> None:
    with pytest.raises(InputError, match="taps to ask about"):
        small.ask(stage())
    with pytest.raises(InputError, match="embeddings of 'other'"):
        small.ask(stage(taps=("other:backbone",)))


def test_a_painter_that_knows_all_keeps_all_and_one_that_knows_nothing_keeps_nothing(kept: MemoryArtifact) -> None:
    found = rows(kept, "kept")
    for name in ("mean_hue", "saturation", "mean_brightness", "contrast", "sharpness", "centre_x", "centre_y"):
        assert found["small:backbone", name].value == pytest.approx(1.0)
        # The painter shows more than this encoder holds; where a probe finds less, that is what the verdict says.
        row = found["small:backbone", name]
        assert row.verdict == "KEPT" or "The probe is weaker than the decoder" in row.why
        blind = found["oracle:pixels", name]
        assert blind.low < 0.0 < blind.high
    partly = found["small:projector", "mean_brightness"]
    assert 0.5 < partly.value < 1.0
    assert abs(found["small:projector", "centre_y"].value) < 0.3
    fixed = rows(kept, "fixed")
    assert fixed["small:backbone", "mean_hue"].value == pytest.approx(1.0)
    assert abs(fixed["oracle:pixels", "mean_brightness"].value) < 0.2


def test_shuffled_sources_keep_nothing(kept: MemoryArtifact) -> None:
    floors = rows(kept, "floor")
    for name in ("mean_hue", "mean_brightness", "contrast", "centre_x"):
        assert floors["small:backbone", name].low < 0.0 < floors["small:backbone", name].high


def test_every_tap_and_attribute_has_a_verdict_that_says_why(kept: MemoryArtifact) -> None:
    found = rows(kept, "kept")
    assert {tap_id for tap_id, _ in found} == set(TAPS)
    assert len(found) == len(TAPS) * 17
    for row in found.values():
        assert row.verdict in {"KEPT", "LOST", "DECODER LIMIT", "CANNOT TELL", "PARTLY"}
        assert row.why
        assert row.n <= COUNT
        assert row.unit
    readers = rows(kept, "reader")
    assert readers[":", "mean_hue"].value == 1.0
    weak = [name for (_, name), row in readers.items() if row.value < 0.95]
    assert weak
    assert all(found["small:backbone", name].verdict == "CANNOT TELL" for name in weak)


def test_the_ceiling_is_the_tap_that_is_given_the_truth_and_divides_the_datasets_own_attributes(
    kept: MemoryArtifact,
) -> None:
    ceilings, shares = rows(kept, "ceiling"), rows(kept, "kept / ceiling")
    assert {name for tap_id, name in ceilings if tap_id == "oracle:attributes"} == set(EVERYTHING)
    assert {name for tap_id, name in ceilings if tap_id == ":"} == {a.name for a in pixel.ATTRIBUTES}
    top = shares["oracle:attributes", "background_hue"]
    assert (top.value, top.low, top.high) == pytest.approx((1.0, 1.0, 1.0))
    assert shares["small:backbone", "background_hue"].value == pytest.approx(1.0)
    # These samples have no noise of their own, so the sources in their place keep everything.
    assert rows(kept, "noise")[":", ""].value == 0.0
    assert ceilings[":", "centre_x"].value == rows(kept, "reader")[":", "centre_x"].value == 1.0
    assert shares["small:backbone", "mean_hue"].value == pytest.approx(1.0)


def test_a_function_of_the_pixels_that_reads_the_samples_noise_says_nothing(
    small: World, conditions: MemoryArtifact, painted: MemoryArtifact
) -> None:
    clean = painting({"conditions": conditions, "samples": painted}).images.reshape(-1, SIZE, SIZE, 3)
    noisy = samples(measures.noised(clean, 4 / 255, seed=0, number=0), conditions, 4)
    found = small.answer(Kept(), conditions, noisy)
    assert rows(found, "noise")[":", ""].value == pytest.approx(4 / 255, rel=0.15)
    readers, verdict = rows(found, "reader"), rows(found, "kept")
    assert readers[":", "mean_hue"].value > 0.99
    assert readers[":", "centre_x"].value < 0.95
    assert verdict["small:backbone", "mean_hue"].verdict == "KEPT"
    assert verdict["small:backbone", "centre_x"].verdict == "CANNOT TELL"
    assert rows(found, "ceiling")[":", "centre_x"].value < rows(found, "ceiling")[":", "mean_hue"].value


def test_paired_differences_between_the_ends_are_tighter_than_the_ends(kept: MemoryArtifact) -> None:
    gaps, found = rows(kept, "kept difference"), rows(kept, "kept")
    gap = gaps[f"small:{BOTH}", "centre_y"]
    assert gap.value == pytest.approx(
        found["small:backbone", "centre_y"].value - found["small:projector", "centre_y"].value
    )
    assert gap.low > 0.5
    assert {tap_id for tap_id, _ in gaps} == {f"small:{BOTH}"}


def test_what_was_painted_halfway_as_well_did_not_rise(kept: MemoryArtifact) -> None:
    rise = rows(kept, "kept rise")["small:backbone", "mean_hue"]
    assert (rise.value, rise.low, rise.high) == pytest.approx((0.0, 0.0, 0.0))
    assert rows(kept, "kept halfway")["small:backbone", "mean_hue"].value == pytest.approx(1.0)


def test_perfect_samples_are_nearer_than_any_other_image_and_random_ones_are_not(kept: MemoryArtifact) -> None:
    nearness = rows(kept, "nearness")
    assert nearness["small:backbone", ""].value == pytest.approx(0.0, abs=1e-3)
    assert nearness["small:projector", ""].value > 1.0
    assert {tap_id for tap_id, _ in nearness} == {"small:backbone", "small:projector"}


def test_each_tap_has_its_sentence_and_the_rules_are_printed(kept: MemoryArtifact) -> None:
    sentences = rows(kept, "sentence")
    assert {tap_id for tap_id, _ in sentences} == set(TAPS)
    assert sentences["small:backbone", ""].why.startswith("small:backbone keeps ")
    assert rows(kept, "rules")[":", ""].why == verdicts.THRESHOLDS
    assert kept.summary["verdicts"]["small:backbone"] == sentences["small:backbone", ""].why
    assert kept.summary["kept"]["small:backbone mean_hue"] == pytest.approx(1.0)


def test_figures_are_lossless_tiles_with_labels(small: World, conditions: MemoryArtifact, kept: MemoryArtifact) -> None:
    sources = np.array(list(dict.fromkeys(c.source_row for c in read_conditions(conditions))))
    chosen = sources[in_turns(small.artifacts["shards"], sources)][:8].tolist()
    names = sorted(name for name in kept.objects if name.endswith(".json"))
    assert [n for n in names if "twins" in n] == [
        "figures/twins-small-backbone.json",
        "figures/twins-small-projector.json",
    ]
    assert len([n for n in names if "grid" in n]) == len([n for n in names if "maps" in n]) == len(TAPS)
    for name in names:
        about = json.loads(kept.objects[name])
        image = image_file.decode(kept.objects[name.replace(".json", ".png")])
        assert image.shape == (len(about["rows"]) * SIZE, len(about["columns"]) * SIZE, 3)
        if "twins-small-projector" in name:
            # Of these sources few have two samples that are nearer than their nearest other image.
            assert 0 < len(about["rows"]) < len(chosen)
            assert f"drawn from the {len(about['rows'])} of {COUNT} whose two samples" in about["caption"]
        else:
            assert about["rows"] == [f"image {row}" for row in chosen]
        assert about["tile_px"] == SIZE
        assert {"kind", "title", "caption", "encoder", "tap", "seeds", "order"} <= about.keys()
    grid = image_file.decode(kept.objects["figures/grid-small-backbone.png"])
    np.testing.assert_array_equal(grid[:, :SIZE], grid[:, SIZE : 2 * SIZE])
    maps = image_file.decode(kept.objects["figures/maps-small-backbone.png"])
    assert not maps[:, SIZE:].any()
    assert image_file.decode(kept.objects["figures/maps-oracle-pixels.png"])[:, SIZE:].max() == 255


def test_samples_are_read_on_the_device_of_the_step(
    small: World, conditions: MemoryArtifact, painted: MemoryArtifact
) -> None:
    given = small.artifacts | {"conditions": conditions, "samples": painted}
    stage, out = Kept(), MemoryArtifact()
    # Only a reader that is there cannot bring back what it has read.
    with pytest.raises(NotImplementedError, match="meta tensor"):
        stage.work(Part(index=0), stage.setup(given, "meta"), given, out)


def test_without_embedded_samples_probes_or_halfway_the_answer_says_less(
    small: World, conditions: MemoryArtifact
) -> None:
    painted = small.paint(conditions, KEEPS)
    given = {name: small.artifacts[name] for name in ("shards", "readers", "embeddings.small", "embeddings.oracle")}
    bare = run_stage(Kept(), given | {"conditions": conditions, "samples": painted})
    assert not rows(bare, "probe")
    assert not rows(bare, "kept rise")
    assert not rows(bare, "nearness")
    assert not any("twins" in name for name in bare.objects)
    assert rows(bare, "kept")["small:backbone", "mean_hue"].verdict == "KEPT"


def test_an_attribute_may_be_what_another_encoder_reads_of_an_image(
    small: World, conditions: MemoryArtifact, painted: MemoryArtifact
) -> None:
    table = small.artifacts["embeddings.small"]
    probes = run_stage(
        Probes(epochs=1, references=("small:backbone",)),
        {"shards": small.artifacts["shards"], "embeddings.small": table, "reference.small": table},
    )
    given = {"reference.small": table, "probes": probes}
    found = small.answer(Kept(references=("small:backbone",)), conditions, painted, **given)
    readers, kept = rows(found, "reader"), rows(found, "kept")
    names = ["shape by small", "pattern by small", *(f"direction {number} by small" for number in (1, 2, 3))]
    for name in names:
        # At this resolution the encoder reads of a source what it reads of the image.
        assert readers[":", name].value == pytest.approx(1.0)
        assert kept["small:backbone", name].value == pytest.approx(1.0)
        assert kept["small:backbone", name].verdict == "KEPT"
        assert ("small:backbone", name) in rows(found, "probe")
    assert all(kept["small:projector", name].high < 1.0 for name in names)
    # The probe of the tap that the readings are taken from finds a direction of it again.
    assert rows(found, "probe")["small:backbone", "direction 1 by small"].value > 0.8


def test_samples_of_other_conditions_are_refused(conditions: MemoryArtifact, painted: MemoryArtifact) -> None:
    images = painting({"conditions": conditions, "samples": painted}).images.reshape(-1, SIZE, SIZE, 3)
    with pytest.raises(FormatError, match="equally many"):
        painting({"conditions": conditions, "samples": samples(images[:-1], conditions, 1)})


def test_perfect_samples_find_their_source_and_controls_stand_where_they_must(faithfulness: MemoryArtifact) -> None:
    mrr, median = rows(faithfulness, "mrr"), rows(faithfulness, "median rank")
    gallery = faithfulness.summary["gallery"]
    assert mrr["small:backbone", "samples"].value == pytest.approx(1.0)
    assert median["small:backbone", "samples"].value == 1.0
    assert f"among {gallery} held-out" in mrr["small:backbone", "samples"].unit
    assert f"among {gallery - 1} held-out" in mrr["small:backbone", "nearest"].unit
    chance = float((1.0 / np.arange(1, gallery + 1)).mean())
    for subject in ("shuffled", "random"):
        assert mrr["small:backbone", subject].value < 4 * chance
    assert mrr["small:projector", "samples"].value < 0.5
    assert mrr["small:backbone", "crop"].value > mrr["small:backbone", "random"].value
    assert mrr["small:backbone", "nearest"].value > mrr["small:backbone", "random"].value


def test_samples_that_show_all_that_their_resolution_can_are_faithful_however_large_the_encoders_images(
    small: World,
) -> None:
    asked = small.ask(Sources(taps=("small:backbone",), count=COUNT, size=4, gallery=60))
    chosen = [c.source_row for c in read_conditions(asked)]
    shards = open_images(small.artifacts["shards"])
    assert [name for name in asked.objects if "downsized" in name] == ["downsized/small/backbone.safetensors"]
    stored = load(asked.objects["downsized/small/backbone.safetensors"])
    assert set(chosen) <= set(stored["rows"].tolist())
    assert len(stored["rows"]) == len(stored["embeddings"]) == 60
    best = samples(np.repeat(shards.decode(chosen, 4), 2, axis=0), asked, 2)
    answer = small.answer(Faithfulness(), asked, best)
    mrr, tap_id = rows(answer, "mrr"), "small:backbone"
    assert mrr[tap_id, "samples at the decoder's resolution"].value == 1.0
    assert "among 60 held-out" in mrr[tap_id, "samples at the decoder's resolution"].unit
    # Among images as large as the encoder takes them the source itself does no better than these samples.
    assert mrr[tap_id, "samples"].value == pytest.approx(mrr[tap_id, "downsized"].value)
    assert mrr[tap_id, "samples"].value < 0.9
    kept = small.answer(Kept(), asked, best)
    assert rows(kept, "nearness")[tap_id, ""].value == pytest.approx(0.0, abs=1e-6)


def test_every_single_rank_is_kept_and_gives_the_rows(faithfulness: MemoryArtifact, painted: MemoryArtifact) -> None:
    mrr, median = rows(faithfulness, "mrr"), rows(faithfulness, "median rank")
    kept_ranks = load_ranks(faithfulness.objects["ranks.parquet"])
    assert {(found.tap_id, found.subject) for found in kept_ranks} == set(mrr)
    for found in kept_ranks:
        assert (1.0 / found.ranks).mean() == pytest.approx(mrr[found.tap_id, found.subject].value)
        assert np.median(np.median(found.ranks, axis=1)) == median[found.tap_id, found.subject].value
        gallery = faithfulness.summary["gallery"]
        assert found.gallery == (gallery - 1 if found.subject in ("nearest", "random") else gallery)
        assert len(set(found.sources.tolist())) == COUNT


def test_distances_are_in_units_of_two_random_images(faithfulness: MemoryArtifact) -> None:
    distance = rows(faithfulness, "distance")
    assert distance["small:backbone", "samples"].value == pytest.approx(0.0, abs=1e-3)
    assert distance["small:backbone", "random"].value == pytest.approx(1.0, abs=0.25)
    assert distance["small:backbone", "nearest"].value < distance["small:backbone", "random"].value
    assert rows(faithfulness, "cosine distance")["small:backbone", "samples"].value == pytest.approx(0.0, abs=1e-3)


def test_taps_whose_samples_were_not_embedded_are_left_out_and_named(faithfulness: MemoryArtifact) -> None:
    assert faithfulness.summary["left_out"] == ["oracle:attributes", "oracle:pixels"]
    assert {tap_id for tap_id, _ in rows(faithfulness, "mrr")} == {"small:backbone", "small:projector"}


def test_transforms_are_asked_at_every_strength_and_painted_at_the_middle(
    small: World, transformed: MemoryArtifact
) -> None:
    asked = read_conditions(transformed)
    assert {c.tap_id for c in asked} == {"small:backbone", "small:projector", "oracle:pixels"}
    assert {c.variant for c in asked} == {"plain", *TRANSFORMS, "own"}
    assert len({c.source_row for c in asked}) == 3
    assert transformed.summary["left_out"] == ["oracle:attributes"]
    about = json.loads(transformed.objects["transforms.json"])
    moved = load(transformed.objects["moved/small/backbone.safetensors"])
    assert moved["transformed"].shape == (len(about["variants"]), 30, 8)
    assert moved["own"].shape == (2, 30, 8)
    vectors = load(transformed.objects["conditions.safetensors"])
    first = in_turns(small.artifacts["shards"], np.array(about["rows"]))[:3]
    np.testing.assert_array_equal(vectors["small:backbone"][:3], moved["plain"][first])
    shown = load(transformed.objects["shown.safetensors"])
    assert shown["small"].shape == (len(TRANSFORMS) + 2, 3, 16, 16, 3)


def test_the_sources_that_are_painted_are_of_classes_in_turns(small: World, transformed: MemoryArtifact) -> None:
    painted = list(dict.fromkeys(c.source_row for c in read_conditions(transformed)))
    assert painted != json.loads(transformed.objects["transforms.json"])["rows"][:3]
    _, classes = classes_of(small.artifacts["shards"], painted)
    assert len(set(classes)) == 3


def test_r_grows_with_strength_and_references_stand_beside_it(invariance: MemoryArtifact) -> None:
    r, references = rows(invariance, "r"), rows(invariance, "reference")
    for name in ("blur", "noise", "greyscale", "brightness"):
        values = [r["oracle:pixels", f"{name} {strength:g}"].value for strength in TRANSFORMS[name].strengths]
        assert values == sorted(values), name
        assert values[0] > 0.0
    assert {subject for _, subject in references} == {"nearest other image", "same shape", "same pattern"}
    nearest, pattern = (references["oracle:pixels", name].value for name in ("nearest other image", "same pattern"))
    assert 0.0 < nearest < pattern < 1.05
    assert r["small:backbone", "own"].low <= r["small:backbone", "own"].value <= r["small:backbone", "own"].high
    assert ("oracle:pixels", "usual augmentations") in r
    assert ("oracle:pixels", "own") not in r


def test_differences_between_the_ends_are_those_of_their_r(invariance: MemoryArtifact) -> None:
    r, gaps, shares = (rows(invariance, metric) for metric in ("r", "r difference", "r ratio"))
    both = f"small:{BOTH}"
    for subject in ("own", "flip 1", "hue 0.1"):
        first, last = r["small:backbone", subject].value, r["small:projector", subject].value
        assert gaps[both, subject].value == pytest.approx(first - last)
        assert shares[both, subject].value == pytest.approx(last / first)


def test_findings_follow_from_the_stored_rows(kept: MemoryArtifact, invariance: MemoryArtifact) -> None:
    stored = [*load_rows(kept.objects["results.parquet"]), *load_rows(invariance.objects["results.parquet"])]
    # The encoder was never trained: it moves at both ends as an untrained network does, for it is one.
    found = findings(stored)
    assert [(f.number, f.encoder) for f in found] == [("i", "small"), ("ii", "small")]
    assert [f.why for f in found if f.outcome == "shown"] == []


def test_an_encoder_is_compared_with_its_own_network_untrained(invariance: MemoryArtifact) -> None:
    both = f"small:{BOTH}"
    raw, more = rows(invariance, "r untrained"), rows(invariance, "r difference - untrained")
    gap = raw["small:backbone", "own"].value - raw["small:projector", "own"].value
    assert more[both, "own"].value == pytest.approx(rows(invariance, "r difference")[both, "own"].value - gap)
    assert np.isfinite(rows(invariance, "difference in differences")[both, "own"].value)
    assert [subject for _, subject in rows(invariance, "augmentation")] == list(augment.Augmentations().used())


def test_attributes_that_measure_the_same_are_named(kept: MemoryArtifact) -> None:
    same = {subject: row.why for (_, subject), row in rows(kept, "duplicate").items()}
    assert same["mean_hue"] == "background_hue"
    assert same["centre_x"] == "x"
    assert "shape" not in same


def test_grids_show_the_transformed_images_and_the_samples_of_each_tap(invariance: MemoryArtifact) -> None:
    names = sorted(n for n in invariance.objects if n.startswith("figures/") and n.endswith(".json"))
    assert names == [
        "figures/inputs-oracle.json",
        "figures/inputs-small.json",
        "figures/samples-oracle-pixels.json",
        "figures/samples-small-backbone.json",
        "figures/samples-small-projector.json",
    ]
    about = json.loads(invariance.objects["figures/inputs-small.json"])
    assert about["columns"][0] == "as it is"
    assert "hue 0.1" in about["columns"]
    assert about["columns"][-1] == "augmentations"
    assert image_file.decode(invariance.objects["figures/inputs-small.png"]).shape == (3 * SIZE, 13 * SIZE, 3)


def test_answers_are_equal_bytes_when_asked_again(
    small: World, conditions: MemoryArtifact, painted: MemoryArtifact, faithfulness: MemoryArtifact
) -> None:
    assert small.answer(Faithfulness(), conditions, painted).objects == faithfulness.objects


GROUPS = (("small:backbone", "oracle:attributes"), ("small:projector", "oracle:pixels"))


@pytest.mark.parametrize(
    ("stage", "asked"), [(Kept(), "conditions"), (Faithfulness(), "conditions"), (Invariance(), "transformed")]
)
def test_tap_groups_that_were_painted_apart_are_answered_as_if_together(
    small: World, stage: Stage, asked: str, request: pytest.FixtureRequest
) -> None:
    together: MemoryArtifact = request.getfixturevalue(stage.name)
    conditions: MemoryArtifact = request.getfixturevalue(asked)
    per_source = 2 if asked == "transformed" else 4
    whole = painting({"conditions": conditions, "samples": small.paint(conditions, KEEPS, per_source)})

    def ask(taps: tuple[str, ...]) -> Stage:
        if asked == "transformed":
            return Transformed(taps=taps, count=30, paint=3, draws=2)
        return Sources(taps=taps, count=COUNT)

    apart = small.answer_groups(stage, ask, GROUPS, whole)
    found, expected = (
        {
            (r.metric, r.encoder, r.tap, r.subject): r
            for r in load_rows(answer.objects["results.parquet"])
            if r.metric != "rules"
        }
        for answer in (apart, together)
    )
    assert found.keys() == expected.keys()
    for name, row in found.items():
        assert (row.n, row.verdict) == (expected[name].n, expected[name].verdict), name
        numbers = [(r.value, r.low, r.high) for r in (row, expected[name])]
        assert numbers[0] == pytest.approx(numbers[1], abs=1e-4, nan_ok=True), name
    assert apart.names() == together.names()


def test_tap_groups_with_other_sources_are_refused(small: World, conditions: MemoryArtifact) -> None:
    given = {"conditions": small.ask(Sources(taps=TAPS[:1], count=5)), "conditions.1": conditions}
    given["samples"] = small.paint(given["conditions"], KEEPS)
    given["samples.1"] = small.paint(conditions, KEEPS)
    with pytest.raises(FormatError, match="the same sources"):
        painting(given)
