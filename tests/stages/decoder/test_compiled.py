"""What torch.compile is given on GPUs, and where it cannot work an error before a training starts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from stages.decoder import layers
from stages.decoder.loop import require_compiler
from stages.decoder.network import UNet
from stages.decoder.rcdm.spec import AdmSettings
from stages.decoder.rcdm.train import AdmNetwork
from stages.errors import InputError
from tests.stages.decoder.small import NETWORK

IMAGES = torch.linspace(-1.0, 1.0, 2 * 3 * 8 * 8).view(2, 3, 8, 8)


def test_our_u_net_is_one_graph_that_gives_what_the_network_gives() -> None:
    network, given = UNet(NETWORK, 8), (IMAGES, -IMAGES, torch.ones(2, NETWORK.width))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    # `fullgraph` makes an error of a break.
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(*given), network(*given), atol=1e-5)


# Dynamo asks every tensor that it is given for its gradient.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor:UserWarning")
def test_norms_of_the_published_u_net_are_a_few_graphs_for_all_their_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    counter, compile_it = CompileCounter(), torch.compile

    def compiled(function: Callable[..., Any], **how: Any) -> Callable[..., Any]:
        return compile_it(function, backend=counter, **how)

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(layers, "_compiled", layers._compiled.__wrapped__)
    torch.manual_seed(0)
    settings = AdmSettings(image_size=16, model_channels=64, channel_mult=(1, 2, 3), attention_resolutions=(8, 4))
    network = AdmNetwork(settings, 4)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05)
    x = torch.randn(5, 3, 16, 16).to(memory_format=torch.channels_last)
    work = partial(passed, network.painter, x, torch.tensor([3, 700, 0, 1, 2]), torch.ones(5, 4))
    expected = work()
    assert not counter.frame_count
    network.compile_kernels()
    for found, wanted in zip(work(), expected, strict=True):
        assert (found - wanted).norm() / wanted.norm() < 1e-5
    # Of SiLU or none, each for the shapes that it is first seen with and for all others.
    assert 0 < counter.frame_count <= 4


def passed(network: nn.Module, *given: Tensor) -> tuple[Tensor, Tensor]:
    """Output, and the gradients of all weights."""
    network.zero_grad()
    out = network(*given)
    out.square().mean().backward()
    return out.detach(), torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def test_a_machine_without_a_compiler_is_refused_with_what_it_lacks() -> None:
    import torch._inductor.config as settings

    with (
        settings.patch({"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False}),
        pytest.raises(InputError, match=r"C compiler.*headers.*no-such-compiler.* set training\.compile to false"),
    ):
        require_compiler("cpu", "training.compile")
