"""What the documentation shows is run: every command of the README and every block of code in docs/."""

import importlib
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from pydantic import BaseModel, TypeAdapter

from pipeline.cli import main
from pipeline.study import Encoder, load, taps_of
from stages import attributes
from stages.datasets.cifar import Cifar10Source
from stages.datasets.columns import Column, Split
from stages.datasets.labels import Table
from stages.datasets.parquet import ParquetSource
from stages.datasets.sources import FolderSource
from stages.datasets.tars import WebdatasetSource
from stages.decoder.extension.stage import Extension
from stages.decoder.rcdm.published_stage import Released
from stages.decoder.rcdm.stage import Rcdm
from stages.decoder.stage import Decoder
from stages.encoders.sources.settings import KINDS, Override
from stages.encoders.stage import Imported
from stages.listing.stage import Listing
from stages.pretrain.stage import Pretrain
from stages.questions.asks.stage import Sources, Transformed
from stages.questions.faithfulness.stage import Faithfulness
from stages.questions.invariance.stage import Invariance
from stages.questions.kept.stage import Kept
from stages.readers.stage import Probes, Readers
from stages.samples.stage import Samples
from stages.shards.stage import Shards
from tests.artifacts import run_stage
from tests.finished import Finished
from tests.stages.datasets.written import datasets

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"```(python|console|yaml)\n(.*?)```", re.DOTALL)


def blocks(path: str, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall((ROOT / path).read_text()) if kind == language]


