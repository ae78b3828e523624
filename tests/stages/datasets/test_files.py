"""What holds for files of any kind, and for a table beside a folder of images."""

import io
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipeline.key import key_of
from stages import attributes
from stages.datasets.sources import ScenesSource
from stages.errors import FormatError
from stages.listing import members
from stages.listing.stage import Listing
from stages.shards.stage import Shards
from tests.artifacts import FolderArtifact, MemoryArtifact, run_stage
from tests.stages.datasets.listed import SOURCE, both, declared, fill, refusal, samples, table
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
    assert declared(shards)["breed"] == ("class", ("x", "y"))
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
        (
            "file_name,age\n0.png,1",
            {},
            "found 0 of 1 rows that name one; a row says 0.png, where an image is called a/0.png",
        ),
        ("file_name,age\na/0.png,1\na/0.png,2", {}, "one row for each name in {url}; found a/0.png twice"),
        ("file_name,age\na/0.png,x", {"columns": {"age": "scalar"}}, "found age is no number but 'x', of a/0.png"),
        ("file_name,part\na/0.png,q", {"split": {"column": "part", "heldout": ["t"], "train": ["u"]}}, "part: q in"),
        ("file_name,class\na/0.png,q", {"columns": ["class"]}, "Set `labels: none`"),
        (
            "file_name,age\na/0.png,1.5\na/1.png,?",
            {"columns": {"age": "scalar"}},
            "found age is no number but '?', of a/1.png",
        ),
        ("file_name,age\na/0.png,1\n./a/0.png,2", {}, "found './a/0.png' beside another row of a/0.png"),
        ("file_name,age, age\na/0.png,1,2", {"columns": {"age": "scalar"}}, "one column age in {url}; found several"),
        (
            "file_name,part\na/0.png,test\na/1.png,Test",
            {"split": {"column": "part", "heldout": ["test"]}},
            "one spelling of test; found part: Test in a/1.png",
        ),
        ("PK\x03\x04", {}, "found a zip archive, as a workbook of Excel is"),
        ('[{"file_name": ["x"]}]', {}, "paths in the column file_name of {url}; found list<item: string>"),
        ('{"file_name": "a/0.png"}\n{', {}, "a CSV, lines of JSON or Parquet at {url}"),
        ("a,b\n1", {}, "a CSV, lines of JSON or Parquet at {url}"),
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


def labelled(root: str, csv: str, **settings: Any) -> tuple[MemoryArtifact, MemoryArtifact]:
    """Listing and shards of the images that stand in `img`, with this table."""
    fill(root, {"t.csv": csv.encode()})
    table = {"url": f"{root}/t.csv"} | settings
    return both(kind="folder", url=f"{root}/img", labels="none", table=table, holdout=0.0)[:2]


def test_a_table_that_names_few_of_the_images_is_refused_and_says_how_many(root: str) -> None:
    fill(root, {f"img/{n}.png": picture(n) for n in range(10)})
    rows = "file_name,age\n" + "".join(f"{'' if n == 0 else 'old/'}{n}.png,{n}.5\n" for n in range(10))
    fill(root, {"t.csv": rows.encode()})
    settings = {"url": f"{root}/t.csv", "columns": ["age"]}
    message = refusal(kind="folder", url=f"{root}/img", labels="none", table=settings)
    assert "found 1 of 10 rows that name one; a row says old/1.png, where an image is called 1.png" in message
    assert "or lower `min_matched`" in message
    listing, shards = labelled(root, rows, columns=["age"], min_matched=0.1)
    assert table(shards)["attribute.age"].fillna(-1).tolist() == [0.5] + [-1.0] * 9
    assert f"1 of 10 images have a row in {root}/t.csv" in listing.summary["headlines"][0]
    assert listing.summary["headlines"] == [f"listing: {line}" for line in shards.summary["left_out"]]
    # Of some of the images, and of more than are here: one of both shares is enough.
    assert labelled(root, "file_name,age\n3.png,1.5\n", columns=["age"])[0].summary["rows"] == 10
    many = rows.replace("old/", "") + "".join(f"x{n}.png,1.5\n" for n in range(90))
    (line,) = labelled(root, many, columns=["age"])[0].summary["headlines"]
    assert line == f"listing: 90 of 100 rows of {root}/t.csv name no image"


