"""What is painted for shift: images of seen and of unseen combinations, and vectors halfway between neighbours."""

import json
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from stages.contract import Inputs, Output, Summary
from stages.embeddings.format import Table
from stages.encoders.spec import EncoderSpec, Oracle
from stages.questions.asks.work import PLAIN, by_encoder, chosen, table_of
from stages.questions.format import Condition, put_conditions
from stages.questions.measures import squared_distances
from stages.readers import score
from stages.readers.data import rows_of, unseen_rows
from stages.readers.score import Floats, Numbers
from stages.samples.format import digits

if TYPE_CHECKING:
    from stages.questions.shift.stage import Shifted

WALKS = "walks.json"
"""By tap id the rows of the images of each walk, in order: [W, steps + 1]."""
BETWEEN, ACROSS = "between", "across"
"""Variants `between 1` … are halfway from an image of a walk to the next, `across 1` … to that of another walk."""


def ask_shifted(stage: "Shifted", inputs: Inputs, out: Output) -> Summary:
    """Conditions: per tap, the sources of both groups as they are; where the encoder is a network, walks after them."""
    shards = inputs["shards"]
    seen = chosen(shards, stage.count, stage.seed)
    unseen = unseen_rows(shards)[1]
    order = np.random.Generator(np.random.Philox(key=[stage.seed, len(unseen)])).permutation(len(unseen))
    unseen = np.sort(unseen[order[: stage.count]])
    heldout = rows_of(shards, "heldout")
    starts = np.random.Generator(np.random.Philox(key=[stage.seed, len(seen)])).permutation(seen)[: stage.walks]
    conditions: list[Condition] = []
    vectors: dict[str, NDArray[np.float32]] = {}
    walks: dict[str, list[list[int]]] = {}
    for encoder, taps in by_encoder(stage.taps).items():
        table = table_of(inputs, encoder)
        spec: EncoderSpec = TypeAdapter(EncoderSpec).validate_python(table.attributes["encoder"])
        for tap in taps:
            tap_id = f"{encoder}:{tap}"
            asked = np.concatenate([seen, unseen])
            parts = [table.read(tap, PLAIN, asked)]
            conditions += [Condition(encoder, tap, int(row), PLAIN, 0.0) for row in asked]
            if not isinstance(spec, Oracle) and len(starts) > 1 and len(heldout) > stage.steps:
                met = _walk(table, tap, heldout, starts, stage.steps)
                walks[tap_id] = met.tolist()
                for variant, halfway in _halves(table, tap, met, stage.seed).items():
                    parts.append(halfway)
                    conditions += [Condition(encoder, tap, int(row), variant, 0.5) for row in starts]
            vectors[tap_id] = np.concatenate(parts)
    put_conditions(out, conditions, vectors, digits(stage, inputs))
    out.put(WALKS, json.dumps(walks).encode())
    return {"conditions": len(conditions), "seen": len(seen), "unseen": len(unseen)}


def _halves(table: Table, tap: str, walks: Numbers, seed: int) -> dict[str, NDArray[np.float32]]:
    """The vectors halfway of each step of the walks [W, steps + 1], by variant: float32 [W, D]."""
    others = score.derangement(len(walks), seed)
    at = [table.read(tap, PLAIN, rows) for rows in walks.T]
    found = {}
    for number, (here, there) in enumerate(pairwise(at), 1):
        found[f"{BETWEEN} {number}"] = (here + there) / np.float32(2)
        found[f"{ACROSS} {number}"] = (here + there[others]) / np.float32(2)
    return found


def _walk(table: Table, tap: str, heldout: Numbers, starts: Numbers, steps: int) -> Numbers:
    """The rows that walks from `starts` [W] meet: int64 [W, steps + 1]. No walk meets an image twice."""
    gallery: Floats = table.standardised(tap, heldout)
    at = np.searchsorted(heldout, starts)
    met = [at]
    lines = np.arange(len(at))
    for _ in range(steps):
        apart = squared_distances(gallery[at], gallery)
        for before in met:
            apart[lines, before] = np.inf
        at = apart.argmin(axis=1)
        met.append(at)
    return np.stack([heldout[positions] for positions in met], axis=1)
