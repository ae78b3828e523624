"""The answer to inversion: fitted images and samples of the same sources, as an encoder sees them that made neither."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.contract import Inputs, Output, Summary
from stages.embeddings.format import Statistics, open_table
from stages.encoders.encoder import Encoder, NetworkEncoder
from stages.errors import InputError
from stages.images.pixels import from_unit, resize, to_unit
from stages.images.sets import open_images
from stages.questions import measures
from stages.questions.asks.work import chosen, encoder_of, table_of
from stages.questions.format import Figure, Row, note, put_rows, row, split_tap
from stages.questions.inversion import verdicts
from stages.questions.inversion.fitting import fit
from stages.questions.inversion.stage import CHOICE
from stages.questions.painted import Painting, painting
from stages.questions.turns import in_turns
from stages.readers import score
from stages.readers.reference import REFERENCE, embed
from stages.readers.score import Floats, Interval, Numbers
from stages.training.precision import unrounded

if TYPE_CHECKING:
    from stages.questions.inversion.stage import Inversion

QUESTION = "inversion"
DISTANCE, OWN, GAP = "distance", "own distance", "inverted - samples"
SPREAD, SECONDS, WEIGHT = "spread", "seconds", "weight"
FITTED, SAMPLES, OTHER = "inverted", "samples", "another image"
OF_OTHERS = " to another source"
"""Ends the metric of the control: samples and fitted images of one source, and another source."""
UNIT = "distance of two random images"
BATCH = 64
"""Images that are fitted at once: a backward pass keeps every layer."""


@dataclass(frozen=True)
class _Judge:
    """The space of an encoder that made neither samples nor fitted images."""

    encoder: Encoder
    tap: str
    statistics: Statistics
    unit: float
    """Mean distance of two held-out images."""

    @classmethod
    def of(cls, stage: "Inversion", inputs: Inputs, found: Painting, device: str) -> "_Judge":
        name, tap = split_tap(stage.reference)
        table = open_table(inputs[REFERENCE + name])
        encoder = encoder_of(inputs, name, table, device)
        assert encoder is not None, f"{name} is a step and not among the inputs"
        statistics = table.statistics(tap)
        images = embed(encoder, tap, open_images(inputs["shards"]).decode(found.rows, found.size))
        return cls(encoder, tap, statistics, measures.random_pair(statistics.standardise(images).astype(np.float64)))

    def see(self, images: NDArray[np.uint8]) -> Floats:
        """uint8 [..., S, S, 3] to [..., D]."""
        flat = embed(self.encoder, self.tap, images.reshape(-1, *images.shape[-3:]))
        vectors = self.statistics.standardise(flat).astype(np.float64) / self.unit
        return vectors.reshape(*images.shape[:-3], -1)


@dataclass(frozen=True)
class _Tap:
    """A tap of a network as a function of pixels, and where the sources are in its space."""

    encoder: NetworkEncoder
    tap: str
    statistics: Statistics
    sources: Floats
    """Standardised, float64 [N, D]."""

    def embed(self, images: Tensor) -> Tensor:
        """Standardised embeddings; passes gradients on."""
        device = self.encoder.device
        mean, scale = (torch.from_numpy(x).to(device) for x in (self.statistics.mean, self.statistics.scale))
        return (self.encoder.forward(images)[self.tap] - mean) / scale

    def see(self, images: NDArray[np.uint8]) -> Floats:
        """uint8 [..., S, S, 3] to [..., D], as the encoder sees stored images."""
        flat = images.reshape(-1, *images.shape[-3:])
        # Fitted images have the encoder's size and are not to be framed again.
        vectors = [self.encoder.embed(flat[at : at + BATCH])[self.tap] for at in range(0, len(flat), BATCH)]
        found = self.statistics.standardise(np.concatenate(vectors)).astype(np.float64)
        return found.reshape(*images.shape[:-3], -1)


def answer(stage: "Inversion", inputs: Inputs, out: Output, device: str) -> Summary:
    """Rows and a figure of every tap of a network; the summary holds the verdicts. Networks run on `device`."""
    found = painting(inputs)
    judge = _Judge.of(stage, inputs, found, device)
    rows = [note(QUESTION, "rules", ":", verdicts.RULE)]
    images = open_images(inputs["shards"])
    shown, taken = images.decode(found.rows[: stage.count], found.size), found.rows[: stage.count]
    first = in_turns(inputs["shards"], taken)[: stage.shown]
    tables = {name: table_of(inputs, name) for name in dict.fromkeys(split_tap(tap_id)[0] for tap_id in found.tap_ids)}
    encoders = {name: encoder_of(inputs, name, table, device) for name, table in tables.items()}
    for order, tap_id in enumerate(found.tap_ids):
        name, tap = split_tap(tap_id)
        table, encoder = tables[name], encoders[name]
        if not isinstance(encoder, NetworkEncoder):
            rows.append(note(QUESTION, DISTANCE, tap_id, "This tap has no gradient."))
            continue
        at = _Tap(encoder, tap, table.statistics(tap), table.standardised(tap, taken))
        weight = _weight(stage, inputs, at, judge, found.size)
        begun = time.monotonic()
        fitted, reduced = _fitted(stage, at, at.sources, taken, weight, found.size)
        seconds = (time.monotonic() - begun) / len(taken) / stage.starts
        # What the encoder was shown of each source, which may be less than the decoder paints.
        cut = _reduced(to_unit(images.decode(taken, encoder.preprocessing.framing)), found.size)
        samples = found.at(tap_id)[: stage.count]
        rows += _rows(stage, tap_id, at, judge, samples, fitted, reduced, shown, cut)
        for metric, value, unit in ((SECONDS, seconds, "s an image"), (WEIGHT, weight, "of total variation")):
            rows.append(row(QUESTION, metric, tap_id, FITTED, Interval(value, np.nan, np.nan, len(taken)), unit))
        _figure(stage, tap_id, order, shown, reduced, samples, taken, first).put(out)
    if not any(r.metric == GAP for r in rows):
        raise InputError(
            "at least one tap of a network",
            ", ".join(found.tap_ids),
            "Add a tap of an encoder with a network to decoder.taps, or leave out this question.",
        )
    rows = put_rows(out, rows)
    return {
        "reference": stage.reference,
        "verdicts": {f"{r.encoder}:{r.tap}": r.verdict for r in rows if r.metric == GAP},
    }


def _weight(stage: "Inversion", inputs: Inputs, at: _Tap, judge: _Judge, size: int) -> float:
    """The weight with which the judge finds the fitted images of some train images nearest."""
    if len(stage.weights) == 1:
        return stage.weights[0]
    rows = chosen(inputs["shards"], CHOICE, stage.seed, "train")
    framed = open_images(inputs["shards"]).decode(rows, at.encoder.preprocessing.framing)
    targets, seen = at.see(framed), judge.see(_reduced(to_unit(framed), size))

    def distance(weight: float) -> float:
        _, reduced = _fitted(stage, at, targets, rows, weight, size)
        return float(measures.l2(judge.see(reduced), seen[:, None]).mean())

    return min(stage.weights, key=distance)


def _fitted(
    stage: "Inversion", at: _Tap, targets: Floats, rows: Numbers, weight: float, size: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Fitted images of targets [N, D], a few starts each: uint8 [N, starts, …], as the encoder and as the decoder
    would have them. A start is a function of (seed, row, number)."""
    side = at.encoder.preprocessing.size
    starts = np.stack(
        [
            np.random.Generator(np.random.Philox(key=[stage.seed, int(r) * stage.starts + k])).standard_normal(
                (3, side, side), dtype=np.float32
            )
            for r in rows
            for k in range(stage.starts)
        ]
    )
    repeated = torch.from_numpy(targets.astype(np.float32)).repeat_interleave(stage.starts, 0)
    found = []
    with unrounded("float32", deterministic=True):
        for first in range(0, len(repeated), BATCH):
            here = slice(first, first + BATCH)
            batch, start = (x[here].to(at.encoder.device) for x in (repeated, torch.from_numpy(starts)))
            found.append(fit(at.embed, batch, start, stage.steps, weight).cpu())
    images = torch.cat(found)
    own, reduced = from_unit(images), _reduced(images, size)
    shape = (len(rows), stage.starts)
    return own.reshape(*shape, *own.shape[1:]), reduced.reshape(*shape, *reduced.shape[1:])


