"""The recipes are studies that can be planned."""

import pytest

from pipeline.graph import graph_of, samples_of
from pipeline.study import load, recipes
from stages.decoder.stage import Decoder


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
