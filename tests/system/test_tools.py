"""Other tools open a store as docs/guide/querying.md shows, from a folder and from a bucket, without code of ours."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.neighbors import KNeighborsClassifier

import repscope
from stages.images import image_file
from tests.finished import Finished
from tests.system.s3 import S3Server, access

pytestmark = pytest.mark.system

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "querying.md"
TOOLS = Path(sys.prefix) / "tools"
"""Python packages of others that nothing of ours needs, and zarrita.js; `make test-system` installs them."""
RUN = """
import contextlib, io, json, sys
first, *blocks = json.load(sys.stdin)
found = {}
for name, code in blocks:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(first[1] + code, {})
    found[name] = out.getvalue()
assert not {"repscope", "stages", "pipeline"} & set(sys.modules)
print(json.dumps(found))
"""
EXPORT = """
import json, sys
from pipeline.cli import main
for words in json.load(sys.stdin):
    main(["export", "micro", "simclr:projector", *words], standalone_mode=False)
"""
EXPORTED = {"parquet": ".parquet", "anndata": ".h5ad", "atlas": ".atlas.parquet"}
"""What some tools take, and how the guide's files of it end."""
TAKES_EXPORTED = ("LanceDB", "AnnData")
LOCAL = 'import { FileSystemStore } from "@zarrita/storage";\n'


def shown(language: str) -> list[tuple[str, str]]:
    """The heading and the code of each example of the guide that is for other tools."""
    section = GUIDE.read_text().partition("\n## Other tools\n")[2].partition("\n## ")[0]
    found = []
    for part in section.split("\n### "):
        if block := re.search(rf"```{language}\n(.*?)```", part, re.DOTALL):
            found.append((part.splitlines()[0], block[1]))
    return found


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", text)]


def in_process(code: str, given: object, folder: Path, **environment: str) -> str:
    """What `code` prints in a process of its own that has the tools; it reads `given` as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(given),
        env=os.environ | environment | {"PYTHONPATH": str(TOOLS), "AWS_ALLOW_HTTP": "true"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def expected(finished: Finished) -> Mapping[str, list[float]]:
    """The numbers that each example prints, as Repscope knows them."""
    study = repscope.open(finished.store).study("micro")
    table = study["simclr:projector"]
    x, split, shape = (table.numpy(), *(table.rows.column(name).to_numpy() for name in ("split", "shape")))
    train, held = split == "train", split == "heldout"
    sizes = pq.read_table(Path(study.path("shards")) / "index.parquet").column("bytes").to_numpy()
    by_shape = [(float((shape == one).sum()), float(sizes[shape == one].mean())) for one in sorted(set(shape))]
    row = table.numpy([7])
    in_tar = pq.read_table(Path(study.path("shards")) / "index.parquet").to_pandas().query("shard == 'shard-00000.tar'")
    return {
        "Zarr": row[0, :3].tolist(),
        "xarray": x[shape == "disc"].mean(axis=0)[:3].tolist(),
        "dask": x.mean(axis=0)[:3].tolist(),
        "tensorstore": x[[7, 3, 11], 0].tolist(),
        "pandas": [count for count, _ in by_shape],
        "Polars": [number for both in by_shape for number in both],
        "DuckDB": [number for both in by_shape for number in both],
        "pyarrow": [float(held.sum())],
        "scikit-learn": [KNeighborsClassifier(10).fit(x[train], shape[train]).score(x[held], shape[held])],
        "faiss": [float(found) for found in table.nearest(row, k=5).column("row").to_pylist()],
        "webdataset": [float(len(in_tar)), float(in_tar["key"].iloc[-1])],
        "zarrita.js": [*x.shape, *row[0, :3].tolist()],
        "LanceDB": table.nearest(row, k=3, where="split = 'heldout'").column("row").to_pylist(),
        "AnnData": [*row[0, :3].tolist(), *(count for count, _ in by_shape)],
    }


def check(found: Mapping[str, str], expected: Mapping[str, list[float]]) -> None:
    for tool, text in found.items():
        np.testing.assert_allclose(numbers(text), expected[tool], rtol=1e-4, atol=1e-6, err_msg=f"{tool}: {text}")


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_python_tools_open_what_is_stored_as_the_guide_shows(
    place: str, finished: Finished, bucket: str, expected: Mapping[str, list[float]], tmp_path: Path
) -> None:
    study = repscope.open(str(finished.store) if place == "folder" else bucket).study("micro")
    paths = {"EMBEDDINGS_SIMCLR": study.path("embeddings.simclr"), "SHARDS": study.path("shards")}
    blocks = [block for block in shown("python") if block[0] not in TAKES_EXPORTED]
    found = json.loads(in_process(RUN, blocks, tmp_path, **paths).splitlines()[-1])
    assert {*found, *TAKES_EXPORTED, "zarrita.js"} == expected.keys()
    check(found, expected)


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_zarrita_opens_what_is_stored_as_the_guide_shows(
    place: str, finished: Finished, bucket: str, s3_server: S3Server, expected: Mapping[str, list[float]]
) -> None:
    ((tool, code),) = shown("js")
    study = repscope.open(str(finished.store) if place == "folder" else bucket).study("micro")
    path = study.path("embeddings.simclr").replace("s3://", f"{s3_server.url}/")
    if place == "folder":
        code = LOCAL + code.replace("zarr.FetchStore", "FileSystemStore")
    command = ["node", "--input-type=module", "-e", f"const EMB = {json.dumps(path)};\n{code}"]
    done = subprocess.run(command, cwd=TOOLS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check({tool: re.sub(r"Float(16|32)Array\(\d+\)", "", done.stdout)}, expected)


@pytest.fixture(scope="module")
def exported(
    finished: Finished, finished_url: str, s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of the files that the guide's examples take, exported from a bucket; from a folder they are equal."""
    folders = tmp_path_factory.mktemp("bucket"), tmp_path_factory.mktemp("folder")
    words = [
        ["--to", to, "--out", str(folder / f"scenes-simclr-projector{ending}"), "--store", store]
        for folder, store in zip(folders, (finished_url, str(finished.store)), strict=True)
        for to, ending in EXPORTED.items()
    ]
    in_process(EXPORT, words, folders[0], **access(s3_server.url))
    for path in folders[0].glob("*.parquet"):
        assert path.read_bytes() == (folders[1] / path.name).read_bytes()
    return folders[0]


