"""The extension: new taps on a frozen trunk, which paints its own taps as before."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_tensors

from stages.contract import Estimate, Summary
from stages.decoder import format
from stages.decoder.conditioning import NULL
from stages.decoder.extension.stage import Extension
from stages.decoder.extension.train import as_decoder, fit_projections, grown
from stages.decoder.network import DecoderNetwork
from stages.decoder.run import read_sets
from stages.decoder.stage import Decoder
from stages.embeddings.format import open_table
from stages.errors import InputError
from tests.artifacts import InlineContext, MemoryArtifact, MemoryCheckpoints, run_stage
from tests.stages.decoder.small import NETWORK, TRAINING, scenes
from tests.two_ranks import on_two_ranks

BASE = Decoder(taps=("oracle:attributes",), size=16, num_images=256, network=NETWORK, training=TRAINING)
STAGE = Extension(taps=("oracle:pixels",), num_images=64, sketch_images=96, checkpoint_images=8)
Inputs = dict[str, MemoryArtifact]


def trained() -> Inputs:
    """What the extension reads: a decoder, shards and embeddings."""
    shards, embeddings = scenes()
    given = {"shards": shards, "embeddings.oracle": embeddings}
    return given | {"decoder": run_stage(BASE, given)}


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    return trained()


@pytest.fixture(scope="module")
def artifact(inputs: Inputs) -> MemoryArtifact:
    return run_stage(STAGE, inputs)


def of_taps(name: str) -> bool:
    """Whether a tensor belongs to the taps, and not to the trunk."""
    return "projection" in name or name.startswith(format.STANDARD)


@pytest.mark.parametrize("file", [format.WEIGHTS, format.HALFWAY])
def test_nothing_but_the_taps_projections_is_trained(inputs: Inputs, artifact: MemoryArtifact, file: str) -> None:
    final = load_tensors(inputs["decoder"].objects[format.WEIGHTS])
    found = load_tensors(artifact.objects[file])
    trunk = [name for name in found if not of_taps(name)]
    assert any(name.startswith("painter.unet") for name in trunk)
    for name in trunk:
        assert torch.equal(found[name], final[name]), name
    cards = [format.read_card(found) for found in (artifact, inputs["decoder"])]
    null, base = (
        card.rest["null"] for card in cards if isinstance(card, format.DecoderCard) and isinstance(card.rest, dict)
    )
    assert null == base


def test_the_null_stays_and_the_taps_do_not(inputs: Inputs, artifact: MemoryArtifact) -> None:
    base, extended = (format.load(given, "cpu").network for given in (inputs["decoder"], artifact))
    for part in ("sketch", "painter"):
        old, new = (getattr(network, part).projection for network in (base, extended))
        assert torch.equal(new.vectors[NULL], old.vectors[NULL])
        assert not torch.equal(new.vectors[0], old.vectors[0])


def test_an_extension_is_a_decoder_of_its_own_taps_and_says_what_it_extends(
    inputs: Inputs, artifact: MemoryArtifact
) -> None:
    decoder = format.load(artifact, "cpu")
    assert isinstance(decoder, format.TrainedDecoder)
    assert list(decoder.taps) == ["oracle:pixels"]
    assert decoder.card.extends == format.Extends(key=inputs["decoder"].key, taps=("oracle:attributes",))
    assert decoder.card.training.null == 0.0
    table = open_table(inputs["embeddings.oracle"])
    raw = torch.from_numpy(table.read("pixels", rows=[0, 1]))
    painted = decoder.denoiser("oracle:pixels")(torch.randn(2, 3, 16, 16), torch.ones(2), raw)
    assert torch.isfinite(painted).all()
    base = format.read_card(inputs["decoder"])
    assert isinstance(base, format.DecoderCard)
    assert base.extends is None


def test_an_extension_of_an_extension_stands_on_the_same_trunk(inputs: Inputs, artifact: MemoryArtifact) -> None:
    again = run_stage(STAGE.model_copy(update={"taps": ("oracle:attributes",)}), inputs | {"decoder": artifact})
    card = format.read_card(again)
    assert isinstance(card, format.DecoderCard)
    assert card.extends == format.Extends(key=artifact.key, taps=("oracle:attributes",))


def test_settings_of_an_extension_are_its_own_and_named_as_a_study_names_them(inputs: Inputs) -> None:
    base = format.load(inputs["decoder"], "cpu")
    assert isinstance(base, format.TrainedDecoder)
    own = STAGE.model_copy(update={"compile": False, "micro_batch": 5})
    found = as_decoder(own, base.card).training
    assert (found.compile, found.micro_batch) == (False, 5)
    with pytest.raises(InputError, match=r"at learning_rate 1e\+38\. Lower learning_rate\."):
        run_stage(STAGE.model_copy(update={"learning_rate": 1e38}), inputs)


def test_a_tap_that_says_what_an_old_one_says_is_understood_before_any_training(inputs: Inputs) -> None:
    base = format.load(inputs["decoder"], "cpu")
    assert isinstance(base, format.TrainedDecoder)
    same = STAGE.model_copy(update={"taps": BASE.taps})
    train, heldout = read_sets(as_decoder(same, base.card), inputs)
    network = grown(base.network, DecoderNetwork(NETWORK, train.widths, train.size))
    rows, plain = np.arange(len(heldout)), np.zeros(len(heldout), dtype=np.bool_)
    h, tap = heldout.conditions(rows, plain, np.zeros(len(rows), dtype=np.int64))
    with torch.no_grad():
        expected = base.network.sketch(h, tap)
        before = (network.sketch(h, tap) - expected).square().mean()
        fit_projections(network, base, train, inputs, seed=0)
        after = (network.sketch(h, tap) - expected).square().mean()
        x, sigma = torch.randn(len(rows), 3, 16, 16), torch.full((len(rows),), 0.5)
        assert torch.allclose(network(x, sigma, h, tap), base.network(x, sigma, h, tap), atol=0.02)
    assert after < 0.02 * before


def test_the_fit_follows_the_old_tap_that_leaves_the_sketch_the_least_error(inputs: Inputs) -> None:
    two = BASE.model_copy(update={"taps": ("oracle:attributes", "oracle:pixels")})
    base = format.load(run_stage(two, inputs), "cpu")
    assert isinstance(base, format.TrainedDecoder)
    with torch.no_grad():
        # To the first tap now belongs a picture that is far from every image.
        torch.nn.init.constant_(base.network.sketch.out.weight, 0.1)
        base.network.sketch.projection.vectors[0] += 50.0
    train, _ = read_sets(as_decoder(STAGE, base.card), inputs)
    network = grown(base.network, DecoderNetwork(NETWORK, train.widths, train.size))
    fit_projections(network, base, train, inputs, seed=0)
    assert network.sketch.projection.vectors[0].abs().max() < 10.0


def test_without_embeddings_of_the_old_taps_projections_start_at_random_and_are_trained(inputs: Inputs) -> None:
    base = format.load(inputs["decoder"], "cpu")
    assert isinstance(base, format.TrainedDecoder)
    train, _ = read_sets(as_decoder(STAGE, base.card), inputs)
    network = grown(base.network, DecoderNetwork(NETWORK, train.widths, train.size))
    before = network.sketch.projection.weights[0].detach().clone()
    fit_projections(network, base, train, {"shards": inputs["shards"]}, seed=0)
    assert torch.equal(network.sketch.projection.weights[0], before)


class InterruptedTrainingError(Exception):
    """Raised by the context below, in place of a killed process."""


class Unlucky(InlineContext):
    """A context whose process dies at the report of the last step."""

    def report(self, done: int, total: int, metrics: object) -> None:
        raise InterruptedTrainingError


def test_an_interrupted_extension_goes_on_as_if_it_had_not_been(
    inputs: Inputs, artifact: MemoryArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = MemoryCheckpoints()
    with pytest.raises(InterruptedTrainingError):
        run_stage(STAGE, inputs, context=Unlucky(checkpoints=checkpoints))
    kept = checkpoints.latest()
    assert kept is not None
    assert 3 < kept.step < 3 + 8
    # Its projections are in the checkpoint: fitted again, they would be thrown away.
    monkeypatch.delattr("stages.decoder.extension.train.fit_projections")
    resumed = run_stage(STAGE, inputs, context=InlineContext(checkpoints=checkpoints))
    found, expected = (load_tensors(given.objects[format.WEIGHTS]) for given in (resumed, artifact))
    for name, value in found.items():
        assert torch.allclose(value, expected[name], atol=1e-6), name


def rank_of_two(rank: int, given: Inputs) -> tuple[dict[str, bytes], Summary]:
    extension = run_stage(STAGE, given, context=InlineContext(rank=rank, world=2))
    return extension.objects, extension.summary


def test_two_ranks_train_the_extension_that_one_trains(
    inputs: Inputs, artifact: MemoryArtifact, tmp_path: Path
) -> None:
    (first, first_summary), (second, second_summary) = on_two_ranks(rank_of_two, tmp_path, inputs)
    assert second == {}
    assert first_summary == second_summary
    found, expected = (load_tensors(given[format.WEIGHTS]) for given in (first, artifact.objects))
    for name, value in found.items():
        assert torch.allclose(value, expected[name], atol=2e-5), name


def test_lengths_that_are_not_given_are_shares_of_the_decoders_for_each_tap() -> None:
    card = format.DecoderCard(
        taps={"a:b": 4}, size=16, network=NETWORK, training=TRAINING.model_copy(update={"sketch_images": 1000}), seed=0,
        num_images=2000, train_images=10, rest=0.3, curve=(),
    )  # fmt: skip
    one, two = (as_decoder(Extension(taps=taps), card) for taps in (("a:c",), ("a:c", "a:d")))
    assert (one.num_images, one.training.sketch_images) == (40, 600)
    assert (two.num_images, two.training.sketch_images) == (80, 1200)
    assert (one.size, one.network, one.training.batch) == (16, NETWORK, TRAINING.batch)


def test_the_estimate_is_a_small_part_of_the_decoders() -> None:
    decoder = Estimate(rows=1, size_bytes=40_000_000, cpu_seconds=460.0)
    assert Extension(taps=("a:c",)).estimate({"decoder": decoder}).cpu_seconds < 46.0
    longer = Extension(taps=("a:c",), num_images=100_000, sketch_images=100_000)
    assert longer.estimate({"decoder": decoder}).cpu_seconds > 290.0


def test_a_tap_that_the_encoder_does_not_have_is_refused(inputs: Inputs) -> None:
    with pytest.raises(InputError, match="attributes"):
        run_stage(STAGE.model_copy(update={"taps": ("oracle:none",)}), inputs)
