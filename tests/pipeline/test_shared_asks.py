"""A question that shares the ask of others adds its own step and nothing else."""

from pathlib import Path

from pipeline.fingerprint import Fingerprints
from pipeline.graph import graph_of
from pipeline.plan import keys_of, plan
from pipeline.store import open_store
from pipeline.study import load
from tests.finished import MICRO


def keys(study: Path) -> dict[str, str]:
    return {name: key.digest for name, key in keys_of(graph_of(load(str(study))), Fingerprints(refresh=False)).items()}


def test_versus_reads_what_is_painted_and_embedded_for_kept_and_changes_no_other_key(tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    pairs = '  versus: {pairs: [["simclr:backbone", "simclr:projector"]]}\n'
    study.write_text(MICRO.read_text() + pairs)
    before, after = keys(MICRO), keys(study)
    assert after.keys() - before.keys() == {"versus"}
    assert {name for name in before if after[name] != before[name]} == {"report"}
    step = next(step for step in graph_of(load(str(study))) if step.name == "versus")
    assert step.inputs["samples"] == "samples.sources"
    assert step.inputs["sample_embeddings.simclr"] == "samples.sources.simclr"
    planned = {state.name: state for state in plan([*graph_of(load(str(study)))], open_store(str(tmp_path / "store")))}
    assert planned["versus"].seconds > 3
