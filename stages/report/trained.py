"""What was trained or imported: the decoder's losses, where each encoder is from, the reader's scores."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from stages.contract import Input, Inputs
from stages.encoders import card, format
from stages.encoders.sources.settings import FIRST_FIELD
from stages.questions.drawing import charts
from stages.questions.drawing.charts import Axis, Line, nice_axis
from stages.questions.drawing.numbers import PageTable, TableRow, count, number, plain
from stages.questions.drawing.section import TrainedBlock
from stages.questions.drawing.taps import StyledTap

EXTENSION = "extension."


def decoders(inputs: Inputs) -> dict[int, Input]:
    """The decoder as 0, and its extensions by their numbers."""
    found = {0: inputs["decoder"]} if "decoder" in inputs else {}
    found |= {int(name.removeprefix(EXTENSION)): inputs[name] for name in inputs if name.startswith(EXTENSION)}
    return dict(sorted(found.items()))


def families(artifacts: Mapping[str, Input]) -> dict[str, str]:
    """The family of every encoder that was trained here like another but for the seed, by its name.

    It is called as its members are without their numbers, and by all their names where these differ otherwise.
    """
    alike: dict[str, list[str]] = {}
    for name, artifact in artifacts.items():
        if format.CARD in artifact.names():
            about = format.read_card(artifact)
            settings = {field: value for field, value in about.training.items() if field != "seed"}
            fields = about.model_dump(mode="json", include={"method", "architecture", "preprocessing", "augmentations"})
            alike.setdefault(json.dumps([fields, settings], sort_keys=True), []).append(name)
    found: dict[str, str] = {}
    for names in alike.values():
        stems = {re.sub(r"[-_. ]?\d+$", "", name) for name in names}
        if len(names) > 1:
            family = stems.pop() if len(stems) == 1 and stems.isdisjoint({"", *found.values()}) else ", ".join(names)
            found |= dict.fromkeys(names, family)
    return found


def decoder(group: int, artifact: Input, taps: Sequence[StyledTap]) -> TrainedBlock:
    """Loss on held-out images over training, per tap: of the decoder (0), or of an extension."""
    from stages.decoder.format import DecoderCard, read_card

    about = read_card(artifact)
    by_tap_id = {tap.id: tap for tap in taps}
    curves = []
    for tap_id in about.taps if len(about.curve) > 1 else ():
        if (tap := by_tap_id.get(tap_id)) is not None:
            points = tuple((point.images / 1000, point.heldout[tap_id]) for point in about.curve)
            # Taps of one encoder share a colour; the mark at the end distinguishes them.
            curves += [Line(tap_id, points, tap.style), Line(tap_id, points[-1:], tap.style, tap.shape)]
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
    falling = {tap_id: "yes" if falls else "no" for tap_id, falls in about.still_falling.items()}
    rows = tuple(
        TableRow(
            by_tap_id[tap_id], tap_id, (count(width), number(losses.get(tap_id, math.nan), 4), falling.get(tap_id, ""))
        )
        for tap_id, width in about.taps.items()
        if tap_id in by_tap_id
    )
    table = PageTable("", ("tap", "numbers", "loss at the end", "still falling"), rows)
    note = "Loss on held-out images by thousands of images shown, one line per tap." if curves else ""
    return TrainedBlock(f"Extension {group}" if group else "Decoder", text, (), chart, note, table)


def made_with(versions: Mapping[str, str], what: str = "Trained") -> str:
    """A sentence on the libraries of a training, with the space before it; empty where they were not written down."""
    listed = ", ".join(f"{'Python' if name == 'python' else name} {version}" for name, version in versions.items())
    return f" {what} with {listed}." if listed else ""


def encoders(artifacts: Mapping[str, Input], taps: Sequence[StyledTap], folded: bool = False) -> list[TrainedBlock]:
    """Every encoder that is an artifact: where it is from, how it sees images, and its accuracy where it has one."""
    blocks = [
        _imported(name, artifact) if card.CARD in artifact.names() else _trained(name, artifact, taps)
        for name, artifact in artifacts.items()
    ]
    return [replace(block, folded=folded) for block in blocks]


def _imported(name: str, artifact: Input) -> TrainedBlock:
    about = card.parse_card(artifact.read(card.CARD))
    source = about.source
    facts = [("from", f"{source['kind']}, {source[FIRST_FIELD[source['kind']]]}")]
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
    facts += [("sees", about.preprocessing.words), ("computes in", about.precision)]
    if about.unused:
        facts.append(("in the file without use", _names(about.unused)))
    if about.zeroed:
        facts.append(("not in the file, and of no effect", _names(about.zeroed)))
    named = {tap: entry.words for tap, entry in about.named_taps.items()}
    facts += [("taps", _taps(about.taps, named)), ("fingerprint of the weights", about.weights_sha256)]
    return TrainedBlock(f"Encoder {name}", f"Not trained here.{made_with(about.versions, 'Imported')}", tuple(facts))


def _trained(name: str, artifact: Input, taps: Sequence[StyledTap]) -> TrainedBlock:
    summary = artifact.summary
    facts = []
    if format.CARD in artifact.names():
        about = format.read_card(artifact)
        settings = about.training
        labelled = f", for the label {settings['label']}" if "label" in settings else ""
        facts += [("trained here by", f"{about.method}{labelled}"), ("seed", str(settings["seed"]))]
        if {"num_images", "train_images", "batch"} <= set(settings):
            different = f"{count(int(settings['train_images']))} different ones"
            images = f"{count(int(settings['num_images']))} ({different}), batches of {settings['batch']}"
            facts.append(("images shown", images))
        if format.IMAGES_SEEN in settings:
            facts.append(("checkpoint", f"after {count(int(settings[format.IMAGES_SEEN]))} of them"))
        facts += [("sees", about.preprocessing.words), ("taps", _taps(about.taps, {}))]
        facts.append(("fingerprint of the weights", about.weights_sha256))
    quality = summary.get("quality", [])
    loss = f"Loss at the end {number(summary['loss'], 3)}." if "loss" in summary else ""
    accuracy = "Accuracy on held-out images, read from each tap. " if quality else ""
    text = f"{accuracy}{loss}{made_with(summary.get('versions', {}))}".strip()
    return TrainedBlock(f"Encoder {name}", text, tuple(facts), table=_quality(name, quality, taps) if quality else None)


def _quality(name: str, quality: Sequence[Mapping[str, Any]], taps: Sequence[StyledTap]) -> PageTable:
    """k-NN and linear accuracy at every tap, and what chance gives."""
    by_tap_id = {tap.id: tap for tap in taps}
    attributes = list(dict.fromkeys(entry["attribute"] for entry in quality))
    found = {(entry["tap"], entry["attribute"]): entry for entry in quality}
    rows = []
    for tap in dict.fromkeys(entry["tap"] for entry in quality):
        cells = []
        for attribute in attributes:
            entry = found.get((tap, attribute))
            cells += ["", ""] if entry is None else [number(entry["knn"]), number(entry["linear"])]
        rows.append(TableRow(by_tap_id.get(f"{name}:{tap}"), f"{name}:{tap}", tuple(cells)))
    chance = [next(e["chance"] for e in quality if e["attribute"] == attribute) for attribute in attributes]
    rows.append(TableRow(None, "chance", tuple(text for value in chance for text in (number(value), number(value)))))
    head = ("tap", *(text for a in attributes for text in (f"{plain(a)}, k-NN", "linear")))
    return PageTable("", head, tuple(rows))


def shown(url: str) -> str:
    """A URL without what may be a secret in it: name and password, and what stands after a question mark."""
    return re.sub(r"://[^/@]*@", "://", url).partition("?")[0] if "://" in url else url


def _names(names: Sequence[str]) -> str:
    return f"{count(len(names))} name{'' if len(names) == 1 else 's'}"


def _taps(widths: Mapping[str, int], named: Mapping[str, str]) -> str:
    return ", ".join(f"{tap}{f' ({named[tap]})' if tap in named else ''}: {width}" for tap, width in widths.items())
