"""From a source to tars: every image looked at once, judged, split by its bytes and packed reproducibly."""

import gc
import hashlib
import io
import json
import math
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from PIL import Image

from stages import attributes
from stages.contract import Estimate, Part
from stages.datasets.scenes import ATTRIBUTES, render
from stages.datasets.sources import FolderSource, ScenesSource
from stages.errors import ConflictError, InputError
from stages.images import image_file
from stages.images.sets import open_images
from stages.listing import LISTING_ROWS
from stages.listing.stage import Listing
from stages.shards.stage import Shards
from tests.artifacts import FolderArtifact, MemoryArtifact, run_stage
from tests.stages.images.test_image_file import png_of_size

EXAMPLE = Path(__file__).parents[2] / "data" / "formats" / "v1" / "shards"


def scenes(count: int = 60, rows: int = 16, **settings: Any) -> tuple[MemoryArtifact, MemoryArtifact]:
    listing = run_stage(Listing(source=ScenesSource(count=count), **settings))
    return listing, run_stage(Shards(shard_rows=rows), {"listing": listing})


def picture(number: int, ending: str = "png") -> bytes:
    image = Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 9, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, format={"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "bmp": "BMP"}[ending])
    return buffer.getvalue()


def fill(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def folder(root: Path, rows: int = 16, **settings: Any) -> tuple[MemoryArtifact, MemoryArtifact]:
    listing = run_stage(Listing(source=FolderSource(url=str(root)), **settings))
    return listing, run_stage(Shards(shard_rows=rows), {"listing": listing})


def index(shards: MemoryArtifact) -> pd.DataFrame:
    found: pd.DataFrame = pq.read_table(io.BytesIO(shards.read("index.parquet"))).to_pandas()
    return found


def members(listing: MemoryArtifact) -> pd.DataFrame:
    tables = [pq.read_table(io.BytesIO(d)).to_pandas() for n, d in sorted(listing.objects.items()) if "members" in n]
    return pd.concat(tables, ignore_index=True)


def test_the_index_holds_the_true_attributes_of_every_scene() -> None:
    _, shards = scenes()
    _, truth = render(0, range(60))
    values = open_images(shards).values()
    for attribute in ATTRIBUTES:
        assert np.array_equal(values[attribute.name], truth[attribute.name], equal_nan=True)
    assert attributes.load(shards.read("attributes.json")) == list(ATTRIBUTES)


def test_labels_are_words_no_column_has_a_dot_and_none_is_one_that_pandas_has_itself() -> None:
    _, shards = scenes()
    table = index(shards)
    assert table["shape"].dtype == "category"
    assert set(table["shape"]) <= set(ATTRIBUTES[0].classes)
    assert set(table["kind"]) == {"image"}
    assert not [name for name in table.columns if "." in name or name in {"size", "name"}]
    assert not [name for name in json.loads(_record(shards)) if "." in name]


def _record(shards: MemoryArtifact) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(shards.read("shard-00000.tar"))) as archive:
        file = archive.extractfile("000000000.json")
        assert file is not None
        return file.read()


def test_the_bytes_at_an_offset_are_the_image_of_that_row() -> None:
    _, shards = scenes()
    pictures, _ = render(0, range(60))
    for entry in index(shards).itertuples():
        data = shards.read_range(entry.shard, entry.offset, entry.bytes)
        assert hashlib.sha256(data).hexdigest() == entry.sha256
        assert np.array_equal(image_file.decode(data), pictures[entry.row])


# webdataset leaves the files that it has read for the collector to close, which is done here and not in another test.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore:Exception ignored in.*FileIO:pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_the_tars(tmp_path: Path) -> None:
    _, shards = scenes(count=20, rows=8)
    for name in shards.names():
        if name.endswith(".tar"):
            (tmp_path / name).write_bytes(shards.read(name))
    dataset = wds.WebDataset(str(tmp_path / "shard-{00000..00002}.tar"), shardshuffle=False, empty_check=False)
    samples = list(dataset.decode("rgb8").to_tuple("__key__", "png", "json"))
    del dataset
    gc.collect()
    pictures, truth = render(0, range(20))
    assert [key for key, _, _ in samples] == [f"{row:09d}" for row in range(20)]
    for row, (_, image, record) in enumerate(samples):
        assert np.array_equal(image, pictures[row])
        assert record["row"] == row
        turned = record["rotation"]
        assert (turned is None) if math.isnan(truth["rotation"][row]) else (turned == truth["rotation"][row])


def test_pandas_and_duckdb_read_index_and_listing(tmp_path: Path) -> None:
    listing, shards = scenes()
    (tmp_path / "index.parquet").write_bytes(shards.read("index.parquet"))
    for name in listing.names():
        (tmp_path / name).write_bytes(listing.read(name))
    assert len(pd.read_parquet(tmp_path / "index.parquet")) == 60
    counted = (
        duckdb.connect()
        .execute(
            f"select i.split, count(*) from '{tmp_path}/index.parquet' i "
            f"join '{tmp_path}/members-*.parquet' m using (row) "
            "where i.sha256 = m.sha256 group by i.split order by i.split"
        )
        .fetchall()
    )
    assert counted == [("heldout", shards.summary["heldout"]), ("train", shards.summary["train"])]


def test_bytes_are_equal_from_run_to_run_and_in_any_order_of_parts() -> None:
    listing, shards = scenes()
    again = run_stage(Listing(source=ScenesSource(count=60)))
    assert again.objects == listing.objects
    backwards = run_stage(Shards(shard_rows=16), {"listing": listing}, order=lambda parts: parts[::-1])
    assert backwards.objects == shards.objects
    assert backwards.summary == shards.summary


def test_tars_say_nothing_of_time_user_or_host() -> None:
    _, shards = scenes(count=12)
    with tarfile.open(fileobj=io.BytesIO(shards.read("shard-00000.tar"))) as tar:
        for member in tar:
            assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")
            assert member.isfile()
            assert not member.pax_headers


def test_a_part_done_twice_adopts_what_stands_there() -> None:
    listing, shards = scenes()
    stage = Shards(shard_rows=16)
    part = stage.split({"listing": listing})[1]
    state = stage.setup({"listing": listing}, "cpu")
    before = dict(shards.objects)
    stage.work(part, state, {"listing": listing}, shards)
    assert shards.objects == before
    shards.objects["shard-00001.tar"] += b"x"
    with pytest.raises(ConflictError, match="shard-00001"):
        stage.work(part, state, {"listing": listing}, shards)


def test_shards_in_a_local_folder_are_those_in_memory(tmp_path: Path) -> None:
    listing, shards = scenes(count=10, rows=4)
    out = FolderArtifact(tmp_path / "out")
    stage, inputs = Shards(shard_rows=4), {"listing": listing}
    state = stage.setup(inputs, "cpu")
    out.summary = stage.merge([stage.work(part, state, inputs, out) for part in stage.split(inputs)], inputs, out)
    assert {name: out.read(name) for name in out.names()} == shards.objects
    assert open_images(out).decode([9], 32).shape == (1, 32, 32, 3)


def test_a_tar_is_one_part_and_the_size_of_the_listings_parts_does_not_show() -> None:
    count = LISTING_ROWS + 30
    listing, shards = scenes(count=count, rows=1000)
    assert [name for name in listing.names() if "members" in name] == ["members-00000.parquet", "members-00001.parquet"]
    assert [name for name in shards.names() if name.endswith(".tar")] == ["shard-00000.tar", "shard-00001.tar"]
    table = index(shards)
    assert table["row"].tolist() == list(range(count))
    assert (table["offset"] > 0).all()
    assert table["shard"].nunique() == 2


def test_about_the_share_asked_for_is_held_out() -> None:
    listing = run_stage(Listing(source=ScenesSource(count=2000), holdout=0.25))
    assert listing.summary["heldout"] / 2000 == pytest.approx(0.25, abs=0.03)
    with pytest.raises(InputError, match=r"9 to train on and 0 held out"):
        run_stage(Listing(source=ScenesSource(count=9), holdout=0.0001))


def test_a_larger_holdout_only_adds_to_a_smaller_one() -> None:
    small = members(run_stage(Listing(source=ScenesSource(count=300), holdout=0.1)))
    large = members(run_stage(Listing(source=ScenesSource(count=300), holdout=0.3)))
    assert set(small[small.split == "heldout"].row) < set(large[large.split == "heldout"].row)


def test_adding_images_moves_none_between_the_splits(tmp_path: Path) -> None:
    fill(tmp_path, {f"b/{n}.png": picture(n) for n in range(40)})
    before = members(folder(tmp_path, holdout=0.4)[0]).set_index("name").split
    fill(tmp_path, {f"a/{n}.png": picture(100 + n) for n in range(40)})
    after = members(folder(tmp_path, holdout=0.4)[0]).set_index("name").split
    assert set(before) == {"train", "heldout"}
    assert after[before.index].equals(before)


def test_equal_images_stay_in_one_split(tmp_path: Path) -> None:
    fill(tmp_path, {f"{c}/{n}.png": picture(n) for c in "ab" for n in range(30)})
    table = members(folder(tmp_path, holdout=0.4)[0])
    assert table.groupby("sha256").split.nunique().max() == 1
    assert len(table) == 60


def test_a_folder_of_images_keeps_their_bytes_and_classes(tmp_path: Path) -> None:
    files = {f"{c}/{n}.{e}": picture(n, e) for c in ("cat", "dog") for n, e in enumerate(("png", "jpg") * 6)}
    fill(tmp_path, {**files, "dog/readme.txt": b"hello"})
    listing, shards = folder(tmp_path, rows=5, holdout=0.4)
    assert listing.summary["ignored"] == {".txt": 1}
    table = index(shards)
    assert table.file_name.tolist() == sorted(files)
    for entry in table.itertuples():
        assert shards.read_range(entry.shard, entry.offset, entry.bytes) == files[entry.file_name]
        assert (entry.width, entry.height) == (9, 8)
    assert table["class"].tolist() == ["dog" if name.startswith("dog") else "cat" for name in sorted(files)]


def test_an_ending_that_lies_does_no_harm(tmp_path: Path) -> None:
    fill(tmp_path, {f"a/{n}.jpg": picture(n, "png") for n in range(20)})
    _, shards = folder(tmp_path, rows=20, holdout=0.4)
    with tarfile.open(fileobj=io.BytesIO(shards.read("shard-00000.tar"))) as tar:
        assert "000000003.png" in tar.getnames()


def test_formats_that_tars_readers_do_not_know_become_png(tmp_path: Path) -> None:
    files = {f"a/{n}.{e}": picture(n, e) for n, e in enumerate(("bmp", "png", "webp") * 6)}
    _, shards = folder(fill(tmp_path, files), rows=7, holdout=0.4)
    for entry in index(shards).itertuples():
        data = shards.read_range(entry.shard, entry.offset, entry.bytes)
        assert hashlib.sha256(data).hexdigest() == entry.sha256
        assert image_file.inspect(data).ending == "png"
        assert np.array_equal(image_file.decode(data), image_file.decode(files[entry.file_name]))


BAD = {
    "bomb.png": (png_of_size(60_000, 60_000), "pixels"),
    "cut.jpg": (picture(1, "jpg")[:-60], "a damaged JPEG"),
    "empty.png": (b"", "an empty file"),
    "text.png": (b"<html>not found</html>", "a page of HTML"),
}


def test_bad_images_keep_their_row_and_a_reason(tmp_path: Path) -> None:
    fill(tmp_path, {f"a/{n}.png": picture(n) for n in range(30)})
    fill(tmp_path, {f"a/{name}": data for name, (data, _) in BAD.items()})
    (tmp_path / "a" / "gone.png").symlink_to("nowhere")
    listing, shards = folder(tmp_path, rows=8, max_bad=0.2, holdout=0.4)
    table = index(shards).set_index("file_name")
    assert len(table) == 35
    for name, (_, reason) in BAD.items():
        assert reason in table.status[f"a/{name}"]
        assert table.offset[f"a/{name}"] == -1
    assert "link to nothing" in table.status["a/gone.png"]
    assert (table.status == "ok").sum() == 30 == shards.summary["ok"]
    assert listing.summary["bad"] == 5
    images = open_images(shards)
    assert sum(len(images.read_part(part)[0]) for part in range(images.parts)) == 30


def test_too_many_bad_images_are_named(tmp_path: Path) -> None:
    fill(tmp_path, {f"a/{n}.png": picture(n) for n in range(10)})
    fill(tmp_path, {f"b/{n}.png": b"nothing" for n in range(8)})
    with pytest.raises(InputError) as caught:
        folder(tmp_path)
    message = str(caught.value)
    assert "at most 0.10% bad images; found 8 of 18: b/0.png (no such image" in message
    assert "b/4.png" in message
    assert "b/5.png" not in message
    assert "and 3 more" in message
    assert "max_bad" in message


def test_a_tar_of_bad_images_only_is_not_written(tmp_path: Path) -> None:
    fill(tmp_path, {f"a/{n}.png": picture(n) for n in range(8)})
    fill(tmp_path, {f"b/{n}.png": b"nothing" for n in range(4)})
    _, shards = folder(tmp_path, rows=4, max_bad=0.5, holdout=0.4)
    assert [name for name in shards.names() if name.endswith(".tar")] == ["shard-00000.tar", "shard-00001.tar"]
    assert open_images(shards).decode_part(2, 8)[1].shape == (0, 8, 8, 3)


def test_names_of_any_kind_are_listed(tmp_path: Path) -> None:
    odd = "a/näme with 'quotes', \"comma\"; # % ? and\nnewline.png"
    fill(tmp_path, {odd: picture(0), **{f"a/{n}.png": picture(n) for n in range(1, 12)}})
    broken = tmp_path.as_posix().encode() + b"/a/\xff\xfe.png"
    Path(broken.decode("utf-8", "surrogateescape")).write_bytes(picture(99))
    _, shards = folder(tmp_path, max_bad=0.2, holdout=0.4)
    table = index(shards).set_index("file_name")
    assert table.status[odd] == "ok"
    assert table.status["a/\\xff\\xfe.png"] == "a name that is no UTF-8"


def test_a_folder_that_changes_while_it_is_listed_is_noticed(tmp_path: Path) -> None:
    fill(tmp_path, {f"a/{n}.png": picture(n) for n in range(10)})
    stage = Listing(source=FolderSource(url=str(tmp_path)))
    parts = stage.split({})
    fill(tmp_path, {"a/new.png": picture(77), "a/0.png": b"other"})
    with pytest.raises(InputError, match="to stay as it was"):
        stage.work(parts[0], stage.setup({}, "cpu"), {}, MemoryArtifact())


def test_an_image_that_changes_after_it_was_listed_is_noticed(tmp_path: Path) -> None:
    fill(tmp_path, {f"a/{n}.png": picture(n) for n in range(10)})
    listing, _ = folder(tmp_path, holdout=0.4)
    (tmp_path / "a" / "3.png").write_bytes(picture(300))
    with pytest.raises(InputError, match=r"a/3\.png as it was when it was listed; found other bytes"):
        run_stage(Shards(), {"listing": listing})


def test_tars_that_would_pass_the_limit_ask_for_fewer_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, {f"a/{n}.png": picture(n) for n in range(20)})
    monkeypatch.setattr("stages.shards.stage.TAR_LIMIT_BYTES", 2000)
    with pytest.raises(InputError, match=r"Set `shard_rows` to \d or less"):
        folder(tmp_path, holdout=0.4)


