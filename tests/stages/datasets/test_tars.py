"""WebDataset's tars become a listing and shards: every image, its columns, its split, its own bytes."""

import json
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import pytest

from stages.contract import External
from stages.datasets import tars
from stages.errors import InputError
from stages.external import ranges
from stages.listing.stage import Listing
from stages.shards.stage import Shards
from tests.artifacts import MemoryArtifact, run_stage
from tests.stages.datasets.listed import SOURCE, both, declared, fill, listed, refusal, samples, table
from tests.stages.datasets.written import (
    cifar_archive,
    hf_parquet,
    picture,
    plain_tar,
    wds_tar,
)


def test_tars_of_webdatasets_writer_keep_bytes_order_and_classes(root: str) -> None:
    files = {f"train-{n:03d}.tar": wds_tar(samples(9, 9 * n)) for n in range(3)}
    fill(root, files | {"notes.md": b"x", ".cache/old.tar": b"x"})
    listing, shards, images = both(kind="webdataset", url=root)
    assert images == [picture(n, "jpg" if n % 9 % 3 else "png") for n in range(27)]
    assert declared(shards) == {"class": ("class", tuple(map(str, range(11))))}
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
    assert declared(shards) == {
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
    assert listing.summary["ignored"] == {".npy": 1, "left by a system": 1, "no ending": 1}
    assert listing.summary["ignored_examples"]["no ending"] == ["a.tar/x/readme"]
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


def test_a_cut_tar_and_a_compressed_one_are_named_as_such(root: str) -> None:
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
    fill(root, {"a.tar": whole + b"\0" * 2**20 + b"junk" * 128})
    assert f"the header of a member at byte {len(whole) + 2**20} in a.tar" in refusal(kind="webdataset", url=root)


def test_tars_behind_each_other_are_read_to_the_last(root: str) -> None:
    some = [wds_tar(samples(3, 3 * n)) for n in range(3)]
    fill(root, {"a.tar": some[0] + some[1] + bytes(512 * 5000) + some[2]})
    _, shards, images = both(kind="webdataset", url=root, holdout=0.0)
    assert images == [s.get("jpg") or s["png"] for n in range(3) for s in samples(3, 3 * n)]
    assert table(shards)["attribute.class"].tolist() == list(range(9))


def test_stems_with_dots_are_samples_of_their_own(root: str) -> None:
    stems = ["img_00", "img_01.5", "img_01.6", "v2.0_x.7", "last.1"]
    packed = [
        (f"{stem}.{ending}", data)
        for n, stem in enumerate(stems)
        for ending, data in (("png", picture(n)), ("cls", b"%d" % n))
    ]
    fill(root, {"a.tar": plain_tar(packed)})
    _, shards, images = both(kind="webdataset", url=root, holdout=0.0)
    assert images == [picture(n) for n in range(5)]
    assert table(shards)["attribute.class"].tolist() == [0, 1, 2, 3, 4]
    assert table(shards).file_name.tolist() == [f"a.tar/{stem}.png" for stem in stems]


def test_members_of_other_names_are_one_sample_where_there_is_one_image(root: str) -> None:
    packed = [m for n in range(3) for m in ((f"{n}.input.png", picture(n)), (f"{n}.output.cls", b"%d" % n))]
    fill(root, {"a.tar": plain_tar(packed)})
    listing, shards, images = both(kind="webdataset", url=root, holdout=0.0)
    assert images == [picture(n) for n in range(3)]
    assert table(shards)["attribute.class"].tolist() == [0, 1, 2]
    assert listing.summary["ignored"] == {}
    fill(root, {"a.tar": plain_tar([("0.left.png", picture(0)), ("0.right.png", picture(1)), ("0.cls", b"0")])})
    message = refusal(kind="webdataset", url=root)
    assert "found 2 in 0, and 0.cls, of no single one" in message
    assert "`image: left.png`" in message


def test_files_beside_tars_and_tables_are_counted_with_examples(root: str) -> None:
    fill(root, {"t/a.tar": wds_tar(samples(3)), "t/b.tar.gz": b"1", "t/c.tgz": b"1", "t/.x": b"1"})
    listing = listed(kind="webdataset", url=f"{root}/t", holdout=0.0)
    assert listing.summary["ignored"] == {".tar.gz": 1, ".tgz": 1, "hidden": 1}
    assert listing.summary["ignored_examples"] == {".tar.gz": ["b.tar.gz"], ".tgz": ["c.tgz"], "hidden": [".x"]}
    (line,) = listing.summary["headlines"]
    assert "1 x .tar.gz (b.tar.gz)" in line
    source = SOURCE.validate_python({"kind": "webdataset", "url": f"{root}/t"})
    assert Listing(source=source).estimate({}).warnings == (line,)
    fill(root, {"p/a.parquet": hf_parquet([picture(0)], {}), "p/b.pq": hf_parquet([picture(1)], {})})
    assert both(kind="parquet", url=f"{root}/p", holdout=0.0)[2] == [picture(0), picture(1)]


def test_bad_images_of_a_tar_keep_their_row_and_reason(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    some = samples(8)
    some[0]["png"], some[3]["png"], some[6]["png"] = b"", b"<html>", picture(6)[:-40]
    monkeypatch.setattr(tars, "FILE_LIMIT_BYTES", 2000)
    some[1]["jpg"] = picture(1) * 100
    fill(root, {"a.tar": wds_tar(some)})
    listing, shards, images = both(kind="webdataset", url=root, max_bad=0.6, holdout=0.0)
    status = table(shards).status.tolist()
    assert status[0] == "an empty file"
    assert status[3] == "a page of HTML"
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
    monkeypatch.setattr(ranges, "BLOCK_BYTES", 4096)
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


def test_members_that_nobody_reads_are_named_where_no_image_has_a_label(root: str) -> None:
    packed = [m for n in range(3) for m in ((f"{n}.png", picture(n)), (f"{n}.label", b"1"), (f"{n}.json", b"{}"))]
    fill(root, {"a.tar": plain_tar(packed)})
    line = "listing: no image has a label; .json, .label beside the images are not read"
    assert listed(kind="webdataset", url=root, holdout=0.0).summary["headlines"] == [line]
    assert "headlines" not in listed(kind="webdataset", url=root, columns={}, holdout=0.0).summary


def test_texts_may_begin_with_a_mark_of_their_encoding_and_be_numbers(root: str) -> None:
    texts = [b"\xef\xbb\xbf1.5", b" 2e1\n", b"n/a"]
    tar = plain_tar([m for n, text in enumerate(texts) for m in ((f"{n}.png", picture(n)), (f"{n}.txt", text))])
    fill(root, {"a.tar": tar})
    shards = both(kind="webdataset", url=root, columns={"txt": "scalar"}, holdout=0.0)[1]
    assert table(shards)["attribute.txt"].fillna(-1).tolist() == [1.5, 20, -1]
    raw = [m for n in range(2) for m in ((f"{n}.png", picture(n)), (f"{n}.cls", bytes([n, 0])))]
    fill(root, {"a.tar": plain_tar(raw)})
    message = refusal(kind="webdataset", url=root)
    assert "cls is no class but '\\x00\\x00'" in message


def test_texts_that_no_format_can_hold_make_a_bad_row(root: str) -> None:
    records = [b'{"a": "\\ud800", "\\ud801": 1}', b'{"a": "x"}', b'{"a": 1e999}', b'{"a": ["x"]}', b'{"a": 7}']
    tar = plain_tar([m for n, d in enumerate(records) for m in ((f"{n}.png", picture(n)), (f"{n}.json", d))])
    fill(root, {"a.tar": tar})
    _, shards, _ = both(kind="webdataset", url=root, columns={"json.a": "class"}, max_bad=0.9, holdout=0.0)
    assert table(shards).status.tolist() == [
        "json.a is no class but '\\\\ud800'",
        "ok",
        "json.a is no class but the fraction inf",
        "json.a is no class but a list",
        "ok",
    ]
    assert declared(shards) == {"a": ("class", ("7", "x"))}
