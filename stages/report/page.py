"""The page: gathers the sections of all answers and what was trained, and writes one HTML file.

Everything that comes from a user's study or dataset reaches the page through the templates' escaping; the style sheet
and the script are constants, and the page's content security policy allows this script and no other.
"""

import base64
import hashlib
import importlib
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from markupsafe import Markup

from stages.contract import Inputs
from stages.questions import answers as results
from stages.questions import findings
from stages.questions.answers import Answer
from stages.questions.catalogue import QUESTIONS, section_of
from stages.questions.drawing import numbers, taps
from stages.questions.drawing.markup import load_template
from stages.questions.drawing.section import (
    Example,
    Section,
    SectionModule,
    SectionPart,
    TrainedBlock,
    rows_part,
)
from stages.questions.drawing.taps import StyledTap
from stages.readers import score
from stages.report import trained

if TYPE_CHECKING:
    from stages.report.stage import Report

HERE = Path(__file__).parent
RESULTS = "results."
ENCODER = "encoder."
FACTS = ("repscope", "torch", "ray", "zarr")
"""Libraries named at the head of the page; all of them stand beside what was trained."""
INTERVALS = (
    "Intervals",
    f"{100 * score.LEVEL:g} %, from {score.DRAWS} resamples of the sources with a fixed seed. A comparison is the "
    "interval of the paired difference over the same sources, never two intervals side by side.",
)


@dataclass(frozen=True)
class ShownFinding:
    """One of the paper's findings; `style` is its outcome as a class."""

    number: str
    encoder: str
    claim: str
    outcome: str
    style: str
    why: str


@dataclass(frozen=True)
class Page:
    """What the template shows, in its order. An empty part is left out with its heading."""

    title: str
    facts: tuple[tuple[str, str], ...]
    groups: str
    taps: tuple[StyledTap, ...]
    example: Example | None
    first: tuple[SectionPart, ...]
    findings: tuple[ShownFinding, ...]
    unasked: str
    parts: tuple[SectionPart, ...]
    measures: tuple[tuple[str, str], ...]
    training: tuple[TrainedBlock, ...]
    command: str
    artifacts: tuple[tuple[str, str], ...]
    headlines: tuple[str, ...]
    """Not shown: lines for a terminal."""

    @property
    def contents(self) -> list[tuple[str, str]]:
        """Anchor and name of every part."""
        found = [(part.anchor, part.label) for part in self.first]
        found += [("findings", "Findings")] if self.findings else []
        found += [(part.anchor, part.label) for part in self.parts]
        found.append(("measures", "How it was measured"))
        found += [("training", "Encoders and training")] if self.training else []
        return [*found, *([("artifacts", "Made from")] if self.artifacts else [])]


def render(page: Page) -> bytes:
    """The page as UTF-8 bytes; equal pages give equal bytes."""
    script = _file("page.js")
    html = load_template(HERE / "page.html").render(
        page=page,
        style=Markup(_file("page.css")) + taps.style_sheet(page.taps),
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )
    return html.encode()


def gather(stage: "Report", inputs: Inputs) -> Page:
    """The page from the stage's inputs."""
    answers = _answers(stage.question_order, inputs)
    rows = [row for answer in answers.values() for row in answer.rows]
    encoders = {name.removeprefix(ENCODER): dict(inputs[name].summary) for name in inputs if name.startswith(ENCODER)}
    decoders = trained.decoders(inputs)
    groups = {tap_id: number for number, decoder in decoders.items() for tap_id in decoder.summary.get("taps", {})}
    styled = tuple(taps.assign_styles(results.tap_ids(answers.values()), encoders, _widths(inputs, encoders), groups))
    sections = _sections(answers, styled)
    found = findings.findings(rows)
    subjects = {row.subject for row in rows}
    return Page(
        title=stage.title or f"What {_names(list(encoders)) or 'a representation'} knows",
        facts=(*_facts(stage, inputs, styled), *(fact for section in sections for fact in section.facts)),
        groups=_groups(styled),
        taps=styled,
        example=next((section.example for section in sections if section.example is not None), None),
        first=tuple(part for section in sections for part in section.first),
        findings=tuple(_finding(finding, subjects) for finding in found),
        unasked=findings.unasked(answers),
        parts=tuple(part for section in sections for part in section.parts),
        measures=(*(measure for section in sections for measure in section.measures), INTERVALS),
        training=(
            *(trained.decoder(group, decoder, styled) for group, decoder in decoders.items()),
            *trained.encoders({n.removeprefix(ENCODER): inputs[n] for n in inputs if n.startswith(ENCODER)}, styled),
            *(block for section in sections for block in section.trained),
        ),
        command=f"repscope run {shlex.quote(stage.study)}",
        artifacts=tuple((name, inputs[name].key) for name in sorted(inputs)),
        headlines=(
            *(line for section in sections for line in section.headlines),
            *(f"finding {finding.number}  {finding.encoder}  {finding.outcome}: {finding.why}" for finding in found),
        ),
    )


