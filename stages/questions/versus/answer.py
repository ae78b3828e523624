"""The answer to versus: every pair of taps by attribute, by neighbours of real images, and by samples."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stages.attributes import Attribute
from stages.contract import Inputs, Output, Summary
from stages.embeddings import neighbours
from stages.embeddings.format import open_table
from stages.encoders.spec import require
from stages.images.sets import open_images
from stages.questions import measures
from stages.questions.asks.stage import EMBEDDINGS, of_group
from stages.questions.asks.work import chosen
from stages.questions.format import Figure, Row, note, put_rows, row, split_tap
from stages.questions.painted import Painting, Space, painting, space
from stages.questions.question import SAMPLE_EMBEDDINGS, SEEDS
from stages.questions.versus import rules
from stages.readers import format as readers_format
from stages.readers import pixel, ridge, score
from stages.readers.data import truth
from stages.readers.score import Estimate, Floats, Interval, Numbers

if TYPE_CHECKING:
    from stages.questions.versus.stage import Versus

QUESTION = "versus"
KEPT, PROBE, READER = "kept by tap", "linear probe by tap", "reader of the pair"
GAP = " of the other - of this"
"""After KEPT and PROBE: the difference B - A; the row's tap is A, its subject B and the attribute."""
SHUFFLED = " of other sources"
IMBALANCE, FINER, CHANCE = "information imbalance", "imbalance there - back", "imbalance of images that do not belong"
SPREAD = "spread of samples"
TWINS, CONTROL = "spread there - here", "spread there - of its own samples there"
SCORE = "1 - d / d of other images"
R2 = "R2 of the attribute from the embedding"
UNIT = "distance of two random images"
CEILING = "oracle:attributes"
"""The tap whose condition is the truth."""
PAIRS_MOST = 6
"""Pairs that are compared where the study names none."""
CANDIDATES = 2_000
"""The clearest pairs of real images, of which those are shown that have no image in common."""
REAL, PAINTED = "pairs", "twins"
"""Kinds of figures: real images, and samples."""


@dataclass(frozen=True)
class _Asked:
    """What every pair is asked about."""

    stage: "Versus"
    found: Painting
    attributes: Sequence[Attribute]
    truth: Mapping[str, Floats]
    """Of the sources, float64 [N] by attribute."""
    readings: Sequence[Mapping[str, Floats]]
    """Of all samples of each training, float64 [conditions, K] by attribute."""
    readers: Mapping[str, float]
    """How well each attribute is read."""
    ceilings: Mapping[str, float]
    """kept where the decoder is given the truth, where that is known."""

    def kept(self, attribute: Attribute, tap_id: str, shuffled: bool = False) -> Estimate:
        """kept of an attribute at a tap, over all trainings; `shuffled`: each source has the samples of another."""
        own = self.found.numbers[tap_id][0]
        shown = score.derangement(len(own), self.stage.seed) if shuffled else None
        true = self.truth[attribute.name]
        every = [score.kept(attribute, each[attribute.name][own], true, shown=shown) for each in self.readings]
        return score.over_trainings(every, self.stage.seed)

    def dispersion(self, attribute: Attribute, tap_id: str) -> float:
        """Lower bound of fixed - kept."""
        if self.found.per_source == 1:
            return float("nan")
        own = self.readings[0][attribute.name][self.found.numbers[tap_id][0]]
        return self.interval(score.dispersion(attribute, own, self.truth[attribute.name])).low

    def interval(self, estimate: Estimate) -> Interval:
        """The estimate with its interval over sources."""
        return score.interval(estimate, len(self.found.rows), self.stage.seed)

    def together(self, estimates: Mapping[str, Estimate]) -> dict[str, Interval]:
        """Intervals that hold for all attributes at once."""
        return measures.simultaneous(estimates, len(self.found.rows), self.stage.seed)


