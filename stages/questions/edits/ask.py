"""What the ask does: computes directions from train embeddings, edits the sources and writes conditions."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stages.attributes import Attribute
from stages.contract import Input, Inputs, Output, Summary
from stages.embeddings.format import Table
from stages.encoders.spec import require
from stages.errors import InputError
from stages.images.sets import open_images
from stages.questions.asks.work import PLAIN, by_encoder, chosen, table_of
from stages.questions.edits import directions
from stages.questions.edits.directions import UNKNOWN, Bins, Directions, Train
from stages.questions.edits.effects import features
from stages.questions.edits.format import (
    ABOUT,
    CONTROL,
    END,
    LINEAR,
    MEANS,
    PCA,
    PROBE,
    RANDOM,
    SPHERICAL,
    SWAP,
    ZERO,
    variant,
)
from stages.questions.format import Condition, put_conditions
from stages.readers import score
from stages.readers.data import rows_of, table_attributes
from stages.readers.score import Floats, Numbers
from stages.samples.format import digits

if TYPE_CHECKING:
    from stages.questions.edits.stage import Edited


@dataclass(frozen=True)
class Goal:
    """What an attribute of each source is to become."""

    attribute: Attribute
    count: int
    """Values that the attribute is cut into."""
    train: Numbers
    """Value of each train image, int64 [T]."""
    own: Numbers
    """Value of each source, int64 [N]; `UNKNOWN` where it is not edited."""
    target: Numbers
    """int64 [N]."""
    towards: Floats
    """Unit vector from its own value to the other one, in features of the attribute: float64 [N, F], NaN: no edit."""


def ask_edited(stage: "Edited", inputs: Inputs, out: Output) -> Summary:
    """Every edit of every source at every tap is a condition."""
    shards = inputs["shards"]
    rows = chosen(shards, stage.count, stage.seed)
    if len(rows) < 2:
        raise InputError("at least two held-out images", f"{len(rows)}", "Hold out more.")
    train = _train_rows(shards, stage.limit, stage.seed)
    goals = _goals(stage, shards, rows, train)
    partners = score.derangement(len(rows), stage.seed)
    conditions: list[Condition] = []
    vectors: dict[str, NDArray[np.float32]] = {}
    for encoder, taps in by_encoder(stage.taps).items():
        table = table_of(inputs, encoder)
        for tap in taps:
            found = list(_edits(stage, table, tap, rows, train, goals, partners))
            vectors[f"{encoder}:{tap}"] = np.concatenate([x for _, _, x in found])
            conditions += [Condition(encoder, tap, int(r), name, length) for name, length, _ in found for r in rows]
    put_conditions(out, conditions, vectors, digits(stage, inputs))
    about: Mapping[str, Any] = {
        "rows": rows.tolist(),
        "partners": partners.tolist(),
        "strengths": stage.strengths,
        "ratios": stage.ratios,
        "goals": {
            goal.attribute.name: [None if np.isnan(u).any() else u.tolist() for u in goal.towards] for goal in goals
        },
    }
    out.put(ABOUT, json.dumps(about).encode())
    return {"conditions": len(conditions), "sources": len(rows), "attributes": [g.attribute.name for g in goals]}


def _edits(
    stage: "Edited", table: Table, tap: str, rows: Numbers, train_rows: Numbers, goals: list[Goal], partners: Numbers
) -> Iterator[tuple[str, float, NDArray[np.float32]]]:
    """(name, strength, embeddings [N, D]) of every variant, in the space of the encoder."""
    statistics = table.statistics(tap)
    plain = table.read(tap, PLAIN, rows)
    raw = table.read(tap, PLAIN, train_rows)
    train = Train.of(statistics.standardise(raw).astype(np.float64))
    z = statistics.standardise(plain).astype(np.float64)

    def stored(edited: Floats) -> NDArray[np.float32]:
        return (edited * statistics.scale + statistics.mean).astype(np.float32)

    yield PLAIN, 0.0, plain
    middle = stage.strengths[len(stage.strengths) // 2]
    for number, goal in enumerate(goals):
        known = Directions.of(train, goal.train, goal.count)
        steps = {name: np.zeros_like(z) for name in (MEANS, PROBE, PCA, RANDOM)}
        ways = directions.random_ways(train.x, len(z), stage.seed, number)
        for i in np.flatnonzero(goal.own != UNKNOWN):
            for name, step in known.between(int(goal.own[i]), int(goal.target[i])).items():
                steps[name][i] = step
            steps[RANDOM][i] = directions.scaled(ways[i], float(np.linalg.norm(steps[MEANS][i])))
        for name, step in steps.items():
            for strength in stage.strengths if name == MEANS else (middle,):
                yield variant(name, strength, goal.attribute.name), strength, stored(z + strength * step)
    # Zero is nothing to features that are never negative; to others their mean is.
    silent = np.where(raw.min(axis=0) >= 0, -statistics.mean / statistics.scale, 0.0)
    dimensions = {
        "": directions.common(train.x, z, stage.neighbours, stage.share),
        CONTROL: directions.random_dimensions(len(z), z.shape[1], stage.share, stage.seed),
    }
    for control, chosen_dimensions in dimensions.items():
        yield ZERO + control, 1.0, stored(np.where(chosen_dimensions, silent, z))
        yield SWAP + control, 1.0, stored(np.where(chosen_dimensions, z[partners], z))
    for kind, path in ((LINEAR, directions.linear), (SPHERICAL, directions.spherical)):
        for ratio in stage.ratios:
            yield variant(kind, ratio), ratio, stored(path(z, z[partners], ratio))
    # The other source itself, painted from the noise of this one.
    yield END, 1.0, plain[partners]


def _train_rows(shards: Input, limit: int, seed: int) -> Numbers:
    """Train images at random, ascending."""
    rows = rows_of(shards, "train")
    order = np.random.Generator(np.random.Philox(key=[seed, len(rows)])).permutation(len(rows))
    return np.sort(rows[order[:limit]])


def _goals(stage: "Edited", shards: Input, rows: Numbers, train: Numbers) -> list[Goal]:
    """What every attribute of every source is to become; attributes of which there is one value alone have none."""
    known = {found.name: found for found in table_attributes(shards)}
    for name in stage.attributes:
        require("attribute of the dataset", name, known)
    goals = []
    for number, name in enumerate(stage.attributes or known):
        values = values_of(shards, name)
        bins = Bins.of(known[name], values[train])
        if len(bins.present) < 2:
            continue
        numbers = bins.numbers(values[train])
        own = bins.numbers(values[rows])
        target = bins.targets(own, stage.seed + number)
        own = np.where(target == UNKNOWN, UNKNOWN, own)
        phi = features(known[name], values[train])
        count = max(bins.present) + 1
        centres = np.full((count, phi.shape[1]), np.nan)
        for value in bins.present:
            centres[value] = phi[numbers == value].mean(axis=0)
        away = np.where((own == UNKNOWN)[:, None], np.nan, centres[target] - centres[own])
        towards = away / np.linalg.norm(away, axis=1, keepdims=True)
        goals.append(Goal(known[name], count, numbers, own, target, towards))
    return goals


def values_of(shards: Input, attribute: str) -> Floats:
    """Values of an attribute of the dataset by row, float64, NaN where unknown."""
    values: Floats = open_images(shards).values([attribute])[attribute]
    return values
