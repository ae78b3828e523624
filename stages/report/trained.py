"""What was trained or brought along: the decoder's losses, where each encoder is from, the reader's scores."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from stages.contract import Input, Inputs
from stages.encoders import card, format
from stages.encoders.sources.settings import WHAT
from stages.encoders.spec import Preprocessing
from stages.report import charts
from stages.report.charts import Axis, Line, nice_axis
from stages.report.numbers import BY_DEFINITION, Entry, Table, count, number, plain
from stages.report.results import Answer
from stages.report.taps import Tap

EXTENSION = "extension."


@dataclass(frozen=True)
class Block:
    """One thing that was trained: in words, as facts, as a chart, as a table."""

    title: str
    text: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    chart: Markup | None = None
    note: str = ""
    table: Table | None = None


def decoders(inputs: Inputs) -> dict[int, Input]:
    """The decoder as 0, and its extensions by their numbers."""
    found = {0: inputs["decoder"]} if "decoder" in inputs else {}
    found |= {int(name.removeprefix(EXTENSION)): inputs[name] for name in inputs if name.startswith(EXTENSION)}
    return dict(sorted(found.items()))


def decoder(group: int, artifact: Input, taps: Sequence[Tap]) -> Block:
    """Loss on held-out images over training, per tap: of the decoder (0), or of an extension."""
    from stages.decoder.format import DecoderCard, read_card

    about = read_card(artifact)
    by_place = {tap.place: tap for tap in taps}
    curves = []
    for place in about.taps if len(about.curve) > 1 else ():
        if (tap := by_place.get(place)) is not None:
            points = tuple((point.images / 1000, point.heldout[place]) for point in about.curve)
            # The mark at the end tells taps of one encoder from each other, which share a colour.
            curves += [Line(place, points, tap.style), Line(place, points[-1:], tap.style, tap.shape)]
    named = "One decoder for"
    if isinstance(about, DecoderCard) and about.extends is not None:
        named = f"The decoder for {', '.join(about.extends.taps)}, its weights frozen, taught"
    text = f"{named} {count(len(about.taps))} tap{'' if len(about.taps) == 1 else 's'}, {about.size} px"
    if about.training is None:
        text += ", with weights as they were published."
    else:
        text += (
            f", {count(about.num_images)} training images shown ({count(about.train_images)} different ones), "
            f"batches of {about.training.batch}, seed {about.seed}."
        )
    if about.finished:
        text += f" Finished on {about.finished}."
    text += made_with(about.versions)
    values = [y for curve in curves for _, y in curve.points]
    chart = None
    if curves:
        across = nice_axis([x for curve in curves for x, _ in curve.points])
        last = max(x for curve in curves for x, _ in curve.points)
        across = Axis(across.start, last, tuple(tick for tick in across.ticks if tick[0] <= last))
        chart = charts.lines(curves, across, nice_axis(values, zero=False), 200, "loss of the decoder over training")
    losses = about.curve[-1].heldout if about.curve else {}
    falling = {place: "yes" if falls else "no" for place, falls in about.still_falling.items()}
    rows = tuple(
        Entry(by_place[place], place, (count(width), number(losses.get(place, math.nan), 4), falling.get(place, "")))
        for place, width in about.taps.items()
        if place in by_place
    )
    table = Table("", ("tap", "numbers", "loss at the end", "still falling"), rows)
    note = "Loss on held-out images by thousands of images shown, one line per tap." if curves else ""
    return Block(f"Extension {group}" if group else "Decoder", text, (), chart, note, table)


def made_with(versions: Mapping[str, str], what: str = "Trained") -> str:
    """A sentence on the libraries of a training, with the space before it; empty where they were not written down."""
    listed = ", ".join(f"{'Python' if name == 'python' else name} {version}" for name, version in versions.items())
    return f" {what} with {listed}." if listed else ""


def encoders(artifacts: Mapping[str, Input], taps: Sequence[Tap]) -> list[Block]:
    """Every encoder that is an artifact: where it is from, how it sees images, and its accuracy where it has one."""
    return [
        _imported(name, artifact) if card.CARD in artifact.names() else _trained(name, artifact, taps)
        for name, artifact in artifacts.items()
    ]


def _imported(name: str, artifact: Input) -> Block:
    about = card.parse_card(artifact.read(card.CARD))
    source = about.source
    facts = [("from", f"{source['kind']}, {source[WHAT[source['kind']]]}")]
    if source["kind"] == "hf":
        facts = [("from", f"hf, {shown(source['path'])}")]
    if source["kind"] == "released":
        facts = [("from", f"a published checkpoint: {source['method']}, {source['name']}")]
    if source.get("untrained"):
        facts.append(("weights", f"none: random, seed {source['seed']}"))
    elif source.get("pretrained"):
        facts.append(("weights", "the library's own"))
    elif source.get("weights"):
        facts.append(("weights", shown(source["weights"])))
    facts += [(file if file == "commit" else f"sha256 of {file}", digest) for file, digest in about.files.items()]
    if "parameters" in artifact.summary:
        facts.append(("parameters", count(artifact.summary["parameters"])))
    facts += [("sees", seen(about.preprocessing)), ("computes in", about.precision)]
    if about.unused:
        facts.append(("in the file without use", _names(about.unused)))
    if about.zeroed:
        facts.append(("not in the file, and of no effect", _names(about.zeroed)))
    named = {tap: f"{entry.module}@{entry.pool}" for tap, entry in about.named_taps.items()}
    facts += [("taps", _taps(about.taps, named)), ("fingerprint of the weights", about.weights_sha256)]
    return Block(f"Encoder {name}", f"Not trained here.{made_with(about.versions, 'Imported')}", tuple(facts))


def _trained(name: str, artifact: Input, taps: Sequence[Tap]) -> Block:
    summary = artifact.summary
    facts = []
    if format.CARD in artifact.names():
        about = format.read_card(artifact)
        told = about.training
        labelled = f", for the label {told['label']}" if "label" in told else ""
        facts += [("trained here by", f"{about.method}{labelled}"), ("seed", str(told["seed"]))]
        if {"num_images", "train_images", "batch"} <= set(told):
            different = f"{count(int(told['train_images']))} different ones"
            images = f"{count(int(told['num_images']))} ({different}), batches of {told['batch']}"
            facts.append(("images shown", images))
        facts += [("sees", seen(about.preprocessing)), ("taps", _taps(about.taps, {}))]
        facts.append(("fingerprint of the weights", about.weights_sha256))
    quality = summary.get("quality", [])
    loss = f"Loss at the end {number(summary['loss'], 3)}." if "loss" in summary else ""
    accuracy = "Accuracy on held-out images, read from each tap. " if quality else ""
    text = f"{accuracy}{loss}{made_with(summary.get('versions', {}))}".strip()
    return Block(f"Encoder {name}", text, tuple(facts), table=_quality(name, quality, taps) if quality else None)


def _quality(name: str, quality: Sequence[Mapping[str, Any]], taps: Sequence[Tap]) -> Table:
    """k-NN and linear accuracy at every tap, and what chance gives."""
    by_place = {tap.place: tap for tap in taps}
    attributes = list(dict.fromkeys(entry["attribute"] for entry in quality))
    found = {(entry["tap"], entry["attribute"]): entry for entry in quality}
    rows = []
    for tap in dict.fromkeys(entry["tap"] for entry in quality):
        cells = []
        for attribute in attributes:
            entry = found.get((tap, attribute))
            cells += ["", ""] if entry is None else [number(entry["knn"]), number(entry["linear"])]
        rows.append(Entry(by_place.get(f"{name}:{tap}"), f"{name}:{tap}", tuple(cells)))
    chance = [next(e["chance"] for e in quality if e["attribute"] == attribute) for attribute in attributes]
    rows.append(Entry(None, "chance", tuple(text for value in chance for text in (number(value), number(value)))))
    head = ("tap", *(text for a in attributes for text in (f"{plain(a)}, k-NN", "linear")))
    return Table("", head, tuple(rows))


def seen(how: Preprocessing) -> str:
    """How an encoder sees an image, in words."""
    size, wanted = f"{how.size} x {how.size} px", how.resize or how.size
    if how.squash:
        framed = f"the image squeezed to {wanted} x {wanted} px"
        framed += f", of which the centre, {size}" if wanted != how.size else ""
    elif how.resize is None:
        framed = f"the centre square at {size}"
    else:
        shorter = "both sides halved while that leaves enough, the shorter" if how.halve else "the shorter side"
        framed = f"{shorter} resized to {wanted} px, of which the centre, {size}"
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (how.mean, how.std))
    return f"{framed} ({how.interpolation}); mean {mean}; standard deviation {std}"


def shown(url: str) -> str:
    """A URL without what may be a secret in it: name and password, and what stands after a question mark."""
    return re.sub(r"://[^/@]*@", "://", url).partition("?")[0] if "://" in url else url


def _names(names: Sequence[str]) -> str:
    return f"{count(len(names))} name{'' if len(names) == 1 else 's'}"


def _taps(widths: Mapping[str, int], named: Mapping[str, str]) -> str:
    return ", ".join(f"{tap}{f' ({named[tap]})' if tap in named else ''}: {width}" for tap, width in widths.items())


def readers(kept: Answer) -> list[Block]:
    """Score of the reader on held-out real images."""
    scored = [row for row in kept.where("reader") if row.unit != BY_DEFINITION]
    if not scored:
        return []
    rows = tuple(Entry(None, plain(row.subject), (row.unit, number(row.value, 3))) for row in scored)
    text = f"One network, scored on {count(max(row.n for row in scored))} held-out real images."
    return [Block("Reader", text, table=Table("", ("attribute", "measure", "score"), rows))]
