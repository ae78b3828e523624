"""The embeddings stage and its table: opened by others' tools, damage detected, one pass, train rows only."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

from stages.attributes import columns_of
from stages.contract import Estimate, Part
from stages.datasets.scenes import ATTRIBUTES
from stages.datasets.sources import ScenesSource
from stages.embeddings import format
from stages.embeddings.format import (
    ROWS,
    STATISTICS,
    STORE,
    Moments,
    decode_shard,
    encode_shard,
    open_table,
    shard_name,
)
from stages.embeddings.stage import Embeddings
from stages.encoders.encoder import NetworkEncoder
from stages.encoders.load import load
from stages.encoders.spec import Oracle, Preprocessing, Pretrained, Untrained
from stages.errors import FormatError, InputError
from stages.images.sets import open_images
from stages.listing.stage import Listing
from stages.pretrain.stage import Pretrain
from stages.shards.stage import Shards
from tests.artifacts import FolderArtifact, MemoryArtifact, run_stage
from tests.stages.encoders.small import IMAGES, SMALL, count_passes, stored_encoder

COUNT, PART_ROWS, BAD = 300, 128, (5, 129, 130, 299)
FLAT = {"kind": "image", "units": "", "metric": ""}
SPEC = Untrained(architecture=SMALL)
TAPS = {"backbone": 16, "projector.0": 12, "projector": 6}


@pytest.fixture(scope="module")
def shards() -> MemoryArtifact:
    """300 scenes in three tars; the images in rows `BAD` are missing, as those that could not be read are."""
    listing = run_stage(Listing(source=ScenesSource(count=COUNT, seed=7)))
    artifact = run_stage(Shards(shard_rows=PART_ROWS), {"listing": listing})
    index = pq.read_table(io.BytesIO(artifact.objects["index.parquet"]))
    offset, status = index.column("offset").to_pylist(), index.column("status").to_pylist()
    for row in BAD:
        offset[row], status[row] = -1, "not an image"
    for name, values in (("offset", pa.array(offset)), ("status", pa.array(status))):
        index = index.set_column(index.column_names.index(name), name, values)
    buffer = io.BytesIO()
    pq.write_table(index, buffer)
    return MemoryArtifact(artifact.objects | {"index.parquet": buffer.getvalue()}, key="5" * 64)


@pytest.fixture(scope="module")
def table(shards: MemoryArtifact) -> MemoryArtifact:
    return run_stage(Embeddings(encoder=SPEC), {"images": shards})


def samples(count: int, part_rows: int) -> MemoryArtifact:
    """An artifact as `samples` writes it."""
    objects: dict[str, zarr.core.buffer.Buffer] = {}
    pixels = np.random.Generator(np.random.Philox(key=[3, 4])).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    zarr.create_array(
        zarr.storage.MemoryStore(objects), data=pixels, chunks=(1, 32, 32, 3), shards=(part_rows, 32, 32, 3)
    )
    buffer = io.BytesIO()
    pq.write_table(pa.table({"sample": np.arange(count), "condition": np.arange(count) // 2}), buffer)
    stored = {f"images.zarr/{name}": value.to_bytes() for name, value in objects.items()}
    return MemoryArtifact(stored | {"samples.parquet": buffer.getvalue()})


def decoded(shards: MemoryArtifact) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    images = open_images(shards)
    parts = [images.decode_part(part, 32) for part in range(images.parts)]
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([pixels for _, pixels in parts])


def test_every_row_holds_the_embedding_of_its_image_in_its_view(shards: MemoryArtifact, table: MemoryArtifact) -> None:
    rows, pixels = decoded(shards)
    encoder = load(SPEC, {}, "cpu")
    found = open_table(table)
    assert found.taps == TAPS
    assert found.count == COUNT
    for view, shown in (("plain", pixels), ("flip", pixels[:, :, ::-1])):
        expected = encoder.embed(np.ascontiguousarray(shown))
        for tap in TAPS:
            np.testing.assert_allclose(found.read(tap, view, rows), expected[tap], rtol=1e-4, atol=1e-5)


def test_rows_without_an_image_stay_missing(table: MemoryArtifact) -> None:
    found = open_table(table)
    for tap in TAPS:
        missing = np.isnan(found.read(tap, "flip"))
        assert np.flatnonzero(missing.any(axis=1)).tolist() == list(BAD)
        assert missing[list(BAD)].all()
    assert table.summary["embedded"] == COUNT - len(BAD)


def test_rows_come_in_the_order_in_which_they_are_asked_for(table: MemoryArtifact) -> None:
    found = open_table(table)
    everything = found.read("projector")
    wanted = [200, 3, 200, 131, 0]
    np.testing.assert_array_equal(found.read("projector", rows=wanted), everything[wanted])
    assert found.read("projector", rows=[]).shape == (0, 6)


@pytest.mark.parametrize("block_bytes", [1, 5000, 2**26])
def test_rows_read_in_blocks_are_the_same(
    table: MemoryArtifact, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = open_table(table)
    everything = found.read("projector.0", "flip")
    monkeypatch.setattr(format, "BLOCK_BYTES", block_bytes)
    np.testing.assert_array_equal(found.read("projector.0", "flip"), everything)
    few = [299, 4, 130, 4]
    shuffled = np.random.Generator(np.random.Philox(key=[2, 2])).permutation(COUNT)
    for rows in (few, shuffled, shuffled[:100], []):
        np.testing.assert_array_equal(found.read("projector.0", "flip", rows), everything[list(rows)])


@pytest.mark.parametrize("rows", [[0, 300], [-1, 3]])
def test_rows_that_do_not_exist_are_refused(table: MemoryArtifact, rows: list[int]) -> None:
    with pytest.raises(InputError, match="rows from 0 to 299; found rows from"):
        open_table(table).read("projector", rows=rows)


def test_rows_are_joined_by_row_and_key(shards: MemoryArtifact, table: MemoryArtifact) -> None:
    found = open_table(table).rows()
    index = open_images(shards).table()
    assert found.column_names[:6] == ["row", "key", "kind", "file_name", "split", "status"]
    assert found.column_names[6:] == list(columns_of(ATTRIBUTES).values())
    for name in found.column_names:
        assert found.column(name).to_pylist() == index.column(name).to_pylist()


def test_statistics_are_of_train_rows_of_both_views_only(shards: MemoryArtifact, table: MemoryArtifact) -> None:
    found = open_table(table)
    split = np.array(found.rows().column("split").to_pylist())
    train = [int(row) for row in np.flatnonzero(split == "train") if row not in BAD]
    assert 0 < len(train) < COUNT - len(BAD)
    assert table.summary["train_vectors"] == 2 * len(train)
    for tap in TAPS:
        x = np.concatenate([found.read(tap, view, train) for view in found.views]).astype(np.float64)
        statistics = found.statistics(tap)
        np.testing.assert_allclose(statistics.mean, x.mean(axis=0), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(statistics.std, x.std(axis=0), rtol=1e-5, atol=1e-7)
        assert statistics.rms == pytest.approx(np.sqrt(x.var(axis=0).mean()), rel=1e-5)
        standard = statistics.standardise(x.astype(np.float32))
        assert np.abs(standard.mean(axis=0)).max() < 1e-3


def test_a_dead_direction_is_not_blown_up(table: MemoryArtifact) -> None:
    statistics = open_table(table).statistics("projector")
    statistics.std[0] = 0
    assert statistics.scale[0] == pytest.approx(0.05 * statistics.rms)


def test_moments_add_up_to_those_of_all_rows() -> None:
    x = np.random.Generator(np.random.Philox(key=[9, 9])).normal(100.0, 1e-3, (1000, 3))
    pieces = [Moments.of(x[start : start + size]) for start, size in ((0, 1), (1, 0), (1, 699), (700, 300))]
    total = sum(pieces[1:], pieces[0])
    assert total.n == 1000
    np.testing.assert_allclose(total.mean, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(total.m2 / 1000, x.var(axis=0), rtol=1e-6)


def test_all_taps_of_a_view_come_from_one_pass(shards: MemoryArtifact, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    embed = NetworkEncoder.embed

    def counted(self: NetworkEncoder, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        seen.append(len(images))
        return embed(self, images)

    stage = Embeddings(encoder=SPEC, batch=50)
    state = stage.setup({"images": shards}, "cpu")
    monkeypatch.setattr(NetworkEncoder, "embed", counted)
    passes = count_passes(monkeypatch)
    stage.work(Part(index=0), state, {"images": shards}, MemoryArtifact())
    # 127 readable images in two views.
    assert seen == passes == [50, 50, 50, 50, 27, 27]


def test_a_part_decodes_its_images_once_for_all_views(shards: MemoryArtifact) -> None:
    stage = Embeddings(encoder=SPEC)
    state = stage.setup({"images": shards}, "cpu")
    shards.reads.clear()
    stage.work(Part(index=1), state, {"images": shards}, MemoryArtifact())
    assert shards.reads == ["shard-00001.tar"]


def test_one_part_writes_one_object_per_tap_and_view(shards: MemoryArtifact, table: MemoryArtifact) -> None:
    stage = Embeddings(encoder=SPEC)
    parts = stage.split({"images": shards})
    assert [part.index for part in parts] == [0, 1, 2]
    shard_objects = {shard_name(tap, view, part) for tap in TAPS for view in stage.views for part in range(3)}
    documents = {f"{STORE}/zarr.json"} | {f"{STORE}/{tap}/zarr.json" for tap in TAPS}
    documents |= {f"{STORE}/{tap}/{view}/zarr.json" for tap in TAPS for view in stage.views}
    columns = open_table(table).rows().column_names
    labels = {f"{STORE}/{tap}/{name}/{kind}" for tap in TAPS for name in columns for kind in ("zarr.json", "c/0")}
    assert set(table.names()) == shard_objects | documents | labels | {ROWS, STATISTICS, "CARD.md", "card.json"}


def test_the_root_is_published_last(shards: MemoryArtifact) -> None:
    out = run_stage(Embeddings(encoder=SPEC), {"images": shards})
    assert list(out.objects)[-1] == f"{STORE}/zarr.json"


def test_parts_in_any_order_give_the_same_bytes(shards: MemoryArtifact, table: MemoryArtifact) -> None:
    again = run_stage(Embeddings(encoder=SPEC), {"images": shards}, order=lambda parts: parts[::-1])
    assert again.objects == table.objects


def test_equal_vectors_give_equal_shards_and_come_back() -> None:
    vectors = np.random.Generator(np.random.Philox(key=[1, 1])).normal(size=(70, 5)).astype(np.float32)
    data = encode_shard(vectors, 128)
    assert data == encode_shard(vectors.copy(), 128)
    back = decode_shard(data, 128, 5, "float32")
    np.testing.assert_array_equal(back[:70], vectors)
    assert np.isnan(back[70:]).all()
    # A part of any size has inner chunks that fit.
    np.testing.assert_array_equal(decode_shard(encode_shard(vectors, 70), 70, 5, "float32"), vectors)


def test_a_shard_of_missing_rows_is_stored_all_the_same() -> None:
    data = encode_shard(np.full((64, 3), np.nan, dtype=np.float16), 64)
    assert np.isnan(decode_shard(data, 64, 3, "float16")).all()


def test_half_precision_is_stored_where_it_is_asked_for(shards: MemoryArtifact, table: MemoryArtifact) -> None:
    half = run_stage(Embeddings(encoder=SPEC, dtype="float16", views=("plain",)), {"images": shards})
    found, full = open_table(half), open_table(table)
    assert found.views == ("plain",)
    ok = np.setdiff1d(np.arange(COUNT), BAD)
    stored, exact = found.read("backbone", rows=ok), full.read("backbone", rows=ok)
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored, exact.astype(np.float16).astype(np.float32))
    assert len(half.objects[shard_name("backbone", "plain", 0)]) < 0.6 * len(
        table.objects[shard_name("backbone", "plain", 0)]
    )


def test_values_too_large_for_half_precision_are_refused(
    shards: MemoryArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = NetworkEncoder.embed
    monkeypatch.setattr(NetworkEncoder, "embed", lambda self, x: {t: v * 1e6 for t, v in embed(self, x).items()})
    with pytest.raises(InputError, match=r"too large for float16.*float32"):
        run_stage(Embeddings(encoder=SPEC, dtype="float16"), {"images": shards})
    monkeypatch.setattr(NetworkEncoder, "embed", lambda self, x: {t: v * np.nan for t, v in embed(self, x).items()})
    with pytest.raises(InputError, match=r"NaN or infinity"):
        run_stage(Embeddings(encoder=SPEC), {"images": shards})


def test_plain_zarr_opens_the_store(shards: MemoryArtifact, tmp_path: Path) -> None:
    folder = _on_disk(shards, tmp_path)
    group = zarr.open_group(folder, mode="r")
    array = group["projector.0/plain"]
    assert isinstance(array, zarr.Array)
    assert (array.shape, array.dtype.name) == ((COUNT, 12), "float32")
    assert (array.shards, array.chunks) == ((128, 12), (128, 12))
    assert array.metadata.dimension_names == ("row", "feature")  # type: ignore[union-attr]
    assert {"kind", "tap", "view", "units", "metric"} <= set(array.attrs)
    tap = group["projector.0"].attrs
    assert (tap["kind"], tap["tap"], tap["images_key"]) == ("image", "projector.0", shards.key)
    for attributes in (group.attrs, tap, array.attrs):
        assert all(isinstance(entry, str | int | list) for entry in attributes.values()), "netCDF has no others"
    assert sorted(group.group_keys()) == ["backbone", "projector", "projector.0"]


def test_a_card_says_what_the_vectors_are(shards: MemoryArtifact, table: MemoryArtifact) -> None:
    card = json.loads(table.objects["card.json"])
    assert (card["kind"], card["rows"], card["embedded"]) == ("image", COUNT, COUNT - len(BAD))
    assert (card["taps"], card["images_key"]) == (TAPS, shards.key)
    text = table.objects["CARD.md"].decode()
    for words in ("projector.0 | 12", "Euclidean (L2)", "the centre square at 32 x 32 px", "Licence: not recorded"):
        assert words in text


def test_inner_chunks_divide_a_shard_of_any_size_and_are_not_small() -> None:
    for part_rows, chunk_rows in ((1024, 128), (1000, 125), (100, 100), (70, 70)):
        documents = format.metadata({"a": 2}, ("plain",), pa.table({"row": [0]}), part_rows, "float32", FLAT)
        codec = json.loads(documents[f"{STORE}/a/plain/zarr.json"])["codecs"][0]
        assert codec["configuration"]["chunk_shape"] == [chunk_rows, 2]


def test_the_store_opens_without_its_consolidated_metadata_too(shards: MemoryArtifact, tmp_path: Path) -> None:
    folder = _on_disk(shards, tmp_path)
    store = LocalStore(folder, read_only=True)
    together = zarr.open_group(store, mode="r", use_consolidated=True)
    apart = zarr.open_group(store, mode="r", use_consolidated=False)
    for tap in TAPS:
        for view in ("plain", "flip"):
            one, other = together[f"{tap}/{view}"], apart[f"{tap}/{view}"]
            assert json.dumps(one.metadata.to_dict(), default=str) == json.dumps(other.metadata.to_dict(), default=str)


def test_xarray_opens_a_tap_as_a_dataset(shards: MemoryArtifact, table: MemoryArtifact, tmp_path: Path) -> None:
    folder = _on_disk(shards, tmp_path)
    dataset = xarray.open_zarr(folder, group="backbone", chunks=None)
    assert dict(dataset.sizes) == {"row": COUNT, "feature": 16}
    assert set(dataset.data_vars) == {"plain", "flip"}
    np.testing.assert_array_equal(dataset["flip"].values, open_table(table).read("backbone", "flip"))
    rows = open_table(table).rows()
    assert set(dataset.coords) == set(rows.column_names)
    for name in ("key", "file_name", "split", "shape"):
        assert dataset[name].values.tolist() == rows.column(name).to_pylist()
    np.testing.assert_array_equal(dataset["hue"], rows.column("hue").to_numpy())
    discs = dataset["plain"][dataset["shape"] == "disc"]
    assert len(discs) == rows.column("shape").to_pylist().count("disc")
    assert dataset.sel(row=7)["key"] == "000000007"


@pytest.mark.parametrize("byte", [0, 100, 5000, -40, -1])
def test_a_flipped_byte_is_an_error_and_never_data(table: MemoryArtifact, byte: int) -> None:
    name = shard_name("backbone", "plain", 1)
    data = bytearray(table.objects[name])
    data[byte] ^= 1
    damaged = MemoryArtifact(table.objects | {name: bytes(data)})
    with pytest.raises(FormatError, match="backbone/plain"):
        open_table(damaged).read("backbone")


def test_a_lost_shard_is_an_error_and_never_missing_rows(table: MemoryArtifact) -> None:
    name = shard_name("backbone", "plain", 2)
    lost = open_table(MemoryArtifact({key: data for key, data in table.objects.items() if key != name}))
    with pytest.raises(FormatError, match="no vectors in 43 rows"):
        lost.read("backbone")
    with pytest.raises(FormatError, match="no vectors in 1 rows"):
        lost.read("backbone", rows=[0, 299, 298])
    assert np.isnan(lost.read("backbone", rows=[5])).all()


def test_a_shard_that_exists_is_adopted_and_described(shards: MemoryArtifact) -> None:
    stage = Embeddings(encoder=SPEC, views=("plain",))
    inputs = {"images": shards}
    state = stage.setup(inputs, "cpu")
    out = MemoryArtifact(bitwise=False)
    first = stage.work(Part(index=0), state, inputs, out)
    name = shard_name("projector", "plain", 0)
    # Another host's bytes, equal within rounding only.
    theirs = decode_shard(out.objects[name], PART_ROWS, 6, "float32") * np.float32(1.001)
    out.objects[name] = encode_shard(theirs, PART_ROWS)
    second = stage.work(Part(index=0), state, inputs, out)
    assert second["moments"]["backbone"] == first["moments"]["backbone"]
    assert second["moments"]["projector"] != first["moments"]["projector"]
    np.testing.assert_array_equal(decode_shard(out.objects[name], PART_ROWS, 6, "float32"), theirs)


@pytest.mark.parametrize(
    ("existing", "message"),
    [
        (b"", "found 0 rows with vectors"),
        (encode_shard(np.zeros((128, 5), np.float32), PART_ROWS), "checksums|rows with vectors"),
        (encode_shard(np.zeros((100, 6), np.float32), PART_ROWS), "100 rows with vectors, 29 of them others"),
    ],
    ids=["cut", "another shape", "other rows"],
)
def test_a_shard_that_is_not_ours_is_not_adopted(shards: MemoryArtifact, existing: bytes, message: str) -> None:
    stage = Embeddings(encoder=SPEC, views=("plain",))
    out = MemoryArtifact({shard_name("projector", "plain", 0): existing}, bitwise=False)
    with pytest.raises(FormatError, match=message):
        stage.work(Part(index=0), stage.setup({"images": shards}, "cpu"), {"images": shards}, out)


def test_a_pretrained_encoder_comes_as_an_input(shards: MemoryArtifact) -> None:
    encoder, network = stored_encoder()
    artifact = run_stage(Embeddings(encoder=Pretrained(), views=("plain",)), {"images": shards, "encoder": encoder})
    found = open_table(artifact)
    assert found.attributes["encoder_key"] == encoder.key
    assert found.attributes["fingerprint"]["taps"] == TAPS
    _, pixels = decoded(shards)
    expected = load(Pretrained(), {"encoder": encoder}, "cpu").embed(pixels[:3])
    np.testing.assert_allclose(found.read("backbone", rows=[0, 1, 2]), expected["backbone"], rtol=1e-4, atol=1e-6)
    assert not network.training


def test_the_oracle_has_the_truth_and_its_mirror_image(shards: MemoryArtifact) -> None:
    found = open_table(run_stage(Embeddings(encoder=Oracle()), {"images": shards}))
    assert found.taps == {"attributes": 22, "pixels": 192}
    x = open_images(shards).values(["x"])["x"]
    ok = np.setdiff1d(np.arange(COUNT), BAD)
    # Before x stand 8 shapes, two circles and 4 patterns.
    np.testing.assert_allclose(found.read("attributes", "plain", ok)[:, 16], x[ok], atol=1e-6)
    np.testing.assert_allclose(found.read("attributes", "flip", ok)[:, 16], 1 - x[ok], atol=1e-6)


def test_samples_are_embedded_like_images_and_have_no_statistics() -> None:
    painted = samples(22, 8)
    artifact = run_stage(Embeddings(encoder=SPEC, views=("plain",)), {"images": painted})
    found = open_table(artifact)
    assert found.count == 22
    assert artifact.summary["rows"] == 22
    assert found.rows().column_names == ["sample", "key", "kind", "status"]
    assert found.rows().column("key").to_pylist()[3] == "sample-000000003", "of samples without keys of their own"
    assert found.rows().column("status").to_pylist() == ["ok"] * 22
    pixels = open_images(painted).decode(range(22), 32)
    np.testing.assert_allclose(
        found.read("backbone"), load(SPEC, {}, "cpu").embed(pixels)["backbone"], rtol=1e-4, atol=1e-6
    )
    with pytest.raises(FormatError, match="without train rows"):
        found.statistics("backbone")


def test_unknown_taps_and_views_are_answered_with_those_that_exist(table: MemoryArtifact) -> None:
    found = open_table(table)
    with pytest.raises(InputError, match=r"backbone, projector\.0, projector; found 'projector\.1'"):
        found.read("projector.1")
    with pytest.raises(InputError, match=r"plain, flip; found 'flop'.*'flip'"):
        found.read("backbone", "flop")


def test_a_store_of_another_format_is_refused(table: MemoryArtifact) -> None:
    name = f"{STORE}/zarr.json"
    newer = table.objects[name].replace(b'"format": 2', b'"format": 3', 1)
    with pytest.raises(FormatError, match="found format 3"):
        open_table(MemoryArtifact(table.objects | {name: newer}))


def test_workers_with_different_encoders_are_found_out(shards: MemoryArtifact) -> None:
    inputs = {"images": shards}
    out = MemoryArtifact(bitwise=False)
    summaries = []
    for part, seed in enumerate((0, 0, 1)):
        stage = Embeddings(encoder=Untrained(architecture=SMALL, seed=seed), views=("plain",))
        summaries.append(stage.work(Part(index=part), stage.setup(inputs, "cpu"), inputs, out))
    with pytest.raises(InputError, match="one encoder on all workers"):
        stage.merge(summaries, inputs, out)


def test_an_estimate_counts_rows_and_bytes(table: MemoryArtifact) -> None:
    encoder = Pretrain().estimate({"shards": Estimate(rows=1000, size_bytes=0, cpu_seconds=0)})
    upstream = {"images": Estimate(rows=1000, size_bytes=0, cpu_seconds=0), "encoder": encoder}
    full = Embeddings(encoder=Pretrained()).estimate(upstream)
    half = Embeddings(encoder=Pretrained(), dtype="float16", views=("plain",)).estimate(upstream)
    assert full.rows == 1000
    assert full.size_bytes == 4 * half.size_bytes == 1000 * 2 * 640 * 4
    assert full.cpu_seconds > half.cpu_seconds > 0
    larger = Pretrain(preprocessing=Preprocessing(size=64)).estimate({"shards": upstream["images"]})
    assert Embeddings(encoder=Pretrained()).estimate(upstream | {"encoder": larger}).cpu_seconds > full.cpu_seconds


def test_the_committed_example_of_format_1_stays_readable() -> None:
    folder = Path(__file__).parents[2] / "data/formats/v1"
    found = open_table(FolderArtifact(folder / "embeddings"))
    assert found.taps == TAPS
    assert found.views == ("plain", "flip")
    backbone = found.read("backbone", "flip")
    assert np.flatnonzero(np.isnan(backbone).any(axis=1)).tolist() == [5]
    assert found.rows().column("status").to_pylist() == ["ok"] * 5 + ["not an image"] + ["ok"] * 4
    # Mean of the train rows, computed when the example was written.
    assert found.statistics("projector").mean[:2].tolist() == pytest.approx([-1.3571638, 2.716203], rel=1e-6)
    encoder = load(Pretrained(), {"encoder": FolderArtifact(folder / "encoder")}, "cpu")
    assert encoder.fingerprint().weights_sha256 == found.attributes["fingerprint"]["weights_sha256"]
    assert encoder.embed(IMAGES)["projector"].shape == (8, 6)


def _on_disk(shards: MemoryArtifact, folder: Path) -> Path:
    """The store written by the stage to a local folder."""
    artifact = run_stage(Embeddings(encoder=SPEC), {"images": shards})
    for name, data in artifact.objects.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder / STORE
