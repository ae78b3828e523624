"""Code that comes with weights is never run, nothing asks on the terminal, and nothing is downloaded unasked."""

import ast
import io
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from pydantic import ValidationError
from torchvision import models

from stages.encoders.sources.guard import WEIGHTS_ONLY, confined, unattended
from stages.encoders.stage import Imported
from stages.errors import InputError
from tests.stages.encoders.files import VIT_PROCESSOR, encoder, hf_folder, imported

ROOT = Path(__file__).parents[3]
PREPROCESSING = {"size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}


class Marker:
    """A file that foreign code writes when it runs."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ran"
        self.code = f"open({str(self.path)!r}, 'w').close()\n"

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, (self.code,))

    def ran(self) -> bool:
        return self.path.exists()


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Marker:
    """The marker of a test whose terminal would answer `y` to everything."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 20))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    return Marker(tmp_path)


def vit(tmp_path: Path, marker: Marker) -> Path:
    """A folder of transformers with every module that a configuration may name beside the weights."""
    path, _ = hf_folder(tmp_path, "vit", VIT_PROCESSOR)
    base = "from transformers import AutoConfig, ViTConfig, ViTImageProcessor, ViTModel\n"
    own = ["class C(ViTConfig): model_type = 'own'", "class M(ViTModel): ...", "class P(ViTImageProcessor): ..."]
    (path / "own.py").write_text(marker.code + base + "\n".join(own))
    return path


def rewrite(path: Path, **fields: Any) -> None:
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | fields))


def test_an_image_processor_of_its_own_is_not_run_and_the_message_says_so(tmp_path: Path, marker: Marker) -> None:
    path = vit(tmp_path, marker)
    rewrite(path / "preprocessor_config.json", image_processor_type="P", auto_map={"AutoImageProcessor": "own.P"})
    why = (
        "expected `preprocessing` with size, mean and std, since its image processor is code that comes with it, which"
    )
    with pytest.raises(InputError, match=why):
        imported(kind="hf", path=str(path))
    assert encoder(imported(kind="hf", path=str(path), preprocessing=PREPROCESSING)).taps == {"backbone": 16}
    assert not marker.ran()


@pytest.mark.parametrize("kept", [True, False])
def test_a_model_of_its_own_code_is_not_run(kept: bool, tmp_path: Path, marker: Marker) -> None:
    path = vit(tmp_path, marker)
    # Where transformers knows the kind of model, it uses its own class for it.
    kind = {} if kept else {"model_type": "own", "architectures": ["M"]}
    rewrite(path / "config.json", auto_map={"AutoConfig": "own.C", "AutoModel": "own.M"}, **kind)
    if kept:
        assert encoder(imported(kind="hf", path=str(path))).taps == {"backbone": 16}
    else:
        with pytest.raises(InputError, match=r"found a model that needs code which comes with it.*kind: torch"):
            imported(kind="hf", path=str(path))
    assert not marker.ran()


def test_tokenisers_processors_and_generation_that_stand_beside_a_model_are_not_run(
    tmp_path: Path, marker: Marker
) -> None:
    path = vit(tmp_path, marker)
    rewrite(path / "tokenizer_config.json", tokenizer_class="T", auto_map={"AutoTokenizer": ["own.P", "own.P"]})
    rewrite(path / "processor_config.json", processor_class="P", auto_map={"AutoProcessor": "own.P"})
    rewrite(path / "video_preprocessor_config.json", auto_map={"AutoVideoProcessor": "own.P"})
    rewrite(path / "generation_config.json", custom_generate=str(path))
    (path / "custom_generate").mkdir()
    (path / "custom_generate" / "generate.py").write_text(marker.code)
    (path / "__init__.py").write_text(marker.code)
    assert encoder(imported(kind="hf", path=str(path))).taps == {"backbone": 16}
    assert not marker.ran()


