"""Readers and probes: targets, training on a few scenes, storage, and the two stages."""

import io

import numpy as np
import pytest
import torch

from stages import attributes
from stages.attributes import Attribute
from stages.datasets import scenes
from stages.datasets.sources import ScenesSource
from stages.embeddings.stage import Embeddings
from stages.encoders.spec import Oracle
from stages.errors import FormatError, InputError
from stages.listing.stage import Listing
from stages.readers import data, format, network, pixel, probe, score
from stages.readers.stage import Probes, Readers
from stages.readers.targets import Targets
from stages.readers.whitening import SHRINKAGE_MIN, Whitening
from stages.shards.stage import Shards
from tests.artifacts import InlineContext, MemoryArtifact, run_stage

pytestmark = pytest.mark.usefixtures("one_thread")

COLOUR = Attribute(name="hue", kind="circle", mirror="negate")
WHERE = Attribute(name="x", kind="scalar", mirror="complement")
WHAT = Attribute(name="shape", kind="class", classes=("a", "b", "c"))


@pytest.fixture(scope="module")
def shards() -> MemoryArtifact:
    listing = run_stage(Listing(source=ScenesSource(kind="scenes", count=600, seed=3), holdout=0.3))
    return run_stage(Shards(shard_rows=256), {"listing": listing})


@pytest.fixture(scope="module")
def oracle(shards: MemoryArtifact) -> MemoryArtifact:
    return run_stage(Embeddings(encoder=Oracle()), {"images": shards})


def values() -> dict[str, score.Floats]:
    return {
        "hue": np.array([0.1, 0.9, np.nan, 0.5]),
        "x": np.array([1.0, 2.0, 3.0, np.nan]),
        "shape": np.array([0.0, 2.0, 1.0, np.nan]),
    }


def test_perfect_outputs_decode_to_the_values_they_were_made_from() -> None:
    targets = Targets.of((COLOUR, WHERE, WHAT), values())
    assert targets.width == 6
    mean, std = targets.scaling["x"]
    assert (mean, std) == pytest.approx((2.0, np.sqrt(2 / 3)))
    angle = 2 * np.pi * np.array([0.1, 0.9])
    outputs = np.zeros((2, 6), dtype=np.float32)
    outputs[:, 0], outputs[:, 1] = np.cos(angle), np.sin(angle)
    outputs[:, 2] = (np.array([1.0, 2.0]) - mean) / std
    outputs[0, 3], outputs[1, 5] = 9.0, 9.0
    read = targets.decode(torch.from_numpy(outputs))
    for name in ("hue", "x", "shape"):
        assert read[name] == pytest.approx(values()[name][:2], abs=1e-6)
    losses = targets.losses(torch.from_numpy(outputs), targets.encode(values())[:2])
    assert losses.numpy() == pytest.approx(np.zeros(3), abs=1e-3)


def test_an_undefined_value_costs_nothing_and_moves_nothing() -> None:
    targets = Targets.of((COLOUR, WHERE, WHAT), values())
    outputs = torch.zeros(4, 6, requires_grad=True)
    nothing = torch.full((4, 3), float("nan"))
    losses = targets.losses(outputs, nothing)
    assert losses.tolist() == [0.0, 0.0, 0.0]
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert outputs.grad is not None
    assert not outputs.grad.any()


def test_an_attribute_without_a_value_in_training_is_not_read() -> None:
    nowhere = values() | {"hue": np.full(4, np.nan)}
    assert [a.name for a in Targets.of((COLOUR, WHERE, WHAT), nowhere).attributes] == ["x", "shape"]


@pytest.mark.parametrize("size", [8, 32, 48, 96])
def test_the_network_reads_images_of_any_size(size: int) -> None:
    net = network.build(size, (4, 8, 8, 8), 5, seed=0)
    assert net(torch.zeros(2, 3, size, size)).shape == (2, 5)