# webdataset leaves closing its files to the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning")
def test_the_formats_open_with_the_tools_that_the_page_names(
    finished: Finished, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    shown = blocks("docs/formats.md", "python")
    names: dict[str, Any] = {"STUDY": str(finished.study), "STORE": str(finished.store)}
    assert len(shown) == 6
    for block in shown:
        exec(compile(block, "docs/formats.md", "exec"), names)
    out = capsys.readouterr().out
    assert "('row', 'feature')" in out
    assert "heldout" in out
    assert "000000000" in out


def test_the_stage_that_is_shown_runs_and_is_cached(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "shown_stage.py"
    module.write_text("\n".join(blocks("docs/writing.md", "python")[:2]))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("shown_stage")
    out = capsys.readouterr().out
    assert "{'rows': 25}" in out
    assert "['hit']" in out


def test_the_study_page_names_every_field() -> None:
    page = (ROOT / "docs" / "study.md").read_text()
    blocks_of_study = (Listing, Shards, Pretrain, Readers, Probes, Sources, Transformed, Kept, Faithfulness, Invariance)
    for stage in (*blocks_of_study, Decoder, Extension, Rcdm, Released, Samples):
        for field in stage.model_fields:
            assert f"`{field}`" in page or field == "snapshot", f"{stage.__name__}.{field}"


def test_encoders_shown_are_encoders_and_inherit_by_anchors() -> None:
    shown = [yaml.safe_load(block) for block in blocks("docs/study.md", "yaml")]
    encoders = [
        TypeAdapter(dict[str, Encoder]).validate_python(block["encoders"]) for block in shown if "encoders" in block
    ]
    assert any(
        [(e.method, e.label, e.seed) for e in found.values() if isinstance(e, Pretrain)]
        == [("simclr", None, s) for s in range(3)] + [("supervised", "shape", s) for s in range(3)]
        for found in encoders
    )


def test_the_extension_that_is_shown_is_one(tmp_path: Path) -> None:
    section = (ROOT / "docs" / "study.md").read_text().partition("## Extensions")[2].partition("\n## ")[0]
    (shown,) = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    (tmp_path / "study.yaml").write_text(shown + "\nstudy: shown\ndataset: {listing: {source: {kind: scenes}}}\n")
    (extension,) = load(str(tmp_path / "study.yaml")).extensions
    assert extension.taps == ("vicreg:backbone", "vicreg:projector")


def test_the_encoders_that_are_shown_are_taken_as_they_stand(tmp_path: Path) -> None:
    section = (ROOT / "docs" / "study.md").read_text().partition("## Encoders of your own")[2].partition("\n## ")[0]
    (shown,) = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    rest = "\nstudy: shown\ndataset: {listing: {source: {kind: scenes}}}\ndecoder: {taps: ['resnet:layer3']}\n"
    (tmp_path / "study.yaml").write_text(shown + rest)
    encoders = load(str(tmp_path / "study.yaml")).encoders
    known = {name: taps_of(encoder) for name, encoder in encoders.items()}
    assert known["resnet"] == ("backbone", "layer3", "layer4.2.conv1")
    assert known["clip"] == ("backbone", "shared")
    assert known["barlow"] == ("backbone", "projector.0", "projector.1", "projector")
    settings: list[type[BaseModel]] = [*KINDS.values(), Imported, Override]
    for block in settings:
        for field in block.model_fields:
            assert f"`{field}`" in section or field in ("kind", "source"), f"{block.__name__}.{field}"


def test_the_code_of_ones_own_that_is_shown_is_an_encoder(tmp_path: Path) -> None:
    section = (ROOT / "docs" / "study.md").read_text().partition("## Encoders of your own")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (tmp_path / "nets.py").write_text(code)
    names: dict[str, Any] = {}
    exec(code, names)
    torch.save(names["make"]().state_dict(), tmp_path / "mine.pth")
    stage = Imported.model_validate(
        {
            "kind": "torch",
            "factory": f"{tmp_path}/nets.py:make",
            "weights": str(tmp_path / "mine.pth"),
            "taps": {"early": "features.1@mean", "projection": "projection"},
            "preprocessing": {"size": 32},
        }
    )
    assert run_stage(stage).summary["taps"] == {"backbone": 32, "early": 32, "projection": 16}


@pytest.mark.parametrize("page", ["README.md", "docs/study.md"])
def test_every_command_shown_is_one_that_repscope_has(page: str) -> None:
    lines = [line for block in blocks(page, "console") for line in block.splitlines() if line.startswith("$ repscope")]
    assert lines
    for line in lines:
        words = shlex.split(line.removeprefix("$ repscope"), comments=True)
        command = main.commands[words[0]]
        known = {name for option in command.params for name in option.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_every_command_has_help_that_says_what_it_does() -> None:
    for name, command in main.commands.items():
        result = CliRunner().invoke(main, [name, "--help"])
        assert result.exit_code == 0
        assert command.help, name


def test_the_datasets_that_are_shown_become_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = (ROOT / "docs" / "study.md").read_text().partition("## Datasets")[2].partition("\n## ")[0]
    shown = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)]
    datasets(tmp_path)
    monkeypatch.chdir(tmp_path)
    found = {}
    for number, study in enumerate(shown):
        listing = Listing.model_validate(study["dataset"]["listing"] | {"holdout": 0.4})
        shards = Shards.model_validate(study["dataset"].get("shards", {}))
        packed = run_stage(shards, {"listing": run_stage(listing)})
        known = [attribute.name for attribute in attributes.load(packed.objects["attributes.json"])]
        found[f"{number}.{listing.source.kind}"] = (packed.summary["ok"], packed.summary["heldout"] > 0, known)
    assert found == {
        "0.folder": (16, True, ["class"]),
        "1.folder": (16, True, ["class", "age", "breed"]),
        "2.webdataset": (16, True, ["age", "class", "pose.angle"]),
        "3.parquet": (16, True, ["label", "weight"]),
        "4.cifar10": (12, True, ["class"]),
        "5.folder": (16, True, ["class"]),
    }
    settings: list[type[BaseModel]] = [
        FolderSource,
        WebdatasetSource,
        ParquetSource,
        Cifar10Source,
        Table,
        Column,
        Split,
    ]
    for block in settings:
        for field in block.model_fields:
            assert f"`{field}`" in section or f"{field}:" in section, f"{block.__name__}.{field}"
