"""The answer to invariance: r of every transform, references, differences between an encoder's ends, grids."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stages.contract import Inputs, Output, Summary
from stages.embeddings.format import Moments, Statistics, open_table
from stages.errors import FormatError
from stages.images.framing import fit
from stages.images.sets import open_images
from stages.questions import doses, measures
from stages.questions.asks.stage import EMBEDDINGS, of_group
from stages.questions.asks.transforms import RELATED, TRANSFORMS, untaught
from stages.questions.asks.work import MOVED, MOVED_TRAIN, OWN, PLAIN, SHOWN, UNTRAINED, VECTORS
from stages.questions.format import AUGMENTATION, BOTH, Figure, Row, note, put_rows, row, split_tap
from stages.questions.invariance import recovery
from stages.questions.moves import UNIT, AskedTransforms, Moves, middle, moves_at
from stages.questions.painted import BOTH_ENDS, Painting, painting
from stages.questions.question import CONDITIONS
from stages.readers import ridge, score
from stages.readers.data import rows_of, table_attributes
from stages.readers.score import Estimate, Floats, Numbers

if TYPE_CHECKING:
    from stages.questions.invariance.stage import Invariance

QUESTION = "invariance"
SUBJECTS = [f"{name} {strength:g}" for name, transform in TRANSFORMS.items() for strength in transform.strengths]
"""Of rows on single transforms."""


@dataclass(frozen=True)
class _Tap(Moves):
    """The distances of an encoder at a tap."""

    turned: dict[str, Floats]
    """As `moved`, in 1 - cosine."""
    nearest: Floats
    """Distance to the nearest other held-out image, float64 [N]."""
    untrained: "Moves | None"
    """The same of the network before any training; None where it is not known what the encoder was trained with."""


def specific(first: Moves, last: Moves, own: str, foreign: Sequence[str]) -> Estimate:
    """ln r(last) / r(first) of the encoder's own augmentations, minus the mean of that over transforms foreign to it.

    Below 0: the last tap is less moved than the first by what it was trained with more than by anything else.
    """

    def shrunk(subject: str) -> Estimate:
        return score.log_ratio(last.r(subject), first.r(subject))

    return score.difference(shrunk(own), score.average([shrunk(subject) for subject in foreign]))


def answer(stage: "Invariance", inputs: Inputs, out: Output) -> Summary:
    """Rows and grids of every tap of the ask; the summary holds r of the encoder's own augmentations."""
    from safetensors.numpy import load

    found = painting(inputs)
    asks = [AskedTransforms.read(inputs[of_group(CONDITIONS, group)]) for group in found.starts]
    sources = asks[0].sources
    if any(not np.array_equal(ask.sources, sources) or ask.variants != asks[0].variants for ask in asks):
        raise FormatError(
            "the same sources under the same transforms in every tap group",
            "other ones in one of them",
            "Run again with --force for each step ask.invariance.",
        )
    by_group = dict(zip(found.starts, asks, strict=True))
    taps = {tap_id: _tap(inputs, tap_id, by_group[found.groups[tap_id]]) for tap_id in found.tap_ids}
    rows: list[Row] = []
    for tap_id, tap in taps.items():
        rows += _rows(stage.seed, inputs, tap_id, tap, sources)
        ask = by_group[found.groups[tap_id]]
        if len(ask.train):
            rows += _recovered(stage.seed, inputs, tap_id, tap, ask)
    for encoder, backbone, projector in found.ends():
        both = f"{encoder}:{BOTH}"
        for subject in taps[backbone].moved:
            first, last = taps[backbone].r(subject), taps[projector].r(subject)
            for metric, estimate, unit in (
                ("r difference", score.difference(first, last), UNIT),
                ("r ratio", score.ratio(last, first), "r(projector) / r(backbone)"),
            ):
                paired = score.interval(estimate, len(sources), stage.seed)
                rows.append(row(QUESTION, metric, both, subject, paired, unit))
        own = by_group[found.groups[backbone]].augmentations.get(encoder)
        if own is not None:
            rows += _against_untrained(stage.seed, encoder, (taps[backbone], taps[projector]), own, len(sources))
    for dose in doses.asked_about(inputs, list(found.starts)):
        foreign = [middle(name) for name in untaught([dose.transform])]
        alike = [subject for subject in SUBJECTS if subject.rpartition(" ")[0] in RELATED[dose.transform]]
        for shared in dose.shared_taps(found.tap_ids):
            for subject in (*alike, *foreign):
                steep = doses.slope([taps[f"{encoder}:{shared}"].r(subject) for encoder in dose.encoders], dose)
                rows.append(
                    dose.row(QUESTION, "r slope", shared, subject, score.interval(steep, len(sources), stage.seed))
                )
    rows = put_rows(out, rows)
    shown = {encoder: seen for ask in asks for encoder, seen in load(ask.conditions.read(SHOWN)).items()}
    for figure in _grids(stage, found, shown):
        figure.put(out)
    return {
        "sources": len(sources),
        "own": {f"{r.encoder}:{r.tap}": round(r.value, 4) for r in rows if (r.metric, r.subject) == ("r", OWN)},
        "left_out": [tap_id for ask in asks for tap_id in ask.left_out],
    }


