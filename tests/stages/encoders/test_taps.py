"""How the tokens or the map of a submodule become one vector for each image."""

import pytest
import torch
from torch import Tensor, nn

from stages.encoders.sources.settings import Tap
from stages.encoders.taps import Tapped, Trunk, pool
from stages.errors import InputError


def test_registers_are_the_tokens_between_the_class_token_and_the_patches() -> None:
    tokens = torch.arange(2 * 7 * 3, dtype=torch.float32).reshape(2, 7, 3)
    torch.testing.assert_close(pool(tokens, "registers", 4, None, "tap"), tokens[:, 1:3].mean(1))
    torch.testing.assert_close(pool(tokens, "registers", None, 3, "tap"), tokens[:, 1:3].mean(1))


@pytest.mark.parametrize(("tokens", "message"), [((1, 5, 3), "to have registers.*1 tokens"), ((1, 3, 2, 2), "tokens")])
def test_registers_are_asked_of_tokens_that_have_some(tokens: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pool(torch.zeros(tokens), "registers", 4, None, "tap")


def test_a_map_is_averaged_over_its_two_equal_sides_wherever_its_channels_stand() -> None:
    first = torch.arange(2 * 5 * 3 * 3, dtype=torch.float32).reshape(2, 5, 3, 3)
    for declared in (None, False, True):
        torch.testing.assert_close(pool(first, "mean", None, None, "tap", declared), first.mean((2, 3)))
        last = first.permute(0, 2, 3, 1)
        torch.testing.assert_close(pool(last, "mean", None, None, "tap", declared), first.mean((2, 3)))


@pytest.mark.parametrize("sides", [(4, 4, 4), (2, 3, 4)])
def test_a_map_whose_channels_could_stand_first_or_last_is_refused_unless_its_network_declares_it(
    sides: tuple[int, int, int],
) -> None:
    either = torch.arange(2 * sides[0] * sides[1] * sides[2], dtype=torch.float32).reshape(2, *sides)
    with pytest.raises(InputError, match=rf"tap 'x' to give a map whose shape shows.*\[2, {sides[0]}.*pool: flatten"):
        pool(either, "mean", None, None, "tap 'x'")
    torch.testing.assert_close(pool(either, "mean", None, None, "tap", True), either.mean((1, 2)))
    torch.testing.assert_close(pool(either, "mean", None, None, "tap", False), either.mean((2, 3)))
    assert pool(either, "flatten", None, None, "tap").shape == (2, sides[0] * sides[1] * sides[2])


class Windows(nn.Module):
    """Maps [B, H, W, C], of which a layer sees the windows of 4 x 4 positions as rows [B x windows, 16, C]."""

    def __init__(self) -> None:
        super().__init__()
        self.proj, self.norm, self.attention, self.block = nn.Conv2d(3, 4, 2, 2), nn.LayerNorm(4), nn.Tanh(), nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.proj(x).permute(0, 2, 3, 1))
        side = y.shape[1] // 4
        windows = y.unflatten(1, (side, 4)).unflatten(3, (side, 4)).transpose(2, 3).flatten(3, 4).reshape(-1, 16, 4)
        pooled: Tensor = self.block(self.attention(windows).mean(1).reshape(len(x), -1, 4).mean(1))
        return pooled


class WindowTrunk(Trunk):
    def __init__(self) -> None:
        super().__init__()
        self.network: nn.Module = Windows()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"backbone": self.network(x)}

    def library(self, x: Tensor) -> dict[str, Tensor]:
        return {"backbone": self.network(x)}


@pytest.mark.parametrize(("images", "rows"), [(1, 4), (4, 16)])
def test_a_tap_inside_windows_is_refused_by_name(images: int, rows: int) -> None:
    tapped = Tapped(WindowTrunk(), ("backbone",), {"inner": Tap(module="attention", pool="mean")})
    with pytest.raises(
        InputError,
        match=rf"tap 'inner' to give one row for each image.*batch of {images}: {rows} rows.*'attention' works",
    ):
        tapped(torch.rand(images, 3, 16, 16))


def test_modules_of_torch_are_known_by_where_their_channels_stand() -> None:
    taps = {name: Tap(module=name, pool="mean") for name in ("proj", "norm", "block")}
    x = torch.rand(2, 3, 8, 8)
    trunk = WindowTrunk()
    found = Tapped(trunk, ("backbone",), taps)(x)
    network = trunk.network
    assert isinstance(network, Windows)
    first = network.proj(x)
    assert first.shape[1:] == (4, 4, 4)
    torch.testing.assert_close(found["proj"], first.mean((2, 3)))
    torch.testing.assert_close(found["norm"], network.norm(first.permute(0, 2, 3, 1)).mean((1, 2)))
