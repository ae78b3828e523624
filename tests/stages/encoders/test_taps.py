"""How the tokens or the map of a submodule become one vector for each image."""

from collections.abc import Callable

import pytest
import timm
import torch
import transformers
from pydantic import ValidationError
from torch import Tensor, nn

from stages.encoders.determinism import require_deterministic
from stages.encoders.encoder import NetworkEncoder, probe_batch
from stages.encoders.sources.hf import HfTrunk
from stages.encoders.sources.settings import Tap
from stages.encoders.sources.timm import TimmTrunk
from stages.encoders.spec import Preprocessing
from stages.encoders.taps import Tapped, Trunk, pool, tensor_of
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


@pytest.mark.parametrize("how", ["auto", "mean", "flatten"])
def test_windows_are_brought_together_image_by_image(how: str) -> None:
    trunk, x = WindowTrunk(), torch.rand(4, 3, 16, 16)
    found = Tapped(trunk, ("backbone",), {"inner": Tap.model_validate({"module": "attention", "pool": how})})(x)
    network = trunk.network
    assert isinstance(network, Windows)
    positions = torch.tanh(network.norm(network.proj(x).permute(0, 2, 3, 1)))
    if how == "flatten":
        windows = positions.reshape(4, 2, 4, 2, 4, 4).transpose(2, 3)
        torch.testing.assert_close(found["inner"], windows.flatten(1))
    else:
        torch.testing.assert_close(found["inner"], positions.mean((1, 2)))


def test_windows_have_no_class_token() -> None:
    tapped = Tapped(WindowTrunk(), ("backbone",), {"inner": Tap(module="attention", pool="cls")})
    with pytest.raises(
        InputError, match=r"tap 'inner' to give one row for each image.*batch of 4: 16 rows.*'attention' works"
    ):
        tapped(torch.rand(4, 3, 16, 16))


class TokensFirst(Windows):
    """Its inner layer sees [4 windows, B, C]: rows that are no multiple of the images, or mix them."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.proj(x).permute(0, 2, 3, 1))
        tokens = y.flatten(1, 2).transpose(0, 1)
        pooled: Tensor = self.block(self.attention(tokens).mean(0))
        return pooled


def test_rows_that_are_no_multiple_of_the_images_are_refused_by_name() -> None:
    trunk = WindowTrunk()
    trunk.network = TokensFirst()
    tapped = Tapped(trunk, ("backbone",), {"inner": Tap(module="attention", pool="mean")})
    with pytest.raises(
        InputError, match=r"tap 'inner' to give one row for each image.*batch of 3: 64 rows.*'attention' works"
    ):
        tapped(torch.rand(3, 3, 16, 16))


def test_rows_in_which_images_are_mixed_are_refused_when_images_are_embedded_alone_too() -> None:
    trunk = WindowTrunk()
    trunk.network = TokensFirst()
    tapped = Tapped(trunk, ("backbone",), {"inner": Tap(module="attention", pool="mean")})
    encoder = NetworkEncoder(tapped, Preprocessing(size=16), "cpu")
    probe = probe_batch(16)
    with pytest.raises(InputError, match=r"the rows of each image one after the other.*difference at inner by"):
        require_deterministic(encoder, trunk.network, probe, encoder.embed(probe), tapped.windowed)


def swin_of_timm() -> Trunk:
    small = {"patch_size": 2, "window_size": 4, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 1)}
    return TimmTrunk(timm.create_model("swin_tiny_patch4_window7_224", img_size=32, num_classes=0, **small), "auto")


def maxvit_of_timm() -> Trunk:
    small = {"depths": (1,), "embed_dim": (32,), "block_type": ("M",), "stem_width": 8}
    return TimmTrunk(timm.create_model("maxvit_rmlp_pico_rw_256", img_size=64, num_classes=0, **small), "auto")


def swin_of_transformers() -> Trunk:
    small = {"patch_size": 2, "window_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1]}
    return HfTrunk(transformers.SwinModel(transformers.SwinConfig(image_size=32, **small)), "auto", projected=False)


@torch.no_grad()
@pytest.mark.parametrize(
    ("build", "size", "modules"),
    [
        (swin_of_timm, 32, ("layers.0.blocks.0.attn", "layers.1.blocks.0.attn.qkv")),
        (maxvit_of_timm, 64, ("stages.0.blocks.0.attn_block.attn", "stages.0.blocks.0.attn_grid.attn")),
        (swin_of_transformers, 32, ("encoder.layers.0.blocks.0.attention",)),
    ],
)
def test_windows_of_a_library_stand_image_by_image(
    build: Callable[[], Trunk], size: int, modules: tuple[str, ...]
) -> None:
    torch.manual_seed(0)
    trunk = build().eval()
    read: dict[str, Tensor] = {}
    for name in modules:

        def keep(module: nn.Module, given: object, output: object, name: str = name) -> None:
            read[name] = tensor_of(output, name)

        trunk.network.get_submodule(name).register_forward_hook(keep)
    tapped = Tapped(trunk, ("backbone",), {name: Tap(module=name) for name in modules}).eval()
    x = torch.rand(3, 3, size, size)
    found = tapped(x)
    assert tapped.windowed == set(modules)
    for name in modules:
        rows = read[name]
        assert len(rows) % 3 == 0
        assert len(rows) > 3
        torch.testing.assert_close(found[name], rows.reshape(3, -1, rows.shape[-1]).mean(1))
    order = [2, 0, 1]
    permuted, alone = tapped(x[order]), [tapped(image[None]) for image in x]
    for name in modules:
        torch.testing.assert_close(permuted[name], found[name][order])
        torch.testing.assert_close(torch.cat([one[name] for one in alone]), found[name])
        assert not torch.allclose(found[name][0], found[name][1])


@pytest.mark.parametrize("combine", ["mean", "sum"])
def test_the_vectors_of_several_layers_become_one(combine: str) -> None:
    trunk, x = WindowTrunk(), torch.rand(2, 3, 8, 8)
    tap = Tap.model_validate({"layers": ["proj", "norm"], "combine": combine, "pool": "mean"})
    alone = Tapped(trunk, ("backbone",), {name: Tap(module=name, pool="mean") for name in ("proj", "norm")})(x)
    found = Tapped(trunk, ("backbone",), {"both": tap})(x)["both"]
    both = alone["proj"] + alone["norm"]
    torch.testing.assert_close(found, both if combine == "sum" else both / 2)


def test_layers_of_other_widths_are_not_combined() -> None:
    trunk = WindowTrunk()
    trunk.network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Linear(5, 3))
    tapped = Tapped(trunk, ("backbone",), {"both": Tap(layers=("1", "2"))})
    with pytest.raises(InputError, match=r"layers of tap 'both' that give vectors of one width; found 1 5, 2 3"):
        tapped(torch.rand(2, 3, 2, 2))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "expected module, or layers.*found neither"),
        ({"module": "a", "layers": ["b", "c"]}, "found both"),
        ({"layers": ["a"]}, "two different layers or more; found a"),
        ({"layers": ["a", "a"]}, "two different layers or more; found a, a"),
        ({"module": "a", "combine": "sum"}, "combine beside layers"),
    ],
)
def test_a_tap_reads_one_submodule_or_several(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Tap.model_validate(fields)


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
