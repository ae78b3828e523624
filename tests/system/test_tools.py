"""Other tools open a store as docs/guide/querying.md shows, from a folder and from a bucket, without code of ours."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.neighbors import KNeighborsClassifier

import repscope
from tests.finished import Finished
from tests.system.s3 import S3Server

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
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(shown("python")),
        env=os.environ | paths | {"PYTHONPATH": str(TOOLS), "AWS_ALLOW_HTTP": "true"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert {*found, "zarrita.js"} == expected.keys()
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
