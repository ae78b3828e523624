"""What holds for files of any kind, and for a table beside a folder of images."""

import io
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipeline.key import key_of
from stages import attributes
from stages.listing import members
from stages.listing.stage import Listing
from stages.shards.stage import Shards
from tests.artifacts import FolderArtifact, MemoryArtifact, run_stage
from tests.stages.datasets.listed import SOURCE, both, fill, known, refusal, samples, table
from tests.stages.datasets.written import (
    picture,
    wds_tar,
)


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_sources_that_are_not_there_are_named(root: str, kind: str) -> None:
    fill(root, {"some/x.txt": b"1", "some/y.tar.gz": b"1"})
    assert f"a file or a folder at {root}/nothing; found nothing" in refusal(kind=kind, url=f"{root}/nothing")
    assert f"files in {root}/some; found none among 1 x .tar.gz, 1 x .txt" in refusal(kind=kind, url=f"{root}/some")
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
    for room in ("listing", "shards"):
        monkeypatch.setattr(f"stages.{room}.stage.LISTING_ROWS", 32)
    stage = Listing(source=SOURCE.validate_python({"kind": "scenes", "count": 100}))
    listing = run_stage(stage)
    before = MemoryArtifact({n: d for n, d in listing.objects.items() if n != "listing.parquet"})
    before.summary = listing.summary
    assert run_stage(Shards(shard_rows=44), {"listing": before}).objects == (
        run_stage(Shards(shard_rows=44), {"listing": listing}).objects
    )


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
    settings = {"url": f"{root}/labels.csv", "columns": columns, "split": split}
    _, shards, _ = both(kind="folder", url=f"{root}/img", table=settings)
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
def test_a_table_that_does_not_fit_is_refused_with_the_reason(
    tmp_path: Path, text: str | None, settings: dict[str, Any], message: str
) -> None:
    fill(str(tmp_path), {f"img/a/{n}.png": picture(n) for n in range(3)})
    url = f"{tmp_path}/t.csv"
    if text is not None:
        Path(url).write_text(text)
    refused = refusal(kind="folder", url=f"{tmp_path}/img", table={"url": url} | settings)
    assert message.format(url=url) in refused


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