def test_a_pickle_in_a_folder_of_transformers_is_not_run(tmp_path: Path, marker: Marker) -> None:
    path = vit(tmp_path, marker)
    (path / "model.safetensors").unlink()
    torch.save({"x": torch.ones(1), "y": marker}, path / "pytorch_model.bin")
    with pytest.raises(
        InputError, match=r"a vision model of transformers at .* found a file that holds more than tensors"
    ):
        imported(kind="hf", path=str(path))
    assert not marker.ran()


def test_a_network_of_timm_that_a_configuration_names_on_the_hub_is_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    rewrite(tmp_path / "config.json", model_type="timm_wrapper", architecture="hf-hub:nobody/nothing", num_classes=7)
    with pytest.raises(InputError, match=r"a vision model of transformers at .*Hub"):
        imported(kind="hf", path=str(tmp_path), untrained=True, preprocessing=PREPROCESSING)


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch keeps what it has downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def test_a_download_of_torchvision_that_somebody_changed_is_not_run(downloads: Path, marker: Marker) -> None:
    url: str = models.ResNet18_Weights.DEFAULT.url
    torch.save({"fc.bias": marker}, downloads / url.rpartition("/")[2])
    with pytest.raises(InputError, match=r"torchvision's weights of resnet18.*delete a damaged download"):
        imported(kind="torchvision", name="resnet18", pretrained=True)
    assert not marker.ran()


def test_a_download_of_timm_that_somebody_changed_is_not_run(downloads: Path, marker: Marker) -> None:
    url: str = timm.models.get_pretrained_cfg("resnet10t").url
    torch.save({"fc.bias": marker}, downloads / url.rpartition("/")[2])
    with pytest.raises(InputError, match="resnet10t with its pretrained weights from timm"):
        imported(kind="timm", name="resnet10t", pretrained=True)
    assert not marker.ran()


@pytest.mark.parametrize("option", ["checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"])
def test_options_of_timm_name_no_other_weights(option: str) -> None:
    with pytest.raises(ValidationError, match=rf"options of the network itself; found {option}.*under weights"):
        Imported.model_validate({"kind": "timm", "name": "x", "untrained": True, "options": {option: "evil.pth"}})


def test_networks_of_torchvision_that_download_a_backbone_by_themselves_are_no_classifiers() -> None:
    with pytest.raises(InputError, match=r"a network of torchvision: .*found 'fcn_resnet50'"):
        imported(kind="torchvision", name="fcn_resnet50", untrained=True)


def test_a_library_cannot_unpickle_code_whatever_it_asks_for(tmp_path: Path, marker: Marker) -> None:
    torch.save({"x": marker}, tmp_path / "w.pth")
    before = os.environ.get(WEIGHTS_ONLY)
    with confined(), pytest.raises(Exception, match="weights_only"):
        torch.load(tmp_path / "w.pth", weights_only=False)
    assert os.environ.get(WEIGHTS_ONLY) == before
    assert not marker.ran()
    torch.load(tmp_path / "w.pth", weights_only=False)
    assert marker.ran()


def test_nothing_waits_for_an_answer_on_the_terminal(marker: Marker) -> None:
    with unattended(), pytest.raises(EOFError):
        input()
    assert input() == "y"


