"""Questions to a table of embeddings, against numpy over the same vectors."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from stages import attributes
from stages.attributes import Attribute
from stages.embeddings import neighbours
from stages.embeddings.chunks import any_nan, widened
from stages.embeddings.format import ROWS, Table, encode_shard, metadata, shard_name
from stages.embeddings.neighbours import Space, confused, nearest
from stages.embeddings.query import TapTable
from stages.errors import FormatError, InputError
from stages.listing.format import write_table
from stages.parquet import table_bytes
from tests.artifacts import FolderArtifact, MemoryArtifact

COUNT, WIDTH, PART_ROWS = 300, 6, 128
BAD = 131
"""The row without an image."""
SHAPES = ("disc", "ring", "square")


def written(dtype: str = "float32", seed: int = 0) -> tuple[MemoryArtifact, MemoryArtifact, NDArray[Any]]:
    """A table with taps `backbone` and `projector`, its images, and the vectors of `projector`, plain."""
    generator = np.random.Generator(np.random.Philox(seed))
    keys = [f"{row:09d}" for row in range(COUNT)]
    split = ["heldout" if row % 5 == 0 else "train" for row in range(COUNT)]
    status = ["bad" if row == BAD else "ok" for row in range(COUNT)]
    own: dict[str, Any] = {"row": np.arange(COUNT), "key": keys, "split": split, "status": status}
    labels: dict[str, Any] = {
        "attribute.shape": np.arange(COUNT) % 3.0,
        "attribute.hue": np.where(np.arange(COUNT) % 7 == 0, np.nan, np.arange(COUNT) / COUNT),
        "attribute.name": np.arange(COUNT) / 2,
    }
    names = [f"image {row}.png" for row in range(COUNT)]
    index = own | {"name": names} | labels
    known = [
        Attribute(name="shape", kind="class", classes=SHAPES),
        Attribute(name="hue", kind="circle"),
        Attribute(name="name", kind="scalar"),
    ]
    images = MemoryArtifact(
        {"index.parquet": write_table(index), "attributes.json": attributes.dump(known)}, key="1" * 64
    )
    beside = own | {"kind": ["image"] * COUNT, "file_name": names}
    rows = pa.table(beside | attributes.labels(known, {a.name: labels[f"attribute.{a.name}"] for a in known}))
    table = MemoryArtifact({ROWS: table_bytes(rows)}, key="2" * 64)
    taps, views = {"backbone": 4, "projector": WIDTH}, ("plain", "flip")
    plain = np.empty(0)
    for tap, width in taps.items():
        for view in views:
            vectors = (3 + generator.standard_normal((COUNT, width))).astype(dtype)
            vectors[BAD] = np.nan
            for part in range(-(-COUNT // PART_ROWS)):
                block = vectors[part * PART_ROWS : (part + 1) * PART_ROWS]
                table.put(shard_name(tap, view, part), encode_shard(block, PART_ROWS))
            plain = vectors if (tap, view) == ("projector", "plain") else plain
    about = {
        "encoder": "{}",
        "fingerprint": json.dumps({"taps": taps}),
        "views": list(views),
        "images_key": images.key,
        **dict.fromkeys(("kind", "units", "metric"), "image"),
    }
    for name, data in metadata(taps, views, rows, PART_ROWS, dtype, about).items():
        table.put(name, data)
    return table, images, plain


@pytest.fixture(scope="module")
def stored() -> tuple[MemoryArtifact, MemoryArtifact, NDArray[Any]]:
    return written()


@pytest.fixture
def table(stored: tuple[MemoryArtifact, MemoryArtifact, NDArray[Any]]) -> TapTable:
    return TapTable("mine:projector", stored[0], stored[1], generation=2)


@pytest.fixture
def vectors(stored: tuple[MemoryArtifact, MemoryArtifact, NDArray[Any]]) -> NDArray[Any]:
    return stored[2]


def test_it_says_what_it_is(table: TapTable) -> None:
    assert repr(table) == (
        "<mine:projector  300 x 6 float32, views plain and flip, 240 train, 60 held out, 1 without an image, L2, "
        "generation 2>"
    )
    assert len(table) == COUNT


def test_labels_are_as_people_write_them_and_what_is_undefined_is_null(table: TapTable) -> None:
    rows = table.rows
    assert rows.column_names == ["row", "key", "name", "split", "status", "shape", "hue", "attribute_name"]
    assert rows.column("shape").to_pylist()[:4] == ["disc", "ring", "square", "disc"]
    assert rows.column("hue").to_pylist()[:2] == [None, 1 / COUNT]
    assert rows.column("name")[2].as_py() == "image 2.png"


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_are_read_as_zarr_reads_them_in_any_order_and_more_than_once(dtype: str) -> None:
    stored, images, plain = written(dtype)
    found = TapTable("mine:projector", stored, images)
    wanted = np.array([299, 0, 127, 128, 131, 0, 64, 200])
    np.testing.assert_array_equal(found.numpy(wanted), plain[wanted].astype(np.float32))
    np.testing.assert_array_equal(found.numpy(view="flip"), Table(stored).read("projector", "flip"))
    assert found.numpy([]).shape == (0, WIDTH)
    assert found.torch([5]).tolist() == plain[[5]].astype(np.float32).tolist()


def test_few_rows_take_few_bytes(table: TapTable, stored: tuple[MemoryArtifact, ...]) -> None:
    stored[0].reads.clear()
    table.numpy([3, 5, 290])
    assert sorted(stored[0].reads).count(shard_name("projector", "plain", 0)) == 2, "its index, then one chunk"
    assert shard_name("projector", "plain", 1) not in stored[0].reads


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("where", [None, "split = 'heldout' and shape <> 'ring'"])
def test_neighbours_are_those_of_float64(
    table: TapTable, vectors: NDArray[Any], metric: Any, where: str | None
) -> None:
    queries = np.random.Generator(np.random.Philox(1)).standard_normal((7, WIDTH)).astype(np.float32) + 3
    rows = table.where(where)
    assert BAD not in rows
    x, q = vectors[rows].astype(np.float64), queries.astype(np.float64)
    if metric == "l2":
        distances = np.sqrt(np.square(q[:, None] - x[None]).sum(axis=2))
    else:
        distances = 1 - (q @ x.T) / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(x, axis=1)[None]
    order = np.argsort(distances, axis=1, kind="stable")[:, :5]
    found = table.nearest(queries, k=5, where=where, metric=metric)
    np.testing.assert_array_equal(found.column("row").to_numpy().reshape(7, 5), rows[order])
    wanted = np.take_along_axis(distances, order, axis=1)
    np.testing.assert_allclose(found.column("distance").to_numpy().reshape(7, 5), wanted, rtol=1e-12, atol=1e-12)
    assert found.column("query").to_pylist() == [query for query in range(7) for _ in range(5)]
    assert found.column("rank").to_pylist() == [*range(5)] * 7


def test_rows_from_far_are_those_from_near_in_any_order_and_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    table, images, plain = written()
    rows = [299, 0, 127, 128, 0, 130, 255, 256]
    near = TapTable("mine:projector", table, images).numpy(rows)
    monkeypatch.setattr(table, "far", True, raising=True)
    far = TapTable("mine:projector", table, images).numpy(rows)
    np.testing.assert_array_equal(near, plain[rows])
    np.testing.assert_array_equal(far, plain[rows])


def test_neighbours_are_right_where_float32_cannot_tell_them_apart_and_over_many_blocks() -> None:
    generator = np.random.Generator(np.random.Philox(3))
    x = (1000 + 0.01 * generator.standard_normal((500, 8))).astype(np.float32)
    blocks = [(np.arange(first, first + 50), x[first : first + 50]) for first in range(0, 500, 50)]
    found = nearest(x[:20], blocks, 4, "l2", np.full(20, -1))
    distances = np.sqrt(np.square(x[:20, None].astype(np.float64) - x[None]).sum(axis=2))
    np.testing.assert_array_equal(found.rows, np.argsort(distances, axis=1, kind="stable")[:, :4])


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_neighbours_of_very_long_very_short_and_zero_vectors_are_those_of_float64(metric: Any, dtype: Any) -> None:
    generator = np.random.Generator(np.random.Philox(5))
    lengths = np.repeat([0, 2.0**-20, 1, 100] if dtype == np.float16 else [0, 2.0**-80, 1, 2.0**80], 25)
    x = (generator.standard_normal((100, 4)) * lengths[:, None]).astype(dtype)
    blocks = [(np.arange(first, first + 20), x[first : first + 20]) for first in range(0, 100, 20)]
    queries = x[::9].astype(np.float32)
    found = nearest(queries, blocks, 7, metric, np.arange(100)[::9])
    q, wide = queries.astype(np.float64), x.astype(np.float64)
    if metric == "l2":
        distances = np.linalg.norm(q[:, None] - wide, axis=2)
    else:
        norms = np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(wide, axis=1)
        distances = 1 - q @ wide.T / np.where(norms > 0, norms, 1)
    distances[np.arange(len(q)), np.arange(100)[::9]] = np.inf
    np.testing.assert_allclose(found.distances, np.sort(distances, axis=1)[:, :7], rtol=1e-12, atol=1e-15)


def test_every_float16_becomes_the_float32_that_numpy_makes_of_it() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    np.testing.assert_array_equal(widened(every), every.astype(np.float32))
    finite = every[np.isfinite(every)]
    np.testing.assert_array_equal(widened(finite).view(np.uint32), finite.astype(np.float32).view(np.uint32))
    for number in (*every[0x7BFE:0x7C03], *every[-0x403:-0x3FE], *every[:2]):
        assert any_nan(np.array([1, number, -1], np.float16)) == np.isnan(number)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("block_rows", [1, 30, 2048])
def test_pairs_near_here_and_far_there_are_those_of_all_pairs_in_blocks_of_any_size(
    metric: Any, block_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.Generator(np.random.Philox(4))
    both = [generator.standard_normal((80, width)).astype(np.float32) + 2 for width in (3, 5)]
    rows, read = np.arange(80) * 2 + 1, []

    def space(vectors: NDArray[Any]) -> Space:
        def some(wanted: NDArray[Any]) -> NDArray[Any]:
            read.append(len(wanted))
            found: NDArray[Any] = vectors[(wanted - 1) // 2]
            return found

        return Space.of(rows, some, metric)

    monkeypatch.setattr(neighbours, "BLOCK_ROWS", block_rows)
    here, there = map(space, both)
    read.clear()
    found = confused(rows, here, there, 6)
    assert max(read) <= max(block_rows, 6), "more rows than a block are in memory"
    first, second = np.triu_indices(80, 1)
    gaps = []
    for vectors, unit in zip(both, (here.unit, there.unit), strict=True):
        x = vectors.astype(np.float64)
        if metric == "l2":
            distances = np.linalg.norm(x[first] - x[second], axis=1)
        else:
            x /= np.linalg.norm(x, axis=1)[:, None]
            distances = 1 - (x[first] * x[second]).sum(axis=1)
        # The unit is of pairs drawn at random: near the mean of all.
        assert unit == pytest.approx(distances.mean(), rel=0.03)
        gaps.append(distances / unit)
    best = np.argsort(gaps[0] - gaps[1], kind="stable")[:6]
    np.testing.assert_array_equal(found.rows, np.stack([rows[first[best]], rows[second[best]]], axis=1))
    np.testing.assert_allclose(found.near, gaps[0][best], rtol=1e-9)
    np.testing.assert_allclose(found.far, gaps[1][best], rtol=1e-9)


def test_pairs_are_fewer_where_there_are_fewer_and_none_is_of_a_row_with_itself(table: TapTable) -> None:
    found = table.confuses(table, n=10, where="row < 3")
    assert list(zip(found["row"].to_pylist(), found["other_row"].to_pylist(), strict=True)) == [(0, 1), (0, 2), (1, 2)]
    assert found["near"].equals(found["far"])


def test_a_table_alone_is_compared_with_a_table_and_embeds_no_photograph(
    table: TapTable, stored: tuple[MemoryArtifact, MemoryArtifact, NDArray[Any]], tmp_path: Path
) -> None:
    other = TapTable("mine:backbone", stored[0], stored[1])
    found = table.confuses(other, n=4, where="shape = 'disc'")
    assert set(found.column("other_shape").to_pylist()) == {"disc"}
    assert (found.column("row").to_numpy() < found.column("other_row").to_numpy()).all()
    with pytest.raises(InputError, match="where the table is one of a study"):
        table.confuses("mine:backbone")
    (tmp_path / "photo.png").write_bytes(b"")
    with pytest.raises(InputError, match="the table of a study, whose encoder embeds"):
        table.nearest(tmp_path / "photo.png")


def test_the_neighbours_of_a_key_leave_its_own_row_out(table: TapTable) -> None:
    found = table.nearest("000000007", k=3)
    assert 7 not in found.column("row").to_pylist()
    both = table.nearest(["000000007", "000000008"], k=3)
    assert both.slice(0, 3).column("row").equals(found.column("row"))
    with pytest.raises(InputError, match="'000000131'"):
        table.nearest("000000131")


def test_a_search_that_finds_fewer_than_k_says_how_many_there_are(table: TapTable) -> None:
    there = len(table.where("shape = 'disc' and hue > 0.9"))
    query = table.numpy([1])
    assert len(table.nearest(query, k=there, where="shape = 'disc' and hue > 0.9")) == there
    with pytest.raises(InputError, match=rf"expected {there + 1} rows or more where .*; found {there}\."):
        table.nearest(query, k=there + 1, where="shape = 'disc' and hue > 0.9")


def test_a_condition_that_cannot_be_read_names_the_columns(table: TapTable) -> None:
    with pytest.raises(InputError, match="row, key, name, split, status, shape, hue"):
        table.where("shpae = 'disc'")


def test_means_and_batches_pass_rows_without_an_image_by(table: TapTable, vectors: NDArray[Any]) -> None:
    kept = np.delete(vectors, BAD, axis=0).astype(np.float64)
    np.testing.assert_allclose(table.mean(), kept.mean(axis=0), rtol=1e-6)
    pieces = list(table.batches(64))
    assert [len(rows) for rows, _ in pieces] == [64, 64, 64, 64, 43]
    np.testing.assert_array_equal(np.concatenate([found for _, found in pieces]), kept.astype(np.float32))
    with pytest.raises(InputError, match="found 0"):
        table.mean("shape = 'star'")


def test_a_file_is_joined_by_name_in_the_order_of_the_rows_and_can_be_asked_about(
    table: TapTable, tmp_path: Path
) -> None:
    order = np.random.Generator(np.random.Philox(2)).permutation(COUNT)
    given = pa.table({"name": [f"image {row}.png" for row in order], "breed": [f"b{row}" for row in order]})
    csv.write_csv(given, tmp_path / "file.csv")
    joined = table.join(tmp_path / "file.csv")
    assert joined.rows.column("breed").to_pylist() == [f"b{row}" for row in range(COUNT)]
    assert joined.where("breed = 'b7'").tolist() == [7]
    assert "breed" not in table.rows.column_names
    with pytest.raises(InputError, match=r"a row in the table for each of 300 rows, by name; found none for 1,"):
        table.join(given.filter(pa.array(order != 9)))
    loose = table.join(given.filter(pa.array(order != 9)), missing="null").rows.column("breed")
    assert [row for row in range(COUNT) if loose[row].as_py() is None] == [9]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"file": ["a"]}, "a column name in the table"),
        ({"name": ["image 0.png", "image 0.png"]}, "image 0.png twice"),
        ({"name": ["image 0.png"], "split": ["x"]}, "found split"),
        ({"name": ["other"], "breed": ["x"]}, "none for 300"),
    ],
)
def test_a_join_that_would_mix_rows_up_is_refused(table: TapTable, given: dict[str, list[str]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        table.join(pa.table(given), missing="null")


def test_xarray_has_the_views_and_the_labels(table: TapTable, vectors: NDArray[Any]) -> None:
    found = table.to_xarray()
    assert set(found.data_vars) == {"plain", "flip"}
    assert found["plain"].encoding["preferred_chunks"] == {"row": PART_ROWS, "feature": WIDTH}
    assert set(found.coords) == {*table.rows.column_names, "kind"}
    assert set(table.join(pa.table({"name": table.rows["name"], "age": range(COUNT)})).to_xarray().coords) > {"age"}
    np.testing.assert_array_equal(found["plain"].values, vectors)
    assert found["shape"].values[:3].tolist() == ["disc", "ring", "square"]


def test_a_label_in_any_script_is_a_column_and_a_coordinate_whose_array_has_a_plain_name() -> None:
    known = [Attribute(name=name, kind="scalar") for name in ("größe", "a.b", "A_b", "size", "형")]
    columns = attributes.columns_of(known)
    assert list(columns.values()) == ["größe", "a_b", "A_b_2", "attribute_size", "형"]
    rows = pa.table({"row": [0, 1]} | {name: [0.5, 1.5] for name in columns.values()})
    about = {"kind": "image", "units": "", "metric": "", "encoder": "{}", "fingerprint": '{"taps": {"a": 2}}'}
    about |= {"images_key": "1" * 64, "views": ["plain"]}  # type: ignore[dict-item]
    stored = MemoryArtifact(metadata({"a": 2}, ("plain",), rows, 2, "float32", about))
    assert all(name.isascii() for name in stored.names())
    stored.put(shard_name("a", "plain", 0), encode_shard(np.ones((2, 2), dtype=np.float32), 2))
    beside = rows.append_column("file_name", pa.array(["x", "y"])).append_column("key", pa.array(["0", "1"]))
    beside = beside.append_column("split", pa.array(["train"] * 2)).append_column("status", pa.array(["ok"] * 2))
    stored.put(ROWS, table_bytes(beside))
    found = TapTable("mine:a", stored, MemoryArtifact(key="1" * 64)).to_xarray()
    assert found["größe"].values.tolist() == [0.5, 1.5]
    assert {*columns.values()} < set(found.coords)


def test_a_changed_byte_and_a_lost_index_are_errors_and_never_vectors() -> None:
    stored, images, _ = written()
    name = shard_name("projector", "plain", 1)
    data = bytearray(stored.objects[name])
    for offset in (10, len(data) - 10):
        stored.objects[name] = bytes(data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :])
        with pytest.raises(FormatError, match="do not fit their checksum"):
            TapTable("mine:projector", stored, images).numpy([PART_ROWS])


def test_images_of_another_key_are_refused() -> None:
    stored, images, _ = written()
    with pytest.raises(FormatError, match="1111111111111111"):
        TapTable("mine:projector", stored, MemoryArtifact(images.objects, key="3" * 64))


OLD = Path(__file__).parents[2] / "data" / "formats" / "v1"


def test_a_table_of_format_1_takes_its_labels_from_its_images_and_compares_their_order() -> None:
    table = FolderArtifact(OLD / "embeddings")
    index = pq.read_table(OLD / "shards" / "index.parquet")
    own = pq.read_table(OLD / "embeddings" / "rows.parquet")
    index = index.set_column(index.column_names.index("status"), "status", own.column("status"))
    key = json.loads(table.read("embeddings.zarr/zarr.json"))["attributes"]["images_key"]
    attributes_json = (OLD / "shards" / "attributes.json").read_bytes()

    def opened(index: pa.Table) -> TapTable:
        objects = {"index.parquet": table_bytes(index), "attributes.json": attributes_json}
        return TapTable("mine:projector", table, MemoryArtifact(objects, key=key))

    rows = opened(index).rows
    assert rows.column_names[:7] == ["row", "key", "name", "split", "status", "shape", "hue"]
    known = attributes.load(attributes_json)[0].classes
    assert rows.column("shape").to_pylist() == [known[int(n)] for n in index.column("attribute.shape").to_pylist()]
    assert opened(index).nearest(rows.column("key")[0].as_py(), k=3).num_rows == 3
    with pytest.raises(FormatError, match="the same key in each row"):
        _ = opened(index.set_column(1, "key", index.column("key").take(list(range(10))[::-1]))).rows


def test_an_unknown_tap_view_row_and_metric_are_refused(table: TapTable, stored: tuple[MemoryArtifact, ...]) -> None:
    with pytest.raises(InputError, match="Did you mean 'projector'"):
        TapTable("mine:projektor", stored[0], stored[1])
    with pytest.raises(InputError, match="plain, flip"):
        table.numpy(view="mirror")
    with pytest.raises(InputError, match="rows from 0 to 299"):
        table.numpy([300])
    with pytest.raises(InputError, match="l2, cosine"):
        table.nearest("000000001", metric="dot")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"finite vectors \[Q, 6\]"):
        table.nearest(np.zeros((2, 5)))
