"""What the documentation shows is run: every command of the README and every block of code in docs/."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from tests.finished import Finished

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"```(python|console)\n(.*?)```", re.DOTALL)


def blocks(path: str, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall((ROOT / path).read_text()) if kind == language]


def test_the_formats_open_with_the_tools_that_the_page_names(
    finished: Finished, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = blocks("docs/formats.md", "python")
    names: dict[str, Any] = {"STUDY": str(finished.study), "STORE": str(finished.store)}
    assert len(shown) == 6
    for block in shown:
        exec(compile(block, "docs/formats.md", "exec"), names)
    out = capsys.readouterr().out
    assert "('row', 'feature')" in out
    assert "heldout" in out
    assert "000000000" in out


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