@pytest.mark.parametrize("switched_off", [True, False])
def test_the_hub_is_reached_only_where_a_download_is_asked_for(
    switched_off: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = huggingface_hub.constants
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", switched_off)
    with confined():
        confined_offline = hub.HF_HUB_OFFLINE
    with confined(download=True):
        download_offline = hub.HF_HUB_OFFLINE
    assert (confined_offline, download_offline, hub.HF_HUB_OFFLINE) == (True, switched_off, switched_off)


GIVEN = object()
"""An option that must be there, with any value."""
OPTIONS: dict[str, dict[str, object]] = {
    "from_pretrained": {"trust_remote_code": False, "local_files_only": GIVEN},
    "from_config": {"trust_remote_code": False},
    "timm.create_model": {"pretrained": GIVEN},
    "timm.models.create_model": {"pretrained": GIVEN},
    "get_model": {"weights": GIVEN},
    "torch.load": {"weights_only": True},
    "np.load": {"allow_pickle": False},
    "numpy.load": {"allow_pickle": False},
}
"""What a call of these functions must say, by the end of the function's dotted name."""
REFUSED = {
    "AutoProcessor",
    "AutoTokenizer",
    "eval",
    "exec",
    "getpass.getpass",
    "hf_hub_download",
    "input",
    "load_state_dict_from_url",
    "pickle.Unpickler",
    "pickle.load",
    "pickle.loads",
    "snapshot_download",
    "torch.export.load",
    "torch.hub",
    "torch.jit.load",
    "torch.package",
}
"""What runs foreign code or reaches a network whatever its settings, or asks on the terminal."""


BUILTIN = {"eval", "exec", "input"}


def names(found: str, function: str) -> bool:
    """Whether a dotted name is that of a function: one without dots may be of any class or module."""
    plain = "." not in function and function not in BUILTIN
    return found == function or (plain and found.endswith(f".{function}"))


def unsafe(text: str) -> Iterator[str]:
    """Uses of functions that run foreign code or reach a network, without the option that keeps them from it."""
    tree = ast.parse(text)
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            # Imported by itself, a function would not be found below.
            for name in (f"{node.module}.{alias.name}" for alias in node.names):
                if any(names(name, function) for function in (*REFUSED, *OPTIONS)):
                    yield f"line {node.lineno}: import of {name}"
        if not isinstance(node, ast.Attribute | ast.Name):
            continue
        name, call = ast.unparse(node), calls.get(id(node))
        if any(names(name, function) and (call or function not in BUILTIN) for function in REFUSED):
            yield f"line {node.lineno}: {name}"
        for function, options in OPTIONS.items():
            if not names(name, function):
                continue
            given = {} if call is None else {keyword.arg: keyword.value for keyword in call.keywords}
            for option, value in options.items():
                found = given.get(option)
                wrong = value is not GIVEN and not (isinstance(found, ast.Constant) and found.value is value)
                if found is None or wrong:
                    yield f"line {node.lineno}: {name} without {option}" + ("" if value is GIVEN else f"={value}")


def test_every_call_that_could_run_foreign_code_or_reach_a_network_has_its_safety_option() -> None:
    files = [path for room in ("pipeline", "stages", "cluster") for path in sorted((ROOT / room).rglob("*.py"))]
    texts = {str(path.relative_to(ROOT)): path.read_text() for path in files}
    assert sum(text.count(f"{name}(") for text in texts.values() for name in OPTIONS) >= 8
    found = [f"{name}, {what}" for name, text in texts.items() for what in unsafe(text)]
    # The one place where code runs that is not ours: a file that the study names as code, known by its sha256.
    assert [re.sub(r"line \d+", "", one) for one in found] == ["stages/external/code.py, : exec"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("transformers.AutoModel.from_pretrained(p, local_files_only=True)", "without trust_remote_code=False"),
        ("A.from_pretrained(p, trust_remote_code=no, local_files_only=x)", "without trust_remote_code=False"),
        ("A.from_pretrained(p, trust_remote_code=False)", "without local_files_only"),
        ("tried(A.from_pretrained, p)", "without trust_remote_code=False"),
        ("A.from_config(c, trust_remote_code=True)", "without trust_remote_code=False"),
        ("torch.load(p, **options)", "without weights_only=True"),
        ("from torch import load", "import of torch.load"),
        ("np.load(p)", "without allow_pickle=False"),
        ("timm.create_model(n)", "without pretrained"),
        ("models.get_model(n)", "without weights"),
        ("torch.hub.load(r, m)", "torch.hub"),
        ("answer = input()", "input"),
    ],
)
def test_a_call_without_its_safety_option_is_found(text: str, found: str) -> None:
    assert any(found in each for each in unsafe(text))
