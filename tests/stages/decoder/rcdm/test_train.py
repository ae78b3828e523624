"""The published recipe: the steps that it says, written down as a decoder, the same after any interruption."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.decoder import format
from stages.decoder.data import PairedSet
from stages.decoder.flat import Flat
from stages.decoder.loop import CurvePoint, Training, fit
from stages.decoder.rcdm import format as rcdm_format
from stages.decoder.rcdm.spec import AdmSettings, AdmTraining
from stages.decoder.rcdm.stage import Rcdm
from stages.decoder.rcdm.train import AdmNetwork, Hybrid, as_they_are, published_recipe
from stages.diffusion import discrete
from stages.embeddings.format import open_table
from stages.errors import FormatError
from stages.images.pixels import to_network
from stages.samples.paint import paint
from stages.samples.stage import Samples
from tests.artifacts import InlineContext, MemoryArtifact, run_stage
from tests.stages.decoder.small import paired, paired_set, scenes
from tests.two_ranks import on_two_ranks

SETTINGS = AdmSettings(
    image_size=8,
    model_channels=32,
    num_res_blocks=1,
    attention_resolutions=(4,),
    channel_mult=(1, 1),
    num_heads=2,
)
SCHEDULE = discrete.linear()
TAP_ID = "oracle:pixels"


def network() -> AdmNetwork:
    torch.manual_seed(3)
    return AdmNetwork(SETTINGS, 4)


def training(settings: AdmTraining, num_images: int, rank: int = 0, world: int = 1) -> Training:
    torch.set_num_threads(1)
    # The loop draws one of two taps; the published recipe has one.
    data, heldout = (replace(found, embeddings=found.embeddings[:1]) for found in (paired(40), paired(8, seed=1)))
    plain = as_they_are(data), as_they_are(heldout)
    return published(settings, *plain, num_images, InlineContext(rank=rank, world=world))


def published(
    settings: AdmTraining, data: PairedSet, heldout: PairedSet, num_images: int, context: InlineContext
) -> Training:
    return Training(network(), Hybrid(SCHEDULE), published_recipe(settings, num_images, 5), data, heldout, context)


def test_a_step_of_the_default_passes_through_the_network_in_pieces_that_a_gpu_can_hold() -> None:
    run = training(AdmTraining(), num_images=256)
    assert [len(batch.tap) for batch in run.second.prepare(0)] == [16] * 16


def test_a_step_is_the_published_one() -> None:
    settings = AdmTraining(batch=4, learning_rate=1e-3, ema_decay=0.9, micro_batch=3)
    run = training(settings, num_images=12)
    own = network().painter
    average = {name: p.detach().clone() for name, p in own.named_parameters()}
    optimiser = torch.optim.AdamW(own.parameters(), lr=1e-3, weight_decay=0.0)
    for step in range(3):
        batch = run.series.batch(np.arange(4 * step, 4 * step + 4))
        x = discrete.q_sample(SCHEDULE, batch.clean, batch.level, batch.noise)
        found = discrete.losses(SCHEDULE, own(x, batch.level, batch.h), batch.clean, x, batch.level, batch.noise)
        expected = (found.mse + found.bound).mean()
        optimiser.zero_grad()
        torch.autograd.backward(expected)
        optimiser.step()
        for name, p in own.named_parameters():
            average[name] = 0.9 * average[name] + 0.1 * p.detach()
        assert run.advance().item() == pytest.approx(expected.item(), rel=1e-4)
        assert run.second.adamw.rate == 1e-3
    # AdamW makes whole steps of rounding where a gradient is 0, so the weights are compared as one vector.
    start = torch.cat([p.detach().flatten() for p in network().painter.parameters()])
    moved = torch.cat([p.detach().flatten() for p in own.parameters()]) - start
    found_moved = torch.cat([p.detach().flatten() for p in run.network.painter.parameters()]) - start
    assert (found_moved - moved).norm() < 0.02 * moved.norm()
    with run.averages.swapped_in(run.averages.current):
        found_average = torch.cat([p.detach().flatten() for p in run.network.painter.parameters()]) - start
    expected_average = torch.cat([p.flatten() for p in average.values()]) - start
    assert (found_average - expected_average).norm() < 0.02 * expected_average.norm()


def test_the_optimiser_is_the_published_one_for_all_weights() -> None:
    run = training(AdmTraining(batch=4), num_images=8)
    run.advance()
    optimiser = run.second.adamw._optimiser
    assert isinstance(optimiser, torch.optim.AdamW)
    (group,) = optimiser.param_groups
    settings = {name: group[name] for name in ("lr", "betas", "eps", "weight_decay", "amsgrad")}
    assert settings == {"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False}
    assert sum(p.numel() for p in group["params"]) == sum(p.numel() for p in run.network.painter.parameters())
    assert run.second.muon is None


def trained(rank: int = 0, world: int = 1) -> Training:
    # Shares of 4 and 3 images, in micro-batches of 2 and 1.
    run = training(AdmTraining(batch=7, learning_rate=1e-3, ema_decay=0.9, micro_batch=2), 56, rank, world)
    fit(run, InlineContext(rank=rank, world=world), 10**6, (TAP_ID,))
    return run


def rank_of_two(rank: int) -> tuple[torch.Tensor, list[CurvePoint]]:
    run = trained(rank, 2)
    return run.averages.current, run.curve


def test_two_ranks_train_what_one_trains(tmp_path: Path) -> None:
    (first, curve), (second, other) = on_two_ranks(rank_of_two, tmp_path)
    alone = trained()
    assert torch.equal(first, second)
    # As one vector: see above.
    moved = alone.averages.current - Flat(network().painter).values
    assert (first - alone.averages.current).norm() < 0.01 * moved.norm()
    assert curve == other
    for one, two in zip(alone.curve, curve, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert two["heldout"] == pytest.approx(one["heldout"], rel=1e-4)


def test_steps_of_the_schedule_are_drawn_uniformly_and_no_condition_is_dropped() -> None:
    run = training(AdmTraining(batch=4), num_images=4)
    batch = run.series.batch(np.arange(2_000))
    assert batch.level.dtype == torch.int64
    counts = torch.histc(batch.level.double(), 10, 0, 1000)
    assert counts.min() > 150
    assert (batch.tap == 0).all()
    ends = Hybrid(SCHEDULE).levels(torch.tensor([0.0, 1e-9, 0.5, 1 - 1e-9, 1.0], dtype=torch.float64))
    assert ends.tolist() == [0, 0, 500, 999, 999]


def test_the_image_and_its_embedding_are_flipped_together_in_half_of_the_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 8, 8, 3), dtype=torch.uint8, generator=generator)
    table = torch.randn(2, 6, 4, generator=generator)
    data = as_they_are(paired_set(images, [table]))
    run = published(AdmTraining(batch=4), data, data, 4, InlineContext())
    batch = run.series.batch(np.arange(1_000))
    plain = to_network(images.numpy())
    # Each image of the batch is one of the twelve, and so is each embedding: view and row.
    of_image, of_h = (
        (shown[:, None, None] == known).flatten(3).all(3).nonzero()
        for shown, known in ((batch.clean, torch.stack([plain, plain.flip(3)])), (batch.h, table))
    )
    assert of_image[:, 0].tolist() == list(range(1_000))
    assert torch.equal(of_image, of_h)
    assert of_image[:, 1].double().mean() == pytest.approx(0.5, abs=0.05)


def test_training_lowers_the_held_out_loss() -> None:
    run = training(AdmTraining(batch=8, learning_rate=2e-3, ema_decay=0.8), num_images=800)
    fit(run, InlineContext(), 10**6, ("a:b",))
    assert run.curve[-1]["heldout"][0] < 0.7 * run.curve[0]["heldout"][0]
    assert run.painted == 800


STAGE = Rcdm(
    taps=(TAP_ID,),
    num_images=48,
    network=SETTINGS.model_copy(update={"image_size": 16}),
    training=AdmTraining(batch=8, ema_decay=0.5),
    checkpoint_images=16,
)


@pytest.fixture(scope="module")
def inputs() -> dict[str, MemoryArtifact]:
    shards, embeddings = scenes()
    return {"shards": shards, "embeddings.oracle": embeddings}


@pytest.fixture(scope="module")
def artifact(inputs: dict[str, MemoryArtifact]) -> MemoryArtifact:
    torch.set_num_threads(1)
    return run_stage(STAGE, inputs)


def test_the_decoder_is_written_and_read_back_with_that_of_half_the_training(
    artifact: MemoryArtifact, inputs: dict[str, MemoryArtifact]
) -> None:
    assert artifact.names() == ["decoder-00.safetensors", "decoder.json", "halfway-00.safetensors"]
    final, halfway = (format.load(artifact, "cpu", snapshot) for snapshot in ("final", "halfway"))
    width = open_table(inputs["embeddings.oracle"]).taps["pixels"]
    assert dict(final.taps) == {TAP_ID: width}
    assert isinstance(final, rcdm_format.AdmDecoder)
    assert isinstance(halfway, rcdm_format.AdmDecoder)
    assert not torch.equal(final.network.ssl_emb.weight, halfway.network.ssl_emb.weight)
    assert final.card.training == STAGE.training
    assert (final.card.num_images, final.card.curve[-1].images) == (48, 48)
    assert artifact.summary["heldout"] == final.card.curve[-1].heldout


def test_it_is_trained_on_embeddings_as_they_are_and_paints_from_them(
    artifact: MemoryArtifact, inputs: dict[str, MemoryArtifact]
) -> None:
    decoder = format.load(artifact, "cpu")
    assert isinstance(decoder, rcdm_format.AdmDecoder)
    seen: list[bool] = []
    decoder.network.out[-1].register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.allow_tf32))
    raw = torch.from_numpy(open_table(inputs["embeddings.oracle"]).read("pixels", rows=[0, 1]))
    x, step = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([100, 700])
    sigma = SCHEDULE.sigmas[step].float()
    noise = decoder.network(x, step, raw)[:, :3]
    expected = discrete.clean_from_noise(SCHEDULE, x, step, noise).clamp(-1, 1)
    scaled = x * (1 + sigma.view(-1, 1, 1, 1) ** 2).sqrt()
    assert torch.allclose(decoder.denoiser(TAP_ID)(scaled, sigma, raw), expected, atol=2e-3)
    # In float32, which a GPU does not round.
    assert seen == [True, False]
    assert paint(Samples(steps=2), decoder, TAP_ID, raw, [0, 1], [0, 0]).shape == (2, 16, 16, 3)


def test_a_second_attempt_after_the_training_writes_the_same_weights(inputs: dict[str, MemoryArtifact]) -> None:
    context = InlineContext()
    first = run_stage(STAGE, inputs, context=context)
    trained = context.reports[-1][0]
    second = run_stage(STAGE, inputs, context=context)
    assert trained == 48
    weights = [name for name in first.names() if name.endswith("safetensors")]
    assert all(first.objects[name] == second.objects[name] for name in weights)


def test_weights_of_two_trainings_are_never_mixed(inputs: dict[str, MemoryArtifact], artifact: MemoryArtifact) -> None:
    found = MemoryArtifact({"halfway-00.safetensors": artifact.objects["decoder-00.safetensors"]}, bitwise=False)
    with pytest.raises(FormatError, match="one training"):
        STAGE.train(InlineContext(), dict(inputs), found)
