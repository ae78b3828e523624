"""A finished study in a bucket is read as in a folder, by few bytes."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import repscope
from pipeline.reading import OpenStudy
from tests.finished import Finished
from tests.finished import repscope as command

pytestmark = pytest.mark.system
TAP = "simclr:projector"


@pytest.fixture
def local(finished: Finished) -> OpenStudy:
    return repscope.open(finished.store).study("micro")


def test_vectors_labels_neighbours_and_photographs_are_those_of_the_folder(
    bucket: str, local: OpenStudy, tmp_path: Path
) -> None:
    study = repscope.open(bucket).study("micro")
    assert study.taps() == local.taps()
    assert study.path("shards").startswith(f"{bucket}/artifacts/shards/")
    table = study[TAP]
    assert repr(table) == repr(local[TAP])
    assert table.rows.equals(local[TAP].rows)
    np.testing.assert_array_equal(table.numpy([700, 3, 128]), local[TAP].numpy([700, 3, 128]))
    where = "split = 'heldout' and shape = 'disc'"
    assert table.nearest("000000007", 3, where).equals(local[TAP].nearest("000000007", 3, where))
    assert table.confuses("simclr:backbone", 2, where).equals(local[TAP].confuses("simclr:backbone", 2, where))
    ((_, data),) = table.files([7])
    (tmp_path / "photo.png").write_bytes(data)
    assert table.nearest(tmp_path / "photo.png", k=1).column("key").to_pylist() == ["000000007"]
    np.testing.assert_array_equal(table.to_xarray()["plain"].values, local[TAP].numpy())


def test_a_bucket_is_asked_and_exported_from_the_shell(bucket: str, local: OpenStudy, tmp_path: Path) -> None:
    sql = "select split, count(*) as n from rows group by split order by split"
    found = json.loads(command("query", "micro", sql, "--format", "json", "--store", bucket).stdout)
    assert sum(entry["n"] for entry in found) == 768
    out = tmp_path / "out.parquet"
    command("export", "micro", TAP, "--to", "parquet", "--out", out, "--store", bucket)
    written = np.array(pq.read_table(out).column("embedding").to_pylist(), dtype=np.float32)
    np.testing.assert_array_equal(written, local[TAP].numpy())