def answer(stage: "Versus", inputs: Inputs, out: Output, device: str) -> Summary:
    """Rows and figures of every pair; the summary holds the verdicts. Samples are read on `device`."""
    found = painting(inputs)
    pairs, left_out = pairs_of(stage, inputs, found.tap_ids)
    images = open_images(inputs["shards"])
    sources = images.decode(found.rows, found.size)
    asked = _asked(stage, inputs, found, sources, device)
    spaces = {tap_id: space(inputs, found, tap_id) for tap_id in dict.fromkeys(tap for pair in pairs for tap in pair)}
    rows = [note(QUESTION, "rules", ":", rule) for rule in (rules.RULE, rules.TWINS_RULE, rules.FINER_RULE)]
    rows += [note(QUESTION, "left out", ":", why) for why in left_out]
    for attribute in asked.attributes:
        alone = Interval(asked.readers[attribute.name], float("nan"), float("nan"), len(found.rows))
        rows.append(row(QUESTION, READER, ":", attribute.name, alone, "score on real images"))
    probes = _probes(stage, inputs, asked, list(spaces))
    for tap_id in spaces:
        for metric, unit, estimates in ((KEPT, SCORE, _kept(asked, tap_id)), (PROBE, R2, probes[tap_id])):
            rows += [
                row(QUESTION, metric, tap_id, name, asked.interval(each), unit) for name, each in estimates.items()
            ]
    figures: list[Figure] = []
    for number, (a, b) in enumerate(pairs):
        rows += _attributes(asked, probes, a, b)
        pair_rows, sheets = _real(stage, inputs, a, b, found.size)
        rows += pair_rows
        figures += [replace(sheet, order=10 * number + sheet.order) for sheet in sheets]
        for place, (here, there) in enumerate(((a, b), (b, a))):
            twin_rows, sheet = _twins(asked, inputs, spaces, here, there, sources)
            rows += twin_rows
            figures += [replace(sheet, order=10 * number + 2 + place)] if sheet is not None else []
    rows = put_rows(out, rows)
    for figure in figures:
        figure.put(out)
    return {
        "sources": len(found.rows),
        "pairs": [" ".join(pair) for pair in pairs],
        "verdicts": {f"{r.encoder}:{r.tap} {r.subject}": r.verdict for r in rows if r.metric == KEPT + GAP},
    }


