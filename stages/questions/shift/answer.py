"""The answer to shift: kept, a linear probe and distances, of seen and of unseen combinations; and walks."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stages.attributes import Attribute
from stages.contract import Inputs, Output, Summary
from stages.embeddings.format import open_table
from stages.images.sets import open_images
from stages.questions import measures
from stages.questions.asks.stage import EMBEDDINGS, of_group
from stages.questions.asks.work import PLAIN
from stages.questions.format import Figure, Row, note, put_rows, row, split_tap
from stages.questions.painted import Painting, painting, sample_vectors
from stages.questions.question import CONDITIONS
from stages.questions.shift import rules
from stages.questions.shift.ask import ACROSS, BETWEEN, WALKS
from stages.readers import format as readers_format
from stages.readers import ridge, score
from stages.readers.data import Labelled, labelled, rows_of, truth, unseen_rows
from stages.readers.score import Estimate, Floats, Interval, Numbers
from stages.samples.format import read_conditions as read_table
from stages.samples.format import read_vectors

if TYPE_CHECKING:
    from stages.questions.shift.stage import Shift

QUESTION = "shift"
KEPT, PROBE, READER, DISTANCE, MRR = "kept", "linear probe", "reader", "distance", "mrr"
SEEN, UNSEEN, GAP, HALVES = ", seen", ", unseen", ", seen - unseen", ", half - half of seen"
WALK, WALK_GAP, WALK_CONTROL = "walk distance", "walk distance - images", "walk control - walk"
FARTHER = ", unseen - seen"
"""Of distances, of which more is worse."""
NEARER = "distance to another source - to its own"
LEFT_OUT = "left out"
SCORE = "1 - d / d of other images"
R2 = "R2 of the attribute from the embedding"
UNIT = "distance of two random images"
Members = NDArray[np.bool_]


@dataclass(frozen=True)
class _Groups:
    """The sources: those of seen combinations first, then those of unseen ones."""

    seen: Members
    """bool [N]."""
    half: Members
    """A random half of the seen ones, bool [N]."""
    seed: int

    @classmethod
    def of(cls, unseen: Members, seed: int) -> "_Groups":
        half = np.zeros(len(unseen), dtype=np.bool_)
        order = np.random.Generator(np.random.Philox(key=[seed, len(unseen)])).permutation(np.flatnonzero(~unseen))
        half[order[: len(order) // 2]] = True
        return cls(~unseen, half, seed)

    @property
    def unseen(self) -> Members:
        return ~self.seen

    @property
    def smaller(self) -> int:
        """Sources of the smaller group."""
        return int(min(self.seen.sum(), self.unseen.sum()))

    def interval(self, estimate: Estimate, members: Members | None = None) -> Interval:
        """The estimate with its interval, for which both groups are resampled apart; `members` [N] are counted."""
        found = score.unpaired(estimate, (int(self.seen.sum()), int(self.unseen.sum())), self.seed)
        return found if members is None else replace(found, n=int(members.sum()))

    def rows(
        self, metric: str, tap_id: str, subject: str, unit: str, estimates: Sequence[Estimate], known: Members
    ) -> Iterator[Row]:
        """Four rows, from the estimates of seen, of unseen, of the half and of the other half.

        `known` [N]: the sources that have a value.
        """
        seen, unseen, half, other = estimates
        yield row(QUESTION, metric + SEEN, tap_id, subject, self.interval(seen, known & self.seen), unit)
        yield row(QUESTION, metric + UNSEEN, tap_id, subject, self.interval(unseen, known & self.unseen), unit)
        yield row(QUESTION, metric + GAP, tap_id, subject, self.interval(score.difference(seen, unseen)), unit)
        yield row(QUESTION, metric + HALVES, tap_id, subject, self.interval(score.difference(half, other)), unit)

    def each(self) -> tuple[Members, Members, Members, Members]:
        """Seen, unseen, the half and the other half."""
        return self.seen, self.unseen, self.half, self.seen & ~self.half

    def means(self, values: Floats) -> list[Estimate]:
        """The mean of one number per source [N] in each of these."""
        return [score.mean(np.where(members, values, np.nan)) for members in self.each()]


@dataclass(frozen=True)
class _Asked:
    """What every tap is asked about."""

    found: Painting
    groups: _Groups
    attributes: tuple[Attribute, ...]
    readings: Mapping[str, Floats]
    """Of the samples of all plain conditions, float64 [taps x N, K] by attribute."""
    truth: Mapping[str, Floats]
    """Of the sources, float64 [N] by attribute."""
    readers: Mapping[str, tuple[float, float]]
    """What readers keep of real images of seen and of unseen combinations."""
    train: Labelled

    def kept(self, attribute: Attribute, tap_id: str) -> list[Estimate]:
        """kept in each of `_Groups.each`, all on the scale of the seen combinations."""
        at = self.found.tap_ids.index(tap_id) * len(self.found.rows)
        values = self.readings[attribute.name][at : at + len(self.found.rows)]
        return _kept(attribute, values, self.truth[attribute.name], self.groups)


def answer(stage: "Shift", inputs: Inputs, out: Output, device: str) -> Summary:
    """Rows and figures of every tap; the summary holds the verdicts. Samples are read on `device`."""
    found = painting(inputs, only=(PLAIN,))
    unseen = np.isin(found.rows, unseen_rows(inputs["shards"])[1])
    rows = [note(QUESTION, "rules", ":", f"{rules.RULE} {rules.DISTANCE_RULE} {rules.WALK_RULE}")]
    figures: list[Figure] = []
    if unseen.any():
        asked = _asked(stage, inputs, found, _Groups.of(unseen, stage.seed), device)
        for name, (seen, other) in asked.readers.items():
            for metric, value in ((READER + SEEN, seen), (READER + UNSEEN, other)):
                alone = Interval(value, float("nan"), float("nan"), len(found.rows))
                rows.append(row(QUESTION, metric, ":", name, alone, SCORE))
        for number, tap_id in enumerate(found.tap_ids):
            rows += _tap_rows(asked, inputs, tap_id)
            figures.append(_grid(stage, inputs, asked, tap_id, number))
    else:
        why = "The listing keeps no combination from encoders and the decoder (`unseen`), so there are walks alone."
        rows.append(note(QUESTION, LEFT_OUT, ":", why))
    for number, walks in enumerate(_walks(stage, inputs, found)):
        rows += walks.rows(stage.seed)
        figures.append(walks.figure(stage, inputs, 100 + number))
    rows = put_rows(out, rows)
    for figure in figures:
        figure.put(out)
    return {
        "seen": int((~unseen).sum()),
        "unseen": int(unseen.sum()),
        "verdicts": {f"{r.encoder}:{r.tap} {r.subject or r.metric}": r.verdict for r in rows if r.verdict},
    }


def _asked(stage: "Shift", inputs: Inputs, found: Painting, groups: _Groups, device: str) -> _Asked:
    reader = readers_format.load(inputs["readers"], device)
    attributes = (*reader.card.network, *reader.card.pixel)
    plain = np.concatenate([found.at(tap_id) for tap_id in found.tap_ids])
    flat = reader.read(plain.reshape(-1, *plain.shape[2:]))
    sources = open_images(inputs["shards"]).decode(found.rows, found.size)
    true, real = truth(inputs["shards"], found.rows, sources), reader.read(sources)
    ones = np.ones((1, len(found.rows)))
    readers = {}
    for attribute in attributes:
        kept = _kept(attribute, real[attribute.name][:, None], true[attribute.name], groups)
        readers[attribute.name] = (float(kept[0](ones)[0]), float(kept[1](ones)[0]))
    return _Asked(
        found,
        groups,
        attributes,
        {name: values.reshape(plain.shape[:2]) for name, values in flat.items()},
        true,
        readers,
        labelled(inputs["shards"], "train", found.size, stage.train, stage.seed),
    )


def _kept(attribute: Attribute, readings: Floats, true: Floats, groups: _Groups) -> list[Estimate]:
    return [score.kept_of(attribute, readings, true, members, groups.seen) for members in groups.each()]


def _tap_rows(asked: _Asked, inputs: Inputs, tap_id: str) -> Iterator[Row]:
    """Every row of a tap on seen and unseen combinations; the differences of kept and of distance are judged."""
    groups = asked.groups
    probes = _probes(asked, inputs, tap_id)
    for attribute in asked.attributes:
        name = attribute.name
        known = np.isfinite(asked.truth[name])
        seen, unseen, gap, control = groups.rows(KEPT, tap_id, name, SCORE, asked.kept(attribute, tap_id), known)
        probed = list(groups.rows(PROBE, tap_id, name, R2, probes[name], known)) if name in probes else []
        evidence = rules.Evidence(
            gap=(gap.low, gap.high),
            probe=(probed[2].low, probed[2].high) if probed else None,
            control=(control.low, control.high),
            reader=asked.readers[name],
            held=seen.low,
            sources=min(seen.n, unseen.n),
        )
        verdict, why = rules.judge(evidence)
        yield from (seen, unseen, replace(gap, verdict=verdict, why=why), control, *probed)
    yield from _distances(asked, inputs, tap_id)


def _probes(asked: _Asked, inputs: Inputs, tap_id: str) -> dict[str, list[Estimate]]:
    """R2 of a linear probe in each of `_Groups.each`, by attribute. It is fitted to train images alone."""
    encoder, tap = split_tap(tap_id)
    table = open_table(inputs[EMBEDDINGS + encoder])
    sources = table.standardised(tap, asked.found.rows)
    ridges = ridge.Ridges(table.standardised(tap, asked.train.rows))
    found: dict[str, list[Estimate]] = {}
    for members in asked.groups.each():
        true = {name: np.where(members, values, np.nan) for name, values in asked.truth.items()}
        read = ridge.readable(ridges, sources, asked.attributes, asked.train.values, true)
        for name, estimate in read.items():
            found.setdefault(name, []).append(estimate)
    # A group without a value of an attribute has no estimate of it.
    return {name: estimates for name, estimates in found.items() if len(estimates) == len(asked.groups.each())}


def _distances(asked: _Asked, inputs: Inputs, tap_id: str) -> Iterator[Row]:
    """How far samples lie from their source, and its rank, among held-out images and the unseen sources."""
    encoder, tap = split_tap(tap_id)
    table = open_table(inputs[EMBEDDINGS + encoder])
    statistics = table.statistics(tap)
    samples = sample_vectors(inputs, asked.found, tap_id, statistics)
    if samples is None:
        return
    rows, groups = asked.found.rows, asked.groups
    heldout = rows_of(inputs["shards"], "heldout")
    listed = np.union1d(heldout, rows)
    gallery = statistics.standardise(table.read(tap, PLAIN, listed)).astype(np.float64)
    positions = np.searchsorted(listed, rows)
    unit = measures.random_pair(gallery[np.searchsorted(listed, heldout)])
    others = positions[score.derangement(len(rows), groups.seed)]
    apart, foreign = (measures.l2(samples[0], gallery[at][:, None]).mean(axis=1) / unit for at in (positions, others))
    each = samples.shape[2]
    ranks = measures.ranks(samples[0].reshape(-1, samples.shape[3]), gallery, positions.repeat(each))
    known = np.ones(len(rows), dtype=np.bool_)
    means = groups.means(apart)
    near, far, _, control = groups.rows(DISTANCE, tap_id, "", UNIT, means, known)
    farther = groups.interval(score.difference(means[1], means[0]))
    nearer = groups.interval(groups.means(foreign - apart)[0], groups.seen)
    verdict, why = rules.judge_distance(
        (farther.low, farther.high), (control.low, control.high), nearer.low, groups.smaller
    )
    judged = replace(row(QUESTION, DISTANCE + FARTHER, tap_id, "", farther, UNIT), verdict=verdict, why=why)
    reciprocal = (1.0 / ranks).reshape(-1, each).mean(axis=1)
    ranked = groups.rows(MRR, tap_id, "", f"mean of 1 / rank among {len(listed)}", groups.means(reciprocal), known)
    yield from (near, far, judged, control, row(QUESTION, NEARER + SEEN, tap_id, "", nearer, UNIT), *ranked)


def _grid(stage: "Shift", inputs: Inputs, asked: _Asked, tap_id: str, number: int) -> Figure:
    """Sources of both groups with their samples."""
    found, groups = asked.found, asked.groups
    rng = np.random.Generator(np.random.Philox(key=[stage.seed, len(found.rows)]))
    chosen = [rng.permutation(np.flatnonzero(members))[: stage.shown] for members in (groups.seen, groups.unseen)]
    names = ("seen", "unseen")
    lines = np.concatenate(chosen)
    sources = open_images(inputs["shards"]).decode(found.rows[lines], found.size)
    encoder, tap = split_tap(tap_id)
    return Figure(
        name=f"grid-{tap_id}".replace(":", "-"),
        kind="grid",
        title=f"Samples at {tap_id}",
        caption="Held-out images of seen combinations, then images of unseen ones, drawn at random, and their samples.",
        tiles=np.concatenate([sources[:, None], found.at(tap_id)[lines]], axis=1),
        rows=tuple(
            f"{name} {image}" for name, at in zip(names, chosen, strict=True) for image in found.rows[at].tolist()
        ),
        columns=("source", *(f"k = {k}" for k in range(found.per_source))),
        order=number,
        seeds={"choice": stage.seed},
        encoder=encoder,
        tap=tap,
    )


@dataclass(frozen=True)
class _Walks:
    """The walks at one tap."""

    tap_id: str
    met: Numbers
    """Rows of the images of each walk, int64 [W, steps + 1]."""
    found: Painting
    """Of the variants between and across."""
    distances: Mapping[str, Floats]
    """Of samples to their vector, in those of two random images, [W]: of images, between neighbours, across walks."""

    def rows(self, seed: int) -> Iterator[Row]:
        """Distances, and the two paired differences, of which the first is judged."""
        means = {name: score.mean(values) for name, values in self.distances.items()}
        for name, estimate in means.items():
            yield row(QUESTION, WALK, self.tap_id, name, self._interval(estimate, seed), UNIT)
        gap = self._interval(score.difference(means[BETWEEN], means["images"]), seed)
        control = self._interval(score.difference(means[ACROSS], means[BETWEEN]), seed)
        verdict, why = rules.judge_walk((gap.low, gap.high), (control.low, control.high))
        yield replace(row(QUESTION, WALK_GAP, self.tap_id, "", gap, UNIT), verdict=verdict, why=why)
        yield row(QUESTION, WALK_CONTROL, self.tap_id, "", control, UNIT)

    def _interval(self, estimate: Estimate, seed: int) -> Interval:
        return score.interval(estimate, len(self.met), seed)

    def figure(self, stage: "Shift", inputs: Inputs, order: int) -> Figure:
        """Images of the first walks, and between two of them a sample."""
        met = self.met[: stage.shown]
        images = open_images(inputs["shards"])
        steps = met.shape[1] - 1
        shown = [images.decode(met[:, 0], self.found.size)]
        for step in range(1, steps + 1):
            variant = self.found.variants.index(f"{BETWEEN} {step}")
            shown += [self.found.at(self.tap_id, variant)[: len(met), 0], images.decode(met[:, step], self.found.size)]
        encoder, tap = split_tap(self.tap_id)
        return Figure(
            name=f"walk-{self.tap_id}".replace(":", "-"),
            kind="walk",
            title=f"Walks at {self.tap_id}",
            caption="Held-out images, each the nearest to the one before, and samples of the vectors halfway.",
            tiles=np.stack(shown, axis=1),
            rows=tuple(f"from {image}" for image in met[:, 0].tolist()),
            columns=("image", *("halfway", "image") * steps),
            order=order,
            seeds={"choice": stage.seed},
            encoder=encoder,
            tap=tap,
        )


def _walks(stage: "Shift", inputs: Inputs, plain: Painting) -> Iterator[_Walks]:
    """The walks of every tap that has some and whose samples are embedded."""
    known: dict[str, list[list[int]]] = {}
    for group in plain.starts:
        known |= json.loads(inputs[of_group(CONDITIONS, group)].read(WALKS))
    if not known:
        return
    steps = len(next(iter(known.values()))[0]) - 1
    variants = [f"{name} {step}" for step in range(1, steps + 1) for name in (BETWEEN, ACROSS)]
    found = painting(inputs, only=variants)
    for tap_id in found.tap_ids:
        encoder, tap = split_tap(tap_id)
        table = open_table(inputs[EMBEDDINGS + encoder])
        statistics = table.statistics(tap)
        samples = sample_vectors(inputs, found, tap_id, statistics)
        of_images = sample_vectors(inputs, plain, tap_id, statistics)
        if samples is None or of_images is None:
            continue
        met = np.array(known[tap_id], dtype=np.int64)
        heldout = statistics.standardise(table.read(tap, PLAIN, rows_of(inputs["shards"], "heldout")))
        unit = measures.random_pair(heldout.astype(np.float64))
        positions = [plain.rows.tolist().index(image) for image in met[:, 0].tolist()]
        images = statistics.standardise(table.read(tap, PLAIN, met[:, 0])).astype(np.float64)
        distances = {"images": measures.l2(of_images[0, positions], images[:, None]).mean(axis=1) / unit}
        halfway = statistics.standardise(_vectors(inputs, found, tap_id)).astype(np.float64)
        for name in (BETWEEN, ACROSS):
            steps_of = [number for number, variant in enumerate(found.variants) if variant.startswith(name)]
            apart = measures.l2(samples[steps_of], halfway[steps_of][:, :, None])
            distances[name] = apart.mean(axis=(0, 2)) / unit
        yield _Walks(tap_id, met, found, distances)


def _vectors(inputs: Inputs, found: Painting, tap_id: str) -> NDArray[np.float32]:
    """What was painted at a tap: float32 [V, N, D]."""
    asked = inputs[of_group(CONDITIONS, found.groups[tap_id])]
    vectors = read_vectors(asked, read_table(asked))
    numbers = found.numbers[tap_id] - found.starts[found.groups[tap_id]]
    return np.stack([np.stack([vectors[number] for number in line]) for line in numbers.tolist()])
