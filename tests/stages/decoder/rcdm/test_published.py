"""The published RCDM: the same numbers as its own code, to 1e-4 of their size, and no other checkpoint is taken."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from stages.decoder.rcdm.network import Adm
from stages.decoder.rcdm.published import load, require, skeleton
from stages.decoder.rcdm.spec import AdmSettings
from stages.diffusion import denoisers, discrete, samplers
from stages.errors import InputError
from tests.stages.decoder.rcdm.reference import Reference, full_shapes, reference

TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=["A", "B"])
def case(request: pytest.FixtureRequest) -> Reference:
    return reference(request.param)


@pytest.fixture(scope="module")
def network(case: Reference) -> Adm:
    torch.set_num_threads(1)
    return load(case.weights(), case.config)


@pytest.fixture(scope="module")
def schedule(case: Reference) -> discrete.Schedule:
    return discrete.SCHEDULES[case.config["noise_schedule"]](1000)


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Both in the mean and at the worst pixel, relative to the size of what is expected."""
    assert found.shape == expected.shape
    error = (found - expected).double()
    assert error.norm() <= TOLERANCE * expected.double().norm()
    assert error.abs().max() <= TOLERANCE * expected.abs().max()


def test_the_network_computes_what_the_published_one_does(case: Reference, network: Adm) -> None:
    found = network(case.tensor("x"), case.tensor("t"), case.tensor("h"))
    assert_same(found, case.tensor("unet_out"))


def test_the_schedule_is_the_published_one(case: Reference, schedule: discrete.Schedule) -> None:
    assert torch.allclose(schedule.betas, case.tensor("betas"), rtol=1e-12, atol=0.0)
    assert discrete.evenly(10, 1000) == case.tensor("timesteps10").tolist()


def test_mean_variance_and_image_of_a_reverse_step_agree(
    case: Reference, network: Adm, schedule: discrete.Schedule
) -> None:
    x, t = case.tensor("x"), case.tensor("t")
    predicted = discrete.predict(schedule, network(x, t, case.tensor("h")), x, t)
    assert_same(predicted.mean, case.tensor("pmv_mean"))
    assert_same(predicted.variance, case.tensor("pmv_variance"))
    assert_same(predicted.log_variance, case.tensor("pmv_log_variance"))
    assert_same(predicted.clean, case.tensor("pmv_pred_xstart"))


def test_the_forward_process_and_the_losses_agree(case: Reference, network: Adm, schedule: discrete.Schedule) -> None:
    clean, noise, t = case.tensor("x0"), case.tensor("noise"), case.tensor("t")
    x = discrete.q_sample(schedule, clean, t, noise)
    assert_same(x, case.tensor("q_sample"))
    found = discrete.losses(schedule, network(x, t, case.tensor("h")), clean, x, t, noise)
    assert_same(found.mse, case.tensor("train_mse"))
    assert_same(found.bound, case.tensor("train_vb"))
    assert_same(found.hybrid, case.tensor("train_loss"))


def test_ten_ancestral_steps_agree(case: Reference, network: Adm, schedule: discrete.Schedule) -> None:
    ten = discrete.respaced(schedule, discrete.evenly(10, 1000))
    assert_same(discrete.ancestral(network, ten, case.loop_noise, case.tensor("h")), case.tensor("ddpm10"))


def test_ten_ddim_steps_agree(case: Reference, network: Adm, schedule: discrete.Schedule) -> None:
    ten = discrete.respaced(schedule, case.tensor("timesteps_ddim10").tolist())
    sigmas = torch.cat([ten.sigmas.flip(0), torch.zeros(1, dtype=torch.float64)])
    # Discrete time starts from noise of unit variance, a sampler from noise of the largest level.
    start = case.tensor("x") * float((1 + sigmas[0] ** 2).sqrt() / sigmas[0])
    wrapped = denoisers.discrete(network, schedule, clip=True)
    assert_same(samplers.ddim(wrapped, lambda step: start, sigmas, case.tensor("h")), case.tensor("ddim10"))


def test_every_tensor_of_a_published_checkpoint_is_in_the_network() -> None:
    shapes = full_shapes()
    own = {name: tuple(tensor.shape) for name, tensor in skeleton(AdmSettings(), 2048).state_dict().items()}
    assert len(shapes) == 494
    assert own == shapes
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == pytest.approx(422.6e6, rel=1e-3)


@pytest.mark.parametrize("width", [128, 256, 8192])
def test_a_published_checkpoint_of_any_embedding_width_loads(width: int) -> None:
    shapes = full_shapes() | {"ssl_emb.weight": (1024, width)}
    settings = AdmSettings().model_dump() | {"ssl_dim": width}
    network = load({name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, settings)
    assert network.ssl_emb.in_features == width
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_a_checkpoint_that_does_not_fit_is_refused_by_the_names_of_its_tensors() -> None:
    case = reference("B")
    weights = case.weights()
    with pytest.raises(InputError, match=r"1 missing \(ssl_emb\.bias\)"):
        load({name: tensor for name, tensor in weights.items() if name != "ssl_emb.bias"}, case.config)
    with pytest.raises(InputError, match=r"1 of no such network \(label_emb\.weight\)"):
        load(weights | {"label_emb.weight": torch.zeros(3)}, case.config)
    with pytest.raises(InputError, match=r"ssl_emb\.weight \[128, 24\] instead of \[128, 7\]"):
        load(weights, case.config | {"ssl_dim": 7})
    with pytest.raises(InputError, match="and 4 more"):
        require({}, {f"layer.{number}": torch.Size([1]) for number in range(10)})


@pytest.mark.parametrize(
    ("change", "message"),
    [({"num_heads": None}, "num_heads"), ({"num_heads": 5, "num_head_channels": -1}, "divide"), ({"ssl_dim": 0}, "0")],
)
def test_a_configuration_that_is_none_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load({}, reference("B").config | change)


def test_heads_must_divide_the_middle_too_which_has_self_attention_at_any_resolution() -> None:
    with pytest.raises(ValidationError, match="expected heads that divide 1024 channels; found 5"):
        AdmSettings(num_heads=5, attention_resolutions=())
    assert AdmSettings(num_heads=8, attention_resolutions=()).heads(1024) == 8


def test_a_configuration_without_heads_is_refused_because_no_shape_would_show_it() -> None:
    config = {name: value for name, value in reference("B").config.items() if name != "num_head_channels"}
    with pytest.raises(InputError, match="none of num_head_channels"):
        load(reference("B").weights(), config)


def test_a_fresh_network_estimates_no_noise_whatever_it_sees() -> None:
    config = reference("A").config
    network = Adm(AdmSettings(**{name: config[name] for name in AdmSettings.model_fields}), 16)
    assert not network(torch.randn(2, 3, 32, 32), torch.tensor([0, 9]), torch.randn(2, 16)).any()