def test_initial_weights_are_a_function_of_the_seed_and_global_randomness_is_left_alone() -> None:
    torch.manual_seed(5)
    first = network.build(32, (4, 4), 3, seed=1).stem.weight
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))
    assert torch.equal(first, network.build(32, (4, 4), 3, seed=1).stem.weight)
    assert not torch.equal(first, network.build(32, (4, 4), 3, seed=2).stem.weight)


def test_truth_is_the_tables_columns_and_the_functions_of_the_pixels(shards: MemoryArtifact) -> None:
    found = data.labelled(shards, "heldout", 32, limit=1000)
    images, true = scenes.render(3, found.rows.tolist())
    np.testing.assert_array_equal(found.images, images)
    for attribute in scenes.ATTRIBUTES:
        np.testing.assert_array_equal(found.values[attribute.name], true[attribute.name])
    np.testing.assert_array_equal(found.values["mean_hue"], pixel.read(images)["mean_hue"])
    assert {a.name for a in found.attributes} == {a.name for a in (*scenes.ATTRIBUTES, *pixel.ATTRIBUTES)}


def test_splits_share_no_image_and_a_limit_is_kept(shards: MemoryArtifact) -> None:
    train, heldout = (set(data.rows_of(shards, split).tolist()) for split in ("train", "heldout"))
    assert not train & heldout
    assert len(train | heldout) == 600
    few = data.labelled(shards, "train", 32, limit=100)
    assert len(few.rows) == len(few.images) == 100
    assert set(few.rows.tolist()) <= train
    assert (np.diff(few.rows) > 0).all()


def test_a_column_of_the_dataset_hides_a_pixel_attribute_of_its_name(shards: MemoryArtifact) -> None:
    own = [*scenes.ATTRIBUTES, Attribute(name="contrast", kind="scalar")]
    artifact = MemoryArtifact(shards.objects | {"attributes.json": attributes.dump(own)})
    assert "contrast" not in {a.name for a in data.pixel_attributes(artifact)}


def test_a_split_without_images_is_an_error_that_says_so(shards: MemoryArtifact) -> None:
    listing = run_stage(Listing(source=ScenesSource(kind="scenes", count=8, seed=3), holdout=0.0))
    with pytest.raises(InputError, match="split 'heldout'"):
        data.rows_of(run_stage(Shards(), {"listing": listing}), "heldout")


def test_a_reader_learns_from_train_images_and_is_scored_on_others(shards: MemoryArtifact) -> None:
    context = InlineContext()
    artifact = run_stage(Readers(num_images=3000, widths=(8, 16, 32)), {"shards": shards}, context=context)
    assert context.reports[-1][0] >= 3000
    card = format.read_card(artifact)
    assert card.scores["background_hue"].value > 0.7
    assert card.scores["pattern"].value > 0.7
    assert card.scores["mean_hue"].measure == "by definition"
    assert artifact.summary["scores"]["pattern"] == round(card.scores["pattern"].value, 4)

    heldout = data.labelled(shards, "heldout", 32, limit=1000)
    reader = format.load(artifact, "cpu")
    read = reader.read(heldout.images)
    assert set(read) == {a.name for a in heldout.attributes}
    again, n = score.quality(scenes.ATTRIBUTES[3], read["pattern"], heldout.values["pattern"])
    assert again == pytest.approx(card.scores["pattern"].value)
    assert n == card.scores["pattern"].n == len(heldout.rows)
    np.testing.assert_array_equal(read["mean_hue"], heldout.values["mean_hue"])


def test_a_dataset_without_attributes_needs_no_network(shards: MemoryArtifact) -> None:
    bare = MemoryArtifact(shards.objects | {"attributes.json": attributes.dump([])})
    artifact = run_stage(Readers(), {"shards": bare})
    read = format.load(artifact, "cpu").read(scenes.render(1, range(3))[0])
    assert set(read) == {a.name for a in pixel.ATTRIBUTES}