def _answers(order: Sequence[str], inputs: Inputs) -> dict[str, Answer]:
    """All answers in the order of the page: those of the stage, then those of the catalogue, then all others."""
    given = sorted(name.removeprefix(RESULTS) for name in inputs if name.startswith(RESULTS))
    ordered = dict.fromkeys([*order, *(question.name for question in QUESTIONS), *given])
    return {name: results.read(name, inputs[RESULTS + name]) for name in ordered if name in given}


def _sections(answers: Mapping[str, Answer], styled: Sequence[StyledTap]) -> list[Section]:
    """The sections of all answers; one to a question that is not in the catalogue has its figures and rows."""
    modules = {question.name: section_of(question) for question in QUESTIONS}
    sections: list[Section] = []
    unknown: list[Section] = []
    for name, answer in answers.items():
        if name in modules:
            module = cast(SectionModule, importlib.import_module(modules[name]))
            sections.append(module.section(answer, answers, styled))
        else:
            unknown.append(Section(parts=(rows_part(answer, f"question-{len(unknown) + 1}"),)))
    return sections + unknown


def _widths(inputs: Inputs, encoders: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    found = {f"{name}:{tap}": int(w) for name, about in encoders.items() for tap, w in about.get("taps", {}).items()}
    for decoder in trained.decoders(inputs).values():
        found |= {tap_id: int(width) for tap_id, width in decoder.summary.get("taps", {}).items()}
    return found


def _groups(styled: Sequence[StyledTap]) -> str:
    """What to think of comparisons between taps of different groups; empty where all belong to the decoder itself."""
    later: dict[int, list[str]] = {}
    for tap in styled:
        if tap.group:
            later.setdefault(tap.group, []).append(tap.id)
    if not later:
        return ""
    added = "; ".join(f"{_names(tap_ids)} (+{number})" for number, tap_ids in sorted(later.items()))
    return (
        f"Taught to the finished decoder afterwards, with its weights frozen: {added}. A comparison of taps with "
        "different marks, or of one with a mark and one without, is across trainings: part of a difference may be "
        "the training's."
    )


def _facts(stage: "Report", inputs: Inputs, styled: Sequence[StyledTap]) -> list[tuple[str, str]]:
    from stages.decoder.format import read_card

    facts = [("study", stage.study)]
    if "shards" in inputs:
        about = inputs["shards"].summary
        counted = {name: numbers.count(about[name]) for name in ("ok", "train", "heldout")}
        facts.append(("images", f"{counted['ok']}: {counted['train']} to train on, {counted['heldout']} held out"))
        facts += [("left out", sentence) for sentence in about.get("left_out", ())]
    studied = list(dict.fromkeys(tap.encoder for tap in styled if tap.studied))
    references = [tap.id for tap in styled if not tap.studied]
    if studied:
        facts.append(("encoders" if len(studied) > 1 else "encoder", _names(studied)))
        facts.append(("taps", _names(list(dict.fromkeys(tap.tap for tap in styled if tap.studied)))))
    if references:
        facts.append(("for reference", ", ".join(references)))
    if "decoder" in inputs:
        about = inputs["decoder"].summary
        shown = f", {numbers.count(about['num_images'])} images shown" if about.get("num_images") else ", published"
        facts.append(("decoder", f"one for {_plural(len(about['taps']), 'tap')}{shown}"))
        card = read_card(inputs["decoder"])
        if card.finished:
            facts.append(("trained", card.finished))
        if named := [f"{name} {card.versions[name]}" for name in FACTS if name in card.versions]:
            facts.append(("with", ", ".join(named)))
    return facts


def _plural(number: int, noun: str) -> str:
    return f"{numbers.count(number)} {noun}{'' if number == 1 else 's'}"


def _finding(found: findings.Finding, subjects: Collection[str]) -> ShownFinding:
    why = found.why.replace(" - ", " − ")
    for subject in subjects:
        why = why.replace(subject, numbers.plain(subject)) if "_" in subject else why
    return ShownFinding(found.number, found.encoder, found.claim, found.outcome, found.outcome.replace(" ", "-"), why)


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)


@lru_cache
def _file(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
