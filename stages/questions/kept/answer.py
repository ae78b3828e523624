"""The answer to kept: rows and figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stages.attributes import Attribute
from stages.contract import Inputs, Output, Summary
from stages.embeddings.format import open_table
from stages.encoders.encoder import Encoder
from stages.images.sets import open_images
from stages.questions import doses, measures
from stages.questions.asks.stage import of_group
from stages.questions.asks.work import encoder_of
from stages.questions.doses import Doses
from stages.questions.format import BOTH, DUPLICATE, Figure, Row, note, put_rows, row, split_tap
from stages.questions.kept import verdicts
from stages.questions.painted import Painting, Space, painting, space
from stages.questions.question import HALFWAY, SEEDS
from stages.questions.turns import in_turns
from stages.readers import format as readers_format
from stages.readers import pixel, score
from stages.readers.data import truth
from stages.readers.probe import PLANTED, PLANTED_SHARE, PROBES, Probe
from stages.readers.probe import load as load_probes
from stages.readers.reference import REFERENCE, Reference
from stages.readers.score import Estimate, Floats, Interval, Numbers

if TYPE_CHECKING:
    from stages.questions.kept.stage import Kept

QUESTION = "kept"
CEILING = "oracle:attributes"
"""The tap whose condition is the truth."""
SCORE = "1 - d / d of other images"
SAME_MIN = 0.6
"""Attributes of one kind measure the same where they are associated as much (`stages.readers.score.association`)."""
COPIES = 4
"""Noisy copies of each source that pixel attributes are read from."""
DEVIATION_QUANTILE = 0.995
"""The maps' scale ends here, so that single pixels do not darken all others."""


@dataclass(frozen=True)
class _Reader:
    """A reference encoder that reads images."""

    how: Reference
    encoder: Encoder
    truth: dict[str, Floats]
    """What it reads of the sources themselves, float64 [N] by attribute."""

    @classmethod
    def of(cls, tap_id: str, inputs: Inputs, rows: Numbers, device: str) -> "_Reader":
        """Raises InputError where the encoder is no longer the one that made its table."""
        encoder, _ = split_tap(tap_id)
        table = inputs[REFERENCE + encoder]
        how = Reference.of(tap_id, inputs["shards"], table)
        seeing = encoder_of(inputs, encoder, open_table(table), device)
        assert seeing is not None, f"{encoder} is a step and not among the inputs"
        return cls(how, seeing, how.read_rows(table, rows))

    def read(self, images: NDArray[np.uint8]) -> dict[str, Floats]:
        """Of uint8 [N, S, S, 3], float64 [N] by attribute."""
        return self.how.read_images(self.encoder, images)


@dataclass(frozen=True)
class _Painted:
    """What the sources themselves would score, painted at the decoder's resolution with the samples' own noise.

    A function of the pixels is exact on real images and may still read that noise.
    """

    noise: float
    """Standard deviation, in intensities of 0 to 1: how much more there is in samples than in sources."""
    readings: dict[str, Floats]
    """Of several draws of each source, float64 [N, COPIES], by attribute: those of the pixels and of references."""

    @classmethod
    def of(
        cls, sources: NDArray[np.uint8], samples: NDArray[np.uint8], references: Sequence[_Reader], seed: int
    ) -> "_Painted":
        """From sources uint8 [N, S, S, 3] and samples uint8 [C, K, S, S, 3], one of each condition."""
        extra = measures.noise_level(samples[:, 0]) ** 2 - measures.noise_level(sources) ** 2
        noise = float(np.sqrt(max(0.0, extra)))
        drawn = []
        for number in range(COPIES):
            noisy = measures.noised(sources, noise, seed, number)
            drawn.append(pixel.read(noisy))
            for reference in references:
                drawn[-1] |= reference.read(noisy)
        return cls(noise, {name: np.stack([each[name] for each in drawn], axis=1) for name in drawn[0]})

    def quality(self, attribute: Attribute, truth: Floats) -> float:
        """How well the attribute is read from a noisy source."""
        return float(np.mean([score.quality(attribute, one, truth)[0] for one in self.readings[attribute.name].T]))


