"""The page: gathers what the stage was given into sections, and writes one HTML file.

Everything that comes from a user's study or dataset reaches the page through the template's escaping; the style sheet
and the script are constants, and the page's content security policy allows this script and no other.
"""

import base64
import hashlib
import math
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from stages.contract import Inputs
from stages.questions import verdicts
from stages.questions.format import Figure, Row
from stages.report import charts, numbers, pictures, results, taps, trained, words
from stages.report.faithfulness import Faithfulness, faithfulness
from stages.report.invariance import Invariance, invariance
from stages.report.numbers import VERDICTS, Group, Plot, Sentence, Table
from stages.report.pictures import Card, Picture, Rows, Twin
from stages.report.results import Answer
from stages.report.taps import Tap
from stages.report.trained import Block

if TYPE_CHECKING:
    from jinja2 import Template

    from stages.report.stage import Report

HERE = Path(__file__).parent
RESULTS = "results."
ENCODER = "encoder."
TWINS = 4
"""Twins of a tap that are shown at once; the others open on demand."""
UNASKED = (
    ("robustness", "Finding iii, on small attacks, was not asked in this study"),
    ("manipulation", "Finding iv, on edits, was not asked in this study"),
)
FACTS = ("repscope", "torch", "ray", "zarr")
"""Libraries named at the head of the page; all of them stand beside what was trained."""
KNOWN = ("kept", "faithfulness", "invariance")
"""Questions with sections of their own; any other gets its figures and a table of its rows."""


@dataclass(frozen=True)
class How:
    """The example beside "how to read this": an image, its vector drawn as a bar code, and four samples."""

    tap: Tap
    source: Picture
    barcode: tuple[str, ...]
    samples: tuple[Picture, ...]


@dataclass(frozen=True)
class Twins:
    """The twins of one tap; they are called so only where the samples are faithful, which `note` reports."""

    tap: Tap
    faithful: bool
    note: str
    shown: tuple[Twin, ...]
    more: tuple[Twin, ...]
    caption: str


@dataclass(frozen=True)
class Finding:
    """One of the paper's findings; `style` is its outcome as a class."""

    number: str
    encoder: str
    claim: str
    outcome: str
    style: str
    why: str


@dataclass(frozen=True)
class Differences:
    """Paired differences between the two ends of an encoder."""

    title: str
    plots: tuple[Plot, ...]
    axis: Markup


@dataclass(frozen=True)
class Other:
    """A question that has no section of its own."""

    title: str
    figures: tuple[Rows, ...]
    table: Table


@dataclass(frozen=True)
class Page:
    """What the template shows, in its order. An empty part is left out with its heading."""

    title: str
    facts: tuple[tuple[str, str], ...]
    groups: str
    taps: tuple[Tap, ...]
    how: How | None
    twins: tuple[Twins, ...]
    twins_title: str
    sentences: tuple[Sentence, ...]
    findings: tuple[Finding, ...]
    unasked: str
    matrix: tuple[Group, ...]
    overlay: tuple[Plot, ...]
    score_axis: Markup
    differences: tuple[Differences, ...]
    cards: tuple[Card, ...]
    maps: Rows | None
    faithfulness: Faithfulness | None
    invariance: Invariance | None
    others: tuple[Other, ...]
    measures: tuple[tuple[str, str], ...]
    training: tuple[Block, ...]
    command: str
    artifacts: tuple[tuple[str, str], ...]
    contents: tuple[tuple[str, str], ...] = ()


def render(stage: "Report", inputs: Inputs) -> bytes:
    """The page as UTF-8 bytes; equal inputs give equal bytes."""
    page = gather(stage, inputs)
    script = _file("page.js")
    html = _template().render(
        page=page,
        verdicts=list(VERDICTS.values()),
        style=Markup(_file("page.css")) + taps.style_sheet(page.taps),
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )
    return html.encode()


