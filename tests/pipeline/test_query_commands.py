"""`path`, `ls` and `query`: a store from the shell."""

import csv
import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.finished import Finished, repscope


def test_path_prints_the_folder_of_a_step_and_variables_for_a_shell(finished: Finished) -> None:
    where = repscope("path", finished.study, "embeddings.simclr", "--store", finished.store).stdout.strip()
    assert (Path(where) / "embeddings.zarr" / "zarr.json").is_file()
    assert repscope("path", "micro", "embeddings.simclr", "--store", finished.store).stdout.strip() == where
    lines = repscope("path", "micro", "--env", "--store", finished.store).stdout.splitlines()
    assert f"export EMBEDDINGS_SIMCLR={where}" in lines
    assert len(lines) == 18


def test_ls_prints_studies_their_taps_and_their_steps(finished: Finished) -> None:
    lines = repscope("ls", "--store", finished.store).stdout.splitlines()
    assert lines[0] == "micro"
    assert any(line.startswith("  <simclr:projector  768 x 8 float32, views plain and flip, ") for line in lines)
    (found,) = json.loads(repscope("ls", "--json", "--store", finished.store).stdout)
    assert found["study"] == "micro"
    assert "simclr:projector" in found["taps"]
    assert Path(found["steps"]["report"]).is_dir()


def test_query_answers_in_every_format_over_every_view(finished: Finished, tmp_path: Path) -> None:
    def ask(sql: str, *words: str) -> str:
        return repscope("query", "micro", sql, "--store", finished.store, *words).stdout

    counted = ask("select split, count(*) as n from rows group by split order by split").splitlines()
    assert counted[0].split() == ["split", "n"]
    assert [line.split()[0] for line in counted[1:3]] == ["heldout", "train"]
    assert counted[3] == "(2 rows)"
    results = list(csv.DictReader(io.StringIO(ask("select * from results where metric = 'kept'", "--format", "csv"))))
    assert {row["question"] for row in results} == {"kept"}
    painted = json.loads(ask("select step, count(*) as n from samples group by step", "--format", "json"))
    assert "samples.sources" in {entry["step"] for entry in painted}
    sql = "select r.shape, e.plain from embeddings e join rows r using (row) where r.split = 'heldout'"
    ask(sql, "--tap", "simclr:projector", "--format", "parquet", "--out", str(tmp_path / "asked.parquet"))
    asked = pq.read_table(tmp_path / "asked.parquet")
    assert asked.num_rows == int(counted[1].split()[1])
    assert {len(vector) for vector in asked.column("plain").to_pylist()} == {8}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["path", "micro", "shard"], "expected one of the steps listing, shards"),
        (["path", "micro"], "or say --env for all"),
        (["path", "mikro", "shards"], "micro; found 'mikro'"),
        (["query", "micro", "selec"], "SQL over the views rows, results, samples, embeddings"),
        (["query", "micro", "/* nothing */"], "SQL that answers with rows"),
        (["query", "micro", "select plain from embeddings", "--format", "csv"], "Take --format json or parquet"),
    ],
)
def test_what_cannot_be_answered_is_a_usage_error_of_one_line(
    finished: Finished, words: list[str], message: str
) -> None:
    done = repscope(*words, "--store", finished.store, code=2)
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_store_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    assert "expected a store at" in repscope("ls", "--store", tmp_path / "nothing", code=2).stderr
