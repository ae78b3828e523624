"""Parquet becomes a listing and shards: every image, its columns, its split, its own bytes."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.listing import members
from tests.stages.datasets.listed import both, declared, fill, refusal, table
from tests.stages.datasets.written import (
    hf_parquet,
    picture,
)

LABEL = {"label": {"names": ["cat", "dog", "emu"], "_type": "ClassLabel"}, "caption": {"dtype": "string"}}


def hf(count: int, first: int = 0, **columns: Any) -> bytes:
    labels = pa.array([(first + n) % 3 for n in range(count)], pa.int64())
    captions = [f"number {n}" for n in range(count)]
    data = [picture(first + n, "jpg") for n in range(count)]
    return hf_parquet(data, {"label": labels, "caption": captions, **columns}, LABEL, group_rows=4)


def plain(count: int) -> bytes:
    """A column of images and nothing else."""
    sink = io.BytesIO()
    pq.write_table(pa.table({"image": [picture(n) for n in range(count)]}), sink)
    return sink.getvalue()


def test_parquet_of_hugging_faces_layout_keeps_bytes_and_names_of_classes(root: str) -> None:
    fill(root, {f"data/{s}-0000{n}-of-00002.parquet": hf(9, 9 * n) for n, s in enumerate(("test", "train"))})
    fill(root, {"README.md": b"---", ".gitattributes": b""})
    split = {"train": ["train-*"], "heldout": ["test-*"]}
    listing, shards, images = both(kind="parquet", url=root, split=split, rows=5)
    assert images == [picture(n, "jpg") for n in range(18)]
    assert declared(shards) == {"label": ("class", ("cat", "dog", "emu"))}
    index = table(shards)
    assert index["attribute.label"].tolist() == [float(n % 3) for n in range(18)]
    assert index.split.tolist() == ["heldout"] * 9 + ["train"] * 9
    assert table(listing, "listing.parquet").position.tolist() == [*range(9), *range(9)]
    assert index.file_name[10] == "data/train-00001-of-00002.parquet/1"


def test_columns_become_what_they_are_or_what_the_study_says(root: str) -> None:
    more = {
        "weight": pa.array([n / 8 for n in range(6)], pa.float32()),
        "wet": [True, False, None, True, False, True],
        "kind": pa.array(["b", "a", None, "c", "a", "b"]).dictionary_encode(),
        "angle": [0, 90, 180, 270, 360, None],
        "year": pa.array([1999, 2001, 2001, 1999, 2010, 2001], pa.int16()),
    }
    fill(root, {"x.parquet": hf(6, **more)})
    columns = dict.fromkeys(("label", "weight", "wet", "kind")) | {
        "angle": {"kind": "circle", "period": 360, "mirror": "negate"},
        "year": "class",
    }
    _, shards, _ = both(kind="parquet", url=f"{root}/x.parquet", columns=columns)
    assert declared(shards) == {
        "angle": ("circle", ()),
        "kind": ("class", ("a", "b", "c")),
        "label": ("class", ("cat", "dog", "emu")),
        "weight": ("scalar", ()),
        "wet": ("class", ("false", "true")),
        "year": ("class", ("1999", "2001", "2010")),
    }
    index = table(shards).drop(columns=["row"]).filter(like="attribute.").fillna(-1)
    assert index["attribute.angle"].tolist() == [0, 0.25, 0.5, 0.75, 0, -1]
    assert index["attribute.wet"].tolist() == [1, 0, -1, 1, 0, 1]
    assert index["attribute.kind"].tolist() == [1, 0, -1, 2, 0, 1]
    assert index["attribute.year"].tolist() == [0, 1, 1, 0, 2, 1]
    assert index["attribute.weight"].tolist() == [n / 8 for n in range(6)]
    message = refusal(kind="parquet", url=root, columns=["label", "year"])
    assert "fractions or named numbers in the column year; found int16" in message
    assert "`year: class` or `year: scalar`" in message
    assert "a column yaer in x.parquet; found the columns image, label, caption" in refusal(
        kind="parquet", url=root, columns={"yaer": "class"}
    )


def test_a_column_of_parquet_decides_who_is_held_out(root: str) -> None:
    fill(root, {"x.parquet": hf(6, part=["train", "test"] * 3)})
    _, shards, _ = both(kind="parquet", url=root, split={"column": "part", "heldout": ["test"]})
    assert table(shards).split.tolist() == ["train", "heldout"] * 3
    _, shards, _ = both(kind="parquet", url=root, split={"column": "label", "heldout": ["dog"]})
    assert table(shards).split.tolist() == ["train", "heldout", "train"] * 2
    assert "a column fold in x.parquet" in refusal(kind="parquet", url=root, split={"column": "fold", "heldout": ["1"]})


def test_folders_named_column_and_value_are_columns(root: str) -> None:
    # As Spark and pyarrow part a dataset: the labels stand in the folders' names only.
    parts = {"label=big%20cat/year=1999": "train", "label=dog/year=2001": "train", "label=dog/year=2002": "test"}
    fill(root, {f"part={part}/{folder}/part-0.parquet": plain(3) for folder, part in parts.items()})
    fill(root, {"part=test/label=__HIVE_DEFAULT_PARTITION__/year=2003/part-0.parquet": plain(3)})
    split = {"column": "part", "heldout": ["test"]}
    _, shards, _ = both(kind="parquet", url=root, split=split)
    assert declared(shards) == {
        "label": ("class", ("big cat", "dog")),
        "year": ("class", ("1999", "2001", "2002", "2003")),
    }
    index = table(shards)
    assert index["attribute.label"].fillna(-1).tolist() == [-1] * 3 + [1] * 3 + [0] * 3 + [1] * 3
    assert index.split.tolist() == ["heldout"] * 6 + ["train"] * 6
    _, shards, _ = both(kind="parquet", url=root, split=split, columns={"year": "scalar"})
    assert declared(shards) == {"year": ("scalar", ())}
    assert table(shards)["attribute.year"].tolist() == [2003] * 3 + [2002] * 3 + [1999] * 3 + [2001] * 3
    assert "a number in the folder label=dog" in refusal(kind="parquet", url=root, columns={"label": "scalar"})
    assert "found the columns image, part, label, year" in refusal(kind="parquet", url=root, columns=["wet"])


def test_a_column_in_the_file_counts_and_not_one_of_its_folders_name(root: str) -> None:
    fill(root, {"label=zebra/x.parquet": hf(6)})
    _, shards, _ = both(kind="parquet", url=root)
    assert declared(shards) == {"label": ("class", ("cat", "dog", "emu"))}


def test_images_may_be_plain_binaries_of_any_column(root: str) -> None:
    sink = io.BytesIO()
    pq.write_table(
        pa.table({"id": [1, 2, 3], "png": pa.array([picture(n) for n in range(3)], pa.large_binary())}), sink
    )
    fill(root, {"x.parquet": sink.getvalue()})
    _, shards, images = both(kind="parquet", url=root, holdout=0.0)
    assert images == [picture(n) for n in range(3)]
    assert declared(shards) == {}
    assert "bytes of images in the column id of x.parquet; found int64" in refusal(kind="parquet", url=root, image="id")
    pq.write_table(pa.table({"id": [1], "left": [b"1"], "right": [b"2"]}), sink := io.BytesIO())
    fill(root, {"x.parquet": sink.getvalue()})
    assert "found left and right among id (int64), left (binary), right (binary)" in refusal(kind="parquet", url=root)


def test_rows_without_an_image_and_labels_without_a_name_are_bad_rows(root: str) -> None:
    records = [picture(0), None, {"bytes": None, "path": "x.jpg"}, {"bytes": None, "path": None}, b"no", picture(5)]
    columns = {"label": pa.array([0, 1, 2, 0, 1, -1], pa.int64())}
    fill(root, {"x.parquet": hf_parquet(records, columns, LABEL)})
    _, shards, images = both(kind="parquet", url=root, max_bad=0.7, holdout=0.0)
    index = table(shards)
    assert index.status[[1, 2, 3]].tolist() == [
        "a row without an image",
        "a path and no bytes",
        "a row without an image",
    ]
    assert "no such image" in index.status[4]
    assert images == [picture(0), picture(5)]
    assert np.isnan(index["attribute.label"][5])
    columns["label"] = pa.array([0, 1, 2, 0, 1, 3], pa.int64())
    fill(root, {"x.parquet": hf_parquet(records, columns, LABEL)})
    shards = both(kind="parquet", url=root, max_bad=0.9, holdout=0.0)[1]
    assert table(shards).status[5] == "label is 3, of 3 named classes"
    split = {"column": "label", "heldout": ["dog"]}
    shards = both(kind="parquet", url=root, max_bad=0.9, holdout=0.0, columns=[], split=split)[1]
    assert table(shards).status[5] == "label is 3, of 3 named classes"


def test_texts_of_a_column_of_named_classes_are_those_classes_or_bad_rows(root: str) -> None:
    texts = {"label": ["dog", " dog", "cat ", None, "wolf", "NA"]}
    fill(root, {"x.parquet": hf_parquet([picture(n) for n in range(6)], texts, LABEL)})
    shards = both(kind="parquet", url=root, max_bad=0.5, holdout=0.0)[1]
    names = declared(shards)["label"][1]
    index = table(shards)
    found = [None if np.isnan(v) else names[int(v)] for v in index["attribute.label"]]
    assert found == ["dog", "dog", "cat", None, None, None]
    assert index.status.tolist() == ["ok"] * 4 + ["label is 'wolf', none of the 3 named classes", "ok"]


def test_images_and_labels_of_any_type_are_read_and_what_is_not_read_is_named(root: str) -> None:
    images = [picture(n) for n in range(3)]
    columns = {"image": pa.array(images).dictionary_encode(), "view": pa.array(["b", "a", None], pa.string_view())}
    pq.write_table(pa.table(columns), sink := io.BytesIO())
    fill(root, {"x.parquet": sink.getvalue()})
    _, shards, found = both(kind="parquet", url=root, columns=["view"], holdout=0.0)
    assert found == images
    assert declared(shards) == {"view": ("class", ("a", "b"))}
    listing = both(kind="parquet", url=root, holdout=0.0)[0]
    line = "listing: no image has a label; view beside the images are not read"
    assert listing.summary["headlines"] == [line]
    labels = {"label": pa.array([0.0, 2.0, None])}
    fill(root, {"x.parquet": hf_parquet(images, labels, LABEL)})
    listing, shards, _ = both(kind="parquet", url=root, holdout=0.0)
    assert table(shards)["attribute.label"].fillna(-1).tolist() == [0, 2, -1]
    assert "listing: 1 of 3 classes of label have no sound image: dog" in listing.summary["headlines"]
    twice = {"label": {"names": ["cat", "cat"], "_type": "ClassLabel"}}
    fill(root, {"x.parquet": hf_parquet(images, labels, twice)})
    assert "a name of its own for each class of label in x.parquet; found cat twice" in refusal(
        kind="parquet", url=root
    )


def test_files_that_disagree_about_their_classes_are_named(root: str) -> None:
    other = {"label": {"names": ["dog", "cat", "emu"], "_type": "ClassLabel"}}
    labels = {"label": pa.array([0, 1], pa.int64())}
    fill(root, {"a.parquet": hf(3), "b.parquet": hf_parquet([picture(7), picture(8)], labels, other)})
    assert "found label in b.parquet, other than in a.parquet" in refusal(kind="parquet", url=root)


def test_a_cut_parquet_file_and_one_that_is_none_are_reported_as_such(root: str) -> None:
    fill(root, {"x.parquet": hf(6)[:-50]})
    assert "a whole Parquet file in x.parquet; found ArrowInvalid: Parquet magic bytes" in refusal(
        kind="parquet", url=root
    )
    fill(root, {"x.parquet": b""})
    assert "a whole Parquet file in x.parquet" in refusal(kind="parquet", url=root)


def test_ids_and_captions_are_no_classes(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "CLASS_LIMIT", 5)
    fill(root, {"x.parquet": hf(6)})
    assert "a class in the column caption; found more than 5 different values" in refusal(
        kind="parquet", url=root, columns=["caption"]
    )


def test_a_row_group_is_read_once_however_small_the_shards_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from stages.datasets import parquet

    data = hf_parquet([picture(n) for n in range(60)], {}, {}, group_rows=60)
    fill(str(tmp_path), {"x.parquet": data})
    monkeypatch.setattr(parquet, "BATCH_ROWS", 4)
    asked: list[int] = []
    batches = parquet._ParquetFile.batches

    def noted(self: Any, row: int, columns: Any) -> Any:
        asked.append(row)
        return batches(self, row, columns)

    monkeypatch.setattr(parquet._ParquetFile, "batches", noted)
    _, _, images = both(kind="parquet", url=str(tmp_path), rows=7)
    assert images == [picture(n) for n in range(60)]
    assert asked == [0, 0]