def gather(stage: "Report", inputs: Inputs) -> Page:
    """The sections of the page from the stage's inputs."""
    answers = _answers(stage.question_order, inputs)

    def of(question: str) -> Answer:
        return answers.get(question) or Answer(question, "", (), ())

    kept = of("kept")
    rows = [row for answer in answers.values() for row in answer.rows]
    encoders = {name.removeprefix(ENCODER): dict(inputs[name].summary) for name in inputs if name.startswith(ENCODER)}
    decoders = trained.decoders(inputs)
    groups = {place: number for number, made in decoders.items() for place in made.summary.get("taps", {})}
    dressed = tuple(taps.dress(results.places(answers.values()), encoders, _widths(inputs, encoders), groups))
    own = [tap for tap in dressed if tap.studied] or list(dressed)
    grids = kept.kind("grid")
    twins = _twins(kept, own)
    rules = next((row.why for row in kept.where("rules")), verdicts.THRESHOLDS)
    scores = charts.unit_axis(min([0.0, *(row.low for row in kept.where("kept") if math.isfinite(row.low))]))
    page = Page(
        title=stage.title or f"What {_names(list(encoders)) or 'a representation'} knows",
        facts=tuple(_facts(stage, inputs, dressed, kept)),
        groups=_groups(dressed),
        taps=dressed,
        how=_how(grids, own),
        twins=tuple(twins),
        twins_title=_twins_title(twins),
        sentences=tuple(numbers.sentences(kept, dressed)),
        findings=tuple(_finding(found, {row.subject for row in kept.rows}) for found in verdicts.findings(rows)),
        unasked=". ".join(text for question, text in UNASKED if question not in answers),
        matrix=tuple(numbers.matrix(kept, dressed)) if kept.where("kept") else (),
        overlay=tuple(numbers.overlay(kept.where("kept"), dressed, scores)) if len(dressed) > 1 else (),
        score_axis=charts.scale(scores),
        differences=tuple(_differences(kept, dressed)),
        cards=tuple(pictures.cards(grids, dressed)),
        maps=pictures.maps(kept.kind("maps"), dressed),
        faithfulness=faithfulness(of("faithfulness"), kept.where("nearness"), dressed),
        invariance=invariance(of("invariance"), dressed),
        others=tuple(_other(answer) for name, answer in answers.items() if name not in KNOWN),
        measures=tuple(words.measures(answers, rules)),
        training=(
            *(trained.decoder(group, made, dressed) for group, made in decoders.items()),
            *trained.encoders({n.removeprefix(ENCODER): inputs[n] for n in inputs if n.startswith(ENCODER)}, dressed),
            *trained.readers(kept),
        ),
        command=f"repscope run {shlex.quote(stage.study)}",
        artifacts=tuple((name, inputs[name].key) for name in sorted(inputs)),
    )
    return replace(page, contents=tuple(_contents(page)))


def _contents(page: Page) -> list[tuple[str, str]]:
    shown = (
        ("twins", "Twins", page.twins),
        ("verdicts", "In one sentence", page.sentences),
        ("findings", "Findings", page.findings),
        ("kept", "What is kept", page.matrix),
        ("differences", "Backbone to projector", page.differences),
        ("samples", "Samples", page.cards),
        ("maps", "Where samples differ", page.maps),
        ("faithfulness", "Faithfulness", page.faithfulness),
        ("invariance", "Invariance", page.invariance),
        *((f"question-{i}", other.title, True) for i, other in enumerate(page.others, 1)),
        ("measures", "How it was measured", page.measures),
        ("training", "Encoders and training", page.training),
        ("artifacts", "Made from", page.artifacts),
    )
    return [(anchor, label) for anchor, label, content in shown if content]


def _answers(order: Sequence[str], inputs: Inputs) -> dict[str, Answer]:
    given = [name.removeprefix(RESULTS) for name in inputs if name.startswith(RESULTS)]
    ordered = [name for name in order if name in given] + sorted(set(given) - set(order))
    return {name: results.read(name, inputs[RESULTS + name]) for name in ordered}