def _tap(inputs: Inputs, tap_id: str, ask: AskedTransforms) -> _Tap:
    from safetensors.numpy import load

    encoder, tap = split_tap(tap_id)
    tensors = load(ask.conditions.read(f"{MOVED}/{encoder}/{tap}.safetensors"))
    table = open_table(inputs[EMBEDDINGS + encoder])
    statistics = table.statistics(tap)

    def standardised(x: NDArray[np.float32]) -> Floats:
        return statistics.standardise(x).astype(np.float64)

    plain = standardised(tensors[PLAIN])
    seen = zip(map(_subject, ask.variants), tensors["transformed"], strict=True)
    turned = {subject: measures.cosine(standardised(vectors), plain) for subject, vectors in seen}
    draws = [standardised(vectors) for vectors in tensors[OWN]]
    turned[ask.drawn(encoder)] = np.mean([measures.cosine(vectors, plain) for vectors in draws], axis=0)
    heldout = rows_of(inputs["shards"], "heldout")
    gallery = standardised(table.read(tap, PLAIN, heldout))
    _, nearest = measures.nearest_other(gallery, np.searchsorted(heldout, ask.sources))
    raw = None
    if encoder in ask.augmentations:
        foreign = untaught(ask.augmentations[encoder])
        raw = _untrained({name: tensors[UNTRAINED + name] for name in (PLAIN, OWN, *foreign)})
    moves = moves_at(ask, table, tap_id)
    return _Tap(moves.moved, moves.pairs, turned, nearest, raw)


def _untrained(tensors: Mapping[str, NDArray[np.float32]]) -> Moves:
    """Distances by the network before any training, standardised by what it makes of the sources."""
    moments = Moments.of(tensors[PLAIN])
    variance = moments.m2 / max(1, moments.n)
    statistics = Statistics(
        moments.mean.astype(np.float32), np.sqrt(variance).astype(np.float32), float(np.sqrt(variance.mean()))
    )

    def standardised(x: NDArray[np.float32]) -> Floats:
        return statistics.standardise(x).astype(np.float64)

    plain = standardised(tensors[PLAIN])
    moved = {middle(name): measures.l2(standardised(tensors[name]), plain) for name in tensors if name in TRANSFORMS}
    moved[OWN] = np.mean([measures.l2(standardised(vectors), plain) for vectors in tensors[OWN]], axis=0)
    return Moves(moved, measures.pair_distances(plain))


