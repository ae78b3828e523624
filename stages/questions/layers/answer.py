"""The answer to layers: kept and a linear probe at each tap, and their trends over depth."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from stages.attributes import Attribute
from stages.contract import Inputs, Output, Summary
from stages.embeddings.format import open_table
from stages.encoders import card as imported
from stages.encoders.spec import require
from stages.images.sets import open_images
from stages.questions.asks.stage import EMBEDDINGS, ENCODER
from stages.questions.asks.work import chosen
from stages.questions.format import Row, note, put_rows, row, split_tap
from stages.questions.layers import trend
from stages.questions.painted import Painting, painting
from stages.readers import format as readers_format
from stages.readers import ridge, score
from stages.readers.data import table_attributes
from stages.readers.score import Estimate, Floats

if TYPE_CHECKING:
    from stages.questions.layers.stage import Layers

QUESTION = "layers"
KEPT, PROBE = "kept by depth", "linear probe by depth"
TREND, FLOOR = " trend", " trend floor"
SCORE = "1 - d / d of other images"
R2 = "R2 of the attribute from the embedding"
PER_DEPTH = "change from the first tap to the last"


@dataclass(frozen=True)
class _Asked:
    """What every encoder is asked about."""

    found: Painting
    attributes: Sequence[Attribute]
    readings: Mapping[str, Floats]
    """Of all samples, float64 [conditions, K] by attribute."""
    truth: Mapping[str, Floats]
    """Of the sources, float64 [N] by attribute."""
    readers: Mapping[str, float]
    """How well each attribute is read from real images."""

    def kept(self, attribute: Attribute, tap_id: str, seed: int | None = None) -> Estimate:
        """kept of an attribute at a tap; with a seed, where each source is given the samples of another."""
        values = self.readings[attribute.name][self.found.numbers[tap_id][0]]
        shown = None if seed is None else score.derangement(len(values), seed)
        return score.kept(attribute, values, self.truth[attribute.name], shown=shown)


def answer(stage: "Layers", inputs: Inputs, out: Output, device: str) -> Summary:
    """Rows of every encoder with enough taps; the summary holds the verdicts. Samples are read on `device`."""
    found = painting(inputs)
    reader = readers_format.load(inputs["readers"], device)
    flat = found.images.reshape(-1, *found.images.shape[2:])
    readings = {name: values.reshape(found.images.shape[:2]) for name, values in reader.read(flat).items()}
    values = open_images(inputs["shards"]).values()
    asked = _Asked(
        found,
        reader.card.network,
        readings,
        {name: column[found.rows] for name, column in values.items()},
        {attribute.name: reader.card.scores[attribute.name].value for attribute in reader.card.network},
    )
    rows = [note(QUESTION, "rules", ":", trend.RULE)]
    for encoder in dict.fromkeys(split_tap(tap_id)[0] for tap_id in found.tap_ids):
        tap_ids = in_order(stage, inputs, encoder, found.tap_ids)
        if len(tap_ids) < trend.TAPS_MIN:
            why = f"{encoder} has {len(tap_ids)} of the {trend.TAPS_MIN} taps that a trend needs."
            rows.append(note(QUESTION, KEPT, f"{encoder}:", why))
            continue
        rows += _kept(stage.seed, asked, encoder, tap_ids)
        rows += _probed(stage, inputs, asked, encoder, tap_ids)
    rows = put_rows(out, rows)
    return {
        "sources": len(found.rows),
        "verdicts": {f"{r.encoder} {r.subject}": r.verdict for r in rows if r.metric == KEPT + TREND},
    }


def in_order(stage: "Layers", inputs: Inputs, encoder: str, asked: Sequence[str]) -> list[str]:
    """The taps of an encoder that were asked about, as `encoder:tap`, from the first to the last.

    Raises InputError where the study names an encoder or a tap that is not there.
    """
    table = open_table(inputs[EMBEDDINGS + encoder])
    for name in stage.order:
        require("encoder under `order`", name, {split_tap(tap_id)[0] for tap_id in asked})
    known = list(table.taps)
    if encoder in stage.order:
        for tap in stage.order[encoder]:
            require(f"tap of {encoder}", tap, known)
        known = list(stage.order[encoder])
    elif (artifact := inputs.get(ENCODER + encoder)) is not None and imported.CARD in artifact.names():
        named = imported.parse_card(artifact.read(imported.CARD)).named_taps
        known = [*named, *(tap for tap in known if tap not in named)]
    return [f"{encoder}:{tap}" for tap in known if f"{encoder}:{tap}" in asked]


def _kept(seed: int, asked: _Asked, encoder: str, tap_ids: Sequence[str]) -> Iterator[Row]:
    """kept at each tap, its trend, and that of samples of other sources."""
    count = len(asked.found.rows)
    for attribute in asked.attributes:
        estimates = [asked.kept(attribute, tap_id) for tap_id in tap_ids]
        floors = [asked.kept(attribute, tap_id, seed) for tap_id in tap_ids]
        yield from _trend(seed, KEPT, SCORE, encoder, tap_ids, attribute.name, estimates, count, asked.readers)
        bottom = score.interval(trend.trend(floors), count, seed)
        yield row(QUESTION, KEPT + FLOOR, f"{encoder}:", attribute.name, bottom, PER_DEPTH)


def _probed(stage: "Layers", inputs: Inputs, asked: _Asked, encoder: str, tap_ids: Sequence[str]) -> Iterator[Row]:
    """What a linear probe reads at each tap, and its trend. The probe is fitted to train images."""
    table = open_table(inputs[EMBEDDINGS + encoder])
    rows = chosen(inputs["shards"], stage.train, stage.seed, "train")
    values = open_images(inputs["shards"]).values()
    train = {name: column[rows] for name, column in values.items()}
    attributes = table_attributes(inputs["shards"])
    read: list[dict[str, Estimate]] = []
    for tap_id in tap_ids:
        tap = split_tap(tap_id)[1]
        statistics = table.statistics(tap)
        x, seen = (
            statistics.standardise(table.read(tap, "plain", wanted)).astype(np.float64)
            for wanted in (rows, asked.found.rows)
        )
        read.append(ridge.readable(ridge.Ridges(x), seen, attributes, train, asked.truth))
    for name in read[0]:
        estimates = [at[name] for at in read]
        yield from _trend(stage.seed, PROBE, R2, encoder, tap_ids, name, estimates, len(asked.found.rows))


def _trend(
    seed: int,
    metric: str,
    unit: str,
    encoder: str,
    tap_ids: Sequence[str],
    subject: str,
    estimates: Sequence[Estimate],
    count: int,
    readers: Mapping[str, float] | None = None,
) -> Iterator[Row]:
    """A number at each tap, from the first to the last, and its trend, judged."""
    for tap_id, estimate in zip(tap_ids, estimates, strict=True):
        yield row(QUESTION, metric, tap_id, subject, score.interval(estimate, count, seed), unit)
    found = score.interval(trend.trend(estimates), count, seed)
    reader = 1.0 if readers is None else readers[subject]
    judged = row(QUESTION, metric + TREND, f"{encoder}:", subject, found, PER_DEPTH)
    why = " → ".join(split_tap(tap_id)[1] for tap_id in tap_ids)
    if reader < trend.READER_MIN:
        why += f"; its reader scores {reader:.2f}"
    yield replace(judged, verdict=trend.judge(found.low, found.high, reader), why=why)
