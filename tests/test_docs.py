"""What the documentation shows is run: every command of the README and every block of code in docs/."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
import yaml
from click.testing import CliRunner
from pydantic import BaseModel, TypeAdapter

from docs import generate
from pipeline.cli import main
from pipeline.study import Encoder, Study, load, taps_of
from stages import attributes
from stages.datasets import scenes
from stages.datasets.cifar import Cifar10Source
from stages.datasets.columns import Column, Split
from stages.datasets.labels import LabelTable
from stages.datasets.parquet import ParquetSource
from stages.datasets.sources import CollageSource, FolderSource
from stages.datasets.tars import WebdatasetSource
from stages.decoder.rcdm.published_stage import ReleasedDecoder
from stages.decoder.rcdm.stage import Rcdm
from stages.decoder.stage import Decoder
from stages.encoders.sources.settings import KINDS, Override
from stages.encoders.stage import Imported
from stages.listing.stage import Listing
from stages.pretrain.stage import Pretrain
from stages.samples.stage import Samples
from stages.shards.stage import Shards
from tests.artifacts import run_stage
from tests.finished import Finished
from tests.stages.datasets.written import datasets

ROOT = Path(__file__).parent.parent
PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
GUIDE = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs" / "guide").glob("*.md"))
BLOCK = re.compile(r"```(python|console|yaml)\n(.*?)```", re.DOTALL)


def blocks(path: str, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall((ROOT / path).read_text()) if kind == language]


# webdataset leaves closing its files to the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning")
def test_the_formats_open_with_the_tools_that_the_page_names(
    finished: Finished, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    shown = blocks("docs/reference/formats.md", "python")
    names: dict[str, Any] = {"STUDY": str(finished.study), "STORE": str(finished.store)}
    assert len(shown) == 7
    for block in shown:
        exec(compile(block, "docs/reference/formats.md", "exec"), names)
    out = capsys.readouterr().out
    assert "('row', 'feature')" in out
    assert "heldout" in out
    assert "000000000" in out


def test_the_python_that_is_shown_runs_a_study(
    finished: Finished, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "study.yaml").symlink_to(finished.study)
    (tmp_path / "store").symlink_to(finished.store)
    monkeypatch.chdir(tmp_path)
    shown = blocks("docs/reference/python.md", "python")
    assert len(shown) == 2
    for block in shown:
        exec(compile(block, "docs/reference/python.md", "exec"), {})
        *_, url = capsys.readouterr().out.splitlines()
        assert Path(url, "report.html").is_file()


def test_the_stage_that_is_shown_runs_and_is_cached(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "shown_stage.py"
    module.write_text("\n".join(blocks("docs/guide/extending.md", "python")[:2]))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("shown_stage")
    out = capsys.readouterr().out
    assert "{'rows': 25}" in out
    assert "['hit']" in out


def test_generated_pages_are_what_the_code_says_today() -> None:
    for name, text in generate.pages().items():
        page = ROOT / "docs" / "reference" / name
        assert page.read_text(encoding="utf-8") == text, f"write {name} anew: python -m docs.generate"


def test_every_field_of_every_block_of_a_study_is_described_on_the_page() -> None:
    page = (ROOT / "docs" / "reference" / "study.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE))
    blocks_of_study = generate.blocks(Study)
    assert {Listing, Imported, Pretrain, Decoder, Rcdm, ReleasedDecoder, Samples} <= {
        block.model for block in blocks_of_study
    }
    for block in blocks_of_study:
        for field, info in block.model.model_fields.items():
            if get_origin(info.annotation) is not Literal or len(get_args(info.annotation)) > 1:
                (row,) = re.findall(rf"^\| `{field}` \|.*", sections[block.title], re.MULTILINE)
                assert generate.described(block.model, field).replace("|", "\\|") in row


class Undescribed(BaseModel):
    """A block with a field that nothing describes."""

    described: int = 0
    """A number."""
    bare: int = 0


def test_a_field_without_a_docstring_has_no_page() -> None:
    with pytest.raises(generate.UndescribedError, match=r"Undescribed\.bare"):
        generate.study_page(Undescribed)


def test_a_field_that_is_a_block_is_described_by_the_first_sentence_on_the_block() -> None:
    assert generate.described(Study, "samples") == "Paints each condition `per_source` times."


def test_every_page_is_in_the_navigation_once() -> None:
    def listed(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [page for inner in (entry.values() if isinstance(entry, dict) else entry) for page in listed(inner)]

    pages = [str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(listed(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])) == sorted(pages)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *PAGES])
def test_links_and_pictures_of_a_page_lead_to_files(page: str) -> None:
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert target.startswith("https://") or ((ROOT / page).parent / target).is_file(), target


def test_every_test_that_the_page_of_reliability_names_exists() -> None:
    page = (ROOT / "docs" / "understanding" / "reliability.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(named) > 30
    for path, name in named:
        assert re.search(rf"^ *def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), (
            f"{path}::{name}"
        )
    rows = list(takewhile(lambda row: row.startswith("|"), page.partition("| fault |")[2].splitlines()[2:]))
    assert len(rows) >= 23
    assert all("::" in row for row in rows)


def test_paths_of_documentation_in_code_and_messages_exist() -> None:
    folders = ("pipeline", "stages", "cluster", "tests")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".yaml")]
    named = {found for path in files for found in re.findall(r"docs/[\w/]+\.md", path.read_text(encoding="utf-8"))}
    assert "docs/reference/study.md" in named
    assert [path for path in sorted(named) if not (ROOT / path).is_file()] == []


def test_every_target_of_the_makefile_says_what_it_does() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = next(line.split()[1:] for line in text.splitlines() if line.startswith(".PHONY:"))
    printed = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    shown = dict(line.split(maxsplit=1) for line in printed.splitlines())
    assert sorted(shown) == sorted(targets)
    assert sorted(targets) == sorted(re.findall(r"^([a-z-]+):", text, re.MULTILINE))


def test_encoders_shown_are_encoders_and_inherit_by_anchors() -> None:
    shown = [yaml.safe_load(block) for page in GUIDE for block in blocks(page, "yaml")]
    encoders = [
        TypeAdapter(dict[str, Encoder]).validate_python(block["encoders"]) for block in shown if "encoders" in block
    ]
    assert any(
        [(e.method, e.label, e.seed) for e in found.values() if isinstance(e, Pretrain)]
        == [("simclr", None, s) for s in range(3)] + [("supervised", "shape", s) for s in range(3)]
        for found in encoders
    )


def test_the_extension_that_is_shown_is_one(tmp_path: Path) -> None:
    section = (ROOT / "docs" / "guide" / "decoders.md").read_text().partition("## Extensions")[2].partition("\n## ")[0]
    (shown,) = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    (tmp_path / "study.yaml").write_text(shown + "\nstudy: shown\ndataset: {listing: {source: {kind: scenes}}}\n")
    (extension,) = load(str(tmp_path / "study.yaml")).extensions
    assert extension.taps == ("vicreg:backbone", "vicreg:projector")


def test_the_encoders_that_are_shown_are_taken_as_they_stand(tmp_path: Path) -> None:
    section = (ROOT / "docs" / "guide" / "encoders.md").read_text()
    (shown,) = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    remaining = "\nstudy: shown\ndataset: {listing: {source: {kind: scenes}}}\ndecoder: {taps: ['resnet:layer3']}\n"
    (tmp_path / "study.yaml").write_text(shown + remaining)
    encoders = load(str(tmp_path / "study.yaml")).encoders
    known = {name: taps_of(encoder) for name, encoder in encoders.items()}
    assert known["resnet"] == ("backbone", "layer3", "layer4.2.conv1")
    assert known["clip"] == ("backbone", "pooled")
    assert known["barlow"] == ("backbone", "projector.0", "projector.1", "projector")
    settings: list[type[BaseModel]] = [*KINDS.values(), Imported, Override]
    for block in settings:
        for field in block.model_fields:
            assert f"`{field}`" in section or field in ("kind", "source"), f"{block.__name__}.{field}"


def test_the_code_of_ones_own_that_is_shown_is_an_encoder(tmp_path: Path) -> None:
    section = (ROOT / "docs" / "guide" / "encoders.md").read_text()
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


def test_every_command_shown_is_one_that_repscope_has() -> None:
    pages = ["README.md", "CONTRIBUTING.md", *GUIDE]
    shown = [line for page in pages for block in blocks(page, "console") for line in block.splitlines()]
    lines = [line for line in shown if line.startswith("$ repscope")]
    assert {line.split()[2] for line in lines} >= main.commands.keys()
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
    section = (ROOT / "docs" / "guide" / "datasets.md").read_text()
    shown = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)]
    datasets(tmp_path)
    monkeypatch.chdir(tmp_path)
    found = {}
    for number, study in enumerate(shown):
        if "count" in study["dataset"]["listing"]["source"]:
            # Few images; where combinations are named, enough that each has one.
            study["dataset"]["listing"]["source"]["count"] = 400 if "unseen" in study["dataset"]["listing"] else 16
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
        "5.collage": (16, True, ["class", "x", "y", "scale", "rotation", "hue", "brightness"]),
        "6.scenes": (400, True, [attribute.name for attribute in scenes.ATTRIBUTES]),
        "7.folder": (16, True, ["class"]),
    }
    settings: list[type[BaseModel]] = [
        FolderSource,
        CollageSource,
        WebdatasetSource,
        ParquetSource,
        Cifar10Source,
        LabelTable,
        Column,
        Split,
    ]
    for block in settings:
        for field in block.model_fields:
            assert f"`{field}`" in section or f"{field}:" in section, f"{block.__name__}.{field}"
