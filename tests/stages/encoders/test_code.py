"""Factories of users: whatever they raise becomes one message, and nothing waits for an answer."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stages.encoders.imported import build
from stages.encoders.stage import Imported
from stages.errors import InputError
from tests.stages.encoders.files import imported


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("def make(width): ...", r"to build a network with options \{\}; found TypeError: .*'width'"),
        ("def make(): return {}['arch']", "to build a network .*found KeyError: 'arch'"),
        ("def make(): raise FileNotFoundError('config.yaml')", r"found FileNotFoundError: config\.yaml"),
        ("def make(): return input('Which? ')", "found EOFError: .*nobody answers it"),
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
"""


@pytest.mark.parametrize(
    ("factory", "found"),
    [
        ("two", "TypeError: .*'x2'"),
        ("entry", "(IndexError|TypeError): "),
        ("attribute", "AttributeError: .*pooler_output"),
        ("grey", "RuntimeError: .* to have 1 channels, but got 3 channels"),
    ],
)
def test_a_forward_pass_that_fails_is_answered_with_what_it_raised(factory: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(FORWARDS)
    with pytest.raises(
        InputError, match=rf"takes one tensor of images of 16 x 16 pixels.*found {found}.*Correct the net"
    ):
        imported(kind="torch", factory=f"{tmp_path}/nets.py:{factory}", preprocessing={"size": 16})


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
