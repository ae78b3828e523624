"""The answer to robustness: how far attacks move taps, checks, the probe's accuracy, differences of encoders."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.contract import Input, Inputs, Output, Summary
from stages.embeddings.format import open_table
from stages.encoders.spec import require
from stages.errors import FormatError, InputError
from stages.questions import measures
from stages.questions.asks.stage import EMBEDDINGS, of_group
from stages.questions.asks.work import PLAIN
from stages.questions.findings import GAP, TRAINED
from stages.questions.format import Figure, Row, note, put_rows, row, split_tap
from stages.questions.painted import Painting, painting
from stages.questions.question import CONDITIONS
from stages.questions.robustness.ask import ABOUT, ATTACKS, CORRECT, FGSM, PGD, SIGNS, TRANSFER, variant
from stages.questions.robustness.stage import RIGHTLY
from stages.readers import score
from stages.readers.score import Estimate, Floats, Interval

if TYPE_CHECKING:
    from stages.questions.robustness.stage import Robustness

QUESTION = "robustness"
UNIT = "distance of two random images"
SUPERVISED, SELF_SUPERVISED = ("supervised",), ("simclr", "vicreg", "barlow")
"""Methods of `pretrain`."""
CLEAN = "no attack"


@dataclass(frozen=True)
class _Ask:
    """What was asked of one tap group."""

    conditions: Input
    about: Mapping[str, Any]

    @classmethod
    def read(cls, conditions: Input) -> "_Ask":
        return cls(conditions, json.loads(conditions.read(ABOUT)))

    @property
    def same(self) -> tuple[Any, ...]:
        """What all groups must have in common."""
        return self.about["rows"], self.about["eps"], self.about["middle"], self.about["attribute"]


@dataclass(frozen=True)
class _Tap:
    """Distances at a tap: how far each attack moves each source, and between sources."""

    moved: dict[str, Floats]
    """float64 [N] by subject."""
    pairs: Floats
    """float64 [N, N]."""
    correct: Floats | None
    """Whether the probe is right, float64 [1 + E, N], NaN where there is no label."""

    def r(self, subject: str) -> Estimate:
        """Movement in units of the mean distance of two random images."""
        return measures.invariance(self.moved[subject], self.pairs)


def answer(stage: "Robustness", inputs: Inputs, out: Output) -> Summary:
    """Rows and grids of every tap of the ask; the summary holds the movement at the middle eps."""
    found = painting(inputs)
    asks = [_Ask.read(inputs[of_group(CONDITIONS, group)]) for group in found.starts]
    if any(ask.same != asks[0].same for ask in asks):
        raise FormatError(
            "the same sources under the same attacks in every tap group",
            "other ones in one of them",
            "Run again with --force for each step ask.robustness.",
        )
    levels: list[float] = asks[0].about["eps"]
    attribute: str | None = asks[0].about["attribute"]
    by_group = dict(zip(found.starts, asks, strict=True))
    taps = {tap_id: _tap(inputs, tap_id, by_group[found.groups[tap_id]], levels) for tap_id in found.tap_ids}
    count = len(asks[0].about["rows"])

    def interval(estimate: Estimate) -> Interval:
        return score.interval(estimate, count, stage.seed)

    rows: list[Row] = []
    for tap_id, tap in taps.items():
        rows += [row(QUESTION, "movement", tap_id, subject, interval(tap.r(subject)), UNIT) for subject in tap.moved]
        for subject, more, less in _checks(levels):
            rows.append(
                row(QUESTION, "check", tap_id, subject, interval(score.difference(tap.r(more), tap.r(less))), UNIT)
            )
        if tap.correct is not None and attribute is not None:
            rows += _accuracy(tap_id, tap.correct, attribute, levels, count, stage.seed)
        elif attribute is None:
            rows.append(note(QUESTION, "accuracy", tap_id, "The dataset has no class attribute for a probe to read."))
    methods = {name: method for ask in asks for name, method in ask.about["methods"].items()}
    framings = {name: framing for ask in asks for name, framing in ask.about["framings"].items()}
    judged = levels[:-1]
    pairs = _pairs(stage, methods)
    trainings = {name: training for ask in asks for name, training in ask.about["trainings"].items()}
    rows += _trained(methods, trainings, pairs)
    if not pairs:
        why = "No supervised encoder stands beside a self-supervised one, so finding iii is not judged."
        rows.append(note(QUESTION, "gap", ":", why))
    for supervised, other in pairs:
        if framings[supervised] != framings[other]:
            why = f"{supervised} and {other} frame images differently, so that one eps is not the same attack on both."
            rows.append(note(QUESTION, "gap", f"{supervised}:", why))
            continue
        for name in (split_tap(t)[1] for t in taps if split_tap(t)[0] == supervised):
            if f"{other}:{name}" not in taps:
                continue
            for eps in judged:
                subject = variant(PGD, eps)
                pair = (taps[f"{encoder}:{name}"].r(subject) for encoder in (supervised, other))
                gap = interval(score.difference(*pair))
                rows.append(row(QUESTION, f"{GAP}{name}", f"{supervised}:", f"{other} {eps:g}", gap, UNIT))
    rows = put_rows(out, rows)
    for figure in _grids(stage, found):
        figure.put(out)
    middle = variant(PGD, levels[asks[0].about["middle"]])
    return {
        "sources": count,
        "movement": {
            f"{r.encoder}:{r.tap}": round(r.value, 4) for r in rows if (r.metric, r.subject) == ("movement", middle)
        },
        "left_out": [tap_id for ask in asks for tap_id in ask.about["left_out"]],
    }


def _tap(inputs: Inputs, tap_id: str, ask: _Ask, levels: list[float]) -> _Tap:
    from safetensors.numpy import load

    encoder, tap = split_tap(tap_id)
    tensors = load(ask.conditions.read(f"{ATTACKS}/{encoder}/{tap}.safetensors"))
    statistics = open_table(inputs[EMBEDDINGS + encoder]).statistics(tap)
    plain = statistics.standardise(tensors[PLAIN]).astype(np.float64)

    def movement(vectors: np.ndarray) -> Floats:
        return measures.l2(statistics.standardise(vectors).astype(np.float64), plain)

    moved = {
        variant(attack, eps): movement(vectors)
        for attack in (PGD, FGSM, SIGNS)
        for eps, vectors in zip(levels, tensors[attack], strict=True)
    }
    middle = levels[ask.about["middle"]]
    for other, vectors in zip(ask.about["transfers"][tap_id], tensors.get(TRANSFER, ()), strict=True):
        moved[variant(f"{TRANSFER} from {split_tap(other)[0]}", middle)] = movement(vectors)
    correct = tensors.get(CORRECT)
    pairs = measures.pair_distances(plain)
    return _Tap(moved, pairs, None if correct is None else correct.astype(np.float64))


def _checks(levels: list[float]) -> Iterator[tuple[str, str, str]]:
    """What must not be negative: its name, and the subjects whose difference it is."""
    for eps in levels:
        yield f"pgd - fgsm {eps:g}", variant(PGD, eps), variant(FGSM, eps)
        yield f"fgsm - signs {eps:g}", variant(FGSM, eps), variant(SIGNS, eps)
    for less, more in pairwise(levels):
        yield f"pgd {more:g} - {less:g}", variant(PGD, more), variant(PGD, less)


def _accuracy(
    tap_id: str, correct: Floats, attribute: str, levels: list[float], count: int, seed: int
) -> Iterator[Row]:
    """Accuracy of the probe, and its ratio to that without an attack."""
    n = int(np.isfinite(correct[0]).sum())
    clean = score.mean(correct[0])
    for subject, values in zip((CLEAN, *(variant(PGD, eps) for eps in levels)), correct, strict=True):
        right = score.mean(values)
        found = score.interval(right, count, seed, n=n)
        yield row(QUESTION, "accuracy", tap_id, subject, found, RIGHTLY.format(attribute))
        if subject != CLEAN:
            share = score.interval(score.ratio(right, clean), count, seed, n=n)
            yield row(QUESTION, "relative accuracy", tap_id, subject, share, "of the accuracy without an attack")


def _pairs(stage: "Robustness", methods: Mapping[str, str]) -> list[tuple[str, str]]:
    """Every supervised encoder with every self-supervised one, by name."""
    for name in (*stage.supervised, *stage.self_supervised):
        require("attacked encoder", name, methods)
        if methods[name]:
            raise InputError(
                "encoders of which it is not known how they were trained, under supervised and self_supervised",
                f"{name}, trained by {methods[name]}",
                "Leave it out under questions.robustness.",
            )
    labelled = [n for n, method in methods.items() if method in SUPERVISED or n in stage.supervised]
    free = [n for n, method in methods.items() if method in SELF_SUPERVISED or n in stage.self_supervised]
    return [(supervised, other) for supervised in labelled for other in free]


def _trained(
    methods: Mapping[str, str], trainings: Mapping[str, Mapping[str, Any]], pairs: list[tuple[str, str]]
) -> Iterator[Row]:
    """Method and pretraining seed of every compared encoder. Imported ones count as one seed each, of one method."""
    for role, names in zip(("supervised", "self-supervised"), zip(*pairs, strict=True), strict=False):
        for number, name in enumerate(dict.fromkeys(names)):
            training = trainings[name]
            subject = " ".join([methods[name] or f"imported, {role}", *filter(None, [training.get("label")])])
            seed = Interval(float(training.get("seed", number)), float("nan"), float("nan"), 1)
            yield row(QUESTION, TRAINED, f"{name}:", subject, seed, "pretraining seed")


def _grids(stage: "Robustness", found: Painting) -> Iterator[Figure]:
    """Per tap the first sample of the embedding of each attacked image."""
    for number, tap_id in enumerate(found.tap_ids):
        encoder, tap = split_tap(tap_id)
        yield Figure(
            name=f"samples-{tap_id.replace(':', '-')}",
            kind="grid",
            title=f"Samples of the attacked images' embeddings at {tap_id}",
            caption="At each eps one sample; all of a source have the same noise.",
            tiles=np.stack([found.at(tap_id, v)[:, 0] for v in range(len(found.variants))], axis=1),
            rows=tuple(f"image {source}" for source in found.rows),
            columns=tuple("as it is" if name == PLAIN else name for name in found.variants),
            order=number,
            seeds={"bootstrap": stage.seed},
            encoder=encoder,
            tap=tap,
        )
