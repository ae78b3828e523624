"""The answer to fidelity: KID, precision and recall of every tap's samples, each beside that of real images."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stages.contract import Inputs, Output, Summary
from stages.embeddings.format import open_table
from stages.errors import InputError
from stages.images.sets import open_images
from stages.questions.asks.work import encoder_of
from stages.questions.fidelity import quality, verdicts
from stages.questions.format import Row, note, put_rows, row, split_tap
from stages.questions.painted import painting
from stages.readers import score
from stages.readers.data import rows_of
from stages.readers.reference import REFERENCE, embed
from stages.readers.score import Estimate, Floats

if TYPE_CHECKING:
    from stages.questions.fidelity.stage import Fidelity

QUESTION = "fidelity"
KID, PRECISION, RECALL = "kid", "precision", "recall"
FLOOR = " of images"
"""Ends the metric of the sources themselves; `<metric> - images` is the paired difference."""
GAP = " - images"
UNITS = {KID: "squared MMD, cubic kernel", PRECISION: "share of samples", RECALL: "share of images"}


def answer(stage: "Fidelity", inputs: Inputs, out: Output, device: str) -> Summary:
    """Rows of every tap; the summary holds KID. The reference encoder runs on `device`."""
    found = painting(inputs)
    encoder, tap = split_tap(stage.reference)
    table = open_table(inputs[REFERENCE + encoder])
    seeing = encoder_of(inputs, encoder, table, device)
    assert seeing is not None, f"{encoder} is a step and not among the inputs"
    statistics = table.statistics(tap)

    def space(images: NDArray[np.uint8]) -> Floats:
        return statistics.standardise(embed(seeing, tap, images)).astype(np.float64)

    shards = open_images(inputs["shards"])
    heldout = np.setdiff1d(rows_of(inputs["shards"], "heldout"), found.rows)
    order = np.random.Generator(np.random.Philox(key=[stage.seed, len(heldout)])).permutation(len(heldout))
    others = np.sort(heldout[order[: stage.count]])
    least = max(len(found.rows), 2 * stage.neighbours + 2)
    if len(others) < least or len(found.rows) <= stage.neighbours:
        raise InputError(
            f"{least} held-out images or more that are no sources, and more than {stage.neighbours} sources",
            f"{len(others)} images and {len(found.rows)} sources",
            "Hold out more images, or lower questions.fidelity.neighbours.",
        )
    images = space(shards.decode(others, found.size))
    sources = space(shards.decode(found.rows, found.size))
    rows = [note(QUESTION, "rules", ":", verdicts.RULE)]
    floors = _measured(stage, sources[:, None], images)
    for tap_id in found.tap_ids:
        painted = found.at(tap_id)
        flat = space(painted.reshape(-1, *painted.shape[2:]))
        measured = _measured(stage, flat.reshape(*painted.shape[:2], -1), images)
        rows += _rows(stage, tap_id, measured, floors)
    rows = put_rows(out, rows)
    kids = {f"{r.encoder}:{r.tap}": round(r.value, 4) for r in rows if r.metric == KID}
    return {"reference": stage.reference, "images": len(others), KID: kids}


def _measured(stage: "Fidelity", samples: Floats, images: Floats) -> dict[str, tuple[Estimate, tuple[int, ...]]]:
    """Estimates by metric, each over so many sources, and images, of samples [N, K, D] against images [M, D].

    Recall takes the first sample of each source, so that it is that of equally many samples and sources.
    """
    k = stage.neighbours
    first = samples[:, 0]
    flat = samples.reshape(-1, samples.shape[2])
    precise = quality.covered(flat, images, quality.radii(images, k)).reshape(samples.shape[:2]).mean(axis=1)
    return {
        KID: (quality.kid(samples, images), (len(samples),)),
        PRECISION: (score.mean(precise), (len(samples),)),
        RECALL: (quality.recall(images, first, k), (len(samples), len(images))),
    }


def _rows(
    stage: "Fidelity",
    tap_id: str,
    measured: dict[str, tuple[Estimate, tuple[int, ...]]],
    floors: dict[str, tuple[Estimate, tuple[int, ...]]],
) -> Iterator[Row]:
    """A tap's numbers, those of the sources themselves, and the paired differences with their verdicts."""
    for metric, (estimate, counts) in measured.items():
        floor, _ = floors[metric]
        own, real, gap = (
            replace(score.unpaired(one, counts, stage.seed), n=counts[0])
            for one in (estimate, floor, score.difference(estimate, floor))
        )
        subject, unit = stage.reference, UNITS[metric]
        verdict = "" if metric == KID else verdicts.judge(gap.low, gap.high, real.value)
        yield row(QUESTION, metric, tap_id, subject, own, unit)
        yield row(QUESTION, metric + FLOOR, tap_id, subject, real, unit)
        yield replace(row(QUESTION, metric + GAP, tap_id, subject, gap, unit), verdict=verdict)