@dataclass(frozen=True)
class _Asked:
    """What every score needs."""

    seed: int
    found: Painting
    attributes: tuple[Attribute, ...]
    """Everything that can be read, the dataset's own first."""
    closed: tuple[Attribute, ...]
    """Those whose ceiling are the sources themselves: functions of the pixels, and what references read."""
    truth: dict[str, Floats]
    """Of the sources, float64 [N] by attribute."""
    readings: dict[str, Floats]
    """Of all samples, float64 [conditions, K] by attribute."""
    other_trainings: tuple[dict[str, Floats], ...]
    """The same of decoders that were trained from other seeds."""
    halfway: dict[str, Floats] | None
    """The same at half of the decoder's training."""
    painted: _Painted
    """The sources, with the samples' noise, in the place of samples."""
    readers: dict[str, Interval]
    """How well each attribute is read, by name."""

    def kept(self, attribute: Attribute, tap_id: str) -> Estimate:
        """kept of an attribute at a tap, over all trainings."""
        every = (self.readings, *self.other_trainings)
        return score.over_trainings([self.kept_in(readings, attribute, tap_id) for readings in every], self.seed)

    def kept_in(self, readings: dict[str, Floats], attribute: Attribute, tap_id: str) -> Estimate:
        """kept of an attribute at a tap, of the samples of one training."""
        values = readings[attribute.name][self.found.numbers[tap_id][0]]
        return score.kept(attribute, values, self.truth[attribute.name])

    def ceiling(self, attribute: Attribute) -> Estimate:
        """kept of a `closed` attribute where the sources themselves are the samples."""
        return score.kept(attribute, self.painted.readings[attribute.name], self.truth[attribute.name])

    def interval(self, estimate: Estimate, n: int | None = None) -> Interval:
        """The estimate with its interval over sources."""
        return score.interval(estimate, len(self.found.rows), self.seed, n)


@dataclass(frozen=True)
class _Distances:
    """Distances to a source's embedding, all at the decoder's resolution."""

    samples: Floats
    """Of each of its samples' embeddings, float64 [N, K]."""
    nearest: Floats
    """Of the nearest other image's, float64 [N]."""
    unit: float
    """Mean distance of two random images."""

    @classmethod
    def of(cls, tap_space: Space) -> "_Distances | None":
        """None where samples are not embedded again."""
        if tap_space.samples is None:
            return None
        seen = tap_space.attainable
        _, nearest = measures.nearest_other(seen.gallery, seen.positions)
        return cls(measures.l2(tap_space.samples[0], seen.sources[:, None]), nearest, seen.unit)

    def nearness(self, asked: _Asked) -> Interval:
        """Median over sources of d(sample, source) / d(nearest other image, source), the samples' own median first."""
        values = score.divide(np.median(self.samples, axis=1), self.nearest)
        return asked.interval(score.median(values))

    def twins(self, images: NDArray[np.uint8]) -> tuple[Numbers, NDArray[np.bool_]]:
        """The twins of each source, int64 [N, 2], and whether both are nearer than its nearest other image, [N]."""
        pairs = measures.twins(images, self.samples)
        near: NDArray[np.bool_] = np.take_along_axis(self.samples, pairs, axis=1).max(axis=1) < self.nearest
        return pairs, near