def _reduced(images: Tensor, size: int) -> NDArray[np.uint8]:
    """float [B, 3, H, W] in [0, 1] at the decoder's resolution, where they have more: uint8 [B, S, S, 3]."""
    return from_unit(resize(images, size) if images.shape[-1] > size else images)


def _rows(
    stage: "Inversion",
    tap_id: str,
    at: _Tap,
    judge: _Judge,
    samples: NDArray[np.uint8],
    fitted: NDArray[np.uint8],
    reduced: NDArray[np.uint8],
    shown: NDArray[np.uint8],
    cut: NDArray[np.uint8],
) -> Iterator[Row]:
    """How far samples [N, K, …] and fitted images [N, starts, …] are from their sources, to judge and tap."""
    count = len(samples)
    painted, inverted = judge.see(samples), judge.see(reduced)
    sources, seen = judge.see(shown), judge.see(cut)
    others = score.derangement(count, stage.seed)
    own, other = (
        {
            SAMPLES: measures.l2(painted[of], sources[:, None]).mean(axis=1),
            FITTED: measures.l2(inverted[of], seen[:, None]).mean(axis=1),
        }
        for of in (np.arange(count), others)
    )

    def interval(values: Floats) -> Interval:
        return score.interval(score.mean(values), count, stage.seed)

    for subject, values in own.items():
        yield row(QUESTION, DISTANCE, tap_id, subject, interval(values), UNIT)
        yield row(QUESTION, DISTANCE + OF_OTHERS, tap_id, subject, interval(other[subject]), UNIT)
    yield row(QUESTION, DISTANCE, tap_id, OTHER, interval(measures.l2(sources[others], sources)), UNIT)
    gap = interval(own[FITTED] - own[SAMPLES])
    nearer = min(own, key=lambda subject: float(own[subject].mean()))
    verdict = verdicts.judge(gap.low, gap.high, interval(own[nearer] - other[nearer]).high)
    yield replace(row(QUESTION, GAP, tap_id, "", gap, UNIT), verdict=verdict)
    unit = measures.random_pair(at.sources)
    for subject, images in ((SAMPLES, samples), (FITTED, fitted)):
        at_tap = measures.l2(at.see(images), at.sources[:, None]).mean(axis=1) / unit
        yield row(QUESTION, OWN, tap_id, subject, interval(at_tap), UNIT)
    for subject, vectors in ((SAMPLES, painted), (FITTED, inverted)):
        if vectors.shape[1] > 1:
            yield row(QUESTION, SPREAD, tap_id, subject, interval(measures.l2(vectors[:, 0], vectors[:, 1])), UNIT)


