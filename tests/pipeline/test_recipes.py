"""The recipes are studies that can be planned."""

from pathlib import Path

import pytest

from pipeline.graph import graph_of, samples_of
from pipeline.plan import plan
from pipeline.store import open_store
from pipeline.study import load, recipes
from stages.decoder.stage import Decoder
from stages.pretrain.stage import Pretrain
from stages.questions.findings import SEEDS_MIN


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_becomes_a_graph_with_sizes_that_fit(name: str) -> None:
    study = load(name)
    assert study.study == name
    assert graph_of(study)[-1].name == "report"
    decoder = study.decoder
    assert isinstance(decoder, Decoder)
    assert decoder.size % decoder.network.multiple == 0
    assert decoder.estimate({}).cpu_seconds > 0


def test_the_recipes_for_a_gpu_are_of_64_and_128_pixels() -> None:
    found = {name: load(name).decoder for name in ("scenes64", "folder128")}
    assert {name: decoder.size for name, decoder in found.items() if isinstance(decoder, Decoder)} == {
        "scenes64": 64,
        "folder128": 128,
    }


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_samples_from_noise_that_hides_as_much_at_any_size(name: str) -> None:
    study = load(name)
    assert isinstance(study.decoder, Decoder)
    assert samples_of(study).sigma_max == 20.0 * study.decoder.size / 32


def test_the_estimate_of_the_default_decoder_is_the_measured_one_and_grows_with_the_network() -> None:
    default = Decoder(taps=("a:b",))
    assert default.estimate({}).cpu_seconds == pytest.approx(10 + 105_000 * 3.9e-3 + 60_000 * 1.2e-4)
    wider = default.model_copy(update={"network": default.network.model_copy(update={"channels": (128, 256, 512)})})
    assert wider.estimate({}).cpu_seconds > 3 * default.estimate({}).cpu_seconds


def test_the_recipe_of_the_findings_trains_every_method_alike_from_enough_seeds_of_their_own() -> None:
    trained = [encoder for encoder in load("findings").encoders.values() if isinstance(encoder, Pretrain)]
    seeds: dict[tuple[str, str | None], set[int]] = {}
    for encoder in trained:
        seeds.setdefault((encoder.method, encoder.label), set()).add(encoder.seed)
    assert seeds.keys() == {("simclr", None), ("vicreg", None), ("supervised", "shape"), ("supervised", "pattern")}
    assert all(len(found) == SEEDS_MIN for found in seeds.values())
    assert len(set[int]().union(*seeds.values())) == len(trained)
    assert len({encoder.model_copy(update={"method": "", "label": None, "seed": 0}) for encoder in trained}) == 1


def test_the_recipe_of_the_findings_is_planned_within_its_hundred_minutes_of_two_cores(tmp_path: Path) -> None:
    states = plan(graph_of(load("findings")), open_store(str(tmp_path / "store")))
    assert {"invariance", "kept", "robustness", "edits"} <= {state.name for state in states}
    assert sum(state.seconds for state in states) < 2 * 100 * 60
