"""What torch.compile is given on GPUs is one graph; where it cannot work is told before a training starts."""

import pytest
import torch
from torch import Tensor, nn

from stages.decoder.adm import Adm
from stages.decoder.loop import require_compiler
from stages.decoder.network import UNet
from stages.errors import InputError
from tests.stages.decoder.small import NETWORK
from tests.stages.decoder.test_adm_train import SETTINGS

IMAGES = torch.linspace(-1.0, 1.0, 2 * 3 * 8 * 8).view(2, 3, 8, 8)
GIVEN: dict[str, tuple[nn.Module, tuple[Tensor, ...]]] = {
    "default": (UNet(NETWORK, 8), (IMAGES, -IMAGES, torch.ones(2, NETWORK.width))),
    "adm": (Adm(SETTINGS, 4), (IMAGES, torch.tensor([3, 700]), torch.ones(2, 4))),
}


@pytest.mark.parametrize("name", GIVEN)
def test_a_u_net_is_one_graph_that_gives_what_the_network_gives(name: str) -> None:
    network, given = GIVEN[name]
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    expected = network(*given)
    # `fullgraph` makes an error of a break.
    assert torch.allclose(torch.compile(network, backend="eager", fullgraph=True)(*given), expected, atol=1e-5)


def test_a_machine_without_a_compiler_is_told_what_it_lacks() -> None:
    import torch._inductor.config as settings

    with (
        settings.patch({"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False}),
        pytest.raises(InputError, match=r"C compiler.*headers.*no-such-compiler.* set training\.compile to false"),
    ):
        require_compiler("cpu", "training.compile")