def answer(stage: "Kept", inputs: Inputs, out: Output, device: str) -> Summary:
    """Scores every attribute at every tap; writes rows and figures; the summary holds kept and the verdicts.

    The samples are read on `device`.
    """
    found = painting(inputs)
    reader = readers_format.load(inputs["readers"], device)
    sources = open_images(inputs["shards"]).decode(found.rows, found.size)
    references = [_Reader.of(tap_id, inputs, found.rows, device) for tap_id in stage.references]
    true_values = truth(inputs["shards"], found.rows, sources)
    for reference in references:
        true_values |= reference.truth
    halfway = None
    if all(of_group(HALFWAY, group) in inputs for group in found.starts):
        halfway = _read(reader, references, painting(inputs, HALFWAY).images)
    painted = _Painted.of(sources, found.images, references, stage.seed)
    closed = (*reader.card.pixel, *(a for reference in references for a in reference.how.attributes))
    attributes = (*reader.card.network, *closed)
    readers = _readers(reader.card, closed, painted, true_values)
    readings = _read(reader, references, found.images)
    seeds = sorted((name for name in inputs if name.startswith(f"{SEEDS}.")), key=lambda name: int(name.split(".")[1]))
    others = tuple(_read(reader, references, painting(inputs, name).images) for name in seeds)
    asked = _Asked(stage.seed, found, attributes, closed, true_values, readings, others, halfway, painted, readers)
    probes: dict[tuple[str, str], Probe] = {}
    for name in inputs:
        if name.split(".")[0] == "probes":
            probes |= {(f"{p.encoder}:{p.tap}", p.attribute): p for p in load_probes(inputs[name].read(PROBES))}
    distances = {tap_id: _Distances.of(space(inputs, found, tap_id)) for tap_id in found.tap_ids}

    rows = [note(QUESTION, "rules", "", verdicts.THRESHOLDS)]
    for attribute in attributes:
        unit = verdicts.NOISY if attribute in closed else reader.card.scores[attribute.name].measure
        rows.append(row(QUESTION, "reader", "", attribute.name, readers[attribute.name], unit))
    for attribute in closed:
        best = asked.interval(asked.ceiling(attribute))
        rows.append(row(QUESTION, "ceiling", "", attribute.name, best, SCORE))
    alone = Interval(painted.noise, float("nan"), float("nan"), len(found.rows))
    rows.append(row(QUESTION, "noise", "", "", alone, "standard deviation, of full intensity"))
    for tap_id in found.tap_ids:
        rows += _tap_rows(asked, tap_id, probes, distances[tap_id])
    rows += [note(QUESTION, DUPLICATE, "", first, name) for name, first in _duplicates(attributes, true_values).items()]
    for encoder, backbone, projector in found.ends():
        both = f"{encoder}:{BOTH}"
        for attribute in attributes:
            gap = score.difference(asked.kept(attribute, backbone), asked.kept(attribute, projector))
            n = int(np.isfinite(true_values[attribute.name]).sum())
            rows.append(row(QUESTION, "kept difference", both, attribute.name, asked.interval(gap, n), SCORE))
    rows += _slopes(asked, attributes, doses.asked_about(inputs, list(found.starts)), probes)
    rows = put_rows(out, rows)
    for figure in _figures(stage, found, sources, distances, in_turns(inputs["shards"], found.rows)):
        figure.put(out)
    scored = [r for r in rows if r.metric == "kept"]
    return {
        "sources": len(found.rows),
        "per_source": found.per_source,
        "kept": {f"{r.encoder}:{r.tap} {r.subject}": round(r.value, 4) for r in scored if np.isfinite(r.value)},
        "verdicts": {f"{r.encoder}:{r.tap}": r.why for r in rows if r.metric == "sentence"},
    }


def _duplicates(attributes: Sequence[Attribute], values: Mapping[str, Floats]) -> dict[str, str]:
    """For attributes that measure the same as an earlier one on these images, the name of the first such."""
    first: dict[str, str] = {}
    for number, attribute in enumerate(attributes):
        for other in attributes[:number]:
            own, others = values[attribute.name], values[other.name]
            if score.association(attribute, own, other, others) >= SAME_MIN:
                first[attribute.name] = first.get(other.name, other.name)
                break
    return first


def _readers(
    card: readers_format.ReaderCard, closed: Sequence[Attribute], painted: _Painted, truth: Mapping[str, Floats]
) -> dict[str, Interval]:
    """How well each attribute is read: on held-out images, the `closed` ones from the sources as samples would be."""
    values = {name: (held.value, held.n) for name, held in card.scores.items()}
    for a in closed:
        values[a.name] = painted.quality(a, truth[a.name]), int(np.isfinite(truth[a.name]).sum())
    return {name: Interval(value, float("nan"), float("nan"), n) for name, (value, n) in values.items()}


def _read(reader: readers_format.Reader, references: Sequence[_Reader], images: NDArray[np.uint8]) -> dict[str, Floats]:
    """Attributes of samples uint8 [C, K, H, W, 3]: by name, float64 [C, K]."""
    flat = images.reshape(-1, *images.shape[2:])
    read = reader.read(flat)
    for reference in references:
        read |= reference.read(flat)
    return {name: values.reshape(images.shape[:2]) for name, values in read.items()}