def _figure(
    stage: "Inversion",
    tap_id: str,
    order: int,
    sources: NDArray[np.uint8],
    reduced: NDArray[np.uint8],
    samples: NDArray[np.uint8],
    rows: Numbers,
    first: Numbers,
) -> Figure:
    """The sources at positions `first`, each with two fitted images and two samples."""
    small = reduced if reduced.shape[2] == sources.shape[1] else _enlarged(reduced, sources.shape[1])
    tiles = np.concatenate([sources[first, None], small[first, :2], samples[first, :2]], axis=1)
    name, tap = split_tap(tap_id)
    drawn = tiles.shape[1] - 3
    columns = ("source", "inverted 1", "inverted 2", *(f"sample {k + 1}" for k in range(drawn)))
    return Figure(
        name=f"inversion-{name}-{tap}",
        kind="inversion",
        title=f"Inverted and painted at {tap_id}",
        caption="Fitted by gradients to the source's embedding at this tap, and painted from it by the decoder.",
        tiles=tiles,
        rows=tuple(f"image {number}" for number in rows[first]),
        columns=columns,
        order=order,
        seeds={"seed": stage.seed},
        encoder=name,
        tap=tap,
    )


def _enlarged(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """uint8 [N, K, s, s, 3] of an encoder that sees fewer pixels than the decoder paints, at the size of the others."""
    flat = from_unit(resize(to_unit(images.reshape(-1, *images.shape[2:])), size))
    return flat.reshape(*images.shape[:2], *flat.shape[1:])