def test_rows_find_their_images_in_other_spellings_of_the_same_path(root: str) -> None:
    fill(root, {"img/cafe\u0301/0.png": picture(0), "img/b/1.png": picture(1), "img/b/2.png": picture(2)})
    _, shards = labelled(root, "file_name,age\n caf\u00e9/0.png,0.5\nb\\1.png,1.5\n./b/2.png ,2.5\n", columns=["age"])
    assert table(shards).set_index("file_name")["attribute.age"].to_dict() == {
        "cafe\u0301/0.png": 0.5,
        "b/1.png": 1.5,
        "b/2.png": 2.5,
    }


def test_codes_are_classes_as_they_are_written(root: str) -> None:
    fill(root, {f"img/{n}.png": picture(n) for n in range(4)})
    rows = "file_name,code,fold\n0.png,01,01\n1.png,1,02\n2.png,007,01 \n3.png,7,03\n"
    split = {"column": "fold", "heldout": ["01"]}
    _, shards = labelled(root, rows, columns={"code": "class"}, split=split)
    index = table(shards)
    assert declared(shards)["code"] == ("class", ("01", "1", "007", "7"))
    assert index["attribute.code"].tolist() == [0, 1, 2, 3]
    assert index.split.tolist() == ["heldout", "train", "heldout", "train"]
    decimals = "file_name,code\n0.png,1.1\n1.png,1.10\n2.png,1e5\n3.png,100000\n"
    assert declared(labelled(root, decimals, columns={"code": "class"})[1])["code"][1] == (
        "1.1",
        "1.10",
        "100000",
        "1e5",
    )


def test_images_of_which_a_split_says_nothing_are_named(tmp_path: Path) -> None:
    fill(str(tmp_path), {f"img/{n}.png": picture(n) for n in range(4)})
    rows = "file_name,part\n0.png,test\n1.png,train\n2.png, \n"
    listing, shards = labelled(str(tmp_path), rows, split={"column": "part", "heldout": ["test"]})
    assert table(shards).split.tolist() == ["heldout", "train", "train", "train"]
    url = f"{tmp_path}/t.csv"
    assert listing.summary["headlines"] == [
        f"listing: 3 of 4 images have a row in {url}; the others have no values, and are train images",
        f"listing: 1 images have no value of part in {url}, and are train images",
    ]


def test_blank_cells_and_na_are_no_classes_and_blanks_around_names_make_none(root: str) -> None:
    cells = ["dog", "", "cat", "dog ", " cat", "NA", "nan", '"d,og"', "none"]
    fill(root, {f"img/{n}.png": picture(n) for n in range(len(cells))})
    rows = "file_name,breed\n" + "".join(f"{n}.png,{cell}\n" for n, cell in enumerate(cells))
    listing, shards = labelled(root, rows, columns={"breed": "class"})
    assert declared(shards)["breed"] == ("class", ("cat", "d,og", "dog", "none"))
    assert table(shards)["attribute.breed"].fillna(-1).tolist() == [2, -1, 0, 2, 0, -1, -1, 1, 3]
    assert listing.summary["headlines"] == [
        f"listing: 3 images have no value of breed: it is blank or NA in {root}/t.csv"
    ]


@pytest.mark.parametrize(
    "table",
    [
        "\ufefffile_name;breed\n0.png;a\n1.png;b\n;\n;\n",
        "file_name\tbreed\r0.png\ta\r1.png\tb\r",
        "file_name, breed, \r\n0.png, a,\r\n1.png, b,\r\n",
        'id|file_name|breed|id\n"7|8"|0.png|a|\n9|1.png|b|\n',
        '{"file_name": "0.png", "breed": "a"}\n\n{"breed": "b", "file_name": "1.png", "size": [3, 4]}',
        '[{"file_name": "0.png", "breed": "a"}, {"file_name": "1.png", "breed": "b"}]',
    ],
)
def test_tables_are_read_as_other_programs_write_them(tmp_path: Path, table: str) -> None:
    fill(str(tmp_path), {"img/0.png": picture(0), "img/1.png": picture(1)})
    listing, shards = labelled(str(tmp_path), table, columns={"breed": "class"})
    assert declared(shards)["breed"] == ("class", ("a", "b"))
    assert "headlines" not in listing.summary