def _slopes(
    asked: _Asked, attributes: Sequence[Attribute], found: Sequence[Doses], probes: dict[tuple[str, str], Probe]
) -> list[Row]:
    """Slopes of kept and of the probe over the strength of an augmentation, at taps that all its encoders have."""
    rows = []
    for dose in found:
        for tap in dose.shared_taps(asked.found.tap_ids):
            tap_ids = [f"{encoder}:{tap}" for encoder in dose.encoders]
            for attribute in attributes:
                steep = doses.slope([asked.kept(attribute, tap_id) for tap_id in tap_ids], dose)
                rows.append(dose.row(QUESTION, "kept slope", tap, attribute.name, asked.interval(steep)))
                read = [probes.get((tap_id, attribute.name)) for tap_id in tap_ids]
                known = [_interval(p.score, p.low, p.high, p.n) for p in read if p is not None]
                if len(known) == len(tap_ids):
                    rows.append(
                        dose.row(QUESTION, "probe slope", tap, attribute.name, doses.slope_of_intervals(known, dose))
                    )
    return rows


def _tap_rows(
    asked: _Asked,
    tap_id: str,
    probes: dict[tuple[str, str], Probe],
    distances: _Distances | None,
) -> list[Row]:
    """Every row of one tap, the sentence last."""
    rows: list[Row] = []
    nearness = None if distances is None else distances.nearness(asked)
    if nearness is not None:
        rows.append(row(QUESTION, "nearness", tap_id, "", nearness, "distance of the nearest other image"))
    by_attribute = []
    power = _power(probes, tap_id)
    for attribute in asked.attributes:
        name = attribute.name
        readings = asked.readings[name][asked.found.numbers[tap_id][0]]
        n = score.num_defined(asked.truth[name], readings)
        kept = asked.kept(attribute, tap_id)
        shuffled = score.derangement(len(asked.found.rows), asked.seed)
        floor = score.kept(attribute, readings, asked.truth[name], shown=shuffled)
        bounds, ceiling, rise = asked.interval(kept, n), None, None
        dispersion = None
        others = [
            row(QUESTION, "fixed", tap_id, name, asked.interval(score.fixed(attribute, readings), n), SCORE),
            row(QUESTION, "floor", tap_id, name, asked.interval(floor, n), SCORE),
        ]
        best = None
        if attribute in asked.closed:
            best = asked.ceiling(attribute)
        elif CEILING in asked.found.tap_ids:
            best = asked.kept(attribute, CEILING)
        if best is not None:
            ceiling = asked.interval(best, n)
            bounds = asked.interval(score.ratio(kept, best), n)
            others.append(row(QUESTION, "kept / ceiling", tap_id, name, bounds, "share of the ceiling"))
            if tap_id == CEILING and attribute not in asked.closed:
                others.append(row(QUESTION, "ceiling", tap_id, name, ceiling, SCORE))
        if asked.found.per_source > 1:
            dispersion = asked.interval(score.dispersion(attribute, readings, asked.truth[name]), n)
            others.append(row(QUESTION, "fixed - kept", tap_id, name, dispersion, SCORE))
            odd = asked.interval(score.outermost(attribute, readings, asked.truth[name], asked.seed), n)
            others.append(row(QUESTION, "odd one out", tap_id, name, odd, "times chance"))
        if asked.halfway is not None:
            early = asked.kept_in(asked.halfway, attribute, tap_id)
            rise = asked.interval(score.difference(asked.kept_in(asked.readings, attribute, tap_id), early), n)
            others.append(row(QUESTION, "kept halfway", tap_id, name, asked.interval(early, n), SCORE))
            others.append(row(QUESTION, "kept rise", tap_id, name, rise, SCORE))
        probe = probes.get((tap_id, name))
        if probe is not None:
            top = _interval(probe.score, probe.low, probe.high, probe.n)
            others.append(row(QUESTION, "probe", tap_id, name, top, SCORE))
            bottom = _interval(probe.floor, probe.floor_low, probe.floor_high, probe.n)
            others.append(row(QUESTION, "probe floor", tap_id, name, bottom, SCORE))
        first = row(QUESTION, "kept", tap_id, name, asked.interval(kept, n), SCORE)
        verdict, why = verdicts.judge(
            verdicts.Evidence(
                sources=n,
                low=bounds.low,
                high=bounds.high,
                kept_low=first.low,
                reader=asked.readers[name].value,
                ceiling=None if ceiling is None else ceiling.value,
                probe=None if probe is None or probe.low is None or probe.high is None else (probe.low, probe.high),
                power=power,
                dispersion=None if dispersion is None else (dispersion.low, dispersion.high),
                nearness=None if nearness is None else nearness.value,
                rise_high=None if rise is None else rise.high,
            )
        )
        by_attribute.append((name, verdict))
        rows += [Row(**{**vars(first), "verdict": verdict, "why": why}), *others]
    return [*rows, note(QUESTION, "sentence", tap_id, verdicts.sentence(tap_id, by_attribute))]


