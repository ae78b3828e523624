"""Factories of users: whatever they raise becomes one message, and nothing waits for an answer."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from stages.encoders.encoder import probe_batch
from stages.encoders.imported import build
from stages.encoders.stage import Imported
from stages.errors import InputError
from tests.stages.encoders.files import card, encoder, imported, normalised

LAZY = "from torch import nn\ndef make(): return nn.LazyLinear(2)"
META = "import torch\ndef make():\n    torch.set_default_device('meta')\n    return torch.nn.Linear(2, 2)"
EXTRA = """
from torch import nn

class Extra(nn.Linear):
    def get_extra_state(self): return {}

def make(): return Extra(2, 2)
"""


@pytest.mark.filterwarnings("ignore:Lazy modules", "ignore:coroutine 'make' was never awaited")
@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("def make(width): ...", r"to build a network with options \{\}; found TypeError: .*'width'"),
        ("def make(): return {}['arch']", "to build a network .*found KeyError: 'arch'"),
        ("def make(): raise FileNotFoundError('config.yaml')", r"found FileNotFoundError: config\.yaml"),
        ("def make(): return input('Which? ')", "found EOFError: .*nobody answers it"),
        ("def make(): raise SystemExit('no file')", "to build a network .*found SystemExit: no file"),
        ("async def make(): ...", r"to return a torch\.nn\.Module; found coroutine"),
        (LAZY, r"whose weights have their sizes; found weight, bias without: they are those of lazy layers\. Run it"),
        (META, r"with numbers in its weights; found weight, bias on the device meta"),
        (EXTRA, r"`state_dict\(\)` has tensors alone; found _extra_state \(dict\)\."),
        ("raise RuntimeError('no GPU')", r"expected a function .*nets\.py:make; found RuntimeError: no GPU\. Write"),
        ("raise SystemExit(2)", r"expected a function .*nets\.py:make; found SystemExit: 2\. Write"),
        ("def made(): ...", r"expected a function .*nets\.py:make; found AttributeError"),
        ("def make(:", r"expected a function .*nets\.py:make; found SyntaxError"),
    ],
)
def test_a_factory_that_fails_is_answered_with_what_it_raised(code: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(code)
    source = {"kind": "torch", "factory": f"{tmp_path}/nets.py:make"}
    with pytest.raises(InputError, match=found):
        build(Imported.model_validate(source))


def test_a_file_that_changed_within_a_second_is_another_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file, widths = tmp_path / "nets.py", (4, 8)
    for width in widths:
        file.write_text(f"from torch import nn\ndef make(): return nn.Conv2d(3, {width}, 3, 2)\n")
        os.utime(file, (1e9, 1e9))
        source = {"kind": "torch", "factory": f"{file}:make", "preprocessing": {"size": 16}}
        trunk = build(Imported.model_validate(source)).trunk
        assert {parameter.shape[0] for parameter in trunk.parameters()} == {width}


FORWARDS = """
from torch import nn

class Two(nn.Conv2d):
    def forward(self, x1, x2): return super().forward(x1)

class Entry(nn.Conv2d):
    def forward(self, batch): return super().forward(batch["image"])

class Attribute(nn.Conv2d):
    def forward(self, x): return super().forward(x).pooler_output

def two(): return Two(3, 4, 3)
def entry(): return Entry(3, 4, 3)
def attribute(): return Attribute(3, 4, 3)
def grey(): return nn.Conv2d(1, 4, 3)
def plain(): return nn.Conv2d(3, 4, 3)

class Few(nn.Conv2d):
    def forward(self, x):
        if len(x) > 2: raise ValueError("one image or two")
        return super().forward(x)

class Exits(nn.Conv2d):
    def forward(self, x): raise SystemExit(1)

class Asks(nn.Conv2d):
    def forward(self, x): return super().forward(x * float(input()))

class Complex(nn.Conv2d):
    def forward(self, x): return super().forward(x) * 1j

def few(): return Few(3, 4, 3)
def exits(): return Exits(3, 4, 3)
def asks(): return Asks(3, 4, 3)
def imaginary(): return Complex(3, 4, 3)
"""


@pytest.mark.parametrize(
    ("factory", "found"),
    [
        ("two", "TypeError: .*'x2'"),
        ("entry", "(IndexError|TypeError): "),
        ("attribute", "AttributeError: .*pooler_output"),
        ("grey", "RuntimeError: .* to have 1 channels, but got 3 channels"),
        ("few", "ValueError: one image or two"),
        ("exits", "SystemExit: 1"),
        ("asks", "EOFError"),
    ],
)
def test_a_forward_pass_that_fails_is_answered_with_what_it_raised(factory: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(FORWARDS)
    with pytest.raises(
        InputError, match=rf"takes one tensor of any number of images of 16 x 16 pixels.*found {found}.*Correct the net"
    ):
        imported(kind="torch", factory=f"{tmp_path}/nets.py:{factory}", preprocessing={"size": 16})


def test_an_embedding_of_complex_numbers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(FORWARDS)
    with pytest.raises(InputError, match=r"expected backbone to give real numbers; found torch\.complex64"):
        imported(kind="torch", factory=f"{tmp_path}/nets.py:imaginary", preprocessing={"size": 16})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value: float, tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(FORWARDS)
    state = nn.Conv2d(3, 4, 3).state_dict()
    save_file(state | {"bias": torch.tensor([0, value, 0, 0])}, tmp_path / "w.safetensors")
    with pytest.raises(
        InputError, match=r"finite; found NaN or infinity at backbone, and in the weights bias\. Use a file"
    ):
        imported(
            kind="torch",
            factory=f"{tmp_path}/nets.py:plain",
            weights=str(tmp_path / "w.safetensors"),
            preprocessing={"size": 16},
        )


FLAT = """
import torch
from torch import nn

