"""A question added to a copy of the code as docs/guide/extending.md says: what changes with it, and what does not."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.finished import MICRO, Finished

ROOT = Path(__file__).parents[2]
NAMED = ("stage.py", "answer.py", "section.py")

DESCRIBE = """
import json, sys
from pipeline.drift import Code
from pipeline.fingerprint import Fingerprints
from pipeline.graph import graph_of
from pipeline.plan import keys_of
from pipeline.study import load

steps, code = graph_of(load(sys.argv[1])), Code()
keys = {name: key.digest for name, key in keys_of(steps, Fingerprints(refresh=False)).items()}
print(json.dumps({"keys": keys, "code": {step.name: code.digest(type(step.stage)) for step in steps}}))
"""
RUN = "from pipeline.cli import main; main()"


@dataclass(frozen=True)
class Copy:
    """A copy of the three rooms, run in processes of its own."""

    root: Path

    def python(self, code: str, *words: str | Path) -> Any:
        """What `code` prints, read as JSON."""
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, words)],
            cwd=self.root,
            env=os.environ | {"PYTHONPATH": str(self.root)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def describe(self, study: Path) -> dict[str, dict[str, str]]:
        """Keys and digests of code of a study's steps, by their names."""
        found: dict[str, dict[str, str]] = self.python(DESCRIBE, study)
        return found

    def run(self, study: Path, store: Path) -> Any:
        """Runs a study from the command line."""
        return self.python(RUN, "run", study, "--store", store, "--executor", "inline", "--json")

    def add_question(self, *more: tuple[str, str]) -> None:
        """Follows the recipe: the folder with its files, and the catalogue's lines. `more`: changes of `stage.py`."""
        recipe = (ROOT / "docs" / "guide" / "extending.md").read_text().partition("### How to add a question")[2]
        files: Sequence[str] = re.findall(r"```python\n(.*?)```", recipe, re.DOTALL)
        folder = self.root / "stages" / "questions" / "spread"
        folder.mkdir()
        for name, text in zip(("__init__.py", *NAMED), ("", *files), strict=True):
            (folder / name).write_text(text)
        stage = folder / "stage.py"
        for before, after in more:
            assert before in stage.read_text()
            stage.write_text(stage.read_text().replace(before, after))
        catalogue = self.root / "stages" / "questions" / "catalogue.py"
        text = catalogue.read_text()
        text = text.replace("\nfrom ", "\nfrom stages.questions.spread.stage import Spread\nfrom ", 1)
        catalogue.write_text(text.replace("    Invariance,\n", "    Invariance,\n    Spread,\n"))


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    """The code as it is, to be changed."""
    root = tmp_path / "code"
    for room in ("pipeline", "stages", "cluster"):
        shutil.copytree(ROOT / room, root / room, ignore=shutil.ignore_patterns("__pycache__"))
    return Copy(root)


def differing(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """Names of both whose values are not equal."""
    assert before.keys() <= after.keys()
    return {name for name in before if before[name] != after[name]}


def test_a_question_that_is_added_changes_the_report_alone(copy: Copy, finished: Finished, tmp_path: Path) -> None:
    before = copy.describe(MICRO)
    copy.add_question()
    unasked = copy.describe(MICRO)
    assert unasked["keys"] == before["keys"]
    assert differing(before["code"], unasked["code"]) == {"report"}

    study = tmp_path / "study.yaml"
    study.write_text(MICRO.read_text().replace("  invariance: {}\n", "  invariance: {}\n  spread: {}\n"))
    asked = copy.describe(study)
    assert asked["keys"].keys() - before["keys"].keys() == {"spread"}
    assert differing(before["keys"], asked["keys"]) == {"report"}
    assert differing(before["code"], asked["code"]) == {"report"}

    store = tmp_path / "store"
    shutil.copytree(finished.store, store)
    run = copy.run(study, store)
    assert set(run["made"]) == {"spread", "report"}
    page = Path(run["report"].removeprefix("file://")).read_text()
    assert '<section id="spread">\n<h2>Spread</h2>' in page
    assert '<li><a href="#spread">Spread</a></li>' in page
    assert "averaged over pixels, then over sources" in page
    assert page.count("share of full intensity") == 3


OWN_ASK = """from stages.questions.question import Ask, AskStage, Question


class Darker(AskStage):
    \"\"\"Embeddings of darker images.\"\"\"

    name: ClassVar[str] = "darker"
    version: ClassVar[int] = 1
    bitwise: ClassVar[bool] = False

    share: float = 0.5
"""


def test_a_question_may_have_an_ask_of_its_own_whose_settings_are_a_field_of_the_study(
    copy: Copy, tmp_path: Path
) -> None:
    before = copy.describe(MICRO)
    copy.add_question(
        ("from stages.questions.question import Question\n", OWN_ASK), ("ask = SOURCES", 'ask = Ask("darker", Darker)')
    )
    study = tmp_path / "study.yaml"
    found = []
    for share in (0.5, 0.25):
        study.write_text(f"{MICRO.read_text()}  spread: {{}}\ndarker: {{share: {share}}}\n")
        found.append(copy.describe(study))
    assert found[0]["keys"].keys() - before["keys"].keys() == {"ask.darker", "samples.darker", "spread"}
    assert differing(before["keys"], found[0]["keys"]) == {"report"}
    assert differing(found[0]["keys"], found[1]["keys"]) == {"ask.darker", "samples.darker", "spread", "report"}


def test_the_template_of_a_section_counts_in_the_code_of_the_report_alone(copy: Copy) -> None:
    before = copy.describe(MICRO)["code"]
    template = copy.root / "stages" / "questions" / "kept" / "section.html"
    template.write_text(template.read_text() + "<!-- changed -->")
    assert differing(before, copy.describe(MICRO)["code"]) == {"report"}