def pairs_of(stage: "Versus", inputs: Inputs, tap_ids: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """The pairs of taps that are compared, and sentences on what is not.

    Raises InputError where the study names a tap that the decoder has not, or a tap twice.
    """
    for a, b in stage.pairs:
        for tap_id in (a, b):
            require("tap of the decoder under `pairs`", tap_id, list(tap_ids))
        require(f"tap beside {a} under `pairs`", b, [tap_id for tap_id in tap_ids if tap_id != a])
    if stage.pairs:
        return list(stage.pairs), []
    taps: dict[str, list[str]] = {}
    for tap_id in tap_ids:
        encoder, tap = split_tap(tap_id)
        if open_table(inputs[EMBEDDINGS + encoder]).attributes["encoder"]["kind"] == "pretrained":
            taps.setdefault(encoder, []).append(tap)
    found = []
    for a, b in combinations(taps, 2):
        common = next((tap for tap in taps[a] if tap in taps[b]), None)
        found.append((f"{a}:{common or taps[a][0]}", f"{b}:{common or taps[b][0]}"))
    if not found:
        return [], ["There are no two networks under study. Name pairs of taps under `versus`."]
    more = len(found) - PAIRS_MOST
    why = f"{more} further pairs are not compared, such as {' and '.join(found[-1])}. Name pairs under `versus`."
    return found[:PAIRS_MOST], [why] if more > 0 else []


def _asked(stage: "Versus", inputs: Inputs, found: Painting, sources: NDArray[np.uint8], device: str) -> _Asked:
    reader = readers_format.load(inputs["readers"], device)
    again = sorted(name for name in inputs if name.startswith(f"{SEEDS}."))
    trainings = [found.images, *(painting(inputs, name).images for name in again)]
    readings = []
    for images in trainings:
        read = reader.read(images.reshape(-1, *images.shape[2:]))
        readings.append({name: values.reshape(images.shape[:2]) for name, values in read.items()})
    true = truth(inputs["shards"], found.rows, sources)
    # A function of the pixels is exact on a real image and may still read the noise of samples.
    extra = measures.noise_level(found.images[:, 0]) ** 2 - measures.noise_level(sources) ** 2
    noisy = pixel.read(measures.noised(sources, float(np.sqrt(max(0.0, extra))), stage.seed, 0))
    closed = reader.card.pixel
    readers = {attribute.name: reader.card.scores[attribute.name].value for attribute in reader.card.network}
    readers |= {a.name: score.quality(a, noisy[a.name], true[a.name])[0] for a in closed}
    asked = _Asked(stage, found, (*reader.card.network, *closed), true, readings, readers, {})
    ceilings = {a.name: _value(score.kept(a, noisy[a.name][:, None], true[a.name]), len(found.rows)) for a in closed}
    if CEILING in found.tap_ids:
        ceilings |= {a.name: _value(asked.kept(a, CEILING), len(found.rows)) for a in reader.card.network}
    return replace(asked, ceilings=ceilings)


def _value(estimate: Estimate, count: int) -> float:
    return float(estimate(np.ones((1, count)))[0])


def _kept(asked: _Asked, tap_id: str) -> dict[str, Estimate]:
    return {attribute.name: asked.kept(attribute, tap_id) for attribute in asked.attributes}


def _probes(stage: "Versus", inputs: Inputs, asked: _Asked, tap_ids: Sequence[str]) -> dict[str, dict[str, Estimate]]:
    """What a linear probe reads at each tap, by attribute. It is fitted to train images."""
    rows = chosen(inputs["shards"], stage.train, stage.seed, "train")
    train = truth(inputs["shards"], rows, open_images(inputs["shards"]).decode(rows, asked.found.size))
    found = {}
    for tap_id in tap_ids:
        encoder, tap = split_tap(tap_id)
        table = open_table(inputs[EMBEDDINGS + encoder])
        x, seen = table.standardised(tap, rows), table.standardised(tap, asked.found.rows)
        found[tap_id] = ridge.readable(ridge.Ridges(x), seen, asked.attributes, train, asked.truth)
    return found


def _attributes(asked: _Asked, probes: Mapping[str, Mapping[str, Estimate]], a: str, b: str) -> Iterator[Row]:
    """The paired difference of kept and of the linear probe, B - A, of every attribute, and the verdict on it."""
    kept = {tap_id: _kept(asked, tap_id) for tap_id in (a, b)}
    lows = {(tap_id, name): asked.interval(each).low for tap_id in (a, b) for name, each in kept[tap_id].items()}
    gaps = asked.together({name: score.difference(kept[b][name], kept[a][name]) for name in kept[a]})
    both = [name for name in probes[a] if name in probes[b]]
    probed = asked.together({name: score.difference(probes[b][name], probes[a][name]) for name in both})
    shuffled = asked.together(
        {
            each.name: score.difference(*(asked.kept(each, tap_id, shuffled=True) for tap_id in (b, a)))
            for each in asked.attributes
        }
    )
    for attribute in asked.attributes:
        name = attribute.name
        subject = f"{b} {name}"
        probe = probed.get(name)
        verdict, why = rules.judge(
            rules.Evidence(
                sources=int(np.isfinite(asked.truth[name]).sum()),
                difference=(gaps[name].low, gaps[name].high),
                shuffled=(shuffled[name].low, shuffled[name].high),
                probe=None if probe is None else (probe.low, probe.high),
                reader=asked.readers[name],
                ceiling=asked.ceilings.get(name),
                kept=(lows[a, name], lows[b, name]),
                dispersion=(asked.dispersion(attribute, a), asked.dispersion(attribute, b)),
            )
        )
        yield replace(row(QUESTION, KEPT + GAP, a, subject, gaps[name], SCORE), verdict=verdict, why=why)
        yield row(QUESTION, KEPT + GAP + SHUFFLED, a, subject, shuffled[name], SCORE)
        if probe is not None:
            yield row(QUESTION, PROBE + GAP, a, subject, probe, R2)


def _real(stage: "Versus", inputs: Inputs, a: str, b: str, size: int) -> tuple[list[Row], list[Figure]]:
    """How well neighbours at one tap predict those at the other, and pairs that only one of them separates."""
    rows = chosen(inputs["shards"], stage.images, stage.seed)
    vectors = {}
    for tap_id in (a, b):
        encoder, tap = split_tap(tap_id)
        vectors[tap_id] = open_table(inputs[EMBEDDINGS + encoder]).standardised(tap, rows)
    every = np.arange(len(rows), dtype=np.int64)
    nearest = {tap_id: measures.nearest_other(x, every) for tap_id, x in vectors.items()}

    def imbalance(there: str, others: Numbers) -> Estimate:
        ranks = measures.ranks(vectors[there], vectors[there], others, every)
        return score.mean(2.0 * ranks / len(rows))

    def bounds(estimate: Estimate) -> Interval:
        return score.interval(estimate, len(rows), stage.seed)

    unit = f"2 x rank / {len(rows)} held-out images"
    onward, back = imbalance(b, nearest[a][0]), imbalance(a, nearest[b][0])
    chance = bounds(imbalance(b, score.derangement(len(rows), stage.seed)))
    gap = bounds(score.difference(onward, back))
    verdict = rules.finer((gap.low, gap.high), (chance.low, chance.high))
    found = [
        row(QUESTION, IMBALANCE, a, b, bounds(onward), unit),
        row(QUESTION, IMBALANCE, b, a, bounds(back), unit),
        row(QUESTION, CHANCE, a, b, chance, unit),
        replace(row(QUESTION, FINER, a, b, gap, unit), verdict=verdict),
    ]
    images = open_images(inputs["shards"])
    spaces = {
        tap_id: neighbours.Space.of(every, lambda wanted, x=x: x[wanted].astype(np.float32), "l2")  # type: ignore[misc]
        for tap_id, x in vectors.items()
    }
    figures = []
    for place, (here, there) in enumerate(((a, b), (b, a))):
        # What is as far as a nearest neighbour usually is counts as confused.
        usual = float(np.median(nearest[here][1])) / (spaces[here].unit or 1.0)
        clear = neighbours.confused(every, spaces[here], spaces[there], CANDIDATES)
        taken = _without_repeats(clear.rows, clear.near <= usual, stage.shown)
        if not len(taken):
            why = f"No pair of images is as near at {here} as a nearest image usually is and farther at {there}."
            found.append(note(QUESTION, "no pairs", here, why, there))
            continue
        shown = rows[clear.rows[taken]]
        pictures = images.decode(shown.reshape(-1), size)
        near, far = clear.near[taken].mean(), clear.far[taken].mean()
        figures.append(
            _figure(
                stage,
                REAL,
                here,
                there,
                f"{here} confuses, {there} separates",
                f"Held-out images, as near at {here} as a nearest image usually is ({usual:.2f} of the distance of two "
                f"random images): {near:.2f} apart there on average, {far:.2f} at {there}. These are the clearest of "
                f"all pairs of {len(rows)} images.",
                pictures.reshape(*shown.shape, *pictures.shape[1:]),
                tuple(f"images {one} and {other}" for one, other in shown),
                ("image", "the other"),
                place,
            )
        )
    return found, figures


def _without_repeats(pairs: Numbers, among: NDArray[np.bool_], most: int) -> Numbers:
    """Positions of the first pairs [N, 2], of those `among` [N], that have no row in common: int64 [<= most]."""
    seen: set[int] = set()
    taken: list[int] = []
    for position in np.flatnonzero(among).tolist():
        own = set(pairs[position].tolist())
        if len(taken) < most and not own & seen:
            taken.append(position)
            seen |= own
    return np.array(taken, dtype=np.int64)


def _twins(
    asked: _Asked, inputs: Inputs, spaces: Mapping[str, Space], here: str, there: str, sources: NDArray[np.uint8]
) -> tuple[list[Row], Figure | None]:
    """How far samples of one tap spread there and at the other, and the verdict on whether that separates them."""
    found, stage = asked.found, asked.stage
    own, other = spaces[here], spaces[there]
    across = _seen_by(inputs, found, here, there, other)
    if own.samples is None or other.samples is None or across is None or found.per_source < 2:
        why = f"Samples of {here} are not compared at {there}: not embedded there, or one of each source."
        return [note(QUESTION, TWINS, here, why, there)], None
    apart = {
        "here": _pairwise(own.samples[0]) / own.attainable.unit,
        "there": _pairwise(across) / other.attainable.unit,
        "own": _pairwise(other.samples[0]) / other.attainable.unit,
    }
    spread = {name: score.mean(each.mean(axis=1)) for name, each in apart.items()}
    seen = own.attainable
    nearest = measures.nearest_other(seen.gallery, seen.positions)[1]
    to_source = measures.l2(own.samples[0], seen.sources[:, None])
    nearness = asked.interval(score.median(score.divide(np.median(to_source, axis=1), nearest))).value
    gap, control = (asked.interval(score.difference(spread["there"], spread[name])) for name in ("here", "own"))
    verdict, why = rules.twins(nearness, (gap.low, gap.high), (control.low, control.high))
    rows = [
        row(QUESTION, SPREAD, here, here, asked.interval(spread["here"]), UNIT),
        row(QUESTION, SPREAD, here, there, asked.interval(spread["there"]), UNIT),
        row(QUESTION, CONTROL, here, there, control, UNIT),
        replace(row(QUESTION, TWINS, here, there, gap, UNIT), verdict=verdict, why=why),
    ]
    first, second = np.triu_indices(found.per_source, 1)
    # Twins: both samples lie nearer to their source than its nearest other image.
    near = np.maximum(to_source[:, first], to_source[:, second]) < nearest[:, None]
    clear = np.where(near, apart["there"] - apart["here"], -np.inf)
    best = clear.argmax(axis=1)
    order = np.argsort(-clear.max(axis=1), kind="stable")[: stage.shown]
    order = order[np.isfinite(clear.max(axis=1)[order])]
    if not len(order):
        return rows, None
    pair = best[order]
    samples = found.at(here)
    middle = [float(apart[name][order, pair].mean()) for name in ("here", "there")]
    figure = _figure(
        stage,
        PAINTED,
        here,
        there,
        f"Twins of {here} at {there}",
        f"Two samples of one vector of {here}, both nearer to their source there than its nearest other image: "
        f"{middle[0]:.2f} of the distance of two random images apart at {here}, {middle[1]:.2f} at {there}. These are "
        f"the clearest of {len(found.rows)} sources.",
        np.stack([sources[order], samples[order, first[pair]], samples[order, second[pair]]], axis=1),
        tuple(f"image {number}" for number in found.rows[order]),
        ("source", "one", "the other"),
        0,
    )
    return rows, figure


def _seen_by(inputs: Inputs, found: Painting, here: str, there: str, space: Space) -> Floats | None:
    """Samples of the tap `here`, embedded at the tap `there`: float64 [N, K, D]; None where they were not."""
    group = found.groups[here]
    encoder, tap = split_tap(there)
    embedded = inputs.get(f"{of_group(SAMPLE_EMBEDDINGS, group)}.{encoder}")
    if embedded is None or tap not in (table := open_table(embedded)).taps:
        return None
    vectors = space.statistics.standardise(table.read(tap, "plain")).astype(np.float64)
    by_condition = vectors.reshape(-1, found.per_source, vectors.shape[1])
    seen: Floats = by_condition[found.numbers[here][0] - found.starts[group]]
    return seen


def _pairwise(samples: Floats) -> Floats:
    """Distances of all pairs of samples of each source: [N, K, D] to [N, K (K - 1) / 2]."""
    first, second = np.triu_indices(samples.shape[1], 1)
    return measures.l2(samples[:, first], samples[:, second])


def _figure(
    stage: "Versus",
    kind: str,
    here: str,
    there: str,
    title: str,
    caption: str,
    tiles: NDArray[np.uint8],
    rows: tuple[str, ...],
    columns: tuple[str, ...],
    order: int,
) -> Figure:
    encoder, tap = split_tap(here)
    name = f"{kind}-{here}-{there}".replace(":", "-")
    seeds = {"bootstrap": stage.seed}
    return Figure(name, kind, title, caption, tiles, rows, columns, order, seeds, encoder, tap)
