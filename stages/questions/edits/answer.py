"""The answer to edits: effects on every attribute, their differences, controls, paths, undo and grids."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stages.attributes import Attribute
from stages.contract import Inputs, Output, Summary
from stages.errors import FormatError
from stages.images.sets import open_images
from stages.questions import measures
from stages.questions.asks.stage import of_group
from stages.questions.asks.work import PLAIN
from stages.questions.edits import effects
from stages.questions.edits.ask import values_of
from stages.questions.edits.format import (
    ABOUT,
    CONTROL,
    DIMENSIONS,
    END,
    LINEAR,
    MEANS,
    ON,
    PCA,
    PIXELS,
    PROBE,
    RANDOM,
    SPHERICAL,
    SWAP,
    ZERO,
    variant,
)
from stages.questions.findings import READ_MIN, SELECTIVITY, EditEvidence, edit_works
from stages.questions.format import Figure, Row, note, put_rows, row, split_tap
from stages.questions.painted import Painting, Space, painting, space
from stages.questions.question import CONDITIONS
from stages.questions.turns import in_turns
from stages.readers import format as readers_format
from stages.readers import score
from stages.readers.data import rows_of, table_attributes
from stages.readers.score import Estimate, Floats, Interval, Numbers
from stages.samples.format import read_conditions, read_vectors

if TYPE_CHECKING:
    from stages.questions.edits.stage import Edits

QUESTION = "edits"
UNIT = "distance of two random images in the attribute"
SOURCE = "source"


@dataclass(frozen=True)
class _About:
    """What all tap groups were asked."""

    rows: list[int]
    partners: Numbers
    """Position of the source at the other end of each path."""
    strengths: list[float]
    ratios: list[float]
    towards: dict[str, Floats]
    """By attribute that was edited, float64 [N, F]; NaN where a source was not."""

    @classmethod
    def read(cls, data: bytes, attributes: Mapping[str, Attribute]) -> "_About":
        about: dict[str, Any] = json.loads(data)
        towards = {}
        for name, goals in about["goals"].items():
            width = effects.features(attributes[name], np.zeros(1)).shape[1]
            towards[name] = np.array([[np.nan] * width if u is None else u for u in goals], dtype=np.float64)
        partners = np.array(about["partners"], dtype=np.int64)
        return cls(about["rows"], partners, about["strengths"], about["ratios"], towards)

    @property
    def middle(self) -> float:
        return self.strengths[len(self.strengths) // 2]


@dataclass(frozen=True)
class _Asked:
    """What every row needs."""

    seed: int
    found: Painting
    about: _About
    attributes: dict[str, Attribute]
    """The dataset's own."""
    readers: dict[str, float]
    """Score of the reader of each of them."""
    units: dict[str, float]
    truth: dict[str, Floats]
    """Of the sources, float64 [N]."""
    readings: dict[str, Floats]
    """Of all samples, float64 [conditions, K]."""
    blends: dict[str, list[Floats]]
    """Of each source blended with its partner, pixel by pixel, at each ratio: float64 [N]."""

    @property
    def read_well(self) -> list[str]:
        """The attributes whose readers can be relied on."""
        return [name for name, value in self.readers.items() if value >= READ_MIN and np.isfinite(self.units[name])]

    def read(self, name: str, tap_id: str, variant: str) -> Floats:
        """An attribute as read from the samples of a variant, float64 [N, K]."""
        found: Floats = self.readings[name][self.found.numbers[tap_id][self.found.variants.index(variant)]]
        return found

    def change(self, name: str, tap_id: str, variant: str) -> Floats:
        """What a variant did to an attribute: float64 [N, K, F]."""
        edited, plain = self.read(name, tap_id, variant), self.read(name, tap_id, PLAIN)
        return effects.change(self.attributes[name], edited, plain, self.units[name])

    def target(self, name: str, tap_id: str, method: str, strength: float) -> Estimate:
        """Effect of an edit on its own attribute, in the wanted direction."""
        changes = self.change(name, tap_id, variant(method, strength, name))
        return score.mean(effects.along(changes, self.about.towards[name]))

    def on(self, name: str, tap_id: str, variant: str) -> Estimate:
        """Effect of a variant on an attribute, in any direction."""
        return effects.root_mean(effects.squared(self.change(name, tap_id, variant)))

    def row(self, metric: str, tap_id: str, subject: str, estimate: Estimate, unit: str = UNIT) -> Row:
        """The estimate with its interval over sources."""
        return row(QUESTION, metric, tap_id, subject, self.interval(estimate), unit)

    def interval(self, estimate: Estimate) -> Interval:
        return score.interval(estimate, len(self.found.rows), self.seed)

    def simultaneous(self, estimates: Mapping[str, Estimate]) -> dict[str, Interval]:
        """Intervals that hold for all attributes at once."""
        return measures.simultaneous(estimates, len(self.found.rows), self.seed)


