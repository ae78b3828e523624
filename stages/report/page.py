"""The page: gathers the sections of all answers and what was trained, and writes one HTML file.

Everything that comes from a user's study or dataset reaches the page through the templates' escaping; the style sheet
and the script are constants, and the page's content security policy allows this script and no other.
"""

import base64
import hashlib
import importlib
import shlex
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from markupsafe import Markup

from stages.contract import Inputs
from stages.external import code
from stages.questions import answers as results
from stages.questions import findings
from stages.questions.answers import Answer
from stages.questions.catalogue import QUESTIONS, section_of
from stages.questions.drawing import numbers, taps
from stages.questions.drawing.markup import load_template
from stages.questions.drawing.section import (
    Example,
    Remark,
    Section,
    SectionModule,
    SectionPart,
    TapVerdict,
    TrainedBlock,
    rows_part,
)
from stages.questions.drawing.taps import StyledTap
from stages.readers import score
from stages.report import trained
from stages.report.choice import chosen

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


LARGEST = 20_000_000
"""Bytes of a page at most, so that it can be sent by mail and opens at once on a phone."""
FEWER = (6, 4, 2, 1)
"""Sources in each figure where the page would be larger; with one of each it is what it is."""
MANY = 4
"""Encoders from which on what is to be known of each training opens on demand."""


@dataclass(frozen=True)
class FamilyVerdict:
    """What the page says first of an encoder, or of several that differ in the seed of their training alone."""

    name: str
    encoders: tuple[str, ...]
    first: StyledTap
    """The first tap of the first encoder, for the colour."""
    remarks: tuple[Remark, ...]
    taps: tuple[TapVerdict, ...]


@dataclass(frozen=True)
class ShownFinding:
    """A finding at one encoder; `style` is its outcome as a class."""

    number: str
    encoder: str
    outcome: str
    style: str
    why: str


@dataclass(frozen=True)
class Outcome:
    """An outcome, and where there are several encoders at how many of them."""

    words: str
    style: str


@dataclass(frozen=True)
class ShownFindings:
    """A finding at every encoder; `style` is the outcome that most of them share."""

    number: str
    label: str
    claim: str
    style: str
    outcomes: tuple[Outcome, ...]
    lines: tuple[ShownFinding, ...]


@dataclass(frozen=True)
class Page:
    """What the template shows, in its order. An empty part is left out with its heading."""

    title: str
    facts: tuple[tuple[str, str], ...]
    groups: str
    taps: tuple[StyledTap, ...]
    example: Example | None
    verdicts: tuple[FamilyVerdict, ...]
    findings: tuple[ShownFindings, ...]
    unasked: str
    compared: tuple[str, ...]
    """Encoders that a reader may put side by side."""
    pair: tuple[str, ...]
    """Those that are side by side at first."""
    parts: tuple[SectionPart, ...]
    measures: tuple[tuple[str, str], ...]
    training: tuple[TrainedBlock, ...]
    command: str
    artifacts: tuple[tuple[str, str], ...]
    headlines: tuple[str, ...]
    """Not shown: lines for a terminal."""

    @property
    def comparable(self) -> bool:
        """Whether there are two encoders to be put side by side, references apart."""
        return len({tap.encoder for tap in self.taps if tap.studied and tap.encoder in self.compared}) > 1

    @property
    def claims(self) -> bool:
        """Whether findings of questions stand beside those of the paper."""
        return any(group.number not in findings.NUMBERS for group in self.findings)

    @property
    def contents(self) -> list[tuple[str, str]]:
        """Anchor and name of every part."""
        found = [("verdicts", "In short")] if self.verdicts else []
        found += [("findings", "Findings")] if self.findings else []
        found += [("compare", "Side by side")] if self.comparable else []
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


def page_of(stage: "Report", inputs: Inputs) -> tuple[Page, bytes]:
    """The page and its bytes, with fewer sources in its figures where it would be larger than it may be."""
    page = gather(stage, inputs)
    data = render(page)
    for most in FEWER:
        if len(data) <= LARGEST:
            break
        page = gather(stage, inputs, most)
        data = render(page)
    return page, data