def test_parts_are_small_records_whatever_the_names_are(tmp_path: Path) -> None:
    fill(tmp_path, {f"{'x' * 200}/{n}{'y' * 100}.png": b"" for n in range(50)})
    parts = Listing(source=FolderSource(url=str(tmp_path))).split({})
    assert all(len(part.model_dump_json()) < 200 for part in parts)
    assert parts == [Part(index=0, fields={"start": 0, "stop": 50, "digest": parts[0].fields["digest"]})]


def test_estimates_count_the_rows() -> None:
    listing = Listing(source=ScenesSource(count=5000)).estimate({})
    assert listing.rows == 5000
    assert Shards().estimate({"listing": listing}).rows == 5000
    assert Shards().estimate({"listing": Estimate(10, 10, 1.0)}).size_bytes > 10 * 1024


def test_the_example_of_format_1_stays_readable() -> None:
    shards = FolderArtifact(EXAMPLE)
    images = open_images(shards)
    truth = json.loads((EXAMPLE.parent / "shards.json").read_text())
    assert images.count == truth["rows"]
    assert images.part_rows == truth["part_rows"]
    found: dict[str, str] = {}
    for part in range(images.parts):
        rows, decoded = images.decode_part(part, 32)
        found |= {
            str(row): hashlib.sha256(image.tobytes()).hexdigest() for row, image in zip(rows, decoded, strict=True)
        }
    assert found == truth["pixels"]
    renamed = {"name": "file_name", "size": "bytes"}
    assert images.table().column_names == [renamed.get(name, name) for name in truth["columns"]]
    known = attributes.load(shards.read("attributes.json"))
    stored = images.table(["attribute.shape", "attribute.hue"]).to_pydict()
    values = images.values(["shape", "hue"])
    assert values["shape"].tolist() == stored["attribute.shape"]
    assert np.array_equal(values["hue"], stored["attribute.hue"], equal_nan=True)
    assert attributes.labels(known, images.values())["shape"].to_pylist()[0] in known[0].classes
    assert [attribute.name for attribute in attributes.load(shards.read("attributes.json"))] == truth["attributes"]
