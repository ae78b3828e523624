"""What was trained on the way: the decoder's losses, each encoder's accuracy, the reader's scores."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from stages.contract import Input, Inputs
from stages.report import charts
from stages.report.charts import Axis, Line, nice_axis
from stages.report.numbers import BY_DEFINITION, Entry, Table, count, number, plain
from stages.report.results import Answer
from stages.report.taps import Tap

EXTENSION = "extension."


@dataclass(frozen=True)
class Block:
    """One thing that was trained: in words, as a chart, as a table."""

    title: str
    text: str = ""
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
    from stages.decoder.format import Card, read_card

    card = read_card(artifact)
    by_place = {tap.place: tap for tap in taps}
    curves = []
    for place in card.taps if len(card.curve) > 1 else ():
        if (tap := by_place.get(place)) is not None:
            points = tuple((point.images / 1000, point.heldout[place]) for point in card.curve)
            # The mark at the end tells taps of one encoder from each other, which share a colour.
            curves += [Line(place, points, tap.style), Line(place, points[-1:], tap.style, tap.shape)]
    named = "One decoder for"
    if isinstance(card, Card) and card.extends is not None:
        named = f"The decoder for {', '.join(card.extends.taps)}, its weights frozen, taught"
    text = f"{named} {count(len(card.taps))} tap{'' if len(card.taps) == 1 else 's'}, {card.size} px"
    if card.training is None:
        text += ", with weights as they were published."
    else:
        text += (
            f", {count(card.num_images)} training images shown ({count(card.train_images)} different ones), "
            f"batches of {card.training.batch}, seed {card.seed}."
        )
    if card.finished:
        text += f" Finished on {card.finished}."
    text += made_with(card.versions)
    values = [y for curve in curves for _, y in curve.points]
    chart = None
    if curves:
        across = nice_axis([x for curve in curves for x, _ in curve.points])
        last = max(x for curve in curves for x, _ in curve.points)
        across = Axis(across.start, last, tuple(tick for tick in across.ticks if tick[0] <= last))
        chart = charts.lines(curves, across, nice_axis(values, zero=False), 200, "loss of the decoder over training")
    losses = card.curve[-1].heldout if card.curve else {}
    falling = {place: "yes" if falls else "no" for place, falls in card.still_falling.items()}
    rows = tuple(
        Entry(by_place[place], place, (count(width), number(losses.get(place, math.nan), 4), falling.get(place, "")))
        for place, width in card.taps.items()
        if place in by_place
    )
    table = Table("", ("tap", "numbers", "loss at the end", "still falling"), rows)
    note = "Loss on held-out images by thousands of images shown, one line per tap." if curves else ""
    return Block(f"Extension {group}" if group else "Decoder", text, chart, note, table)


def made_with(versions: Mapping[str, str]) -> str:
    """A sentence on the libraries of a training, with the space before it; empty where they were not written down."""
    listed = ", ".join(f"{'Python' if name == 'python' else name} {version}" for name, version in versions.items())
    return f" Trained with {listed}." if listed else ""


def encoders(summaries: Mapping[str, Mapping[str, Any]], taps: Sequence[Tap]) -> list[Block]:
    """k-NN and linear accuracy of every encoder that was trained here."""
    blocks = []
    by_place = {tap.place: tap for tap in taps}
    for name, summary in summaries.items():
        quality = summary.get("quality", [])
        if not quality:
            continue
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
        loss = f" Loss at the end {number(summary['loss'], 3)}." if "loss" in summary else ""
        text = f"Accuracy on held-out images, read from each tap.{loss}{made_with(summary.get('versions', {}))}"
        blocks.append(Block(f"Encoder {name}", text, table=Table("", head, tuple(rows))))
    return blocks


def readers(kept: Answer) -> list[Block]:
    """Score of the reader on held-out real images."""
    scored = [row for row in kept.where("reader") if row.unit != BY_DEFINITION]
    if not scored:
        return []
    rows = tuple(Entry(None, plain(row.subject), (row.unit, number(row.value, 3))) for row in scored)
    text = f"One network, scored on {count(max(row.n for row in scored))} held-out real images."
    return [Block("Reader", text, table=Table("", ("attribute", "measure", "score"), rows))]