def gather(stage: "Report", inputs: Inputs, most: int | None = None) -> Page:
    """The page from the stage's inputs, with at most so many sources in each figure."""
    answers, choice = chosen(_answers(stage.question_order, inputs), inputs, most)
    # A question of the user's own may name its rows as it likes.
    own = {question.name for question in stage.own}
    rows = [row for name, answer in answers.items() if name not in own for row in answer.rows]
    encoders = {name.removeprefix(ENCODER): dict(inputs[name].summary) for name in inputs if name.startswith(ENCODER)}
    decoders = trained.decoders(inputs)
    groups = {tap_id: number for number, decoder in decoders.items() for tap_id in decoder.summary.get("taps", {})}
    trainings = {name: inputs[ENCODER + name] for name in encoders}
    families = trained.families(trainings)
    widths = _widths(inputs, encoders)
    styled = tuple(taps.assign_styles(results.tap_ids(answers.values()), encoders, widths, groups, families))
    sections = _sections(stage, answers, styled)
    found = [*findings.findings(rows), *(finding for section in sections for finding in section.findings)]
    verdicts = tuple(_verdicts(sections, styled))
    example = next((section.example for section in sections if section.example is not None), None)
    judged = {row.encoder for row in rows if row.metric == "kept"}
    compared = tuple(dict.fromkeys(tap.encoder for tap in styled if tap.encoder in judged))
    subjects = {row.subject for row in rows}
    return Page(
        title=stage.title or f"What {_names(list(encoders)) or 'a representation'} knows",
        facts=(*_facts(stage, inputs, styled), *(fact for section in sections for fact in section.facts)),
        groups=_groups(styled),
        taps=styled,
        example=example,
        verdicts=verdicts,
        findings=tuple(_findings(found, subjects)),
        unasked=findings.unasked(answers),
        compared=compared,
        pair=_pair(example, verdicts, compared),
        parts=tuple(part for section in sections for part in section.parts),
        measures=(*(measure for section in sections for measure in section.measures), INTERVALS, *choice),
        training=(
            *(trained.decoder(group, decoder, styled) for group, decoder in decoders.items()),
            *trained.encoders(trainings, styled, folded=len(trainings) > MANY),
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


def _sections(stage: "Report", answers: Mapping[str, Answer], styled: Sequence[StyledTap]) -> list[Section]:
    """The sections of all answers; one to a question that nobody knows any more has its figures and rows."""
    modules = {question.name: section_of(question) for question in QUESTIONS}
    own = {question.name: question.kind for question in stage.own}
    sections: list[Section] = []
    unknown: list[Section] = []
    for name, answer in answers.items():
        if name in modules:
            module = cast(SectionModule, importlib.import_module(modules[name]))
            sections.append(module.section(answer, answers, styled))
        elif name in own:
            path = own[name].rpartition(":")[0]
            question = cast(SectionModule, code.member(own[name], code.expected(path)))
            sections.append(question.section(answer, answers, styled))
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
        unseen = f", {numbers.count(about['unseen'])} of unseen combinations" if "unseen" in about else ""
        split = f"{counted['train']} to train on, {counted['heldout']} held out{unseen}"
        facts.append(("images", f"{counted['ok']}: {split}"))
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


def _verdicts(sections: Sequence[Section], styled: Sequence[StyledTap]) -> list[FamilyVerdict]:
    """What all sections say of each family; the one with the strongest contrast comes first."""
    found = []
    references = [line for section in sections for line in section.verdicts if not line.tap.studied]
    for family, members in taps.by_family([tap for tap in styled if tap.studied]).items():
        remarks = [remark for section in sections for remark in section.remarks if remark.family == family]
        lines = [line for section in sections for line in section.verdicts if line.tap.family == family]
        if remarks or lines:
            first = next(iter(members.values()))[0]
            found.append(FamilyVerdict(family, tuple(members), first, tuple(remarks), tuple(lines)))

    found.sort(key=lambda verdict: -max((remark.strength for remark in verdict.remarks), default=0.0))
    if references:
        first = references[0].tap
        encoders = tuple(dict.fromkeys(line.tap.encoder for line in references))
        found.append(FamilyVerdict("for reference", encoders, first, (), tuple(references)))
    return found


def _pair(example: Example | None, verdicts: Sequence[FamilyVerdict], compared: Sequence[str]) -> tuple[str, ...]:
    """The encoders of the strongest contrast; where these are one, the first of the families that come first."""
    shown = [] if example is None else [painted.tap.encoder for painted in example.taps]
    firsts = [verdict.encoders[0] for verdict in verdicts]
    return tuple(name for name in dict.fromkeys([*shown, *firsts, *compared]) if name in compared)[:2]


def _findings(found: Sequence[findings.Finding], subjects: Collection[str]) -> list[ShownFindings]:
    """The findings by their number, each with its outcome at every encoder."""
    by_number: dict[str, list[findings.Finding]] = {}
    for finding in found:
        by_number.setdefault(finding.number, []).append(finding)
    shown = []
    order = {number: position for position, number in enumerate(findings.NUMBERS)}
    # Those of other questions come last, in the order of their sections.
    for number, own in sorted(by_number.items(), key=lambda entry: order.get(entry[0], len(order))):
        label = f"Finding {number}" if number in order else numbers.plain(number).capitalize()
        unit = " encoders" if number in order else ""
        counted = Counter(finding.outcome for finding in own).most_common()
        outcomes = tuple(
            Outcome(outcome if len(own) == 1 else f"{outcome} in {times} of {len(own)}{unit}", _style(outcome))
            for outcome, times in counted
        )
        lines = tuple(_finding(finding, subjects) for finding in own)
        shown.append(ShownFindings(number, label, own[0].claim, _style(counted[0][0]), outcomes, lines))
    return shown


def _finding(found: findings.Finding, subjects: Collection[str]) -> ShownFinding:
    why = found.why.replace(" - ", " − ")
    for subject in subjects:
        why = why.replace(subject, numbers.plain(subject)) if "_" in subject else why
    return ShownFinding(found.number, found.encoder, found.outcome, _style(found.outcome), why)


def _style(outcome: str) -> str:
    return outcome.replace(" ", "-")


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)


@lru_cache
def _file(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
