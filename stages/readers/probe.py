"""Probes: a small network reads every attribute from the embedding of a tap. What it reads is in the embedding."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from stages.attributes import Attribute
from stages.contract import Input
from stages.embeddings.format import Table, open_table
from stages.errors import FormatError
from stages.readers import score
from stages.readers.data import Labelled
from stages.readers.score import Floats, Numbers
from stages.readers.targets import Targets

if TYPE_CHECKING:
    from stages.readers.stage import Probes

PROBES = "probes.parquet"

HIDDEN = 256
BATCH = 512
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1e-2
DROPOUT = 0.1
VALIDATION = 0.1
"""Share of the train rows that decides when to stop."""
PATIENCE = 4
"""Epochs without any attribute getting better on them, after which training stops."""


@dataclass(frozen=True)
class Fold:
    """Standardised embeddings float32 [N, D] and the values of attributes by name, float64 [N]."""

    embeddings: Tensor
    values: Mapping[str, Floats]


def predict(
    attributes: Sequence[Attribute], train: Fold, validation: Fold, heldout: Tensor, epochs: int, seed: int
) -> dict[str, Floats]:
    """Trains on one fold, stops by another, and reads `heldout` [M, D]: by attribute, float64 [M].

    One network for all attributes; each attribute is read at the epoch at which its own validation loss was lowest.
    """
    targets = Targets.of(attributes, train.values)
    wanted, checked = targets.encode(train.values), targets.encode(validation.values)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Linear(train.embeddings.shape[1], HIDDEN),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, targets.width),
        )
        return _descend(network, targets, train.embeddings, wanted, validation.embeddings, checked, heldout, epochs)


def _descend(
    network: nn.Sequential,
    targets: Targets,
    x: Tensor,
    wanted: Tensor,
    x_checked: Tensor,
    checked: Tensor,
    heldout: Tensor,
    epochs: int,
) -> dict[str, Floats]:
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    lowest = np.full(len(targets.attributes), np.inf)
    best: dict[str, Floats] = {}
    since = 0
    for epoch in range(epochs):
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * (1.0 - epoch / epochs)
        network.train()
        for rows in torch.split(torch.randperm(len(x)), BATCH):
            loss = targets.losses(network(x[rows]), wanted[rows]).sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        network.eval()
        with torch.no_grad():
            losses = targets.losses(network(x_checked), checked).numpy()
            read = targets.decode(network(heldout))
        better = losses < lowest - 1e-4
        for attribute, improved in zip(targets.attributes, better, strict=True):
            if improved or attribute.name not in best:
                best[attribute.name] = read[attribute.name]
        lowest = np.where(better, losses, lowest)
        since = 0 if better.any() else since + 1
        if since >= PATIENCE:
            break
    return best


class Probe(BaseModel):
    """How well an attribute is read from a tap: a row of `probes.parquet`. None where an attribute is undefined.

    `score` with its interval is on the scale of `kept`, on held-out images; `floor` is the same where each image is
    given what was read from the embedding of another.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: str
    tap: str
    attribute: str
    score: float | None
    low: float | None
    high: float | None
    n: int
    floor: float | None
    floor_low: float | None
    floor_high: float | None


def dump(rows: Sequence[Probe]) -> bytes:
    """Rows as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = ("encoder", "tap", "attribute")
    types = {name: pa.string() if name in texts else pa.int64() if name == "n" else pa.float64() for name in FIELDS}
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([row.model_dump() for row in rows], schema=pa.schema(types)), sink)
    return sink.getvalue()


def load(data: bytes) -> list[Probe]:
    """Rows from Parquet; FormatError where they are something else."""
    import pyarrow.parquet as pq

    try:
        return [Probe.model_validate(row) for row in pq.read_table(io.BytesIO(data)).to_pylist()]
    except ValidationError as error:
        raise FormatError(f"columns {', '.join(FIELDS)}", str(error), "Run again with --force probes.") from error


def is_table(data: bytes) -> None:
    """Raises FormatError where bytes are not rows of this format."""
    load(data)


FIELDS = tuple(Probe.model_fields)


def probe_encoder(stage: "Probes", encoder: str, train: Labelled, heldout: Labelled, embeddings: Input) -> list[Probe]:
    """Probes of every tap of an encoder, trained on all stored views (flipped ones with mirrored attributes)."""
    table = open_table(embeddings)
    order = np.random.Generator(np.random.Philox(key=[stage.seed, len(train.rows)])).permutation(len(train.rows))
    num_checked = max(1, round(VALIDATION * len(order)))
    fitted, checked = order[num_checked:], order[:num_checked]
    found = []
    for tap in table.taps:
        x = _standardised(table, tap, "plain", heldout.rows)
        read = predict(
            train.attributes,
            _fold(table, tap, train, fitted),
            _fold(table, tap, train, checked),
            x,
            stage.epochs,
            stage.seed,
        )
        shuffled = score.derangement(len(heldout.rows), stage.seed)
        for a in (a for a in train.attributes if a.name in read):
            own, chance = (
                scored(a, predicted, heldout.values[a.name], stage.seed)
                for predicted in (read[a.name], read[a.name][shuffled])
            )
            found.append(
                Probe(
                    encoder=encoder,
                    tap=tap,
                    attribute=a.name,
                    score=_finite(own.value),
                    low=_finite(own.low),
                    high=_finite(own.high),
                    n=own.n,
                    floor=_finite(chance.value),
                    floor_low=_finite(chance.low),
                    floor_high=_finite(chance.high),
                )
            )
    return found


def _fold(table: Table, tap: str, train: Labelled, chosen: Numbers) -> Fold:
    """Embeddings of all views of the chosen images."""
    values = []
    for view in table.views:
        own = {a.name: train.values[a.name][chosen] for a in train.attributes}
        values.append(own if view == "plain" else {a.name: a.mirrored(own[a.name]) for a in train.attributes})
    embeddings = torch.cat([_standardised(table, tap, view, train.rows[chosen]) for view in table.views])
    return Fold(embeddings, {a.name: np.concatenate([v[a.name] for v in values]) for a in train.attributes})


def _standardised(table: Table, tap: str, view: str, rows: Numbers) -> Tensor:
    return torch.from_numpy(table.statistics(tap).standardise(table.read(tap, view, rows)).astype(np.float32))


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def scored(attribute: Attribute, predicted: Floats, truth: Floats, seed: int) -> score.Interval:
    """1 - mean d(pred_i, a_i) / mean d(pred_j, a_i) on held-out images, with its interval: the scale of `kept`."""
    readings = predicted[:, None]
    return score.interval(
        score.kept(attribute, readings, truth), len(truth), seed, n=score.num_defined(truth, readings)
    )