def _widths(inputs: Inputs, encoders: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    found = {f"{name}:{tap}": int(w) for name, about in encoders.items() for tap, w in about.get("taps", {}).items()}
    for made in trained.decoders(inputs).values():
        found |= {place: int(width) for place, width in made.summary.get("taps", {}).items()}
    return found


def _groups(dressed: Sequence[Tap]) -> str:
    """What to think of comparisons between taps of different groups; empty where all belong to the decoder itself."""
    later: dict[int, list[str]] = {}
    for tap in dressed:
        if tap.group:
            later.setdefault(tap.group, []).append(tap.place)
    if not later:
        return ""
    told = "; ".join(f"{_names(places)} (+{number})" for number, places in sorted(later.items()))
    return (
        f"Taught to the finished decoder afterwards, with its weights frozen: {told}. A comparison of taps with "
        "different marks, or of one with a mark and one without, is across trainings: part of a difference may be "
        "the training's."
    )


def _facts(stage: "Report", inputs: Inputs, dressed: Sequence[Tap], kept: Answer) -> list[tuple[str, str]]:
    from stages.decoder.format import read_card

    facts = [("study", stage.study)]
    if "shards" in inputs:
        about = inputs["shards"].summary
        counted = {name: numbers.count(about[name]) for name in ("ok", "train", "heldout")}
        facts.append(("images", f"{counted['ok']}: {counted['train']} to train on, {counted['heldout']} held out"))
        facts += [("left out", sentence) for sentence in about.get("left_out", ())]
    studied = list(dict.fromkeys(tap.encoder for tap in dressed if tap.studied))
    references = [tap.place for tap in dressed if not tap.studied]
    if studied:
        facts.append(("encoders" if len(studied) > 1 else "encoder", _names(studied)))
        facts.append(("taps", _names(list(dict.fromkeys(tap.tap for tap in dressed if tap.studied)))))
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
    scored = [row.n for row in kept.where("kept")]
    if scored:
        facts.append(("measured on", f"{_plural(max(scored), 'held-out source')}"))
    return facts


def _plural(number: int, noun: str) -> str:
    return f"{numbers.count(number)} {noun}{'' if number == 1 else 's'}"


def _twins(kept: Answer, own: Sequence[Tap]) -> list[Twins]:
    found = []
    for tap in own:
        near = results.first(kept.where("nearness"), tap.place, "")
        faithful = near is not None and near.value < 1.0
        note = "how near the samples are to their source was not measured"
        if near is not None:
            note = f"samples are {numbers.interval(near)} times as far from their source as its nearest other image"
        for figure in kept.kind("twins"):
            if results.place(figure) == tap.place:
                pairs = tuple(pictures.twins(figure))
                found.append(Twins(tap, faithful, note, pairs[:TWINS], pairs[TWINS:], figure.caption))
    return found


def _twins_title(twins: Sequence[Twins]) -> str:
    faithful = {group.tap.encoder for group in twins if group.faithful}
    if not faithful:
        return "Two samples of one vector, not near enough to be twins"
    return "This encoder cannot tell these apart" if len(faithful) == 1 else "These encoders cannot tell these apart"


def _how(grids: Sequence[Figure], own: Sequence[Tap]) -> How | None:
    tap = own[0] if own else None
    figure = next((figure for figure in grids if tap and results.place(figure) == tap.place), None)
    if tap is None or figure is None or figure.tiles.shape[1] < 3:
        return None
    named = zip(figure.columns, figure.tiles[0], strict=True)
    tiles = [pictures.picture(tile, f"{name} of {figure.rows[0]}") for name, tile in named]
    # The bar code stands for a vector; its levels say nothing, so they come from the tap's name.
    levels = tuple(f"{0.15 + 0.85 * byte / 255:.2f}" for byte in hashlib.sha256(tap.place.encode()).digest()[:21])
    return How(tap, tiles[0], levels, tuple(tiles[1:5]))


def _finding(found: verdicts.Finding, subjects: Collection[str]) -> Finding:
    why = found.why.replace(" - ", " − ")
    for subject in subjects:
        why = why.replace(subject, numbers.plain(subject)) if "_" in subject else why
    return Finding(found.number, found.encoder, found.claim, found.outcome, found.outcome.replace(" ", "-"), why)


def _differences(kept: Answer, dressed: Sequence[Tap]) -> list[Differences]:
    """Kept at the backbone minus kept at the projector, the largest difference first."""
    rows = [row for row in kept.where("kept difference") if row.tap == verdicts.BOTH]
    style = {tap.encoder: tap.style for tap in reversed(dressed)}
    found = []
    for encoder in dict.fromkeys(row.encoder for row in rows):
        own = [row for row in rows if row.encoder == encoder and math.isfinite(row.value)]
        own.sort(key=lambda row: (-row.value, row.subject))
        axis = charts.around(charts.nice_axis([-0.1, 0.1, *(end for row in own for end in (row.low, row.high))]))
        plots = tuple(_difference(row, axis, style.get(encoder, "")) for row in own)
        found.append(Differences(encoder, plots, charts.scale(axis)))
    return found


def _difference(row: Row, axis: charts.Axis, style: str) -> Plot:
    # A hollow mark where the interval holds 0: no difference is shown.
    sure = row.low > 0 or row.high < 0
    mark = charts.Mark(row.value, row.low, row.high, style, "circle" if sure else "circle-open", numbers.interval(row))
    dagger = " †" if row.subject in verdicts.AUGMENTED else ""
    return Plot(
        numbers.plain(row.subject) + dagger, "", charts.dots([[mark]], axis, height=16, ticks=[(0.0, "zero", "0")])
    )


def _other(answer: Answer) -> Other:
    head = ("metric", "tap", "subject", "value", "unit", "verdict")
    rows = tuple(
        numbers.Entry(
            None, row.metric, (results.place(row), row.subject, numbers.interval(row, 3), row.unit, row.verdict)
        )
        for row in answer.rows
    )
    figures = tuple(pictures.rows(figure) for figure in answer.figures)
    return Other(numbers.plain(answer.question).capitalize(), figures, Table("", head, rows))


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)


@lru_cache
def _file(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


@lru_cache
def _template() -> "Template":
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template("page.html")
