"""Training: the same for any number of ranks, across interruptions, and better at the end than at the start."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from stages.decoder.averages import averaging_exponent
from stages.decoder.conditioning import Projection
from stages.decoder.flat import AdamW, Flat, Muon, like, orthogonal
from stages.decoder.loop import Training, fit
from stages.decoder.network import DecoderNetwork
from stages.decoder.objective import Edm
from stages.decoder.phases import rate
from stages.decoder.recipe import Recipe
from stages.decoder.spec import TrainingSettings
from stages.errors import InputError
from tests.artifacts import InlineContext, MemoryCheckpoints
from tests.stages.decoder.small import FLOAT32, NETWORK, TRAINING, paired_set, training
from tests.two_ranks import on_two_ranks

TAPS = ("a:colour", "b:colour")


def trained(context: InlineContext, num_images: int = 64, every: int = 1_000) -> Training:
    run = training(num_images, rank=context.rank, world=context.world)
    fit(run, context, every, TAPS)
    return run


def rank_of_two(rank: int) -> dict[str, Any]:
    run = trained(InlineContext(rank=rank, world=2))
    return {"weights": run.averages.current.numpy(), "curve": run.curve}


def test_two_ranks_train_what_one_trains(tmp_path: Path) -> None:
    first, second = on_two_ranks(rank_of_two, tmp_path)
    alone = trained(InlineContext())
    assert (first["weights"] == second["weights"]).all()
    assert torch.allclose(torch.from_numpy(first["weights"]), alone.averages.current, atol=5e-5)
    assert first["curve"] == second["curve"]
    for one, two in zip(alone.curve, first["curve"], strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert two["heldout"] == pytest.approx(one["heldout"], rel=1e-4)


class InterruptedTrainingError(Exception):
    """Raised by the context below, in place of a killed process."""


class Unlucky(InlineContext):
    """A context whose process dies when `limit` steps have been reported."""

    limit = 10**9

    def report(self, done: int, total: int, metrics: object) -> None:
        if done >= self.limit:
            raise InterruptedTrainingError


@pytest.mark.parametrize("limit", [96, 96 + 48])
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(InlineContext(), num_images=320, every=16)
    checkpoints = MemoryCheckpoints()
    unlucky = Unlucky(checkpoints=checkpoints)
    unlucky.limit = limit
    with pytest.raises(InterruptedTrainingError):
        trained(unlucky, num_images=320, every=16)
    assert checkpoints.latest() is not None
    resumed = trained(InlineContext(checkpoints=checkpoints), num_images=320, every=16)
    assert torch.allclose(resumed.averages.current, whole.averages.current, atol=1e-6)
    assert torch.allclose(resumed.averages.halfway, whole.averages.halfway, atol=1e-6)
    assert [entry["heldout"] for entry in resumed.curve] == [
        pytest.approx(entry["heldout"], rel=1e-5) for entry in whole.curve
    ]


def test_an_attempt_after_the_last_step_takes_none_and_has_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = MemoryCheckpoints()
    first = trained(InlineContext(checkpoints=checkpoints))
    monkeypatch.delattr(Training, "advance")
    second = trained(InlineContext(checkpoints=checkpoints))
    for name in ("current", "halfway"):
        assert torch.equal(getattr(second.averages, name), getattr(first.averages, name)), name
    assert torch.equal(second.first.flat.values, first.first.flat.values)
    assert torch.equal(second.network.residual_std, first.network.residual_std)
    assert second.curve == first.curve


@pytest.mark.parametrize("name", ["learning_rate", "sketch_learning_rate"])
def test_a_training_whose_losses_do_not_stay_finite_is_ended_with_a_remedy_and_not_saved(name: str) -> None:
    checkpoints = MemoryCheckpoints()
    run = training(320, FLOAT32.model_copy(update={name: 1e25}))
    with pytest.raises(InputError, match=rf"images of the .*, at {name} 1e\+25\. Lower training\.{name}\."):
        fit(run, InlineContext(checkpoints=checkpoints), 8, TAPS)
    for saved in checkpoints.kept:
        for file, data in saved.files.items():
            assert file == "position.json" or load(data)["values"].isfinite().all()


def test_the_error_of_a_gpu_that_is_too_small_says_what_was_in_use_and_a_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_use = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB."

    def full(self: Training) -> torch.Tensor:
        raise torch.OutOfMemoryError(f"{in_use} If reserved but unallocated memory is large try setting something")

    monkeypatch.setattr(Training, "advance", full)
    run = training(settings=TRAINING.model_copy(update={"micro_batch": 4}))
    with pytest.raises(InputError, match=r"training\.micro_batch, ") as found:
        fit(run, InlineContext(), 1_000, TAPS)
    assert found.value.found == f"with micro_batch 4: {in_use}"


def loss_of_one_rank(rank: int, losses: list[float]) -> str:
    """What a rank makes of its share of a loss, or the error."""
    try:
        return str(training(rank=rank, world=2).summed([torch.tensor(losses[rank])]))
    except InputError as error:
        return f"{error.found}: {error.remedy}"


@pytest.mark.parametrize("losses", [[0.25, 0.5], [0.25, float("nan")]])
def test_ranks_agree_on_the_loss_and_on_whether_it_is_finite(losses: list[float], tmp_path: Path) -> None:
    first, second = on_two_ranks(loss_of_one_rank, tmp_path, losses)
    assert first == second
    assert first == "[0.75]" or first.startswith("nan after")


@pytest.mark.usefixtures("fast_in_bfloat16")
@pytest.mark.parametrize(("precision", "rounded"), [("float32", False), ("bfloat16", True)])
def test_convolutions_of_a_gpu_are_float32_both_ways_in_a_training_in_float32(precision: str, rounded: bool) -> None:
    run, seen = training(8, TRAINING.model_copy(update={"precision": precision})), []
    assert isinstance(run.network, DecoderNetwork)
    last = run.network.painter.unet.out

    def ran(*_: object) -> None:
        seen.append(torch.backends.cudnn.allow_tf32)

    last.register_forward_hook(ran)
    last.register_full_backward_hook(ran)
    run.step = run.first.steps
    run.advance()
    run.heldout_losses()
    assert seen == [rounded] * 4
    assert torch.backends.cudnn.allow_tf32


def test_training_lowers_the_held_out_loss_and_the_sketch_knows_the_colour() -> None:
    settings = TRAINING.model_copy(update={"sketch_images": 6400, "learning_rate": 3e-3, "sketch_learning_rate": 3e-3})
    run = training(2_000, settings)
    fit(run, InlineContext(), 10**6, TAPS)
    assert run.network.residual_std[:2].max() < 0.25
    assert run.curve[-1]["heldout"][0] < 0.9 * run.curve[0]["heldout"][0]
    assert run.curve[-1]["images"] == run.painted == 2_000


def test_the_halfway_average_is_that_of_a_training_stopped_there() -> None:
    run = training(64, TrainingSettings(**(TRAINING.model_dump() | {"cool_down": 1e-6, "warm_up": 0.0})))
    half = training(64, run.recipe.settings)
    fit(run, InlineContext(), 1_000, TAPS)
    while half.painted < 32:
        half.advance()
    assert torch.allclose(run.averages.halfway, half.averages.current, atol=1e-6)


def test_progress_is_reported_to_the_end() -> None:
    context = InlineContext()
    trained(context)
    assert context.reports[-1][0] == context.reports[-1][1] == round(0.04 * 96) + 64


def test_the_learning_rate_rises_and_falls() -> None:
    shares = (0.0, 0.05, 0.1, 0.5, 0.9, 1.0)
    assert [rate(1.0, done, 0.1, 0.2) for done in shares] == pytest.approx([0, 0.5, 1, 1, 0.5, 0])


def test_the_exponent_of_the_average_is_that_of_the_paper() -> None:
    # Karras et al. 2024, section 3.1: sigma_rel 0.05 and 0.10 are gamma 16.97 and 6.94.
    assert averaging_exponent(0.05) == pytest.approx(16.97, abs=0.01)
    assert averaging_exponent(0.10) == pytest.approx(6.94, abs=0.01)


def test_each_weight_has_one_optimiser_and_inner_convolutions_have_muon() -> None:
    run = training(64)
    assert run.second.muon is not None
    assert isinstance(run.network, DecoderNetwork)
    unet = run.network.painter.unet
    inner = [p for name, p in unet.named_parameters() if p.ndim == 4 and not name.startswith(("stem", "out"))]
    assert sum(p.numel() for p in inner) == run.second.flat.matrix_elements == len(run.second.momentum) > 0
    before = {name: p.detach().clone() for name, p in run.network.painter.named_parameters()}
    # All steps: layers that start as zero let the gradient reach those below only once they have moved.
    while run.step < run.steps:
        run.advance()
    moved = {name for name, p in run.network.painter.named_parameters() if not torch.equal(p, before[name])}
    assert {f"unet.{name}" for name, p in unet.named_parameters() if p.ndim == 4} <= moved
    assert len(run.second.adamw.moments["exp_avg"]) + run.second.flat.matrix_elements == len(run.averages.current)


def matrices() -> tuple[Flat, torch.Tensor]:
    """A wide and a tall matrix with gradients, as one vector, and its momentum."""
    generator = torch.Generator().manual_seed(0)
    module = torch.nn.ParameterList(torch.randn(shape, generator=generator) for shape in ((6, 40), (30, 8)))
    flat = Flat(module, list(module))
    flat.gradient.copy_(torch.randn(flat.gradient.shape, generator=generator))
    return flat, torch.randn(flat.matrix_elements, generator=generator)


def test_muon_in_bfloat16_takes_the_steps_of_torchs_to_the_bit() -> None:
    (ours, momentum), (theirs, same) = matrices(), matrices()
    optimiser, expected = (
        Muon(ours, momentum, "bfloat16"),
        torch.optim.Muon(theirs.matrices, weight_decay=0.0, ns_steps=3, adjust_lr_fn="match_rms_adamw"),
    )
    for matrix, piece in zip(theirs.matrices, like(same, theirs.matrices), strict=True):
        expected.state[matrix]["momentum_buffer"] = piece.view_as(matrix)
    for rate_now in (0.1, 0.05):
        optimiser.step(rate_now)
        expected.param_groups[0]["lr"] = rate_now
        expected.step()  # type: ignore[no-untyped-call]
    assert torch.equal(ours.values, theirs.values)
    assert torch.equal(momentum, same)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("shape", [(8, 50), (40, 6), (9, 9)])
def test_an_update_is_made_orthogonal_by_three_steps_on_its_singular_values(
    dtype: torch.dtype, limit: float, shape: tuple[int, int]
) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u, values, v = torch.linalg.svd(matrix, full_matrices=False)
    values = values / values.norm()
    # Jordan et al. 2024: the quintic and its coefficients.
    for _ in range(3):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    expected = (u * values) @ v
    found = orthogonal(matrix.to(dtype)).double()
    assert float((found - expected).norm() / expected.norm()) < limit


def test_with_adamw_there_is_no_other_optimiser() -> None:
    run = training(64, TRAINING.model_copy(update={"optimiser": "adamw"}))
    assert run.second.muon is None
    assert not run.second.flat.matrices
    assert len(run.second.adamw.moments["exp_avg"]) == len(run.averages.current)


def test_what_is_not_an_inner_convolution_learns_at_a_rate_of_its_own() -> None:
    run = training(64, TRAINING.model_copy(update={"outer": 3.0, "optimiser": "adamw", "warm_up": 0.0}))
    inner = sum(p.numel() for p in run.network.matrices)
    shares = [(len(numbers), share) for numbers, share in run.second.flat.groups]
    assert shares == [(len(run.averages.current) - inner, 3.0), (inner, 1.0)]
    run.step = run.first.steps
    run.advance()
    assert run.second.adamw.rate == pytest.approx(run.recipe.settings.learning_rate)


def test_the_projection_of_a_wide_embedding_learns_slower() -> None:
    projection = Projection((100, 256, 1024), 8)
    assert list(projection.shares.values()) == [1.0, 1.0, 0.5]
    flat = Flat(projection, rates=projection.shares)
    assert [(len(numbers), share) for numbers, share in flat.groups] == [
        (8 * 356 + projection.vectors.numel(), 1.0),
        (8 * 1024, 0.5),
    ]
    before = {name: p.detach().clone() for name, p in projection.named_parameters()}
    flat.gradient.fill_(0.1)
    AdamW(flat, (0.9, 0.99)).step(1e-2)
    distances = {name: float((p.detach() - before[name]).abs().max()) for name, p in projection.named_parameters()}
    assert distances == pytest.approx(
        {"weights.0": 1e-2, "weights.1": 1e-2, "weights.2": 5e-3, "vectors": 1e-2}, rel=1e-3
    )


def test_a_sketch_is_shown_more_the_more_taps_it_has_unless_a_study_says_otherwise() -> None:
    assert TrainingSettings().sketched(3, 10**6) == 3 * TrainingSettings().sketched(1, 10**6) > 0
    assert TrainingSettings(sketch_images=0).sketched(3, 10**6) == 0
    assert TrainingSettings(sketch_images=96).sketched(3, 10) == 96


def test_a_sketch_of_few_images_is_shown_fewer_embeddings() -> None:
    few, more, many = (TrainingSettings().sketched(1, count) for count in (400, 800, 10**6))
    assert 0 < few < many
    assert more == 2 * few


def test_the_residual_of_each_tap_is_measured_on_images_that_the_sketch_has_not_seen() -> None:
    colour = torch.randint(0, 256, (200, 3), generator=torch.Generator().manual_seed(0))
    images = colour[:, None, None, :].expand(-1, 8, 8, -1).to(torch.uint8).contiguous()
    signal, other = colour / 128.0 - 1.0, torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    data = paired_set(images, (signal.expand(2, -1, -1), other.expand(2, -1, -1)))
    settings = TRAINING.model_copy(update={"sketch_images": 6400, "sketch_learning_rate": 3e-3, "null": 0.2})
    torch.manual_seed(0)
    network, objective = (
        DecoderNetwork(NETWORK, data.widths, data.size),
        Edm(settings.log_sigma_mean, settings.log_sigma_std),
    )
    with Training(network, objective, Recipe(settings, 8, 0), data, data, InlineContext()) as run:
        while run.step < run.first.steps:
            run.advance()
        shown, judged = run.first.series.data.rows, run.first.judged.rows
        spread = float((images[judged] / 127.5 - 1.0).std())
    assert sorted([*shown, *judged]) == list(range(200))
    known, unknown, null = network.residual_std.tolist()
    assert known < 0.5 * spread
    # The other tap does not know the colour: a sketch that had its train images by heart would leave less than all.
    assert 0.85 * spread < unknown < 1.3 * spread
    assert 0.85 * spread < null < 1.3 * spread