def test_tools_that_take_what_export_writes_open_it_as_the_guide_shows(
    exported: Path, bucket: str, expected: Mapping[str, list[float]]
) -> None:
    first, *blocks = shown("python")
    chosen = [first, *(block for block in blocks if block[0] in TAKES_EXPORTED)]
    # LanceDB keeps its own table in a bucket too.
    in_bucket = [[f"{name} in a bucket", code.replace('"lance"', f'"{bucket}-lance"')] for name, code in chosen[1:2]]
    paths = {"EMBEDDINGS_SIMCLR": "", "SHARDS": ""}
    found = json.loads(in_process(RUN, [*chosen, *in_bucket], exported, **paths).splitlines()[-1])
    assert len(found) == 3
    check(found, {**expected, "LanceDB in a bucket": expected["LanceDB"]})


def test_embedding_atlas_gets_the_map_and_the_thumbnails(exported: Path, finished: Finished) -> None:
    (_, code), *_ = [block for block in shown("console") if block[0] == "Embedding Atlas"]
    words = shlex.split(code.removeprefix("$ embedding-atlas "))
    run = "import json, sys; from embedding_atlas.cli import main; main(json.load(sys.stdin))"
    # It keeps a cache in the home folder.
    in_process(run, [*words, "--export-application", "page"], exported, HOME=str(exported))
    about = json.loads((exported / "page" / "data" / "metadata.json").read_text())["props"]["data"]
    assert about["projection"] == {"x": "map_x", "y": "map_y"}
    given = pq.read_table(exported / "page" / "data" / "dataset.parquet")
    written = pq.read_table(exported / "scenes-simclr-projector.atlas.parquet")
    for axis in ("map_x", "map_y"):
        np.testing.assert_array_equal(given.column(axis).to_numpy(), written.column(axis).to_numpy())
    table = repscope.open(finished.store).study("micro")["simclr:projector"]
    thumbnail = image_file.decode(given.column(about["image"])[7].as_py()["bytes"])
    np.testing.assert_array_equal(thumbnail, table.pictures([7], 32)[0])