def _against_untrained(
    seed: int, encoder: str, ends: tuple[_Tap, _Tap], augmentations: Sequence[str], count: int
) -> list[Row]:
    """What training has changed of an encoder's ends, under its own augmentations; and what these are."""
    first, last = ends
    both = f"{encoder}:{BOTH}"
    assert first.untrained is not None
    assert last.untrained is not None
    foreign = [middle(name) for name in untaught(augmentations)]
    own = [note(QUESTION, AUGMENTATION, f"{encoder}:", "", name) for name in augmentations]
    for end, moves in zip(BOTH_ENDS, (first.untrained, last.untrained), strict=True):
        found = score.interval(moves.r(OWN), count, seed)
        own.append(row(QUESTION, "r untrained", f"{encoder}:{end}", OWN, found, UNIT))
    gaps = [score.difference(a.r(OWN), b.r(OWN)) for a, b in ((first, last), (first.untrained, last.untrained))]
    more = score.difference(*gaps)
    own.append(row(QUESTION, "r difference - untrained", both, OWN, score.interval(more, count, seed), UNIT))
    taught = score.difference(
        specific(first, last, OWN, foreign), specific(first.untrained, last.untrained, OWN, foreign)
    )
    unit = "ln r(projector) / r(backbone), own - other transforms, trained - untrained"
    own.append(row(QUESTION, "difference in differences", both, OWN, score.interval(taught, count, seed), unit))
    return own


def _rows(seed: int, inputs: Inputs, tap_id: str, tap: _Tap, sources: Numbers) -> list[Row]:
    """r of every transform, r in cosine, and references: nearest other image, image of the same class."""
    count = len(sources)

    def at(metric: str, subject: str, estimate: Estimate, unit: str = UNIT) -> Row:
        return row(QUESTION, metric, tap_id, subject, score.interval(estimate, count, seed), unit)

    rows = [at("r", subject, tap.r(subject)) for subject in tap.moved]
    rows += [at("cosine distance", subject, score.mean(values), "1 - cosine") for subject, values in tap.turned.items()]
    rows.append(at("reference", "nearest other image", measures.invariance(tap.nearest, tap.pairs)))
    values = open_images(inputs["shards"]).values()
    everyone = np.ones(tap.pairs.shape, dtype=np.bool_)
    for attribute in table_attributes(inputs["shards"]):
        if attribute.kind == "class":
            classes = values[attribute.name][sources]
            same = classes[:, None] == classes[None, :]
            alike = score.ratio(measures.pair_mean(tap.pairs, same), measures.pair_mean(tap.pairs, everyone))
            rows.append(at("reference", f"same {attribute.name}", alike))
    return rows


