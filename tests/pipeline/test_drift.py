"""The digest of a stage's code: what moves it, what does not, and what a run makes of it."""

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.inline import Inline
from pipeline.drift import Code
from pipeline.errors import StepFailedError
from pipeline.events import Event
from pipeline.plan import plan
from pipeline.run import run
from pipeline.step import Step
from pipeline.store import open_store
from stages.contract import Stage
from tests.faults.arithmetic import Numbers

STAGE = '''
"""A stage in a package of its own."""

from typing import TYPE_CHECKING

from stages.contract import Estimate, Part, Stage

if TYPE_CHECKING:
    from {package} import typing_only


class Words(Stage):
    """Writes words."""

    name = "words"
    version = 1
    bitwise = True

    def estimate(self, upstream):
        return Estimate(rows=2, size_bytes=10, cpu_seconds=0.1)

    def split(self, inputs):
        return [Part(index=0), Part(index=1)]

    def work(self, part, state, inputs, out):
        from {package}.helper import word

        if part.index == 1 and {fails}:
            raise RuntimeError("fails")
        out.put(f"{{part.index}}.txt", word().encode())
        return {{}}
'''
HELPER = '''
"""Help."""


def word():
    """A word."""
    return "light"  # of the first order
'''


class Package:
    """A package in a folder, written and imported anew as its code changes."""

    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        self.folder = root / name / "room"
        self.folder.mkdir(parents=True)
        (root / name / "__init__.py").write_text("")
        self.write("__init__.py", "")
        self.write("helper.py", HELPER)
        self.write("typing_only.py", "x = 1\n")
        self.stage(fails=False)

    def write(self, file: str, text: str) -> None:
        """Changes a file, on the disk only."""
        (self.folder / file).write_text(text)

    def stage(self, *, fails: bool) -> None:
        """Writes the stage."""
        self.write("stage.py", STAGE.format(package=f"{self.name}.room", fails=fails))

    def load(self) -> type[Stage]:
        """The stage as a new process would import it."""
        for module in [module for module in sys.modules if module.partition(".")[0] == self.name]:
            del sys.modules[module]
        importlib.invalidate_caches()
        found: type[Stage] = importlib.import_module(f"{self.name}.room.stage").Words
        return found

    def digest(self) -> str:
        """The digest of the stage's code as a new process would see it."""
        return Code().digest(self.load())


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Package]:
    """A package that no other test has imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield Package(tmp_path, f"package_{abs(hash(request.node.name)) % 10**9}")
    sys.path_importer_cache.clear()


def test_comments_docstrings_and_layout_move_nothing(package: Package) -> None:
    before = package.digest()
    package.write("helper.py", '"""Other help."""\ndef word():\n    # why not\n    return (\n        "light"\n    )\n')
    assert package.digest() == before


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("helper.py", HELPER.replace("light", "dark")),
        ("helper.py", HELPER + "\nX = 1\n"),
        ("stage.py", STAGE.format(package="package.room", fails=True)),
        ("__init__.py", "print"),
        ("helper.html", "<p>a template</p>"),
    ],
)
def test_code_and_templates_move_it(package: Package, file: str, text: str) -> None:
    before = package.digest()
    package.write(file, text.replace("package.room", f"{package.name}.room"))
    assert package.digest() != before


def test_what_only_a_type_checker_imports_moves_nothing(package: Package) -> None:
    before = package.digest()
    package.write("typing_only.py", "x = 2\n")
    assert package.digest() == before


def test_code_that_is_not_imported_moves_nothing(package: Package) -> None:
    before = package.digest()
    package.write("stranger.py", "x = 2\n")
    package.write("stranger.html", "<p>another's template</p>")
    assert package.digest() == before


def test_what_a_stage_imports_inside_stages_counts() -> None:
    from pipeline.drift import _path
    from stages.shards.stage import Shards

    code = Code()
    code.digest(Shards)
    assert _path("stages.contract") in code._files
    assert _path("stages.shards.format") in code._files
    assert not [path for path in code._files if "pipeline" in path.parts or "cluster" in path.parts]


def test_the_cache_gives_what_reading_gives_and_sees_every_change(package: Package) -> None:
    def age() -> None:
        for path in package.folder.iterdir():
            if path.is_file():
                os.utime(path, (1_000_000_000, 1_000_000_000))

    age()
    fresh = Code()
    before = fresh.digest(package.load())
    fresh.save()
    assert Code().digest(package.load()) == before
    package.write("helper.py", HELPER.replace("light", "night"))
    age()
    assert Code().digest(package.load()) != before


def graph(package: Package) -> list[Step]:
    """One step of the package's stage."""
    return [Step("words", package.load()())]


