"""The answer to health: every tap by itself, then every pair of taps, each beside its floor."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from stages.contract import Input, Inputs, Output, Summary
from stages.embeddings.format import Table, open_table
from stages.encoders import card as imported
from stages.encoders.format import CARD, read_card
from stages.encoders.spec import EncoderSpec, Untrained
from stages.errors import FormatError, InputError
from stages.images.sets import open_images
from stages.questions.asks.stage import EMBEDDINGS, ENCODER
from stages.questions.format import Row, note, put_rows, row, split_tap
from stages.questions.health import geometry, verdicts
from stages.questions.health.stage import IMAGES_MIN
from stages.readers import score
from stages.readers.data import rows_of
from stages.readers.score import Estimate, Floats, Interval, Numbers

if TYPE_CHECKING:
    from stages.questions.health.stage import Health

QUESTION = "health"
RANK, RANK_ME, ALIGNMENT, UNIFORMITY = "effective rank", "rankme", "alignment", "uniformity"
CONSTANT, ZERO, NORM, VARIATION = "constant features", "zero features", "norm", "norm variation"
CKA, MUTUAL = "cka", "mutual neighbours"
FLOOR = " floor"
"""Ends the metric of a control; its `why` says which. `<metric> - floor` is the paired difference."""
OTHERS = "the flipped views of other images"
PERMUTED = "rows that do not belong together"
PLAIN, FLIP = "plain", "flip"


@dataclass(frozen=True)
class _Measure:
    """A number of a tap with its unit, and, where it can be resampled, as an estimate over `count` images or blocks."""

    value: float
    unit: str
    estimate: Estimate | None = None
    count: int = 0

    @classmethod
    def of(cls, estimate: Estimate, count: int, unit: str) -> "_Measure":
        return cls(float(estimate(np.ones((1, count)))[0]), unit, estimate, count)

    def interval(self, seed: int, images: int) -> Interval:
        if self.estimate is None:
            return Interval(self.value, float("nan"), float("nan"), images)
        return score.interval(self.estimate, self.count, seed, n=images)


@dataclass(frozen=True)
class _Space:
    """What two taps are compared by."""

    products: Floats
    """Of `geometry.centred_products`."""
    neighbours: Numbers
    """Of `geometry.nearest_images`."""

    def permuted(self, seed: int) -> "_Space":
        """With rows that belong to other images."""
        order = score.derangement(len(self.neighbours), seed)
        inside = score.derangement(self.products.shape[1], seed)
        return _Space(geometry.permuted(self.products, inside), geometry.relabelled(self.neighbours, order))


@dataclass(frozen=True)
class _Tap:
    """What is kept of a tap when its vectors are forgotten again."""

    measures: Mapping[str, _Measure]
    others: _Measure | None
    """Alignment of the flipped views of other images; None where there are none."""
    width: int
    space: _Space | None
    """None where all vectors are the same."""


def answer(stage: "Health", inputs: Inputs, out: Output) -> Summary:
    """Rows of every tap of every table, and of every pair of taps; the summary holds the effective ranks."""
    rows, keys = _images(stage, inputs["shards"])
    taps: dict[str, _Tap] = {}
    specs: dict[str, EncoderSpec] = {}
    for name in sorted(name for name in inputs if name.startswith(EMBEDDINGS)):
        encoder, table = name.removeprefix(EMBEDDINGS), open_table(inputs[name])
        specs[encoder] = TypeAdapter(EncoderSpec).validate_python(table.attributes["encoder"])
        own = rows_by_key(table, encoder, keys)
        for layer in table.taps:
            taps[f"{encoder}:{layer}"] = _tap(stage, table, f"{encoder}:{layer}", own)
    raw = {encoder: twin for encoder in specs if (twin := untrained_twin(inputs, encoder, specs)) is not None}
    found = [note(QUESTION, "rules", ":", verdicts.THRESHOLDS)]
    for tap_id, tap in taps.items():
        encoder, layer = split_tap(tap_id)
        twin = f"{raw[encoder]}:{layer}" if encoder in raw else ""
        found += _rows(stage.seed, tap_id, tap, twin, taps.get(twin), len(rows))
    for a, b in combinations(taps, 2):
        found += _pair(stage.seed, a, b, taps, raw, len(rows))
    put_rows(out, found)
    return {
        "images": len(rows),
        "effective_rank": {tap_id: round(tap.measures[RANK].value, 2) for tap_id, tap in taps.items()},
    }


def _images(stage: "Health", shards: Input) -> tuple[Numbers, list[str]]:
    """Held-out rows in random order, int64 [N], and their keys."""
    heldout = rows_of(shards, "heldout")
    order = np.random.Generator(np.random.Philox(key=[stage.seed, len(heldout)])).permutation(len(heldout))
    rows = heldout[order[: stage.count]]
    least = max(IMAGES_MIN, stage.neighbours + 1)
    if len(rows) < least:
        raise InputError(
            f"{least} held-out images or more",
            f"{len(rows)}",
            "Add images, hold out more of them, or lower questions.health.neighbours.",
        )
    keys = open_images(shards).table(["key"]).column("key").to_pylist()
    return rows, [keys[row] for row in rows]


def rows_by_key(table: Table, encoder: str, keys: Sequence[str]) -> Numbers:
    """The rows of a table that hold these images, int64 [N]. FormatError where an image has none, or two."""
    stored = table.rows().column("key").to_pylist()
    position = {key: row for row, key in enumerate(stored)}
    missing = [key for key in keys if key not in position]
    if missing or len(position) < len(stored):
        raise FormatError(
            f"each image once among the embeddings of {encoder}, by its key",
            f"no row for {missing[0]}" if missing else f"{len(stored) - len(position)} keys that stand twice",
            "Embed the images of this study again: run with --force for that embeddings step.",
        )
    return np.array([position[key] for key in keys], dtype=np.int64)


def untrained_twin(inputs: Inputs, encoder: str, specs: Mapping[str, EncoderSpec]) -> str | None:
    """The encoder of the study that is this one before any training; None where there is none."""
    artifact = inputs.get(ENCODER + encoder)
    if artifact is None:
        return None
    if CARD in artifact.names():
        trained = read_card(artifact)
        alike = [
            name
            for name, spec in specs.items()
            if isinstance(spec, Untrained)
            and (spec.architecture, spec.preprocessing) == (trained.architecture, trained.preprocessing)
        ]
    else:
        cards = {
            name: imported.parse_card(inputs[ENCODER + name].read(imported.CARD))
            for name in specs
            if ENCODER + name in inputs and imported.CARD in inputs[ENCODER + name].names()
        }
        own = cards[encoder]
        alike = [
            name
            for name, card in cards.items()
            if card.source.get("untrained")
            and not own.source.get("untrained")
            and (card.recipe, card.preprocessing) == (own.recipe, own.preprocessing)
        ]
    return alike[0] if alike else None


def _tap(stage: "Health", table: Table, tap_id: str, rows: Numbers) -> _Tap:
    """Reads a tap and measures it."""
    tap = split_tap(tap_id)[1]
    x = _finite(table.read(tap, PLAIN, rows), tap_id)
    count, width = x.shape
    constant, zero = geometry.dead(x)
    lengths = geometry.norms(x)
    plain = geometry.directions(x)
    potentials = geometry.potential(plain)
    others = None
    measures = {
        RANK: _Measure(geometry.effective_rank(x), f"directions of {min(width, count - 1)}"),
        RANK_ME: _Measure(geometry.rank_me(x), f"directions of {min(width, count)}"),
    }
    if FLIP in table.views:
        flip = geometry.directions(_finite(table.read(tap, FLIP, rows), tap_id))
        unit = "squared distance of directions"
        measures[ALIGNMENT] = _Measure.of(score.mean(geometry.alignment(plain, flip)), count, unit)
        apart = geometry.alignment(plain, flip[score.derangement(count, stage.seed)])
        others = _Measure.of(score.mean(apart), count, unit)
    measures |= {
        UNIFORMITY: _Measure.of(geometry.uniformity(potentials), len(potentials), "ln of the mean potential"),
        CONSTANT: _Measure(float(constant.mean()), f"share of {width} features"),
        ZERO: _Measure(float(zero.mean()), f"share of {width} features"),
        NORM: _Measure.of(score.mean(lengths), count, "L2 of the vector"),
        VARIATION: _Measure.of(geometry.variation(lengths), count, "standard deviation / mean"),
    }
    space = None
    if not constant.all():
        space = _Space(geometry.centred_products(x), geometry.nearest_images(x, stage.neighbours))
    return _Tap(measures, others, width, space)


def _finite(x: NDArray[np.float32], tap_id: str) -> NDArray[np.float32]:
    """The vectors [N, D]; InputError where one holds a number that is none."""
    if wrong := int((~np.isfinite(x)).any(axis=1).sum()):
        raise InputError(
            f"finite vectors at {tap_id}",
            f"{wrong} of {len(x)} with NaN or infinity",
            "Run again with --force for that embeddings step, or leave out the tap.",
        )
    return x


def _rows(seed: int, tap_id: str, tap: _Tap, twin: str, raw: _Tap | None, images: int) -> Iterator[Row]:
    """The numbers of a tap, each beside its floor; `raw` is the tap `twin` of the network untrained."""
    if ALIGNMENT not in tap.measures:
        yield note(QUESTION, ALIGNMENT, tap_id, "The table has no flipped views.")
    for metric, measure in tap.measures.items():
        found = row(QUESTION, metric, tap_id, "", measure.interval(seed, images), measure.unit)
        verdict = verdicts.of_tap(measure.value, tap.width, images) if metric == RANK else ""
        yield replace(found, verdict=verdict)
        if raw is not None and metric in raw.measures:
            yield from _floor(seed, found, measure, raw.measures[metric], f"{twin}, untrained", images)
        elif metric == ALIGNMENT and tap.others is not None:
            yield from _floor(seed, found, measure, tap.others, OTHERS, images)


def _floor(seed: int, found: Row, measure: _Measure, floor: _Measure, why: str, images: int) -> Iterator[Row]:
    """The rows of a floor and, where both can be resampled, of the paired difference to it."""
    tap_id = f"{found.encoder}:{found.tap}"
    low = row(QUESTION, found.metric + FLOOR, tap_id, found.subject, floor.interval(seed, images), measure.unit)
    yield replace(low, why=why)
    if measure.estimate is not None and floor.estimate is not None:
        gap = score.interval(score.difference(measure.estimate, floor.estimate), measure.count, seed, n=images)
        paired = row(QUESTION, f"{found.metric} -{FLOOR}", tap_id, found.subject, gap, measure.unit)
        yield replace(paired, why=why)


def _pair(seed: int, a: str, b: str, taps: Mapping[str, _Tap], raw: Mapping[str, str], images: int) -> Iterator[Row]:
    """How alike two taps are, and their floor: the networks untrained where the study has them."""
    one, other = taps[a].space, taps[b].space
    if one is None or other is None:
        yield note(QUESTION, CKA, a, "A tap whose vectors are all the same is like no other.", b)
        return
    floors = [
        (_likeness(first, second), f"{' and '.join(untrained)}, untrained")
        for untrained in _untrained_pairs(a, b, raw)
        if (first := _space(taps, untrained[0])) and (second := _space(taps, untrained[1]))
    ] or [(_likeness(one, other.permuted(seed)), PERMUTED)]
    for metric, measure in _likeness(one, other).items():
        # The control that is most alike counts.
        floor, why = max(((floor[metric], why) for floor, why in floors), key=lambda entry: entry[0].value)
        found = row(QUESTION, metric, a, b, measure.interval(seed, images), measure.unit)
        below = list(_floor(seed, found, measure, floor, why, images))
        yield replace(found, verdict=verdicts.of_pair(below[-1].low, below[-1].high), why=f"against {why}")
        yield from below


def _space(taps: Mapping[str, _Tap], tap_id: str) -> _Space | None:
    return taps[tap_id].space if tap_id in taps else None


def _untrained_pairs(a: str, b: str, raw: Mapping[str, str]) -> list[tuple[str, str]]:
    """The taps whose likeness is the floor of that of two taps.

    Of one encoder: both taps of its network untrained. Of two: each beside the other untrained, since both may have the
    same network, which is like itself whatever it is.
    """
    (one, first), (other, second) = split_tap(a), split_tap(b)
    if one == other:
        return [(f"{raw[one]}:{first}", f"{raw[one]}:{second}")] if one in raw else []
    if one not in raw or other not in raw:
        return []
    return [(a, f"{raw[other]}:{second}"), (f"{raw[one]}:{first}", b)]


def _likeness(a: _Space, b: _Space) -> dict[str, _Measure]:
    """CKA and shared neighbours."""
    own, other = (geometry.hsic(space.products, space.products) for space in (a, b))
    alike = geometry.cka(geometry.hsic(a.products, b.products), own, other)
    same = geometry.shared(a.neighbours, b.neighbours)
    return {
        CKA: _Measure.of(alike, len(own), "linear CKA, debiased"),
        MUTUAL: _Measure.of(score.mean(same), len(same), f"share of the {a.neighbours.shape[1]} nearest images"),
    }
