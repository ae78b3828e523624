"""A question in a file of the user's own: that of docs/guide/extending.md runs, is in keys by its text, and is refused
where it cannot be asked."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.inline import Inline
from pipeline.errors import StepFailedError, UsageError
from pipeline.fingerprint import Fingerprints
from pipeline.graph import graph_of
from pipeline.plan import files_of_code, keys_of, plan
from pipeline.run import RunResult, run
from pipeline.step import Step
from pipeline.store import open_store
from pipeline.study import Study, load
from pipeline.submitting import packed, submission_of
from stages.contract import Part
from stages.external import code
from stages.questions.format import load_rows
from stages.questions.own import OwnQuestion

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "extending.md"
SHOWN, WITH_ASK = re.findall(
    r"```python\n(.*?)```", GUIDE.read_text().partition("## A question of your own")[2], re.DOTALL
)[:2]
SMALL = """
from stages.questions.own import OwnQuestion


class Small(OwnQuestion):
    factor: float = 1.0

    def work(self, part, state, inputs, out):
        out.put("answer.txt", b"of the first text")
        return {}


class NoQuestion:
    pass
"""


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """No file of code is known from one test to the next."""
    yield
    code.named({})
    code.travelled({})


def study(tmp_path: Path, questions: Mapping[str, Any], text: str = SHOWN) -> Study:
    """A study of an untrained network on a few scenes; `text` is in `mine.py` beside it."""
    (tmp_path / "mine.py").write_text(text)
    document = {
        "study": "mine",
        "dataset": {"listing": {"source": {"kind": "scenes", "count": 160}}},
        "encoders": {"net": {"kind": "untrained", "architecture": {"widths": [4], "blocks": [1], "projector": [4]}}},
        "decoder": {"taps": ["net:backbone", "net:projector"]},
        "questions": dict(questions),
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return load(str(tmp_path / "study.yaml"))


def own(tmp_path: Path, **settings: Any) -> dict[str, Any]:
    return {"duplicates": {"kind": f"{tmp_path}/mine.py:Duplicates"} | settings}


def answered(graph: list[Step], tmp_path: Path) -> RunResult:
    """Runs all that the answer needs, and a page of it alone."""
    report = next(step for step in graph if step.name == "report")
    steps = [step for step in graph if step.name in ("listing", "shards", "embeddings.net", "duplicates")]
    page = Step("report", report.stage, {"shards": "shards", "results.duplicates": "duplicates"})
    return run([*steps, page], open_store(str(tmp_path / "store")), Inline)


def test_the_question_of_the_guide_answers_and_its_section_and_finding_stand_on_the_page(tmp_path: Path) -> None:
    graph = graph_of(study(tmp_path, own(tmp_path, count=20)))
    store = open_store(str(tmp_path / "store"))
    expected = {state.name: state for state in plan(graph, store)}["duplicates"]
    assert expected.seconds == pytest.approx(1 + 3 * (20 / 1000) ** 2)
    done = answered(graph, tmp_path)
    url = Path(done.url("duplicates").removeprefix("file://"))
    rows = load_rows((url / "results.parquet").read_bytes())
    assert {row.tap for row in rows if row.verdict} == {"backbone", "projector"}
    assert {row.verdict for row in rows if row.verdict} <= {"LEAK", "NO LEAK", "CANNOT TELL"}
    page = Path(done.url("report").removeprefix("file://"), "report.html").read_text()
    assert '<section id="duplicates">' in page
    assert "near copies - control" in page
    assert "An image has a near copy where another is nearer to it" in page
    assert "Train images and held-out images have images in common." in page
    assert 'id="findings/duplicates"' in page


def keys(found: Study) -> dict[str, str]:
    return {name: key.digest for name, key in keys_of(graph_of(found), Fingerprints(refresh=True)).items()}


def test_its_key_and_that_of_the_report_know_it_by_its_text_and_its_settings_and_by_no_path(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    first, second = (keys(study(folder, own(folder))) for folder in folders)
    assert first == second
    graph = graph_of(study(folders[0], own(folders[0])))
    documents = {name: key.document for name, key in keys_of(graph, Fingerprints(refresh=True)).items()}
    assert documents["duplicates"]["fields"]["kind"] == "Duplicates"
    assert str(tmp_path) not in str(documents)
    assert keys(study(folders[0], own(folders[0], limit=1e-2))) == first
    for other in (
        keys(study(folders[0], own(folders[0], limit=0.02))),
        keys(study(folders[0], own(folders[0]), f"{SHOWN}\n")),
    ):
        assert {name for name in first if other[name] != first[name]} == {"duplicates", "report"}
    without = keys(study(tmp_path, {}))
    assert {name for name in without if without[name] != first[name]} == {"report"}


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (
            "none.py:Small",
            {},
            r"questions\.mine: expected a file of code at \S+; found none\. Correct the path",
        ),
        (
            "mine.py:Smal",
            {},
            r"questions\.mine: expected Smal in \S+; found Small, NoQuestion\. Correct the name",
        ),
        (
            "mine.py:NoQuestion",
            {},
            r"derives from stages\.questions\.own\.OwnQuestion; found class NoQuestion",
        ),
        ("mine.py:Small", {"factr": 2}, r"unknown field 'questions\.mine\.factr'"),
        ("mine.py:Small", {"factor": "two"}, r"questions\.mine\.factor: input should be a valid number.*not 'two'"),
        ("package.mine:Small", {}, r"questions\.mine: expected kind: path/to/file\.py:Class"),
    ],
)
def test_what_is_wrong_with_it_is_reported_before_anything_runs(
    kind: str, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        study(tmp_path, {"mine": {"kind": f"{tmp_path}/{kind}"} | settings}, SMALL)


def test_code_that_fails_is_reported_with_what_it_raised(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"to run the code in \S+mine\.py; found ModuleNotFoundError.*no_such_package"):
        study(tmp_path, {"mine": {"kind": f"{tmp_path}/mine.py:Small"}}, "import no_such_package\n")


@pytest.mark.parametrize("name", ["shards", "report", "Mine", "a.b"])
def test_its_name_may_not_be_that_of_another_step(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"(a name of its own|names of questions to match)"):
        graph_of(study(tmp_path, {name: {"kind": f"{tmp_path}/mine.py:Small"}}, SMALL))


@pytest.mark.parametrize("name", ["own", "kept"])
def test_a_name_that_has_a_meaning_already_is_refused_and_the_names_are_listed(name: str, tmp_path: Path) -> None:
    message = rf"questions: expected another name .* than .*edits, .*; found '{name}', which has a meaning already"
    with pytest.raises(UsageError, match=message):
        study(tmp_path, {name: {"kind": f"{tmp_path}/mine.py:Small"}}, SMALL)


def small(tmp_path: Path, text: str = SMALL) -> Step:
    found = study(tmp_path, {"mine": {"kind": f"{tmp_path}/mine.py:Small"}}, text).questions.asked()["mine"]
    return Step("mine", found)


def test_a_file_that_changes_in_the_middle_of_a_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = small(tmp_path)
    file, store = tmp_path / "mine.py", open_store(str(tmp_path / "store"))

    def changed(self: OwnQuestion, inputs: Mapping[str, Any]) -> list[Part]:
        # The driver asks for the parts when keys are known and no work is given out.
        file.write_text(SMALL.replace("first", "other"))
        return [Part(index=0)]

    monkeypatch.setattr(type(step.stage), "split", changed)
    with pytest.raises(StepFailedError, match=r"the file of code mine\.py with sha256.*another file.*run again"):
        run([step], store, Inline)
    again = run([small(tmp_path, file.read_text())], store, Inline)
    assert again.steps[0].outcome == "made"
    assert Path(again.url("mine").removeprefix("file://"), "answer.txt").read_text() == "of the other text"


def test_a_submitted_run_finds_it_in_what_was_sent_along(tmp_path: Path) -> None:
    path = str(tmp_path / "mine.py")
    here = study(tmp_path, {"mine": {"kind": f"{path}:Small"}}, SMALL)
    submission = submission_of(str(tmp_path / "study.yaml"), str(tmp_path / "store"))
    assert list(submission.code) == files_of_code(graph_of(here)) == [path]
    with packed(submission, [], own_code=False) as folder, pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        Path(path).unlink()
        code.travelled(submission.code)
        there = load(str(tmp_path / "study.yaml"))
        assert there.questions.asked()["mine"].model_dump() == here.questions.asked()["mine"].model_dump()
        assert keys(there)["mine"] == keys(here)["mine"]


def test_an_ask_of_its_own_is_a_step_with_the_settings_of_the_question(tmp_path: Path) -> None:
    kind = {"kind": f"{tmp_path}/mine.py:Shade"}
    graph = graph_of(study(tmp_path, {"shade": kind | {"share": 0.25}, "other": kind}, WITH_ASK))
    steps = {step.name: step for step in graph}
    assert steps["ask.shade"].stage.model_dump()["share"] == 0.25
    assert steps["ask.shade"].stage.model_dump()["taps"] == ("net:backbone", "net:projector")
    assert steps["shade"].inputs["samples"] == "samples.shade"
    assert steps["samples.other"].inputs["conditions"] == "ask.other"
    assert steps["ask.shade"].stage.import_path() == f"{tmp_path}/mine.py:Darker"
    found = keys_of(graph, Fingerprints(refresh=True))["ask.shade"].document
    assert found["fields"]["kind"] == "Darker"
    assert found["external"].keys() == {"code"}