def test_columns_of_any_type_give_classes_and_numbers(tmp_path: Path) -> None:
    fill(str(tmp_path), {f"img/{n}.png": picture(n) for n in range(3)})
    columns = {
        "file_name": pa.array([f"{n}.png" for n in range(3)], pa.string_view()),
        "view": pa.array(["b", "a", None], pa.string_view()),
        "whole": pa.array([1.0, None, 0.0]),
        "decimal": pa.array([Decimal("2.0"), Decimal("2.0"), None]),
        "price": pa.array([Decimal("1.5"), None, Decimal("2.5")]),
        "unread": pa.array([b"1", b"2", b"3"], pa.binary_view()),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    kinds = {"view": "auto", "whole": "class", "decimal": "class", "price": "auto"}
    table_of = {"url": f"{tmp_path}/t.parquet", "columns": kinds}
    _, shards, _ = both(kind="folder", url=f"{tmp_path}/img", labels="none", table=table_of, holdout=0.0)
    assert declared(shards) == {
        "decimal": ("class", ("2",)),
        "price": ("scalar", ()),
        "view": ("class", ("a", "b")),
        "whole": ("class", ("0", "1")),
    }
    assert table(shards)["attribute.price"].fillna(-1).tolist() == [1.5, -1, 2.5]


def test_a_row_without_a_name_and_a_cell_of_two_lines_do_not_hinder(root: str) -> None:
    fill(root, {f"img/{n}.png": picture(n) for n in range(2)})
    parquet = io.BytesIO()
    pq.write_table(pa.table({"file_name": ["0.png", None, None, "1.png"], "age": [0.5, 1.0, 2.0, 1.5]}), parquet)
    fill(root, {"t.parquet": parquet.getvalue()})
    of_parquet = {"url": f"{root}/t.parquet", "columns": ["age"]}
    shards = both(kind="folder", url=f"{root}/img", labels="none", table=of_parquet, holdout=0.0)[1]
    assert table(shards)["attribute.age"].tolist() == [0.5, 1.5]
    _, shards = labelled(root, 'file_name,note,age\n0.png,"a\nb",2.5\n1.png,c,3.5\n', columns=["age"])
    assert table(shards)["attribute.age"].tolist() == [2.5, 3.5]


def test_a_csv_of_another_encoding_is_named_with_its_line(root: str) -> None:
    fill(root, {"img/0.png": picture(0), "t.csv": "file_name,breed\n0.png,a\n1.png,ch\u00e9\n".encode("cp1252")})
    table = {"url": f"{root}/t.csv", "columns": ["breed"]}
    message = refusal(kind="folder", url=f"{root}/img", labels="none", table=table)
    assert f"a CSV in UTF-8 at {root}/t.csv; found a byte of another encoding in line 3" in message


def test_a_split_that_holds_nothing_out_is_refused(root: str) -> None:
    fill(root, {f"img/{n}.png": picture(n) for n in range(2)} | {"t.csv": b"file_name,part\n0.png,train\n1.png,val\n"})
    split = {"column": "part", "heldout": ["test"]}
    message = refusal(kind="folder", url=f"{root}/img", labels="none", table={"url": f"{root}/t.csv", "split": split})
    assert f"by test in the column part of {root}/t.csv; found none; values there are: train, val" in message
    fill(root, {"tars/train-0.tar": wds_tar(samples(3))})
    message = refusal(kind="webdataset", url=f"{root}/tars", split={"heldout": ["test-*"]})
    assert "by test-* in the names of the files of the source; found none" in message


def test_folders_that_differ_in_how_accents_are_encoded_are_one_class(tmp_path: Path) -> None:
    fill(str(tmp_path), {"caf\u00e9/0.png": picture(0), "cafe\u0301/1.png": picture(1), "the\u0301/2.png": picture(2)})
    _, shards, _ = both(kind="folder", url=str(tmp_path), holdout=0.0)
    assert declared(shards)["class"] == ("class", ("cafe\u0301", "the\u0301"))
    assert table(shards).set_index("file_name")["attribute.class"].to_dict() == {
        "cafe\u0301/1.png": 0,
        "caf\u00e9/0.png": 0,
        "the\u0301/2.png": 1,
    }


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


def test_a_changed_byte_of_a_listings_rows_is_refused() -> None:
    whole = run_stage(Listing(source=ScenesSource(kind="scenes", count=200, seed=3), holdout=0.3))
    data = whole.objects[members.LISTING]
    rows = members.ListingRows(whole, 1024).read(0, 200).to_pandas()
    group = pq.read_metadata(io.BytesIO(data)).row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    end = max((c.dictionary_page_offset or c.data_page_offset) + c.total_compressed_size for c in columns)
    refused = 0
    for at in range(4, end, end // 60):
        flipped = bytearray(data)
        flipped[at] ^= 1
        artifact = MemoryArtifact({**whole.objects, members.LISTING: bytes(flipped)})
        artifact.summary = whole.summary
        try:
            found = members.ListingRows(artifact, 1024).read(0, 200).to_pandas()
        except FormatError as error:
            refused += "--force listing" in str(error)
        else:
            # A header of a page may change without an effect, the rows may not.
            assert found.equals(rows)
    assert refused > 40