class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, stride=2), nn.Linear(4 * 7 * 7, 5)

    def forward(self, x):
        h = self.conv(x)
        return {"backbone": self.fc(h.view(h.size(0), -1)), "dead": h.mean((2, 3)) * 0, "one": h.mean((2, 3)) * 0 + 3}

def flat(): return Flat()

def seeded():
    torch.manual_seed(0)
    return Flat()

def forked():
    with torch.random.fork_rng():
        return seeded()

def drawn():
    network, own = Flat(), torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, generator=own)
    return network

ONE = Flat()

def one(): return ONE

def part(): return nn.Sequential(ONE.conv, nn.ReLU())

class Counting(Flat):
    def __init__(self):
        super().__init__()
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.long))
        self.register_buffer("periods", torch.ones(5, dtype=torch.bfloat16))

    def forward(self, x): return super().forward(x)["backbone"] * self.periods.float()

def counting(): return Counting()

def settings():
    import argparse, os
    argparse.ArgumentParser().parse_args()
    network = Flat()
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_grad_enabled(False)
    os.environ["REPSCOPE_FACTORY"] = "1"
    os.chdir("/")
    return network
"""


@pytest.fixture
def flat(tmp_path: Path) -> dict[str, Any]:
    """A network that flattens a map by `view`, and a file of its weights."""
    (tmp_path / "nets.py").write_text(FLAT)
    names: dict[str, Any] = {}
    exec(FLAT, names)
    save_file(names["flat"]().state_dict(), tmp_path / "flat.safetensors")
    weights = {"weights": str(tmp_path / "flat.safetensors"), "preprocessing": {"size": 16, "resize": 16}}
    return {"kind": "torch", "factory": f"{tmp_path}/nets.py:flat"} | weights


@torch.no_grad()
def test_a_network_that_flattens_a_map_by_view_is_read_in_torchs_own_layout(flat: dict[str, Any]) -> None:
    found = encoder(imported(**flat))
    names: dict[str, Any] = {}
    exec(FLAT, names)
    network = names["flat"]()
    network.load_state_dict(load_file(flat["weights"]))
    expected = network(normalised(probe_batch(16), found).contiguous())["backbone"].numpy()
    np.testing.assert_allclose(found.embed(probe_batch(16))["backbone"], expected, rtol=1e-4, atol=1e-5)


def test_an_embedding_that_is_one_for_all_images_is_named_by_its_tap(flat: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"one embedding of all images at nothing, same \(zero at nothing\)\. Check"):
        imported(**flat, taps={"nothing": "dead", "same": "one"})


@pytest.mark.parametrize("how", ["seeded", "forked", "drawn"])
def test_a_factory_that_sets_the_seed_itself_needs_a_file_of_weights(how: str, flat: dict[str, Any]) -> None:
    seeded = flat | {"factory": flat["factory"].replace(":flat", f":{how}")}
    if how == "seeded":
        assert encoder(imported(**seeded)).taps == {"backbone": 5}
    with pytest.raises(InputError, match=r"other values of conv\.weight, .*draws nothing at random"):
        imported(**(seeded | {"weights": None}))


@pytest.mark.parametrize("how", ["one", "part"])
def test_a_factory_that_returns_one_network_each_time_is_refused(how: str, flat: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"a new network each time it is built; found the same one"):
        imported(**flat | {"factory": flat["factory"].replace(":flat", f":{how}"), "weights": None})


def test_what_a_factory_changes_in_the_process_does_not_last(
    flat: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["repscope", "run", "study.yaml"])
    before = os.getcwd()
    build(Imported.model_validate(flat | {"factory": flat["factory"].replace(":flat", ":settings")}))
    assert (torch.get_default_dtype(), str(torch.get_default_device())) == (torch.float32, "cpu")
    assert torch.is_grad_enabled()
    assert "REPSCOPE_FACTORY" not in os.environ
    assert (os.getcwd(), sys.argv) == (before, ["repscope", "run", "study.yaml"])


def test_buffers_that_the_file_lacks_may_be_integers_that_nothing_reads(flat: dict[str, Any]) -> None:
    counting = flat | {"factory": flat["factory"].replace(":flat", ":counting")}
    with pytest.raises(InputError, match=r"no weights for periods: they stand at random initialisation"):
        imported(**counting)
    state = load_file(flat["weights"]) | {"periods": torch.arange(5, dtype=torch.bfloat16)}
    save_file(state, flat["weights"])
    artifact = imported(**counting)
    assert card(artifact)["zeroed"] == ["pointer"]
    assert not encoder(artifact).embed(probe_batch(16))["backbone"][:, 0].any()
