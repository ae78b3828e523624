"""A store opened for reading: studies and tables are found by the study's pointer, without torch and Ray."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import repscope
from pipeline.artifact import StoredInput
from pipeline.errors import UsageError
from pipeline.store import open_store
from pipeline.studies import latest
from stages.embeddings.format import open_table
from tests.finished import Finished

BLOCKED = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "ray", "lightly", "webdataset", "pandas", "sklearn"}:
            raise ImportError(f"{name} is not to be imported")
sys.meta_path.insert(0, Refuse())
import json, repscope
store = repscope.open(sys.argv[1])
study = store.study("micro")
early = {"zarr", "duckdb", "pydantic", "numpy"} & set(sys.modules)
table = study["simclr:projector"]
found = table.nearest("000000007", k=3, where="split = 'heldout'")
mean = table.mean("shape = 'disc'")
batches = sum(len(rows) for rows, _ in table.batches(100))
print(json.dumps([store.studies(), sorted(early), repr(table), found.column("key").to_pylist(), len(mean), batches]))
"""


def test_a_store_is_read_without_torch_and_ray_and_opened_without_zarr_duckdb_and_pydantic(finished: Finished) -> None:
    command = [sys.executable, "-c", BLOCKED, str(finished.store)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    studies, early, shown, keys, width, batches = json.loads(done.stdout)
    assert (studies, early, width, batches) == (["micro"], [], 8, 768)
    assert shown.startswith("<simclr:projector  768 x 8 float32, views plain and flip, ")
    assert shown.endswith("held out, L2, generation 0>")
    assert len(keys) == 3


def test_vectors_are_those_of_the_table_that_the_steps_read(finished: Finished) -> None:
    study = repscope.open(finished.store).study("micro")
    pointer = latest(open_store(str(finished.store)), "micro")
    assert pointer is not None
    table = open_table(StoredInput(pointer.steps["embeddings.simclr"]))
    for tap in ("backbone", "projector"):
        np.testing.assert_array_equal(study[f"simclr:{tap}"].numpy(view="flip"), table.read(tap, "flip"))


def test_a_study_knows_its_taps_steps_folders_results_and_samples(finished: Finished) -> None:
    store = repscope.open(str(finished.store))
    study = store.study("micro")
    assert study.taps() == [
        "simclr:backbone",
        "simclr:projector.0",
        "simclr:projector",
        "oracle:attributes",
        "oracle:pixels",
    ]
    assert study.steps()[:2] == ["listing", "shards"]
    assert (Path(study.path("shards")) / "index.parquet").is_file()
    assert set(study.results().column("step").to_pylist()) == {"kept", "faithfulness", "invariance"}
    assert "samples.sources" in study.samples().column("step").to_pylist()
    assert study.rows().num_rows == 768
    assert "micro" in repr(store)
    assert "simclr:projector" in repr(study)


def test_every_table_says_its_study_step_and_kind_and_no_key_is_of_two_things(finished: Finished) -> None:
    study = repscope.open(finished.store).study("micro")
    rows, samples, embeddings = study.rows(), study.samples(), study.embeddings("simclr:projector")
    assert rows.column_names[:5] == ["study", "step", "kind", "row", "key"]
    assert embeddings.column_names == ["study", "step", "encoder", "tap", "kind", "row", "key", "plain", "flip"]
    first = embeddings.slice(7, 1).to_pylist()[0]
    known = ["micro", "embeddings.simclr", "simclr", "projector", "000000007"]
    assert [first[name] for name in ("study", "step", "encoder", "tap", "key")] == known
    np.testing.assert_array_equal(np.float32(first["plain"]), study["simclr:projector"].numpy([7])[0])
    attributes = study["simclr:projector"].to_xarray().attrs
    assert [attributes[name] for name in ("study", "step", "encoder", "tap", "kind")] == [*known[:4], "image"]
    assert study.results().column_names[:2] == samples.column_names[:2] == ["study", "step"]
    painted, images = samples.column("key").to_pylist(), set(rows.column("key").to_pylist())
    assert len(set(painted)) == len(painted)
    assert not images & set(painted)
    assert set(samples.column("source_key").to_pylist()) <= images
    embedded = pq.read_table(io.BytesIO(study.artifact("samples.sources.simclr").read("rows.parquet")))
    of_step = samples.filter(pc.equal(samples.column("step"), "samples.sources"))
    for name in ("key", "source_key", "painted_from", "variant", "k"):
        assert embedded.column(name).to_pylist() == of_step.column(name).to_pylist()


def test_a_store_that_was_moved_is_read_where_it_is_now(finished: Finished, tmp_path: Path) -> None:
    shutil.copytree(finished.store, tmp_path / "moved", copy_function=os.link)
    study = repscope.open(tmp_path / "moved").study("micro")
    assert study.path("shards").startswith(str(tmp_path))
    assert study["simclr:backbone"].numpy([0]).shape == (1, 16)


def test_what_is_not_there_is_refused_with_what_is(finished: Finished, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected a store at .*; found none"):
        repscope.open(tmp_path / "nothing")
    store = repscope.open(finished.store)
    with pytest.raises(UsageError, match=r"micro; found 'mikro'"):
        store.study("mikro")
    study = store.study("micro")
    with pytest.raises(UsageError, match=r"simclr:backbone, .*; found 'vicreg:backbone'"):
        study["vicreg:backbone"]
    with pytest.raises(UsageError, match=r"one of the steps listing, shards, .*; found 'shard'"):
        study.path("shard")