def answer(stage: "Edits", inputs: Inputs, out: Output, device: str) -> Summary:
    """Rows and grids of every tap of the ask; the summary holds the verdicts. Samples are read on `device`."""
    found = painting(inputs)
    asks = [inputs[of_group(CONDITIONS, group)].read(ABOUT) for group in found.starts]
    if any(json.loads(ask) != json.loads(asks[0]) for ask in asks):
        raise FormatError(
            "the same edits of the same sources in every tap group",
            "other ones in one of them",
            "Run again with --force for each step ask.edits.",
        )
    shards = inputs["shards"]
    reader = readers_format.load(inputs["readers"], device)
    own = {attribute.name: attribute for attribute in table_attributes(shards)}
    about = _About.read(asks[0], own)
    images = open_images(shards).decode(found.rows, found.size)
    columns = {name: values_of(shards, name) for name in own}
    train = rows_of(shards, "train")
    asked = _Asked(
        seed=stage.seed,
        found=found,
        about=about,
        attributes=own,
        readers={name: held.value for name, held in reader.card.scores.items() if name in own},
        units={name: effects.unit(own[name], values[train]) for name, values in columns.items()},
        truth={name: values[found.rows] for name, values in columns.items()},
        readings=_read(reader, found.images),
        blends=_blends(reader, images, about),
    )
    rows: list[Row] = []
    for name, value in asked.readers.items():
        alone = Interval(value, float("nan"), float("nan"), reader.card.scores[name].n)
        rows.append(row(QUESTION, "reader", "", name, alone, reader.card.scores[name].measure))
    for tap_id in found.tap_ids:
        rows += _tap_rows(asked, tap_id)
        rows += _undone(asked, inputs, tap_id, space(inputs, found, tap_id))
    rows = put_rows(out, rows)
    for figure in _figures(stage, asked, images, in_turns(inputs["shards"], found.rows)):
        figure.put(out)
    return {
        "sources": len(found.rows),
        "verdicts": {f"{r.encoder}:{r.tap} {r.subject}": r.verdict for r in rows if r.metric == SELECTIVITY},
    }


def _read(reader: readers_format.Reader, images: NDArray[np.uint8]) -> dict[str, Floats]:
    """Attributes of samples uint8 [C, K, H, W, 3]: by name, float64 [C, K]."""
    read = reader.read(images.reshape(-1, *images.shape[2:]))
    return {name: values.reshape(images.shape[:2]) for name, values in read.items()}


def blended(images: NDArray[np.uint8], partners: Numbers, ratio: float) -> NDArray[np.uint8]:
    """Each image [N, H, W, 3] mixed with its partner, pixel by pixel: the path that needs no embedding."""
    mixed = (1.0 - ratio) * images.astype(np.float64) + ratio * images[partners]
    return np.rint(mixed).astype(np.uint8)


def _blends(reader: readers_format.Reader, images: NDArray[np.uint8], about: _About) -> dict[str, list[Floats]]:
    read = [reader.read(blended(images, about.partners, ratio)) for ratio in (0.0, *about.ratios, 1.0)]
    return {name: [one[name] for one in read] for name in read[0]}


def _tap_rows(asked: _Asked, tap_id: str) -> Iterator[Row]:
    """Effects, differences, controls and paths of one tap."""
    about = asked.about
    held = {}
    for name in asked.readers:
        truth = asked.truth[name]
        kept = score.kept(asked.attributes[name], asked.read(name, tap_id, PLAIN), truth)
        held[name] = asked.interval(kept)
        yield row(QUESTION, "held", tap_id, name, held[name], "kept by samples of the unedited embedding")
    edited = [name for name in about.towards if name in asked.readers and np.isfinite(asked.units[name])]
    steps: dict[str, float] = {}
    for name in edited:
        curve = [(0.0, score.mean(np.where(np.isfinite(about.towards[name]).all(axis=1), 0.0, np.nan)))]
        for strength in about.strengths:
            curve.append((strength, asked.target(name, tap_id, MEANS, strength)))
            yield asked.row("effect", tap_id, variant(MEANS, strength, name), curve[-1][1])
        for method in (PROBE, PCA, RANDOM):
            yield asked.row(
                "effect", tap_id, variant(method, about.middle, name), asked.target(name, tap_id, method, about.middle)
            )
        lows = []
        for (less, before), (more, after) in pairwise(curve):
            step = asked.row("step", tap_id, f"{less:g} to {more:g} {name}", score.difference(after, before))
            lows.append(step.low)
            yield step
        steps[name] = min(lows)
    for method in (MEANS, PROBE, PCA):
        yield from _selectivity(asked, tap_id, method, edited, held, steps)
    for name in asked.read_well:
        for kind in (ZERO, SWAP):
            for control in ("", CONTROL):
                yield asked.row(f"{DIMENSIONS}{name}", tap_id, kind + control, asked.on(name, tap_id, kind + control))
    yield from _paths(asked, tap_id)


