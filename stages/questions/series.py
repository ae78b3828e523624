"""Series of taps: kept, a linear probe and r at every tap of a series, and the trends of these numbers, judged.

*layers* goes through the taps of one encoder, *dynamics* through one tap of the checkpoints of a training.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from stages.contract import Inputs
from stages.embeddings.format import open_table
from stages.encoders.augment import Augmentations
from stages.images.sets import open_images
from stages.questions import measures, trend
from stages.questions.asks.stage import EMBEDDINGS, INVARIANCE
from stages.questions.asks.transforms import untaught
from stages.questions.asks.work import MOVED, chosen
from stages.questions.format import Row, row, split_tap
from stages.questions.moves import UNIT, AskedTransforms, middle, moves_at
from stages.questions.painted import Painting
from stages.questions.question import ASKED
from stages.readers import format as readers_format
from stages.readers import ridge, score
from stages.readers.data import table_attributes
from stages.readers.score import Estimate, Floats, Interval

KEPT, PROBE, R = "kept", "linear probe", "r"
TREND, FLOOR = " trend", " trend floor"
"""After the metric of a number: rows on its trend, and on that of samples of other sources."""
SCORE = "1 - d / d of other images"
R2 = "R2 of the attribute from the embedding"
OTHERS = "other transforms"
"""Subject of r: the mean over all transforms that an encoder was not trained with, each at its middle strength."""

Estimates = Mapping[str, Mapping[str, Estimate]]
"""By tap id, then by subject."""


@dataclass(frozen=True)
class Measured:
    """A number that every tap has of every subject."""

    metric: str
    unit: str
    count: int
    """Sources that the estimates are over."""
    at: Estimates
    floor: Estimates = field(default_factory=dict)
    """The same where there is nothing to be found; empty where that is not known."""
    readers: Mapping[str, float] = field(default_factory=dict)
    """How well each subject is read from real images; those that no reader reads are absent."""
    known: Mapping[str, int] = field(default_factory=dict)
    """Sources of which each subject is known, where these may be fewer than all."""
    score: bool = False
    """Whether it is a score, of which 0 is nothing and less is no less than that."""

    def sources(self, subject: str) -> int:
        """How many sources a subject is known of."""
        return self.known.get(subject, self.count)

    def reader(self, subject: str) -> float:
        """How well a subject is read from real images; 1 where nothing has to be read."""
        return self.readers.get(subject, 1.0)

    def largest(self, at_taps: Sequence[Interval]) -> float:
        """The largest lower bound at any tap, for a score; infinite for a distance, which is always something."""
        return float(np.fmax.reduce([found.low for found in at_taps])) if self.score else math.inf

    def subjects(self, tap_ids: Sequence[str]) -> list[str]:
        """The subjects that all these taps have; none where a tap was not measured."""
        by_tap = [self.at.get(tap_id, {}) for tap_id in tap_ids]
        return [subject for subject in by_tap[0] if all(subject in own for own in by_tap)]

    def of(self, subject: str, tap_ids: Sequence[str]) -> list[Estimate]:
        """The estimates of a subject, tap by tap."""
        return [self.at[tap_id][subject] for tap_id in tap_ids]


@dataclass(frozen=True)
class Series:
    """Taps from the first to the last, and how their rows are called."""

    question: str
    by: str
    """What changes from tap to tap: in the metric of every row."""
    point: str
    """What one of its points is called."""
    at: str
    """Tap id in the rows of trends."""
    tap_ids: tuple[str, ...]
    names: tuple[str, ...]
    """Of the points, for the reasons of verdicts."""

    def metric(self, measured: Measured) -> str:
        """The metric of rows on a number at each tap."""
        return f"{measured.metric} by {self.by}"

    def rows(self, measured: Measured, seed: int) -> Iterator[Row]:
        """Of every subject the number at each tap, its trend, judged, and the trend of its floor."""
        metric, unit = self.metric(measured), f"change from the first {self.point} to the last"
        for subject in measured.subjects(self.tap_ids):
            estimates = measured.of(subject, self.tap_ids)
            at_taps = [score.interval(estimate, measured.count, seed) for estimate in estimates]
            for tap_id, own in zip(self.tap_ids, at_taps, strict=True):
                yield row(self.question, metric, tap_id, subject, own, measured.unit)
            found = score.interval(trend.trend(estimates), measured.count, seed)
            reader, why = measured.reader(subject), " → ".join(self.names)
            if reader < trend.READER_MIN:
                why += f"; its reader scores {reader:.2f}"
            changes = changed(estimates, measured.count, seed)
            verdict = trend.judge(
                trend.Evidence(
                    trend=(found.low, found.high),
                    changes=[(change.low, change.high) for change in changes],
                    sources=measured.sources(subject),
                    reader=reader,
                    largest=measured.largest(at_taps),
                )
            )
            judged = row(self.question, metric + TREND, self.at, subject, found, unit)
            yield replace(judged, verdict=verdict, why=why)
            if measured.floor:
                floor = trend.trend([measured.floor[tap_id][subject] for tap_id in self.tap_ids])
                bottom = score.interval(floor, measured.count, seed)
                yield row(self.question, metric + FLOOR, self.at, subject, bottom, unit)


def changed(estimates: Sequence[Estimate], count: int, seed: int) -> list[Interval]:
    """Of every estimate but the first the change since the first, paired; the intervals hold for all at once."""
    first, *later = estimates
    gaps = {str(number): score.difference(estimate, first) for number, estimate in enumerate(later)}
    return list(measures.simultaneous(gaps, count, seed).values())


def kept(inputs: Inputs, found: Painting, tap_ids: Sequence[str], seed: int, device: str) -> Measured:
    """kept of every attribute that the reader reads; its floor gives each source the samples of another."""
    reader = readers_format.load(inputs["readers"], device)
    read = reader.read(found.images.reshape(-1, *found.images.shape[2:]))
    readings = {name: values.reshape(found.images.shape[:2]) for name, values in read.items()}
    truth = {name: column[found.rows] for name, column in open_images(inputs["shards"]).values().items()}
    foreign = score.derangement(len(found.rows), seed)
    at: dict[str, dict[str, Estimate]] = {}
    floor: dict[str, dict[str, Estimate]] = {}
    for tap_id in tap_ids:
        own = found.numbers[tap_id][0]
        at[tap_id], floor[tap_id] = (
            {a.name: score.kept(a, readings[a.name][own], truth[a.name], shown=shown) for a in reader.card.network}
            for shown in (None, foreign)
        )
    readers = {a.name: reader.card.scores[a.name].value for a in reader.card.network}
    return Measured(KEPT, SCORE, len(found.rows), at, floor, readers, _known(truth), score=True)


def _known(truth: Mapping[str, Floats]) -> dict[str, int]:
    return {name: int(np.isfinite(values).sum()) for name, values in truth.items()}


def probed(inputs: Inputs, found: Painting, tap_ids: Sequence[str], train: int, seed: int) -> Measured:
    """What a linear probe reads of every attribute of the dataset. It is fitted to `train` train images at most."""
    rows = chosen(inputs["shards"], train, seed, "train")
    values = open_images(inputs["shards"]).values()
    taught, truth = ({name: column[wanted] for name, column in values.items()} for wanted in (rows, found.rows))
    attributes = table_attributes(inputs["shards"])
    at = {}
    for tap_id in tap_ids:
        encoder, tap = split_tap(tap_id)
        table = open_table(inputs[EMBEDDINGS + encoder])
        statistics = table.statistics(tap)
        x, seen = (
            statistics.standardise(table.read(tap, "plain", wanted)).astype(np.float64) for wanted in (rows, found.rows)
        )
        at[tap_id] = ridge.readable(ridge.Ridges(x), seen, attributes, taught, truth)
    return Measured(PROBE, R2, len(found.rows), at, known=_known(truth), score=True)


def moved(inputs: Inputs, tap_ids: Sequence[str]) -> Measured | None:
    """r of an encoder's own augmentations and of other transforms; None where the study does not ask *invariance*.

    Taps that it was not asked about are absent.
    """
    name = f"{ASKED}.{INVARIANCE.name}"
    asks = [AskedTransforms.read(inputs[each]) for each in inputs if each == name or each.startswith(f"{name}.")]
    if not asks:
        return None
    at: dict[str, dict[str, Estimate]] = {}
    for asked in asks:
        stored = set(asked.conditions.names())
        for tap_id in tap_ids:
            encoder, tap = split_tap(tap_id)
            if f"{MOVED}/{encoder}/{tap}.safetensors" not in stored:
                continue
            moves = moves_at(asked, open_table(inputs[EMBEDDINGS + encoder]), tap_id)
            foreign = untaught(asked.augmentations.get(encoder, Augmentations().used()))
            others = score.average([moves.r(middle(transform)) for transform in foreign])
            at[tap_id] = {asked.drawn(encoder): moves.r(asked.drawn(encoder)), OTHERS: others}
    return Measured(R, UNIT, len(asks[0].sources), at)