def _power(probes: dict[tuple[str, str], Probe], tap_id: str) -> float | None:
    """Share of a planted attribute that the probe of a tap finds; None where none was planted."""
    planted = probes.get((tap_id, PLANTED))
    return None if planted is None or planted.score is None else planted.score / PLANTED_SHARE


def _interval(value: float | None, low: float | None, high: float | None, n: int) -> Interval:
    value, low, high = (float("nan") if x is None else x for x in (value, low, high))
    return Interval(value, low, high, n)


def _figures(
    stage: "Kept",
    found: Painting,
    sources: NDArray[np.uint8],
    distances: Mapping[str, _Distances | None],
    order: Numbers,
) -> Sequence[Figure]:
    """Twins, grid and map of every tap, of the first sources in `order`; the maps of all taps have one scale."""
    first = order[: stage.shown]
    labels = tuple(f"image {number}" for number in found.rows[first])
    maps = {tap_id: measures.deviation(found.at(tap_id)[first]) for tap_id in found.tap_ids}
    scale = float(np.quantile(np.stack(list(maps.values())), DEVIATION_QUANTILE))
    seeds = {"bootstrap": stage.seed}
    figures = []
    for number, tap_id in enumerate(found.tap_ids):
        samples = found.at(tap_id)
        where = dict(zip(("encoder", "tap"), split_tap(tap_id), strict=True))
        name = tap_id.replace(":", "-")
        apart = distances[tap_id]
        if apart is not None and found.per_source > 1:
            pairs, near = apart.twins(samples)
            line = order[near[order]][: stage.shown]
            pair = pairs[line]
            if len(line):
                own = apart.samples[line[:, None], pair] / apart.unit
                figures.append(
                    Figure(
                        name=f"twins-{name}",
                        kind="twins",
                        title=f"Twins at {tap_id}",
                        caption=(
                            "For each source the two samples that lie near it in embedding and differ most in pixels. "
                            f"Their embeddings are {own.mean():.2f} of the distance of two random images away from the "
                            f"source's. The sources are drawn from the {near.sum()} of {len(near)} whose two samples "
                            "both lie nearer to it than its nearest other image."
                        ),
                        tiles=np.stack([sources[line], samples[line, pair[:, 0]], samples[line, pair[:, 1]]], axis=1),
                        rows=tuple(f"image {number}" for number in found.rows[line]),
                        columns=("source", "twin a", "twin b"),
                        order=number,
                        seeds=seeds,
                        **where,
                    )
                )
        figures.append(
            Figure(
                name=f"grid-{name}",
                kind="grid",
                title=f"Samples at {tap_id}",
                caption="The source and its samples; column k has the same noise at every tap.",
                tiles=np.concatenate([sources[first, None], samples[first]], axis=1),
                rows=labels,
                columns=("source", *(f"k = {k}" for k in range(found.per_source))),
                order=100 + number,
                seeds=seeds,
                **where,
            )
        )
        figures.append(
            Figure(
                name=f"maps-{name}",
                kind="maps",
                title=f"Where samples vary at {tap_id}",
                caption=(
                    "Standard deviation of the samples at each pixel, RMS over colours: black 0, white "
                    f"{scale:.3f} of full intensity, the same scale at every tap."
                ),
                tiles=np.stack([sources[first], measures.painted(maps[tap_id], scale)], axis=1),
                rows=labels,
                columns=("source", "deviation"),
                order=200 + number,
                seeds=seeds,
                **where,
            )
        )
    return figures
