"""The answer to faithfulness: rank and distance of the source, for samples and controls.

Beside its rows it writes every single rank to `ranks.parquet`, from which the rows can be computed again.
"""

from typing import TYPE_CHECKING

import numpy as np

from stages.contract import Inputs, Output, Summary
from stages.questions import measures
from stages.questions.asks.stage import of_group
from stages.questions.asks.work import CROPS
from stages.questions.format import Ranks, Row, put_ranks, put_rows, row
from stages.questions.painted import Space, painting, space
from stages.questions.question import CONDITIONS
from stages.readers import score
from stages.readers.score import Floats, Numbers

if TYPE_CHECKING:
    from stages.questions.faithfulness.stage import Faithfulness

QUESTION = "faithfulness"
UNIT = "distance of two random images"
SMALL = {name: f"{name} at the decoder's resolution" for name in ("samples", "nearest", "random", "shuffled")}
"""Subjects of rows whose gallery, sources included, is at the decoder's resolution."""


def answer(stage: "Faithfulness", inputs: Inputs, out: Output) -> Summary:
    """Rows and ranks for every tap whose samples were embedded; the summary holds the mean reciprocal ranks."""
    from safetensors.numpy import load

    found = painting(inputs)
    asks = [inputs[of_group(CONDITIONS, group)] for group in found.starts]
    crops = {tap_id: crop for ask in asks for tap_id, crop in load(ask.read(CROPS)).items()}
    rows: list[Row] = []
    ranked: list[Ranks] = []
    left_out, gallery = [], 0
    for tap_id in found.tap_ids:
        where = space(inputs, found, tap_id)
        gallery = len(where.gallery)
        if where.samples is None:
            left_out.append(tap_id)
            continue
        crop = crops.get(tap_id)
        queries = _queries(stage.seed, where)
        if crop is not None:
            queries["crop"] = (where.statistics.standardise(crop).astype(np.float64)[:, None], None)
        spaces = [(where, queries)]
        if where.downsized is not None:
            queries["downsized"] = (where.downsized.sources[:, None], None)
            small = _queries(stage.seed, where.downsized)
            spaces.append((where.downsized, {SMALL[subject]: query for subject, query in small.items()}))
        for seen, asked in spaces:
            for subject, (vectors, removed) in asked.items():
                ranks = _ranks(seen, vectors, removed)
                ranked.append(Ranks(tap_id, subject, len(seen.gallery) - (removed is not None), found.rows, ranks))
                rows += _rows(stage.seed, tap_id, subject, seen, vectors, ranked[-1])
    put_ranks(out, ranked)
    rows = put_rows(out, rows)
    return {
        "gallery": gallery,
        "mrr": {f"{r.encoder}:{r.tap} {r.subject}": round(r.value, 4) for r in rows if r.metric == "mrr"},
        "left_out": left_out,
    }


def _queries(seed: int, where: Space) -> dict[str, tuple[Floats, Numbers | None]]:
    """What is ranked, float64 [N, K, D] by subject, and which image is taken out of the gallery for it."""
    assert where.samples is not None
    count = len(where.positions)
    samples = where.samples[0]
    nearest, _ = measures.nearest_other(where.gallery, where.positions)
    rng = np.random.Generator(np.random.Philox(key=[seed, count]))
    # Any image but the source itself.
    other = (where.positions + rng.integers(1, len(where.gallery), count)) % len(where.gallery)
    return {
        "samples": (samples, None),
        "nearest": (where.gallery[nearest][:, None], nearest),
        "random": (where.gallery[other][:, None], other),
        "shuffled": (samples[score.derangement(count, seed)], None),
    }


def _ranks(where: Space, vectors: Floats, removed: Numbers | None) -> Floats:
    """Rank of the source for each of its queries: vectors float64 [N, K, D] to float64 [N, K]."""
    count, per_source, width = vectors.shape
    taken_out = None if removed is None else removed.repeat(per_source)
    sources = where.positions.repeat(per_source)
    return measures.ranks(vectors.reshape(-1, width), where.gallery, sources, taken_out).reshape(count, per_source)


def _rows(seed: int, tap_id: str, subject: str, where: Space, vectors: Floats, ranked: Ranks) -> list[Row]:
    """Ranks and distances of one kind of query."""
    count, ranks = len(vectors), ranked.ranks
    among = f"among {ranked.gallery} held-out images"
    apart = measures.l2(vectors, where.sources[:, None]).mean(axis=1) / where.unit
    turned = measures.cosine(vectors, where.sources[:, None]).mean(axis=1)
    estimates = {
        "mrr": (score.mean((1.0 / ranks).mean(axis=1)), f"mean of 1 / rank {among}"),
        "median rank": (score.median(np.median(ranks, axis=1)), f"rank {among}"),
        "mean rank": (score.mean(ranks.mean(axis=1)), f"rank {among}"),
        "distance": (score.mean(apart), UNIT),
        "cosine distance": (score.mean(turned), "1 - cosine"),
    }
    return [
        row(QUESTION, metric, tap_id, subject, score.interval(estimate, count, seed), unit)
        for metric, (estimate, unit) in estimates.items()
    ]