def test_a_finished_step_of_other_code_is_a_hit_that_says_drift(package: Package, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    run(graph(package), store, Inline)
    assert plan(graph(package), store)[0].state == "done"
    package.write("helper.py", HELPER.replace("light", "dark"))
    assert plan(graph(package), store)[0].state == "DRIFT"
    result = run(graph(package), store, Inline)
    assert (result.run_id, result.steps[0].outcome, result.steps[0].drift) == (None, "hit", True)
    result = run(graph(package), store, Inline, force=["words"])
    assert plan(graph(package), store)[0].state == "done"
    assert (Path(result.url("words")) / "0.txt").read_text() == "dark"


CHANGED = "the code has changed since it was begun"


def test_unfinished_work_of_other_code_is_not_continued_unless_accepted(package: Package, tmp_path: Path) -> None:
    package.stage(fails=True)
    for accept, name, parts in ((False, "g0001", [0, 1]), (True, "g0000", [1])):
        store = open_store(str(tmp_path / f"store-{accept}"))
        package.stage(fails=True)
        with pytest.raises(StepFailedError):
            run(graph(package), store, Inline)
        package.stage(fails=False)
        assert "code has changed" in plan(graph(package), store)[0].reason
        heard: list[Event] = []
        result = run(graph(package), store, Inline, accept_drift=accept, listener=heard.append)
        assert result.url("words").endswith(name)
        assert [event.fields["part"] for event in heard if event.kind == "part_done"] == parts
        reason = next(event.fields["reason"] for event in heard if event.kind == "step_started")
        assert reason == ("1 of 2 parts, begun by other code" if accept else f"{CHANGED}; 1 of 2 parts are given up")


def test_work_of_two_codes_says_drift_and_never_that_it_is_todays(package: Package, tmp_path: Path) -> None:
    package.stage(fails=True)
    store = open_store(str(tmp_path / "store"))
    with pytest.raises(StepFailedError):
        run(graph(package), store, Inline)
    package.stage(fails=False)
    assert run(graph(package), store, Inline, accept_drift=True).steps[0].drift
    assert plan(graph(package), store)[0].state == "DRIFT"
    package.stage(fails=True)
    assert plan(graph(package), store)[0].state == "DRIFT"


def test_code_that_is_edited_during_a_run_is_refused_by_the_steps_to_come(package: Package, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    stage = package.load()
    digests: list[str] = []

    def edit(event: Event) -> None:
        if event.kind == "step_done":
            digests.append(package.digest())
            package.write("helper.py", HELPER.replace("light", "dark"))

    steps = [Step("numbers", Numbers()), Step("words", stage())]
    with pytest.raises(StepFailedError, match="restart the cluster if it was changed"):
        run(steps, store, Inline, listener=edit)
    assert package.digest() != digests[0]


def test_a_worker_whose_code_is_not_the_drivers_refuses(package: Package, tmp_path: Path) -> None:
    steps = graph(package)
    store = open_store(str(tmp_path / "store"))
    run(steps, store, Inline)
    package.write("helper.py", HELPER.replace("light", "dark"))
    with pytest.raises(StepFailedError, match="Install the same version of the project on every machine"):
        run(steps, store, Inline, force=["words"])
