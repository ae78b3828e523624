"""The answer to memorisation: how near samples come to train images, beside how near they come to held-out ones."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stages.contract import Inputs, Output, Summary
from stages.images.sets import open_images
from stages.questions import measures
from stages.questions.asks.work import chosen, downsized_rows
from stages.questions.format import Figure, note, put_rows, row, split_tap
from stages.questions.memorisation import rules
from stages.questions.painted import painting
from stages.readers import score
from stages.readers.data import rows_of
from stages.readers.score import Estimate, Floats, Numbers

if TYPE_CHECKING:
    from stages.questions.memorisation.stage import Memorisation

QUESTION = "memorisation"
RATIO, DISTANCE = "nearest train / nearest held-out", "distance to the nearest"
BESIDE = "nearest train / nearest held-out, over that of the sources"
SAMPLES, CONTROL = "samples", "sources"
PIXELS = "root mean square difference of pixels, of full intensity"
BLOCK = 256
"""Images that are compared with all others at once."""
SIDE = 32
"""Larger images are compared by the means of blocks of pixels, about so many a side, which take less memory."""


@dataclass(frozen=True)
class _Searched:
    """Images of one split as vectors of pixels, and their mirror images, which the decoder is shown too."""

    rows: Numbers
    """int64 [M]."""
    images: NDArray[np.uint8]
    """[M, S, S, 3]."""
    vectors: NDArray[np.float32]
    """[2 M, D], plain ones first."""

    @classmethod
    def of(cls, rows: Numbers, images: NDArray[np.uint8]) -> "_Searched":
        return cls(rows, images, np.concatenate([_vectors(images), _vectors(images[:, :, ::-1])]))

    def nearest(self, queries: NDArray[np.uint8], without: Numbers) -> tuple[Numbers, Floats]:
        """For each of [Q, S, S, 3] the position of the nearest image, and its distance, both [Q].

        `without` [Q]: the row of an image that is left out with its mirror image, where it is among the searched.
        """
        found = [self._block(queries[i : i + BLOCK], without[i : i + BLOCK]) for i in range(0, len(queries), BLOCK)]
        positions, distances = (np.concatenate(entries) for entries in zip(*found, strict=True))
        return positions, distances

    def _block(self, queries: NDArray[np.uint8], without: Numbers) -> tuple[Numbers, Floats]:
        asked = _vectors(queries)
        # Squared distances but for the squared length of the query, which is the same for all.
        apart = np.einsum("ij,ij->i", self.vectors, self.vectors)[None, :] - 2.0 * asked @ self.vectors.T
        apart[np.tile(self.rows, 2)[None, :] == without[:, None]] = np.inf
        best = apart.argmin(axis=1)
        return best % len(self.rows), measures.l2(
            asked.astype(np.float64), self.vectors[best].astype(np.float64)
        ) / np.sqrt(asked.shape[1])


def _vectors(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Images [N, S, S, 3] as float32 [N, D], intensities of 0 to 1."""
    count, size = images.shape[:2]
    side = max(1, size // SIDE)
    while size % side:
        side -= 1
    blocks = images.reshape(count, size // side, side, size // side, side, 3).mean(axis=(2, 4), dtype=np.float32)
    vectors: NDArray[np.float32] = blocks.reshape(count, -1) / np.float32(255.0)
    return vectors


def answer(stage: "Memorisation", inputs: Inputs, out: Output) -> Summary:
    """Rows and a figure of every tap; the summary holds the verdicts."""
    found = painting(inputs)
    images = open_images(inputs["shards"])
    all_train, all_heldout = rows_of(inputs["shards"], "train"), rows_of(inputs["shards"], "heldout")
    # Equally many of both: among more images the nearest is nearer. All sources are among the held-out images, and each
    # is left out for its own samples.
    count = min(max(stage.images, len(found.rows)), len(all_train), len(all_heldout) - 1)
    searched = count / len(all_train)
    sets = {
        "train": chosen(inputs["shards"], count, stage.seed, "train"),
        "held-out": downsized_rows(found.rows, all_heldout, count + 1, stage.seed),
    }
    pools = {name: _Searched.of(wanted, images.decode(wanted, found.size)) for name, wanted in sets.items()}
    per_source = found.per_source

    def distances(shown: NDArray[np.uint8], each: int) -> tuple[dict[str, Numbers], dict[str, Floats]]:
        """Nearest images and their distances [N, each]; a source is never its own nearest."""
        own = found.rows.repeat(each)
        one = {name: pool.nearest(shown, own) for name, pool in pools.items()}
        return (
            {name: positions.reshape(-1, each) for name, (positions, _) in one.items()},
            {name: apart.reshape(-1, each) for name, (_, apart) in one.items()},
        )

    def ratio(apart: dict[str, Floats]) -> Estimate:
        return score.ratio(*(score.mean(apart[name].mean(axis=1)) for name in ("train", "held-out")))

    sources = images.decode(found.rows, found.size)
    _, own = distances(sources, 1)
    control = score.interval(ratio(own), len(found.rows), stage.seed)
    rows = [note(QUESTION, "rules", ":", rules.RULE)]
    rows.append(row(QUESTION, RATIO, ":", CONTROL, control, f"of {count} images each"))
    figures = []
    for number, tap_id in enumerate(found.tap_ids):
        samples = found.at(tap_id)
        nearest, apart = distances(samples.reshape(-1, *samples.shape[2:]), per_source)
        for name, each in apart.items():
            bounds = score.interval(score.mean(each.mean(axis=1)), len(found.rows), stage.seed)
            rows.append(row(QUESTION, DISTANCE, tap_id, name, bounds, PIXELS))
        # Both meet the same train and held-out images, so what differs between these by chance cancels.
        gap = score.interval(score.ratio(ratio(apart), ratio(own)), len(found.rows), stage.seed)
        verdict, why = rules.judge(gap.low, gap.high, (control.low, control.high), searched)
        judged = row(QUESTION, BESIDE, tap_id, SAMPLES, gap, f"of {count} images each")
        rows.append(replace(judged, verdict=verdict, why=why))
        figures.append(_figure(stage, found.rows, tap_id, number, sources, samples, pools, nearest, apart))
    rows = put_rows(out, rows)
    for figure in figures:
        figure.put(out)
    judged_rows = [r for r in rows if r.verdict]
    return {"images": count, "searched": searched, "verdicts": {f"{r.encoder}:{r.tap}": r.verdict for r in judged_rows}}


def _figure(
    stage: "Memorisation",
    rows: Numbers,
    tap_id: str,
    number: int,
    sources: NDArray[np.uint8],
    samples: NDArray[np.uint8],
    pools: dict[str, _Searched],
    nearest: dict[str, Numbers],
    apart: dict[str, Floats],
) -> Figure:
    """The samples that come nearest to a train image beside what they come to among held-out images."""
    quotient = score.divide(apart["train"], apart["held-out"])
    k = np.nan_to_num(quotient, nan=np.inf).argmin(axis=1)
    every = np.arange(len(rows))
    order = np.argsort(quotient[every, k], kind="stable")[: stage.shown]
    k = k[order]
    neighbours = [pools[name].images[nearest[name][order, k]] for name in ("train", "held-out")]
    encoder, tap = split_tap(tap_id)
    return Figure(
        name=f"nearest-{tap_id}".replace(":", "-"),
        kind="nearest",
        title=f"Nearest images to samples at {tap_id}",
        caption=(
            f"The samples of {len(rows)} sources that come nearest to a train image, by the ratio of the two "
            "distances: picked out, so they illustrate and prove nothing. Mirror images are searched too and shown "
            "unmirrored."
        ),
        tiles=np.stack([sources[order], samples[order, k], *neighbours], axis=1),
        rows=tuple(f"image {row_}" for row_ in rows[order]),
        columns=("source", "sample", "nearest train", "nearest held-out"),
        order=number,
        seeds={"bootstrap": stage.seed},
        encoder=encoder,
        tap=tap,
    )