def _recovered(seed: int, inputs: Inputs, tap_id: str, tap: _Tap, ask: AskedTransforms) -> Iterator[Row]:
    """Whether embeddings that have moved can be mapped back, and which attributes are still read from them."""
    from safetensors.numpy import load

    encoder, name = split_tap(tap_id)
    table = open_table(inputs[EMBEDDINGS + encoder])
    statistics = table.statistics(name)

    def standardised(x: NDArray[np.float32]) -> Floats:
        return statistics.standardise(x).astype(np.float64)

    tensors = load(ask.conditions.read(f"{MOVED}/{encoder}/{name}.safetensors"))
    plain, wanted = standardised(tensors[PLAIN]), standardised(table.read(name, PLAIN, ask.train))
    order = score.derangement(len(wanted), seed)
    attributes = table_attributes(inputs["shards"])
    values = open_images(inputs["shards"]).values()
    train, truth = ({key: column[rows] for key, column in values.items()} for rows in (ask.train, ask.sources))
    count = len(ask.sources)

    def at(metric: str, subject: str, estimate: Estimate, unit: str) -> Row:
        return row(QUESTION, metric, tap_id, subject, score.interval(estimate, count, seed), unit)

    attribute_unit = "R2 of the attribute from the embedding"
    read = ridge.readable(ridge.Ridges(wanted), plain, attributes, train, truth)
    yield from (at("read", attribute, estimate, attribute_unit) for attribute, estimate in read.items())
    own = ask.drawn(encoder)
    seen_as = {_subject(variant): found for variant, found in zip(ask.variants, tensors["transformed"], strict=True)}
    seen_as[own] = tensors[OWN][0]
    for transform in (*TRANSFORMS, OWN):
        subject = own if transform == OWN else middle(transform)
        seen = standardised(seen_as[subject])
        stored = load(ask.conditions.read(f"{MOVED_TRAIN}/{encoder}/{name}/{transform}.safetensors"))
        ridges = ridge.Ridges(standardised(stored[VECTORS]))
        back, foreign = (
            ridge.explained(ridges.fit(y).predict(seen), plain, wanted.mean(axis=0)) for y in (wanted, wanted[order])
        )
        unit = "R2 of the image's embedding from that of the transformed image"
        recovered = at("recovered", subject, back, unit)
        control = at("recovered control", subject, foreign, unit)
        gap = at("recovered - control", subject, score.difference(back, foreign), unit)
        moved = at("r", subject, tap.r(subject), UNIT)
        verdict = recovery.judge(moved, recovered, gap, len(wanted) / wanted.shape[1])
        yield replace(recovered, verdict=verdict, why=f"r {moved.low:.2f} to {moved.high:.2f}")
        yield from (control, gap)
        after = ridge.readable(ridges, seen, attributes, train, truth)
        for attribute in after:
            label = f"{attribute} after {subject}"
            yield at("read", label, after[attribute], attribute_unit)
            if attribute in read:
                less = score.difference(read[attribute], after[attribute])
                yield at("read difference", label, less, attribute_unit)


def _subject(variant: Sequence[Any]) -> str:
    """Of rows on a transform at a strength."""
    return f"{variant[0]} {variant[1]:g}"


def _grids(stage: "Invariance", found: Painting, shown: dict[str, NDArray[np.uint8]]) -> list[Figure]:
    """Per encoder the transformed images; per tap the first sample of each of their embeddings."""
    labels = tuple(f"image {number}" for number in found.rows)
    columns = tuple(_label(variant) for variant in found.variants)
    seeds = {"bootstrap": stage.seed}
    figures = []
    for number, encoder in enumerate(dict.fromkeys(split_tap(tap_id)[0] for tap_id in found.tap_ids)):
        tiles = np.stack([[fit(image, found.size) for image in variant] for variant in shown[encoder]], axis=1)
        figures.append(
            Figure(
                name=f"inputs-{encoder}",
                kind="grid",
                title=f"Transformed images, as {encoder} sees them",
                caption="Each source under each transform, at its middle strength.",
                tiles=tiles,
                rows=labels,
                columns=columns,
                order=number * 100,
                seeds=seeds,
                encoder=encoder,
            )
        )
        for tap_id in (p for p in found.tap_ids if split_tap(p)[0] == encoder):
            tiles = np.stack([found.at(tap_id, v)[:, 0] for v in range(len(found.variants))], axis=1)
            figures.append(
                Figure(
                    name=f"samples-{tap_id.replace(':', '-')}",
                    kind="grid",
                    title=f"Samples of the transformed images' embeddings at {tap_id}",
                    caption="Under each transform one sample; all of a source have the same noise.",
                    tiles=tiles,
                    rows=labels,
                    columns=columns,
                    order=number * 100 + 1 + found.tap_ids.index(tap_id),
                    seeds=seeds,
                    encoder=encoder,
                    tap=split_tap(tap_id)[1],
                )
            )
    return figures


def _label(variant: str) -> str:
    """Name and strength of a painted variant."""
    if variant not in TRANSFORMS:
        return {PLAIN: "as it is", OWN: "augmentations"}[variant]
    return f"{variant} {TRANSFORMS[variant].painted:g}"
