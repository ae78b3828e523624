"""Tars, Parquet and CIFAR-10 become a listing and shards: every image, its columns, its split, its own bytes."""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter, ValidationError

from pipeline.key import key_of
from stages import attributes, pixels
from stages.contract import External
from stages.errors import InputError
from stages.images import open_images
from stages.shards import members, places, tars
from stages.shards.sources import Source
from stages.shards.stage import Listing, Shards
from tests.artifacts import FolderArtifact, MemoryArtifact, run_stage
from tests.stages.shards.written import (
    CIFAR_CLASSES,
    cifar_archive,
    cifar_files,
    hf_parquet,
    picture,
    plain_tar,
    wds_tar,
)

SOURCE: TypeAdapter[Any] = TypeAdapter(Source)


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder on a disk, and one on a file system that only fsspec knows."""
    if request.param == "local":
        yield str(tmp_path)
        return
    yield "memory://datasets"
    memory = fsspec.filesystem("memory")
    if memory.exists("/datasets"):
        memory.rm("/datasets", recursive=True)


def fill(root: str, files: Mapping[str, bytes]) -> str:
    system, path = fsspec.core.url_to_fs(root)
    for name, data in files.items():
        system.makedirs(f"{path}/{name}".rpartition("/")[0], exist_ok=True)
        system.pipe_file(f"{path}/{name}", data)
    return root


def listed(holdout: float = 0.4, max_bad: float = 0.001, **source: Any) -> MemoryArtifact:
    return run_stage(Listing(source=SOURCE.validate_python(source), holdout=holdout, max_bad=max_bad))


def table(artifact: MemoryArtifact, name: str = "index.parquet") -> pd.DataFrame:
    return pq.read_table(io.BytesIO(artifact.objects[name])).to_pandas()


def both(rows: int = 7, **settings: Any) -> tuple[MemoryArtifact, MemoryArtifact, list[bytes]]:
    """Listing, shards, and the encoded images of all sound rows as `open_images` gives them."""
    listing = listed(**settings)
    shards = run_stage(Shards(shard_rows=rows), {"listing": listing})
    images = open_images(shards)
    found: dict[int, bytes] = {}
    for part in range(images.parts):
        numbers, data = images.read_part(part)
        assert isinstance(data, list)
        found |= dict(zip(map(int, numbers), data, strict=True))
    index = table(shards)
    assert index.row.tolist() == list(range(len(index)))
    for entry in index[index.status == "ok"].itertuples():
        assert hashlib.sha256(found[entry.row]).hexdigest() == entry.sha256
    return listing, shards, [found[row] for row in sorted(found)]


def known(shards: MemoryArtifact) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {a.name: (a.kind, a.classes) for a in attributes.load(shards.objects["attributes.json"])}


def refusal(**source: Any) -> str:
    with pytest.raises(InputError) as caught:
        both(**{"holdout": 0.0} | source)
    return str(caught.value)


# --- webdataset


def samples(count: int, first: int = 0, **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "__key__": f"{first + n:06d}",
            ("jpg" if n % 3 else "png"): picture(first + n, "jpg" if n % 3 else "png"),
            "cls": (first + n) % 11,
            "json": {"shape": "disc" if n % 2 else "bar", "pose": {"angle": 45 * n}, "weight": n / 4},
            "txt": f"caption {n}",
            **more,
        }
        for n in range(count)
    ]


def test_tars_of_webdatasets_writer_keep_bytes_order_and_classes(root: str) -> None:
    files = {f"train-{n:03d}.tar": wds_tar(samples(9, 9 * n)) for n in range(3)}
    fill(root, files | {"notes.md": b"x", ".cache/old.tar": b"x"})
    listing, shards, images = both(kind="webdataset", url=root)
    assert images == [picture(n, "jpg" if n % 9 % 3 else "png") for n in range(27)]
    assert known(shards) == {"class": ("class", tuple(map(str, range(11))))}
    assert table(shards)["attribute.class"].tolist() == [float(n % 11) for n in range(27)]
    rows = table(listing, "listing.parquet")
    assert rows.source.tolist() == [f"train-{n:03d}.tar" for n in range(3) for _ in range(9)]
    assert rows.name[0] == "train-000.tar/000000.png"
    assert rows.row.tolist() == list(range(27))
    for entry in rows.itertuples():
        start = entry.position
        assert files[entry.source][start : start + entry.size] == images[entry.row]
    assert listing.summary["rows"] == 27


@pytest.mark.parametrize(
    ("url", "count"),
    [("{root}/train-{{000..001}}.tar", 4), ("{root}/train-*.tar", 6), ("{root}/{{train-001,test-000}}.tar", 4)],
)
def test_braces_and_stars_name_tars(root: str, url: str, count: int) -> None:
    tar = {name: wds_tar(samples(2, n)) for n, name in enumerate(("train-000", "train-001", "train-002", "test-000"))}
    fill(root, {f"{name}.tar": data for name, data in tar.items()})
    assert both(kind="webdataset", url=url.format(root=root), holdout=0.0)[0].summary["rows"] == count


def test_a_list_of_tars_in_any_order_is_one_dataset(root: str) -> None:
    fill(root, {f"{f}/x.tar": wds_tar(samples(2, n)) for n, f in enumerate("ab")})
    one = both(kind="webdataset", url=[f"{root}/a/x.tar", f"{root}/b/x.tar"], holdout=0.0)
    two = both(kind="webdataset", url=[f"{root}/b/x.tar", f"{root}/a/x.tar"], holdout=0.0)
    assert one[0].objects == two[0].objects
    assert table(one[0], "listing.parquet").source.tolist() == ["a/x.tar"] * 2 + ["b/x.tar"] * 2
    external = SOURCE.validate_python({"kind": "webdataset", "url": [f"{root}/b/x.tar", f"{root}/a/x.tar"]}).external()
    assert external == {"files": External(root, "listing", ("a/x.tar", "b/x.tar"))}


def test_fields_of_json_are_what_the_study_says(root: str) -> None:
    fill(root, {"a.tar": wds_tar(samples(12))})
    columns = {"json.shape": "class", "json.pose.angle": {"kind": "circle", "period": 360}, "json.weight": "scalar"}
    _, shards, _ = both(kind="webdataset", url=f"{root}/a.tar", columns=columns)
    assert known(shards) == {
        "pose.angle": ("circle", ()),
        "shape": ("class", ("bar", "disc")),
        "weight": ("scalar", ()),
    }
    index = table(shards)
    assert index["attribute.pose.angle"].tolist() == [n * 45 % 360 / 360 for n in range(12)]
    assert index["attribute.weight"].tolist() == [n / 4 for n in range(12)]
    assert index["attribute.shape"].tolist() == [float(n % 2) for n in range(12)]


def test_a_field_that_no_sample_has_is_named_with_those_there_are(root: str) -> None:
    fill(root, {"a.tar": wds_tar(samples(4))})
    message = refusal(kind="webdataset", url=root, columns={"json.shpae": "class"})
    assert "values in the column json.shpae; found none in a.tar" in message
    assert "columns there are: json.pose.angle, json.shape, json.weight" in message


def test_what_a_sample_lacks_is_undefined_and_what_it_says_wrongly_makes_it_bad(root: str) -> None:
    some = samples(6)
    del some[1]["json"]
    some[2]["json"] = {"weight": "heavy"}
    some[3]["json"] = {"weight": None}
    tar = plain_tar(
        [
            (f"{s['__key__']}.{e}", json.dumps(d).encode() if isinstance(d, dict) else d)
            for s in some
            for e, d in s.items()
            if e in ("jpg", "png", "json")
        ]
        + [("zz.json", b"{not json"), ("zz.png", picture(99)), ("zzz.json", b"[" * 9999), ("zzz.png", picture(98))]
    )
    fill(root, {"a.tar": tar})
    listing, shards, _ = both(kind="webdataset", url=root, columns={"json.weight": "scalar"}, max_bad=0.5, holdout=0.0)
    index = table(shards)
    assert index["attribute.weight"].fillna(-1).tolist() == [0.0, -1, -1, -1, 1.0, 1.25, -1, -1]
    assert index.status[2] == "json.weight is no number but 'heavy'"
    assert index.status[6] == index.status[7] == "a .json that is no JSON"
    assert listing.summary["bad"] == 3


def test_a_column_decides_who_is_held_out(root: str) -> None:
    some = [s | {"json": {"part": ("train", "test", "extra")[n % 3]}} for n, s in enumerate(samples(9))]
    fill(root, {"a.tar": wds_tar(some)})
    split = {"column": "json.part", "heldout": ["test"]}
    _, shards, _ = both(kind="webdataset", url=root, split=split)
    assert table(shards).split.tolist() == ["train", "heldout", "train"] * 3
    message = refusal(kind="webdataset", url=root, split=split | {"train": ["train"]})
    assert "json.part: extra in a.tar/000002.jpg" in message


def test_names_of_files_decide_who_is_held_out(root: str) -> None:
    fill(root, {f"{name}.tar": wds_tar(samples(3, 3 * n)) for n, name in enumerate(("train-0", "val-0", "val-1"))})
    _, shards, _ = both(kind="webdataset", url=root, split={"heldout": ["val-*"]})
    assert table(shards).split.tolist() == ["train"] * 3 + ["heldout"] * 6
    assert "the file train-0.tar in train-0.tar" in refusal(
        kind="webdataset", url=root, split={"heldout": ["val-*"], "train": ["training-*"]}
    )


def test_the_image_is_known_by_its_ending_and_other_members_are_counted(root: str) -> None:
    some = [s | {"seg.png": picture(100 + n)} for n, s in enumerate(samples(4))]
    listing = listed(kind="webdataset", url=fill(root, {"a.tar": wds_tar(some)}), holdout=0.0)
    assert (listing.summary["rows"], listing.summary["bad"]) == (4, 0)
    masks = both(kind="webdataset", url=root, image=".seg.png", holdout=0.0)[2]
    assert masks == [picture(100 + n) for n in range(4)]
    twice = [s | {"webp": picture(100, "webp")} for s in samples(2)]
    fill(root, {"a.tar": wds_tar(twice)})
    message = refusal(kind="webdataset", url=root)
    assert "found png, webp in 000000" in message
    assert "`image: png`" in message
    mixed = plain_tar([("x/readme", b"hi"), ("meta.npy", b"1"), ("x/1.png", picture(1)), ("x/._1.png", b"apple")])
    fill(root, {"a.tar": mixed})
    listing = listed(kind="webdataset", url=root, holdout=0.0)
    assert listing.summary["ignored"] == {".npy": 1, "no ending": 1}
    assert table(listing, "listing.parquet").name.tolist() == ["a.tar/x/1.png"]
    assert "attribute.class" not in table(listing, "listing.parquet")


def test_members_of_a_sample_must_stand_beside_each_other(root: str) -> None:
    tar = plain_tar([("1.png", picture(1)), ("2.png", picture(2)), ("1.cls", b"0"), ("2.cls", b"1")])
    assert "found 1.cls apart from any image" in refusal(kind="webdataset", url=fill(root, {"a.tar": tar}))
    tar = plain_tar([("1.png", picture(1)), ("1.png", picture(2))])
    assert "1.png twice" in refusal(kind="webdataset", url=fill(root, {"a.tar": tar}))


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_long_and_odd_names_are_read_in_every_dialect_of_tar(tmp_path: Path, form: int) -> None:
    names = [f"./{'folder' * 12}/{'n' * 90}.png", "plain.png"]
    names += [] if form == tarfile.USTAR_FORMAT else [f"{'deep/' * 60}ünï.png", f"{'x' * 150}.png"]
    fill(str(tmp_path), {"a.tar": plain_tar([(n, picture(i)) for i, n in enumerate(names)], form)})
    listing, _, images = both(kind="webdataset", url=str(tmp_path), holdout=0.0)
    assert images == [picture(i) for i in range(len(names))]
    assert table(listing, "listing.parquet").name.tolist() == [f"a.tar/{n.removeprefix('./')}" for n in names]


def link(kind: bytes, name: str = "l.png") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


@pytest.mark.parametrize(
    ("member", "found"),
    [
        (link(tarfile.SYMTYPE), "'l.png', a link"),
        (link(tarfile.LNKTYPE), "'l.png', a link"),
        (link(tarfile.FIFOTYPE), "'l.png', a pipe"),
        (link(tarfile.CHRTYPE), "'l.png', a device"),
        ("/etc/1.png", "'/etc/1.png', a path that leads out"),
        ("a/../../1.png", "'a/../../1.png', a path that leads out"),
    ],
)
def test_what_could_lead_elsewhere_is_refused(tmp_path: Path, member: tarfile.TarInfo | str, found: str) -> None:
    data = b"" if isinstance(member, tarfile.TarInfo) else picture(2)
    fill(str(tmp_path), {"a.tar": plain_tar([("1.png", picture(1)), (member, data)])})
    message = refusal(kind="webdataset", url=str(tmp_path))
    assert f"plain files below one folder in a.tar; found {found}" in message


def test_a_cut_tar_and_a_compressed_one_are_told_as_such(root: str) -> None:
    whole = wds_tar(samples(6))
    cut = whole.index(picture(0)) + 50
    fill(root, {"a.tar": whole[:cut]})
    message = refusal(kind="webdataset", url=root)
    assert f"a whole tar in a.tar; found its end at byte {cut}, within 000000.png of {len(picture(0))} bytes" in message
    end = next(m for m in range(len(whole) - 512, 0, -512) if any(whole[m : m + 512])) + 512
    fill(root, {"a.tar": whole[:end]})
    assert "without an end mark" in refusal(kind="webdataset", url=root)
    fill(root, {"a.tar": cifar_archive({"x": b"1"})})
    assert "a plain tar in a.tar; found gzip" in refusal(kind="webdataset", url=root)
    fill(root, {"a.tar": whole + b"\0" * 2**20 + whole})
    assert "one tar in a.tar; found an end mark" in refusal(kind="webdataset", url=root)


def test_bad_images_of_a_tar_keep_their_row_and_reason(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    some = samples(8)
    some[0]["png"], some[3]["png"], some[6]["png"] = b"", b"<html>", picture(6)[:-40]
    monkeypatch.setattr(tars, "FILE_LIMIT_BYTES", 2000)
    some[1]["jpg"] = picture(1) * 100
    fill(root, {"a.tar": wds_tar(some)})
    listing, shards, images = both(kind="webdataset", url=root, max_bad=0.6, holdout=0.0)
    status = table(shards).status.tolist()
    assert status[0] == "an empty file"
    assert "no such image" in status[3]
    assert "more than 2000" in status[1]
    assert status[6].startswith("a damaged PNG")
    assert len(images) == 4 == listing.summary["rows"] - listing.summary["bad"]
    assert "found 4 of 8: a.tar/000000.png (an empty file); " in refusal(kind="webdataset", url=root)


def test_a_tar_that_changes_after_it_was_listed_is_noticed(root: str) -> None:
    fill(root, {"a.tar": wds_tar(samples(6)), "b.tar": wds_tar(samples(6, 6))})
    stage = Listing(source=SOURCE.validate_python({"kind": "webdataset", "url": root}))
    parts = stage.split({})
    fill(root, {"a.tar": wds_tar(samples(30))})
    with pytest.raises(InputError, match=r"to stay as it was; found a\.tar of"):
        stage.work(parts[0], stage.setup({}, "cpu"), {}, MemoryArtifact())
    listing = listed(kind="webdataset", url=root)
    fill(root, {"b.tar": wds_tar(samples(6, 60))})
    with pytest.raises(InputError, match=r"b\.tar/000006\.png as it was when it was listed"):
        run_stage(Shards(), {"listing": listing})


def test_ranges_are_read_once_and_other_members_not_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    big = [{"__key__": f"{n}", "png": picture(n), "npy.bin": bytes(300_000)} for n in range(8)]
    fill(str(tmp_path), {"a.tar": wds_tar(big)})
    monkeypatch.setattr(places, "BLOCK_BYTES", 4096)
    read: list[tuple[int, int]] = []
    local = fsspec.filesystem("file")
    cat = type(local).cat_file

    def noted(self: Any, path: str, start: int, end: int) -> bytes:
        read.append((start, end))
        return bytes(cat(self, path, start=start, end=end))

    monkeypatch.setattr(type(local), "cat_file", noted)
    listing = listed(kind="webdataset", url=str(tmp_path), holdout=0.3)
    assert sum(stop - start for start, stop in read) < 200_000
    assert len(set(read)) == len(read)
    read.clear()
    run_stage(Shards(shard_rows=2), {"listing": listing})
    assert len(set(read)) == len(read)


def test_texts_that_no_format_can_hold_make_a_bad_row(root: str) -> None:
    told = [b'{"a": "\\ud800", "\\ud801": 1}', b'{"a": "x"}', b'{"a": 1e999}', b'{"a": ["x"]}', b'{"a": 7}']
    tar = plain_tar([m for n, d in enumerate(told) for m in ((f"{n}.png", picture(n)), (f"{n}.json", d))])
    fill(root, {"a.tar": tar})
    _, shards, _ = both(kind="webdataset", url=root, columns={"json.a": "class"}, max_bad=0.9, holdout=0.0)
    assert table(shards).status.tolist() == [
        "json.a is no class but '\\\\ud800'",
        "ok",
        "json.a is no class but the fraction inf",
        "json.a is no class but a list",
        "ok",
    ]
    assert known(shards) == {"a": ("class", ("7", "x"))}


# --- Parquet

LABEL = {"label": {"names": ["cat", "dog", "emu"], "_type": "ClassLabel"}, "caption": {"dtype": "string"}}


def hf(count: int, first: int = 0, **columns: Any) -> bytes:
    labels = pa.array([(first + n) % 3 for n in range(count)], pa.int64())
    captions = [f"number {n}" for n in range(count)]
    data = [picture(first + n, "jpg") for n in range(count)]
    return hf_parquet(data, {"label": labels, "caption": captions, **columns}, LABEL, group_rows=4)


def test_parquet_of_hugging_faces_layout_keeps_bytes_and_names_of_classes(root: str) -> None:
    fill(root, {f"data/{s}-0000{n}-of-00002.parquet": hf(9, 9 * n) for n, s in enumerate(("test", "train"))})
    fill(root, {"README.md": b"---", ".gitattributes": b""})
    split = {"train": ["train-*"], "heldout": ["test-*"]}
    listing, shards, images = both(kind="parquet", url=root, split=split, rows=5)
    assert images == [picture(n, "jpg") for n in range(18)]
    assert known(shards) == {"label": ("class", ("cat", "dog", "emu"))}
    index = table(shards)
    assert index["attribute.label"].tolist() == [float(n % 3) for n in range(18)]
    assert index.split.tolist() == ["heldout"] * 9 + ["train"] * 9
    assert table(listing, "listing.parquet").position.tolist() == [*range(9), *range(9)]
    assert index.name[10] == "data/train-00001-of-00002.parquet/1"


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
    assert known(shards) == {
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


def test_images_may_be_plain_binaries_of_any_column(root: str) -> None:
    sink = io.BytesIO()
    pq.write_table(
        pa.table({"id": [1, 2, 3], "png": pa.array([picture(n) for n in range(3)], pa.large_binary())}), sink
    )
    fill(root, {"x.parquet": sink.getvalue()})
    _, shards, images = both(kind="parquet", url=root, holdout=0.0)
    assert images == [picture(n) for n in range(3)]
    assert known(shards) == {}
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


def test_files_that_disagree_about_their_classes_are_named(root: str) -> None:
    other = {"label": {"names": ["dog", "cat", "emu"], "_type": "ClassLabel"}}
    labels = {"label": pa.array([0, 1], pa.int64())}
    fill(root, {"a.parquet": hf(3), "b.parquet": hf_parquet([picture(7), picture(8)], labels, other)})
    assert "found label in b.parquet, other than in a.parquet" in refusal(kind="parquet", url=root)


def test_a_cut_parquet_file_and_one_that_is_none_are_told_as_such(root: str) -> None:
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
    from stages.shards import parquet

    data = hf_parquet([picture(n) for n in range(60)], {}, {}, group_rows=60)
    fill(str(tmp_path), {"x.parquet": data})
    monkeypatch.setattr(parquet, "BATCH_ROWS", 4)
    asked: list[int] = []
    batches = parquet._Table.batches

    def noted(self: Any, row: int, columns: Any) -> Any:
        asked.append(row)
        return batches(self, row, columns)

    monkeypatch.setattr(parquet._Table, "batches", noted)
    _, _, images = both(kind="parquet", url=str(tmp_path), rows=7)
    assert images == [picture(n) for n in range(60)]
    assert asked == [0, 0]


# --- CIFAR-10


def test_cifar_is_the_same_in_a_folder_and_in_the_archive(root: str) -> None:
    files = cifar_files()
    fill(root, {f"cifar-10-batches-bin/{name}": data for name, data in files.items()})
    fill(root, {"cifar-10-binary.tar.gz": cifar_archive(files)})
    listing, shards, images = both(kind="cifar10", url=f"{root}/cifar-10-batches-bin")
    packed = both(kind="cifar10", url=f"{root}/cifar-10-binary.tar.gz")
    assert packed[1].objects == shards.objects
    index = table(shards)
    assert index.split.tolist() == ["train"] * 30 + ["heldout"] * 6
    assert known(shards) == {"class": ("class", CIFAR_CLASSES)}
    record = np.frombuffer(files["data_batch_2.bin"], np.uint8).reshape(-1, 3073)[3]
    assert np.array_equal(pixels.decode(images[9]), record[1:].reshape(3, 32, 32).transpose(1, 2, 0))
    assert index["attribute.class"][9] == record[0]
    assert index.name[9] == "data_batch_2.bin/3"
    assert {"heldout", "train"} == set(
        table(both(kind="cifar10", url=f"{root}/cifar-10-batches-bin", split="content")[1]).split[:30]
    )
    assert listing.summary["heldout"] == 6


def test_what_is_not_cifars_binary_version_is_told_as_such(root: str) -> None:
    files = cifar_files()
    message = refusal(kind="cifar10", url=fill(root, {k: v for k, v in files.items() if "5" not in k}))
    assert "the folder cifar-10-batches-bin with its six batches" in message
    assert "no data_batch_5.bin" in message
    fill(root, files | {"data_batch_5.bin": files["data_batch_5.bin"][:-1]})
    assert "records of 3073 bytes (the published files have 10 000) in data_batch_5.bin; found 18437 bytes" in refusal(
        kind="cifar10", url=root
    )
    archive = cifar_archive({"data_batch_1": b"pickle"})
    fill(root, {"a.tar.gz": archive, "b.tar.gz": cifar_archive(files)[:9000]})
    assert "the one for Python is made of pickles" in refusal(kind="cifar10", url=f"{root}/a.tar.gz")
    assert "a whole archive in b.tar.gz; found EOFError" in refusal(kind="cifar10", url=f"{root}/b.tar.gz")


def test_a_label_beyond_the_ten_classes_makes_a_bad_row(root: str) -> None:
    files = cifar_files()
    files["data_batch_1.bin"] = b"\xff" + files["data_batch_1.bin"][1:]
    fill(root, files)
    _, shards, _ = both(kind="cifar10", url=root, max_bad=0.1)
    assert table(shards).status[0] == "class 255, of 10"


# --- all of them


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_sources_that_are_not_there_are_named(root: str, kind: str) -> None:
    fill(root, {"some/x.txt": b"1", "some/y.tar.gz": b"1"})
    assert f"a file or a folder at {root}/nothing; found nothing" in refusal(kind=kind, url=f"{root}/nothing")
    assert f"files in {root}/some; found none among 1 x .gz, 1 x .txt" in refusal(kind=kind, url=f"{root}/some")
    other = {"webdataset": "parquet", "parquet": "webdataset"}[kind]
    fill(root, {"other/x.tar" if kind == "parquet" else "other/x.parquet": b"1"})
    assert f"are read by `kind: {other}`" in refusal(kind=kind, url=f"{root}/other")
    assert f"are read by `kind: {other}`" in refusal(kind="folder", url=f"{root}/other")
    assert "found no x-00.tar, and 2 more missing" in refusal(kind=kind, url=f"{root}/some/x-{{00..02}}.tar")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"url": "pipe:cat x"}, "pipe:, which runs a command"),
        ({"url": "/x/{0..999999999}.tar"}, "at most 100000 files"),
        ({"url": ["s3://a/x.tar", "gs://b/y.tar"]}, "files that stand below one folder"),
        ({"url": "/x", "columns": {"shape": "class"}}, "cls, txt or json.<field>; found 'shape'"),
        ({"url": "/x", "columns": ["json.shape"]}, "json.shape to say what it is: class, scalar or circle"),
        ({"url": "/x", "split": {"column": "part", "heldout": ["a"]}}, "found 'part'"),
    ],
)
def test_settings_that_mean_nothing_are_refused_at_once(source: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(message)):
        SOURCE.validate_python({"kind": "webdataset"} | source)


def test_images_of_any_source_are_listed_alike_in_any_order_of_parts(root: str) -> None:
    fill(root, {f"{n}.tar": wds_tar(samples(5, 5 * n)) for n in range(4)})
    stage = Listing(source=SOURCE.validate_python({"kind": "webdataset", "url": root}), holdout=0.4)
    forwards, backwards = run_stage(stage), run_stage(stage, order=lambda parts: parts[::-1])
    assert forwards.objects == backwards.objects
    assert forwards.summary == backwards.summary
    assert stage.estimate({}).rows == pytest.approx(20, rel=0.3)


def test_a_listing_of_before_its_tables_were_merged_still_gives_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.shards.stage.LISTING_ROWS", 32)
    stage = Listing(source=SOURCE.validate_python({"kind": "scenes", "count": 100}))
    listing = run_stage(stage)
    before = MemoryArtifact({n: d for n, d in listing.objects.items() if n != "listing.parquet"})
    before.summary = listing.summary
    assert run_stage(Shards(shard_rows=44), {"listing": before}).objects == (
        run_stage(Shards(shard_rows=44), {"listing": listing}).objects
    )


# --- a table beside a folder


def test_a_table_says_of_a_folders_images_what_their_folders_do_not(root: str) -> None:
    fill(root, {f"img/{c}/{n}.png": picture(10 * n + len(c)) for c in ("cat", "horse") for n in range(3)})
    rows = ["file_name,age,angle,breed,part"]
    rows += [
        f"{c}/{n}.png,{n + 0.5},{90 * n},{'xy'[n % 2]},{'test' if n == 2 else 'train'}"
        for c in ("horse", "cat")
        for n in range(3)
    ]
    fill(root, {"labels.csv": "\n".join([*rows, "gone.png,1,1,q,train"]).encode()})
    columns = {"age": None, "breed": "class", "angle": {"kind": "circle", "period": 360}}
    split = {"column": "part", "heldout": ["test"]}
    said = {"url": f"{root}/labels.csv", "columns": columns, "split": split}
    _, shards, _ = both(kind="folder", url=f"{root}/img", table=said)
    index = table(shards)
    assert index["attribute.age"].tolist() == [0.5, 1.5, 2.5] * 2
    assert index["attribute.angle"].tolist() == [0.0, 0.25, 0.5] * 2
    assert index["attribute.breed"].tolist() == [0, 1, 0] * 2
    assert index["attribute.class"].tolist() == [0] * 3 + [1] * 3
    assert index.split.tolist() == ["train", "train", "heldout"] * 2
    assert known(shards)["breed"] == ("class", ("x", "y"))
    parquet = io.BytesIO()
    pq.write_table(pa.table({"path": ["cat/0.png", "horse/2.png"], "age": [1.0, 2.0]}), parquet)
    fill(root, {"labels.parquet": parquet.getvalue()})
    settings = {"url": f"{root}/labels.parquet", "name": "path", "columns": ["age"]}
    _, shards, _ = both(kind="folder", url=f"{root}/img", labels="none", table=settings, holdout=0.0)
    assert table(shards)["attribute.age"].fillna(-1).tolist() == [1, -1, -1, -1, -1, 2]


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("file_name,age\na/0.png,1.5", {"columns": ["aeg"]}, "a column aeg in {url}; found the columns file_name, age"),
        ("file_name,age\na/0.png,1", {"columns": ["age"]}, "`age: class` or `age: scalar`"),
        ("file_name,age\n0.png,1", {}, "found 0.png, where an image is called a/0.png"),
        ("file_name,age\na/0.png,1\na/0.png,2", {}, "one row for each name in {url}; found a/0.png twice"),
        ("file_name,age\na/0.png,x", {"columns": {"age": "scalar"}}, "found age is no number but 'x', of a/0.png"),
        ("file_name,part\na/0.png,q", {"split": {"column": "part", "heldout": ["t"], "train": ["u"]}}, "part: q in"),
        ("file_name,class\na/0.png,q", {"columns": ["class"]}, "Set `labels: none`"),
        ("a,b\n1", {}, "a CSV or Parquet file at {url}"),
        (None, {}, "a table at {url}; found nothing"),
    ],
)
def test_a_table_that_does_not_fit_is_told_as_such(
    tmp_path: Path, text: str | None, settings: dict[str, Any], message: str
) -> None:
    fill(str(tmp_path), {f"img/a/{n}.png": picture(n) for n in range(3)})
    url = f"{tmp_path}/t.csv"
    if text is not None:
        Path(url).write_text(text)
    said = refusal(kind="folder", url=f"{tmp_path}/img", table={"url": url} | settings)
    assert message.format(url=url) in said


def test_the_keys_of_sources_are_what_they_have_always_been() -> None:
    def key(**source: Any) -> str:
        return key_of(Listing(source=SOURCE.validate_python(source)), {}, {"files": "ab"}).digest

    found = {
        "scenes": key(kind="scenes", count=60),
        "folder": key(kind="folder", url="/x", labels="none"),
        "webdataset": key(kind="webdataset", url="/x"),
        "parquet": key(kind="parquet", url="/x", columns={"b": "class", "a": None}),
        "cifar10": key(kind="cifar10", url="/x"),
    }
    assert found == {
        "scenes": "e438f700d41cdd5edaf864d3a5b3bc888de5c864a7028a3c945ed6ff34ec8032",
        "folder": "79d93837f6ef14710d8b7ccad1124359a5e0ebe6b8c356781bd894afd962d3b9",
        "webdataset": "29a80e27fd40e7a12df05d2f3fd8ffa87f3f8920b884570f527a3ce9a9f2ba41",
        "parquet": "6dc508fe7fd434a31eec96052837980538b09525fdc57cf89db3292801e218e9",
        "cifar10": "7657e8fd998fe360319d7b6d886bf48ff9f0313db0bbedf77f10620323e8f27d",
    }
    assert key(kind="webdataset", url=["/d/y", "/d/z"]) == found["webdataset"]
    assert key(kind="parquet", url="/x", columns={"a": None, "b": "class"}) == found["parquet"]


def test_the_example_of_a_listing_of_format_1_stays_readable() -> None:
    example = FolderArtifact(Path(__file__).parents[2] / "data" / "formats" / "v1" / "listing")
    rows = members.ListingRows(example, 1024).read(2, 9)
    assert rows.column("row").to_pylist() == list(range(2, 9))
    assert rows.column("source").to_pylist() == ["a.tar"] * 4 + ["b.tar"] * 3
    assert rows.column("name")[0].as_py() == "a.tar/000002.jpg"
    assert rows.column("status").to_pylist() == ["ok"] * 2 + ["an empty file"] + ["ok"] * 4
    assert [a.name for a in attributes.load(example.read("attributes.json"))] == ["class", "weight"]
    assert rows.column("attribute.weight").to_pylist()[:2] == [0.5, 0.75]
    assert rows.column("attribute.class").to_pylist()[:2] == [2.0, 3.0]