def _selectivity(
    asked: _Asked,
    tap_id: str,
    method: str,
    edited: list[str],
    held: Mapping[str, Interval],
    steps: Mapping[str, float],
) -> Iterator[Row]:
    """Effect of an edit on its attribute against that on all others, and against that of random directions."""
    middle = asked.about.middle
    differences: dict[str, Estimate] = {}
    excess: dict[str, Estimate] = {}
    for name in edited:
        target = asked.target(name, tap_id, method, middle)
        excess[name] = score.difference(target, asked.target(name, tap_id, RANDOM, middle))
        others = {
            other: asked.on(other, tap_id, variant(method, middle, name)) for other in asked.read_well if other != name
        }
        for other, effect in others.items():
            yield asked.row(f"{ON}{other}", tap_id, f"{method} {name}", effect)
        differences[name] = score.difference(target, effects.largest(list(others.values()))) if others else _nothing
    selectivity, over_random = asked.simultaneous(differences), asked.simultaneous(excess)
    for name in edited:
        subject = f"{method} {name}"
        verdict, why = edit_works(
            EditEvidence(
                reader=asked.readers[name],
                held=held[name].low,
                selectivity=selectivity[name].low,
                over_random=over_random[name].low,
                sources=int(np.isfinite(asked.about.towards[name]).all(axis=1).sum()),
                # Other directions were painted at one strength alone.
                step=steps[name] if method == MEANS else 0.0,
            )
        )
        found = row(QUESTION, SELECTIVITY, tap_id, subject, selectivity[name], UNIT)
        yield Row(**{**vars(found), "verdict": verdict, "why": why})
        yield row(QUESTION, "over random", tap_id, subject, over_random[name], UNIT)


def _nothing(weights: Floats) -> Floats:
    return np.full(len(weights), np.nan)


def _paths(asked: _Asked, tap_id: str) -> Iterator[Row]:
    """Share of the way to the other source, along each path, and the largest step of it: means over attributes."""
    about = asked.about
    gone: dict[str, list[tuple[Floats, Floats]]] = {LINEAR: [], SPHERICAL: [], PIXELS: []}
    for name in asked.read_well:
        attribute = asked.attributes[name]
        start = effects.features(attribute, asked.truth[name])
        end = start[about.partners]
        plain = asked.read(name, tap_id, PLAIN)
        for kind, by_attribute in gone.items():
            if kind == PIXELS:
                readings = [values[:, None] for values in asked.blends[name]]
            else:
                between = [asked.read(name, tap_id, variant(kind, ratio)) for ratio in about.ratios]
                readings = [plain, *between, asked.read(name, tap_id, END)]
            products, lengths = effects.progress(
                np.stack([effects.features(attribute, x) for x in readings]), start, end
            )
            by_attribute.append((products, lengths))
    ratios = (0.0, *about.ratios, 1.0)
    largest = {}
    for kind, measured in gone.items():
        by_attribute = [one for one in measured if np.nansum(one[1]) > 0] or measured
        if not by_attribute:
            continue
        for number, ratio in enumerate(ratios):
            share = score.average([_share(products[number], lengths) for products, lengths in by_attribute])
            yield asked.row("path", tap_id, variant(kind, ratio), share, "share of the way")
        largest[kind] = score.average(
            [_share(np.abs(np.diff(products, axis=0)).max(axis=0), lengths) for products, lengths in by_attribute]
        )
        yield asked.row("largest step", tap_id, kind, largest[kind], "share of the way")
    for kind in (LINEAR, SPHERICAL):
        if kind in largest:
            gap = score.difference(largest[PIXELS], largest[kind])
            yield asked.row("largest step", tap_id, f"{PIXELS} - {kind}", gap, "share of the way")


def _share(products: Floats, lengths: Floats) -> Estimate:
    return score.ratio(score.mean(products), score.mean(lengths))