def test_readers_of_a_newer_format_are_refused() -> None:
    with pytest.raises(FormatError, match="format 1"):
        format.read_card(MemoryArtifact({"readers.json": b'{"format": 2}'}))


def test_a_probe_reads_what_is_in_the_embedding_and_nothing_from_shuffled_ones(
    shards: MemoryArtifact, oracle: MemoryArtifact
) -> None:
    artifact = run_stage(Probes(epochs=12), {"shards": shards, "embeddings.oracle": oracle})
    rows = {(row.tap, row.attribute): row for row in probe.load(artifact.read(probe.PROBES))}
    assert {tap for tap, _ in rows} == {"attributes", "pixels"}
    for name in ("pattern", "x", "y", "hue", "background_hue", "shape"):
        row = rows["attributes", name]
        assert row.score is not None
        assert row.low is not None
        assert row.high is not None
        assert row.floor is not None
        assert row.score > 0.8
        assert row.low <= row.score <= row.high
        assert abs(row.floor) < 0.3
        assert row.n == len(data.rows_of(shards, "heldout"))
    assert artifact.summary["rows"] == len(rows)


def test_probes_say_what_they_find_of_controls(shards: MemoryArtifact, oracle: MemoryArtifact) -> None:
    artifact = run_stage(Probes(epochs=4), {"shards": shards, "embeddings.oracle": oracle})
    rows = {(row.tap, row.attribute): row for row in probe.load(artifact.read(probe.PROBES))}
    planted, shuffled = (rows["attributes", name] for name in (probe.PLANTED, probe.SHUFFLED))
    assert planted.control
    assert planted.score == pytest.approx(probe.PLANTED_SHARE, abs=0.15)
    assert shuffled.score == pytest.approx(0.0, abs=0.1)
    assert not rows["attributes", "x"].control


