"""`export`, `adopt` and questions of neighbours from the shell: what leaves a store and what comes in."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

import repscope
from pipeline.cli import main
from pipeline.collect import collectable
from pipeline.reading import OpenStudy
from pipeline.store import open_store
from stages.errors import InputError
from stages.images import image_file
from tests.finished import Finished

TAP = "simclr:projector"
KEY = "000000007"


def command(*words: str | Path, code: int = 0) -> str:
    """Runs the command line in this process; what it has printed."""
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == code, f"{words}: {done.output} {done.exception!r}"
    return done.output


@pytest.fixture
def study(finished: Finished) -> OpenStudy:
    return repscope.open(finished.store).study("micro")


@pytest.fixture
def photograph(study: OpenStudy, tmp_path: Path) -> Path:
    """The file of the image `KEY`."""
    ((ending, data),) = study[TAP].files([7])
    path = tmp_path / f"photograph.{ending}"
    path.write_bytes(data)
    return path


def test_parquet_has_vectors_labels_and_images_that_duckdb_joins(
    finished: Finished, study: OpenStudy, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    words = ("export", "micro", TAP, "--to", "parquet", "--out", out, "--images", "--licence", "CC0")
    assert "118 x 8 float32" in command(*words, "--where", "split = 'heldout'", "--store", finished.store)
    table = pq.read_table(out)
    rows = table.column("row").to_pylist()
    np.testing.assert_array_equal(np.array(table.column("embedding").to_pylist()), study[TAP].numpy(rows))
    assert set(table.column("split").to_pylist()) == {"heldout"}
    assert [table.column(name)[0].as_py() for name in ("study", "step", "encoder", "tap")] == [
        "micro",
        "embeddings.simclr",
        "simclr",
        "projector",
    ]
    shown = image_file.decode(table.column("image")[0].as_py()["bytes"])
    np.testing.assert_array_equal(shown, study[TAP].pictures(rows[:1], 32)[0])
    card = json.loads(table.schema.metadata[b"card"])
    assert (card["licence"], card["view"], card["encoder"]) == ("CC0", "plain", "simclr")
    joined = duckdb.sql(f"select count(*) from '{out}' e join '{study.path('shards')}/index.parquet' i using (key)")
    assert joined is not None
    assert joined.fetchall() == [(118,)]
    assert "not to exist" in command(*words, "--store", finished.store, code=2)


def test_npy_has_the_layout_of_clip_retrieval(finished: Finished, study: OpenStudy, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command(
        "export", "micro", TAP, "--to", "npy", "--view", "flip", "--out", out, "--images", "--store", finished.store
    )
    vectors = np.load(out / "img_emb" / "img_emb_0.npy")
    np.testing.assert_array_equal(vectors, study[TAP].numpy(view="flip"))
    beside = pq.read_table(out / "metadata" / "metadata_0.parquet")
    assert len(beside) == len(vectors)
    with Image.open(out / beside.column("image_path")[5].as_py()) as image:
        np.testing.assert_array_equal(np.asarray(image), study[TAP].pictures([5], 32)[0])


def test_the_atlas_has_thumbnails_and_a_map_along_which_vectors_vary_most(
    finished: Finished, study: OpenStudy, tmp_path: Path
) -> None:
    out = tmp_path / "atlas.parquet"
    printed = command("export", "micro", TAP, "--to", "atlas", "--out", out, "--store", finished.store)
    assert f"embedding-atlas {out} --x map_x --y map_y" in printed
    table = pq.read_table(out)
    vectors = study[TAP].numpy().astype(np.float64)
    own = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    for axis, name in enumerate(("map_x", "map_y")):
        found, wanted = table.column(name).to_numpy(), own[0][:, axis] * own[1][axis]
        assert abs(np.corrcoef(found, wanted)[0, 1]) == pytest.approx(1, abs=1e-6)
    with Image.open(io.BytesIO(table.column("image")[0].as_py()["bytes"])) as image:
        assert image.size == (32, 32)


def test_what_is_exported_without_a_name_for_it_has_one_of_its_own(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for to in ("parquet", "npy", "atlas"):
        command("export", "micro", TAP, "--to", to, "--where", "row < 3", "--store", finished.store)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "micro-simclr-projector",
        "micro-simclr-projector.atlas.parquet",
        "micro-simclr-projector.parquet",
    ]


def test_a_library_that_is_missing_is_named_with_how_to_install_it(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for to, package in (("faiss", "faiss-cpu"), ("anndata", "anndata")):
        monkeypatch.setitem(sys.modules, to, None)
        out = tmp_path / to
        printed = command("export", "micro", TAP, "--to", to, "--out", out, "--store", finished.store, code=2)
        assert f"pip install {package}." in printed
        assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((TAP,), "a tap and --to, or --bundle FILE; found no --to"),
        (("--to", "npy"), "found no tap"),
        ((TAP, "--to", "faiss", "--images"), "images with parquet, npy or atlas"),
        ((TAP, "--to", "npy", "--where", "hue > 7"), "found none where hue > 7"),
        ((TAP, "--to", "npy", "--bundle", "x.tar"), "found both"),
        (("--bundle", "x.tar", "--without", "shards"), "--without to name one of"),
    ],
)
def test_what_cannot_be_exported_says_what_to_name(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in command("export", "micro", *words, "--store", finished.store, code=2)
    assert not list(tmp_path.iterdir())


def test_a_bundle_unpacks_to_a_store_with_checksums_and_a_card(
    finished: Finished, study: OpenStudy, tmp_path: Path
) -> None:
    tar, folder = tmp_path / "study.tar", tmp_path / "unpacked"
    command("export", "micro", "--bundle", tar, "--without", "decoder", "--licence", "CC0", "--store", finished.store)
    with tarfile.open(tar) as archive:
        archive.extractall(folder, filter="data")
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert len(files) == len((folder / "SHA256SUMS").read_text().splitlines()) + 1
    found = repscope.open(folder).study("micro")
    assert set(study.steps()) - set(found.steps()) == {"decoder"}
    np.testing.assert_array_equal(found[TAP].numpy(), study[TAP].numpy())
    assert found.path("shards").startswith(str(folder))
    assert "Licence: CC0" in (folder / "CARD.md").read_text()
    pointed = "".join(path.read_text() for path in (folder / "studies").rglob("*.json"))
    assert "artifacts/shards/" in pointed
    assert "://" not in pointed, "folders are relative"


def test_a_photograph_of_the_study_finds_itself_at_every_tap_that_reads_pixels(
    study: OpenStudy, photograph: Path
) -> None:
    for tap in ("simclr:backbone", "simclr:projector.0", TAP, "oracle:pixels"):
        for query in (photograph, str(photograph)):
            found = study[tap].nearest(query, k=2)
            assert found.column("key")[0].as_py() == KEY
            assert found.column("distance")[0].as_py() < 1e-4 * found.column("distance")[1].as_py()
    flipped = study[TAP].nearest(photograph, k=1, view="flip")
    assert flipped.column("distance")[0].as_py() < 1e-5
    with pytest.raises(InputError, match="a tap that reads pixels: pixels; found 'attributes'"):
        study["oracle:attributes"].nearest(photograph)
    with pytest.raises(InputError, match=r"or a photograph's path; found '/no/such\.png'"):
        study[TAP].nearest("/no/such.png")


def test_near_prints_neighbours_in_random_pairs_and_draws_a_sheet(
    finished: Finished, study: OpenStudy, photograph: Path, tmp_path: Path
) -> None:
    words = ("query", "micro", "--tap", TAP, "--store", finished.store, "--format", "json", "-k", "3")
    sheet = tmp_path / "sheet.png"
    found = json.loads(command(*words, "--near", photograph, "--sheet", sheet, "--where", "split = 'train'"))
    assert {entry["split"] for entry in found} == {"train"}
    unit = study[TAP].random_pair()
    assert [e["random_pairs"] for e in found] == pytest.approx([e["distance"] / unit for e in found])
    with Image.open(sheet) as image:
        assert image.size == (8 + 4 * 152, 8 + 144 + 2 * 13 + 8)
    by_key = json.loads(command(*words, "--near", KEY))
    assert KEY not in [entry["key"] for entry in by_key]
    for bad, message in (((), "found neither"), (("select 1", "--near", KEY), "found both")):
        assert message in command(*words, *bad, code=2)


def test_pairs_near_here_and_far_there_are_by_another_tap_of_the_study(study: OpenStudy) -> None:
    found = study[TAP].confuses(against="simclr:backbone", n=5, where="split = 'heldout'")
    assert set(found.column("split").to_pylist()) == {"heldout"}
    assert found.column_names[:5] == ["pair", "near", "far", "row", "key"]
    assert "other_shape" in found.column_names
    gaps = found.column("far").to_numpy() - found.column("near").to_numpy()
    assert (np.diff(gaps) <= 0).all()
    one = found.slice(0, 1).to_pylist()[0]
    vectors = study["simclr:backbone"].numpy([one["row"], one["other_row"]]).astype(np.float64)
    every = study["simclr:backbone"].numpy(study[TAP].where("split = 'heldout'")).astype(np.float64)
    pairs = np.linalg.norm(every[:, None] - every[None], axis=2)
    unit = pairs.sum() / (len(every) * (len(every) - 1))
    assert one["far"] == pytest.approx(np.linalg.norm(vectors[0] - vectors[1]) / unit, rel=0.03)


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Path:
    """The store again, to write into."""
    shutil.copytree(finished.store, tmp_path / "store", copy_function=os.link)
    return tmp_path / "store"


def test_vectors_are_adopted_by_key_in_any_order_and_are_asked_like_others(
    finished: Finished, study: OpenStudy, copied: Path, tmp_path: Path, photograph: Path
) -> None:
    table = study[TAP]
    order = np.random.Generator(np.random.Philox(0)).permutation(len(table))
    np.save(tmp_path / "vectors.npy", table.numpy(order))
    keys = table.rows.select(["key"]).take(pa.array(order))
    pq.write_table(keys, tmp_path / "rows.parquet")
    words = ("adopt", finished.study, "clip", tmp_path / "vectors.npy", "--rows", tmp_path / "rows.parquet")
    assert "<clip:embedding  768 x 8 float32, view plain, 650 train" in command(*words, "--store", copied)
    command(*words, "--store", copied)
    assert [path.name for path in (copied / "adopted" / "micro" / "clip").iterdir()] == ["000001.json"]
    opened = repscope.open(copied).study("micro")
    assert "clip:embedding" in opened.taps()
    garbage = collectable(open_store(str(copied)), {"artifacts"}, 0.0)
    assert opened.refs()["embeddings.clip"].folder not in [entry.folder for entry in garbage]
    adopted = opened["clip:embedding"]
    np.testing.assert_array_equal(adopted.numpy(), table.numpy())
    assert adopted.nearest(KEY, k=5).equals(opened[TAP].nearest(KEY, k=5))
    assert len(adopted.confuses("simclr:backbone", n=3, where="split = 'heldout'")) == 3
    with pytest.raises(InputError, match="adopted vectors, whose encoder is not known"):
        adopted.nearest(photograph)


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        ({"key": ["none"]}, (), "key of images of the study"),
        ({"key": [KEY, KEY], "embedding": [[0.0, 1.0]] * 2}, (), f"{KEY} twice"),
        ({}, (), "a vector for each of 768 images; found none for 767"),
        ({"embedding": [[float("inf"), 0.0]]}, ("--missing", "null"), "1 that are not, or not in float32"),
        ({"embedding": [1.0]}, ("--missing", "null"), "lists of floats in embedding"),
        ({}, ("--column", "vector"), "a column vector in"),
        ({}, ("--on", "file_name"), "a column file_name in"),
    ],
)
def test_vectors_that_do_not_fit_the_images_are_refused(
    finished: Finished, copied: Path, tmp_path: Path, change: dict[str, Any], more: tuple[str, ...], message: str
) -> None:
    given = {"key": [KEY], "embedding": [[0.5, 1.0]]} | change
    pq.write_table(pa.table(given), tmp_path / "given.parquet")
    words = ("adopt", finished.study, "mine", tmp_path / "given.parquet", *more, "--store", copied)
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code in (2, 3)
    assert message in done.output
    assert not (copied / "adopted").exists()


def test_few_vectors_are_adopted_where_others_may_be_missing(finished: Finished, copied: Path, tmp_path: Path) -> None:
    given = {"file_name": ["scene-3", "scene-1"], "vector": [[0.5, 1.0], [2.0, 3.0]]}
    pq.write_table(pa.table(given), tmp_path / "given.parquet")
    words = ("adopt", finished.study, "mine", tmp_path / "given.parquet", "--on", "file_name", "--column", "vector")
    command(*words, "--missing", "null", "--tap", "few", "--store", copied)
    table = repscope.open(copied).study("micro")["mine:few"]
    assert table.where().tolist() == [1, 3]
    assert table.numpy([1, 3]).tolist() == [[2.0, 3.0], [0.5, 1.0]]
    assert table.rows.column("status")[0].as_py() == "no vector in given.parquet"
    assert "that no encoder of the study has" in command(
        "adopt", finished.study, "simclr", tmp_path / "given.parquet", "--store", copied, code=2
    )


READING = """
import sys, json
from pipeline.errors import RUN
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in RUN | {"scipy"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
from click.testing import CliRunner
from pipeline.cli import main
store, study, out, photograph = sys.argv[1:]
asked = [
    ["ls", "--store", store],
    ["query", "micro", "select shape, count(*) from rows group by shape", "--store", store],
    ["query", "micro", "--near", "000000007", "--sheet", f"{out}/sheet.png", "--store", store],
    ["export", "micro", "oracle:pixels", "--to", "parquet", "--images", "--out", f"{out}/x.parquet", "--store", store],
    ["export", "micro", "--bundle", f"{out}/x.tar", "--store", store],
    ["adopt", study, "mine", f"{out}/x.parquet", "--store", store],
    ["query", "micro", "--near", photograph, "--store", store],
    ["run", study, "--store", f"{out}/none"],
    ["show", study, photograph, "--store", store],
]
print(json.dumps([[done.exit_code, done.output] for done in (CliRunner().invoke(main, words) for words in asked)]))
"""


def test_reading_exporting_and_adopting_need_nothing_of_what_runs_studies(
    finished: Finished, copied: Path, tmp_path: Path, photograph: Path
) -> None:
    words = [str(word) for word in (copied, finished.study, tmp_path, photograph)]
    done = subprocess.run([sys.executable, "-c", READING, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert [code for code, _ in answers] == [0] * 6 + [2] * 3, answers
    for _, output in answers[6:]:
        assert "pip install 'repscope[run]'" in output