def _undone(asked: _Asked, inputs: Inputs, tap_id: str, where: Space) -> Iterator[Row]:
    """Distance to the source after an edit was painted, embedded and taken back, beside that without an edit."""
    if where.samples is None:
        yield note(
            QUESTION, "undone", tap_id, f"Samples were not embedded at {tap_id}, so no edit is taken back there."
        )
        return
    unit = "distance of two random images"
    source = where.sources[:, None]
    plain = asked.found.variants.index(PLAIN)
    unedited = measures.l2(where.samples[plain], source).mean(axis=1) / where.unit
    yield asked.row("undone", tap_id, "not edited", score.mean(unedited), unit)
    steps = _steps(asked, inputs, tap_id, where)
    for name in asked.about.towards:
        number = asked.found.variants.index(variant(MEANS, asked.about.middle, name))
        defined = np.isfinite(asked.about.towards[name]).all(axis=1)
        for subject, step in ((f"taken back {name}", steps[number]), (f"edited {name}", np.zeros_like(steps[number]))):
            apart = measures.l2(where.samples[number] - step[:, None], source).mean(axis=1) / where.unit
            yield asked.row("undone", tap_id, subject, score.mean(np.where(defined, apart, np.nan)), unit)


def _steps(asked: _Asked, inputs: Inputs, tap_id: str, where: Space) -> Floats:
    """What each variant added to the embedding, standardised: float64 [V, N, D]."""
    group = asked.found.groups[tap_id]
    conditions = inputs[of_group(CONDITIONS, group)]
    vectors = read_vectors(conditions, read_conditions(conditions))
    numbers = asked.found.numbers[tap_id] - asked.found.starts[group]
    edited = np.stack([np.stack([vectors[number] for number in line]) for line in numbers])
    plain = edited[asked.found.variants.index(PLAIN)]
    steps: Floats = (edited - plain).astype(np.float64) / where.statistics.scale
    return steps


def _figures(stage: "Edits", asked: _Asked, images: NDArray[np.uint8], order: Numbers) -> Iterator[Figure]:
    """Per tap the first sample of the edited embeddings of the first sources in `order`, and of those along paths."""
    found, about = asked.found, asked.about
    seeds = {"bootstrap": stage.seed}
    middle = about.middle
    for number, tap_id in enumerate(found.tap_ids):
        encoder, tap = split_tap(tap_id)

        def first(name: str, source: int, tap_id: str = tap_id) -> NDArray[np.uint8]:
            sample: NDArray[np.uint8] = found.at(tap_id, found.variants.index(name))[source, 0]
            return sample

        lines: list[NDArray[np.uint8]] = []
        labels: list[str] = []
        for name, towards in about.towards.items():
            steps = [*(variant(MEANS, s, name) for s in about.strengths)]
            steps += [variant(method, middle, name) for method in (PROBE, PCA, RANDOM)]
            for source in [source for source in order.tolist() if np.isfinite(towards[source]).all()][: stage.shown]:
                lines.append(np.stack([images[source], *(first(v, int(source)) for v in (PLAIN, *steps))]))
                labels.append(f"{name}, image {found.rows[source]}")
        columns = (SOURCE, "unedited", *(f"x {s:g}" for s in about.strengths), PROBE, "PCA", RANDOM)
        if lines:
            yield Figure(
                name=f"edits-{tap_id.replace(':', '-')}",
                kind="edits",
                title=f"Samples of edited embeddings at {tap_id}",
                caption="One sample of each embedding; all of a source have the same noise.",
                tiles=np.stack(lines),
                rows=tuple(labels),
                columns=columns,
                order=number,
                seeds=seeds,
                encoder=encoder,
                tap=tap,
            )
        lines, labels = [], []
        for source in order[: stage.shown].tolist():
            for kind in (LINEAR, SPHERICAL):
                between = [first(variant(kind, ratio), source) for ratio in about.ratios]
                lines.append(np.stack([first(PLAIN, source), *between, first(END, source)]))
            lines.append(np.stack([blended(images, about.partners, r)[source] for r in (0.0, *about.ratios, 1.0)]))
            labels += [f"{kind}, image {found.rows[source]}" for kind in ("straight line", "arc", "blended pixels")]
        yield Figure(
            name=f"paths-{tap_id.replace(':', '-')}",
            kind="paths",
            title=f"From one source to another at {tap_id}",
            caption="Samples along the path, all from one noise; below them the blended pixels.",
            tiles=np.stack(lines),
            rows=tuple(labels),
            columns=tuple(f"{ratio:g}" for ratio in (0.0, *about.ratios, 1.0)),
            order=100 + number,
            seeds=seeds,
            encoder=encoder,
            tap=tap,
        )