def gaussian(seed: int, count: int, share: float, width: int = 12) -> probe.Fold:
    """Embeddings of which one direction of little variance holds `share` of the variance of `value`.

    `side` is its sign, `angle` goes around a part of the circle with it.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    embeddings = rng.standard_normal((count, width))
    value = np.sqrt(share) * embeddings[:, 0] + np.sqrt(1 - share) * rng.standard_normal(count)
    embeddings[:, 0] *= 1e-2
    turned = embeddings @ np.linalg.qr(np.random.Generator(np.random.Philox(1)).standard_normal((width, width)))[0]
    values = {"value": value, "side": (value > 0).astype(np.float64), "angle": np.mod(value / 8, 1.0)}
    return probe.Fold(torch.from_numpy(turned.astype(np.float32)), values)


GAUSSIAN = (
    Attribute(name="value", kind="scalar"),
    Attribute(name="side", kind="class", classes=("below", "above")),
    Attribute(name="angle", kind="circle"),
)


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_probe_scores_what_an_exact_sampler_would_keep(share: float) -> None:
    train, validation, heldout = (gaussian(2, 3000, share), gaussian(3, 500, share), gaussian(4, 4000, share))
    rows = {row.attribute: row for row in probe.probes(GAUSSIAN, train, validation, heldout, epochs=8, seed=0)}
    rng = np.random.Generator(np.random.Philox(5))
    mean = np.sqrt(share) * rng.standard_normal(40_000)
    drawn = mean[:, None] + np.sqrt(1 - share) * rng.standard_normal((40_000, 9))
    exact = {"value": drawn, "side": (drawn > 0).astype(np.float64), "angle": np.mod(drawn / 8, 1.0)}
    for attribute in GAUSSIAN:
        wanted = score.kept(attribute, exact[attribute.name][:, 1:], exact[attribute.name][:, 0])(np.ones((1, 40_000)))
        row = rows[attribute.name]
        assert row.score == pytest.approx(wanted[0], abs=0.06)
        assert row.point is not None
        assert row.score is not None
        assert row.point > row.score
    # A linear map is all there is to be found.
    assert rows["value"].point == pytest.approx(2 * share / (1 + share), abs=0.05)


def test_a_probe_of_an_attribute_that_is_undefined_in_the_validation_fold_has_no_score() -> None:
    train, validation, heldout = (gaussian(seed, 200, 0.5) for seed in (2, 3, 4))
    validation = probe.Fold(validation.embeddings, {**validation.values, "value": np.full(200, np.nan)})
    rows = {row.attribute: row for row in probe.probes(GAUSSIAN, train, validation, heldout, epochs=2, seed=0)}
    assert rows["value"].score is None
    assert rows["side"].score is not None


def test_whitened_embeddings_have_equal_variance_in_every_direction_and_constant_features_are_zero() -> None:
    rng = np.random.Generator(np.random.Philox(7))
    x = rng.standard_normal((5000, 6)) @ rng.standard_normal((6, 6)) * np.geomspace(1, 1e-3, 6) + 3.0
    x[:, 2] = 4.0
    found = Whitening.fit(torch.from_numpy(x.astype(np.float32)))
    white = found.apply(torch.from_numpy(x.astype(np.float32))).double().numpy()
    assert SHRINKAGE_MIN <= found.shrinkage < 0.01
    np.testing.assert_array_equal(white[:, 2], 0.0)
    others = np.delete(white, 2, axis=1)
    np.testing.assert_allclose(np.cov(others.T), np.eye(5), atol=0.1)


def test_few_embeddings_are_shrunk_towards_their_own_scales() -> None:
    rng = np.random.Generator(np.random.Philox(7))
    x = torch.from_numpy(rng.standard_normal((20, 64)).astype(np.float32))
    found = Whitening.fit(x)
    assert found.shrinkage > 0.5
    assert torch.isfinite(found.apply(x)).all()


def test_probe_tables_of_before_probes_drew_values_are_still_read() -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = {"encoder": "e", "tap": "t", "attribute": "a", "score": 0.5, "low": 0.4, "high": 0.6, "n": 9}
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([row | {"floor": None, "floor_low": None, "floor_high": None}]), sink)
    (found,) = probe.load(sink.getvalue())
    assert (found.score, found.point, found.control) == (0.5, None, False)


def test_probe_rows_survive_storage_and_other_tables_are_refused() -> None:
    row = probe.Probe(
        encoder="e",
        tap="t",
        attribute="a",
        score=0.5,
        low=0.4,
        high=0.6,
        n=9,
        floor=None,
        floor_low=None,
        floor_high=None,
    )
    assert probe.load(probe.dump([row])) == [row]
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.table({"other": [1]}), sink)
    with pytest.raises(FormatError, match="columns"):
        probe.load(sink.getvalue())


@pytest.mark.parametrize("attribute", [COLOUR, WHERE, WHAT], ids=lambda a: a.kind)
def test_quality_is_one_for_the_truth_and_zero_for_the_mean(attribute: Attribute) -> None:
    rng = np.random.Generator(np.random.Philox(1))
    truth = rng.integers(0, 3, 50).astype(np.float64) if attribute.kind == "class" else rng.random(50) * 0.3
    truth[7] = np.nan
    assert score.quality(attribute, truth, truth) == pytest.approx((1.0, 49))
    known = truth[np.isfinite(truth)]
    if attribute.kind == "class":
        # A constant reader is right about one class of three.
        assert score.quality(attribute, np.zeros(50), truth)[0] == pytest.approx(1 / 3)
        return
    mean = known.mean()
    if attribute.kind == "circle":
        mean = np.angle(np.exp(2j * np.pi * known).mean()) / (2 * np.pi)
    assert score.quality(attribute, np.full(50, mean), truth)[0] == pytest.approx(0.0, abs=1e-9)
    assert np.isnan(score.quality(attribute, truth, np.full(50, np.nan))[0])
