"""Probes: what can be read of every attribute from the embedding of a tap.

Embeddings are whitened. A linear map at several strengths of weight decay and a small network are trained on train
images; by attribute, the one with the lowest loss on other train images (the validation fold) reads the held-out ones.

A decoder does not paint its best guess: it draws images that fit the embedding. So a probe is scored as a decoder is:
it gives a distribution of the value, and values drawn from it are scored by the formula of `kept`. An exact sampler of
p(image | embedding) would keep as much. The best guess itself scores higher, 2 R2 / (1 + R2) where draws score R2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from stages.attributes import Attribute
from stages.contract import Input
from stages.embeddings.format import Table, open_table
from stages.errors import FormatError
from stages.parquet import table_bytes, table_from
from stages.readers import score
from stages.readers.data import Labelled
from stages.readers.score import Floats, Numbers
from stages.readers.targets import Targets
from stages.readers.whitening import Whitening

if TYPE_CHECKING:
    from stages.readers.stage import Probes

PROBES = "probes.parquet"

HIDDEN = 256
BATCH = 512
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1e-2
DROPOUT = 0.1
VALIDATION = 0.1
"""Share of the train images that decides when to stop, and which probe reads an attribute."""
PATIENCE = 4
"""Epochs without any attribute getting better on them, after which training stops."""
RIDGES = (1.0, 3e-2, 1e-3, 1e-5)
"""Weight decay of the linear maps, in units of the loss per squared weight of a whitened feature."""
DRAWS = 8
"""Values drawn for each held-out image, as a decoder paints some samples of each."""
NEIGHBOURS_MIN, NEIGHBOURS_SHARE = 16, 1 / 32
"""How many validation images stand for the error of a reading: the nearest in what was read."""
PLANTED = "control:planted"
"""Name of a control attribute: half of its variance lies along a random direction of the whitened embedding, the
other half is noise. A perfect probe scores .5."""
SHUFFLED = "control:shuffled"
"""Name of a control attribute: values that belong to other images. A sound probe scores 0."""
PLANTED_SHARE = 0.5


@dataclass(frozen=True)
class Fold:
    """Whitened embeddings float32 [N, D] and the values of attributes by name, float64 [N]."""

    embeddings: Tensor
    values: Mapping[str, Floats]


@dataclass(frozen=True)
class Reading:
    """What the best probe of one attribute gives, before it becomes values: see `Targets`."""

    heldout: Tensor
    """float32 [M, width of the attribute]."""
    validation: Tensor
    """float32 [V, width of the attribute]."""
    probe: Literal["linear", "network"]
    loss: float
    """On the validation fold."""


def fit(
    attributes: Sequence[Attribute], train: Fold, validation: Fold, heldout: Tensor, epochs: int, seed: int
) -> tuple[Targets, dict[str, Reading]]:
    """Trains all candidates on one fold and takes, by attribute, the one with the lowest loss on the validation fold.

    `heldout`: whitened embeddings float32 [M, D]. An attribute without a value in the train fold has no reading.
    """
    targets = Targets.of(attributes, train.values)
    best = _Best(targets, validation, heldout)
    _fit_linear(best, targets, train)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _fit_network(best, targets, train, epochs)
    return targets, best.readings


class _Best:
    """The readings with the lowest validation loss so far, by attribute."""

    def __init__(self, targets: Targets, validation: Fold, heldout: Tensor) -> None:
        self._targets = targets
        self._validation, self._wanted = validation.embeddings, targets.encode(validation.values)
        self._heldout = heldout
        self.readings: dict[str, Reading] = {}

    def offer(self, network: nn.Module, probe: Literal["linear", "network"]) -> bool:
        """Keeps the readings of attributes that `network` reads better; whether there is one."""
        with torch.no_grad():
            checked, read = network(self._validation), network(self._heldout)
            losses = self._targets.losses(checked, self._wanted).tolist()
        better = False
        columns = zip(self._targets.split(checked), self._targets.split(read), strict=True)
        for attribute, loss, (near, far) in zip(self._targets.attributes, losses, columns, strict=True):
            known = self.readings.get(attribute.name)
            if known is None or loss < known.loss - 1e-4:
                self.readings[attribute.name] = Reading(heldout=far, validation=near, probe=probe, loss=loss)
                better = True
        return better


def _fit_linear(best: _Best, targets: Targets, train: Fold) -> None:
    """A linear map for each weight decay, from the strongest on; each goes on from the one before."""
    wanted = targets.encode(train.values)
    network = nn.Linear(train.embeddings.shape[1], targets.width)
    nn.init.zeros_(network.weight)
    nn.init.zeros_(network.bias)
    for ridge in RIDGES:
        optimiser = torch.optim.LBFGS(network.parameters(), max_iter=50, line_search_fn="strong_wolfe")

        def closure(ridge: float = ridge, optimiser: torch.optim.Optimizer = optimiser) -> Tensor:
            optimiser.zero_grad()
            loss = targets.losses(network(train.embeddings), wanted).sum() + ridge * network.weight.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimiser.step(closure)  # type: ignore[no-untyped-call]
        best.offer(network, "linear")


def _fit_network(best: _Best, targets: Targets, train: Fold, epochs: int) -> None:
    """One network for all attributes; each attribute is read at the epoch at which its validation loss was lowest."""
    wanted = targets.encode(train.values)
    network = nn.Sequential(
        nn.Linear(train.embeddings.shape[1], HIDDEN),
        nn.ReLU(),
        nn.Dropout(DROPOUT),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, targets.width),
    )
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    since = 0
    for epoch in range(epochs):
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * (1.0 - epoch / epochs)
        network.train()
        for rows in torch.split(torch.randperm(len(train.embeddings)), BATCH):
            loss = targets.losses(network(train.embeddings[rows]), wanted[rows]).sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        network.eval()
        since = 0 if best.offer(network, "network") else since + 1
        if since >= PATIENCE:
            break


def draw(attribute: Attribute, targets: Targets, reading: Reading, truth: Floats, seed: int) -> Floats:
    """Values drawn from what the probe knows of each held-out image: float64 [M, DRAWS].

    A class is drawn from the probabilities, at the temperature that fits the validation fold best. A number is the
    reading plus the error that the probe made on a validation image of a similar reading, drawn at random.
    `truth`: values on the validation fold, float64 [V].
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, len(reading.heldout)]))
    shape = (len(reading.heldout), DRAWS)
    defined = np.isfinite(truth)
    if not defined.any():
        return np.full(shape, np.nan)
    checked, known = reading.validation[torch.from_numpy(defined)], truth[defined]
    if attribute.kind == "class":
        temperature = _temperature(checked, torch.from_numpy(known).long())
        reached = torch.softmax(reading.heldout.double() / temperature, dim=1).numpy().cumsum(axis=1)
        classes = (rng.random(shape)[:, :, None] >= reached[:, None, :]).sum(axis=2)
        labels: Floats = np.minimum(classes, reached.shape[1] - 1).astype(np.float64)
        return labels
    errors = known - targets.values(attribute, checked)
    count = min(len(known), max(NEIGHBOURS_MIN, round(NEIGHBOURS_SHARE * len(known))))
    similar = _neighbours(reading.heldout, checked, count)
    chosen = np.take_along_axis(similar, rng.integers(0, count, shape), axis=1)
    drawn: Floats = targets.values(attribute, reading.heldout)[:, None] + errors[chosen]
    if attribute.kind == "circle":
        drawn = np.mod(drawn, 1.0)
    return drawn


def _neighbours(a: Tensor, b: Tensor, count: int) -> Numbers:
    """For each row of a [M, W] the `count` nearest rows of b [V, W]: int64 [M, count]."""
    blocks = [torch.cdist(block, b).topk(count, dim=1, largest=False).indices for block in torch.split(a, 1024)]
    return torch.cat(blocks).numpy()


def _temperature(outputs: Tensor, classes: Tensor) -> float:
    """The temperature of a softmax with the lowest cross entropy (Guo et al. 2017)."""
    tried = np.geomspace(0.25, 8.0, 41)
    losses = [float(nn.functional.cross_entropy(outputs / t, classes)) for t in tried]
    return float(tried[int(np.argmin(losses))])


class Probe(BaseModel):
    """How well an attribute is read from a tap: a row of `probes.parquet`. None where an attribute is undefined.

    `score` with its interval is what values drawn from the probe's distribution keep, on held-out images, on the scale
    of `kept`; `floor` is the same where each image is given what was read from the embedding of another. `point` is the
    score of the best guess, `probe` which one read it (`linear` or `network`). Rows whose attribute is `control` say
    how much a probe can find at this tap: `planted` scores .5 at best, `shuffled` 0. Tables of before the probes drew
    values have neither, and their `score` is that of the best guess.
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
    point: float | None = None
    probe: str | None = None
    control: bool = False


def dump(rows: Sequence[Probe]) -> bytes:
    """Rows as Parquet."""
    import pyarrow as pa

    kinds = dict.fromkeys(("encoder", "tap", "attribute", "probe"), pa.string())
    kinds |= {"n": pa.int64(), "control": pa.bool_()}
    types = {name: kinds.get(name, pa.float64()) for name in FIELDS}
    return table_bytes(pa.Table.from_pylist([row.model_dump() for row in rows], schema=pa.schema(types)))


def load(data: bytes) -> list[Probe]:
    """Rows from Parquet; FormatError where they are something else."""

    try:
        return [Probe.model_validate(row) for row in table_from(data).to_pylist()]
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
    found = []
    for tap in table.taps:
        fitted, checked = (_fold(table, tap, train, chosen) for chosen in (order[num_checked:], order[:num_checked]))
        x = _standardised(table, tap, "plain", heldout.rows)
        rows = probes(train.attributes, fitted, checked, Fold(x, heldout.values), stage.epochs, stage.seed)
        found += [row.model_copy(update={"encoder": encoder, "tap": tap}) for row in rows]
    return found


def probes(
    attributes: Sequence[Attribute], train: Fold, validation: Fold, heldout: Fold, epochs: int, seed: int
) -> list[Probe]:
    """A row for each attribute and each control, without names of encoder and tap; embeddings are not yet whitened."""
    whitening = Whitening.fit(train.embeddings)
    folds = [Fold(whitening.apply(fold.embeddings), fold.values) for fold in (train, validation, heldout)]
    controls = [_controls(fold.embeddings, seed, number) for number, fold in enumerate(folds)]
    folds = [Fold(fold.embeddings, {**fold.values, **added}) for fold, added in zip(folds, controls, strict=True)]
    known = (*attributes, *(Attribute(name=name, kind="scalar") for name in controls[0]))
    targets, readings = fit(known, folds[0], folds[1], folds[2].embeddings, epochs, seed)
    shuffled = score.derangement(len(heldout.embeddings), seed)
    found = []
    for attribute in (a for a in known if a.name in readings):
        reading, truth = readings[attribute.name], folds[2].values[attribute.name]
        drawn = draw(attribute, targets, reading, folds[1].values[attribute.name], seed)
        own, chance = scored(attribute, drawn, truth, seed), scored(attribute, drawn[shuffled], truth, seed)
        point = score.kept(attribute, targets.values(attribute, reading.heldout)[:, None], truth)
        found.append(
            Probe(
                encoder="",
                tap="",
                attribute=attribute.name,
                score=_finite(own.value),
                low=_finite(own.low),
                high=_finite(own.high),
                n=own.n,
                floor=_finite(chance.value),
                floor_low=_finite(chance.low),
                floor_high=_finite(chance.high),
                point=_finite(float(point(np.ones((1, len(truth))))[0])),
                probe=reading.probe,
                control=attribute.name in controls[0],
            )
        )
    return found


def _controls(whitened: Tensor, seed: int, fold: int) -> dict[str, Floats]:
    """Values of the control attributes on a fold: by name, float64 [N]."""
    direction = np.random.Generator(np.random.Philox(key=[seed, 0])).standard_normal(whitened.shape[1])
    rng = np.random.Generator(np.random.Philox(key=[seed, 1 + fold]))
    along = whitened.double().numpy() @ (direction / np.linalg.norm(direction))
    planted = np.sqrt(PLANTED_SHARE) * along + np.sqrt(1.0 - PLANTED_SHARE) * rng.standard_normal(len(along))
    return {PLANTED: planted, SHUFFLED: rng.permutation(along)}


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


def scored(attribute: Attribute, readings: Floats, truth: Floats, seed: int) -> score.Interval:
    """What readings [N, K] keep of the truth [N], with its interval over images: the scale of `kept`."""
    return score.interval(
        score.kept(attribute, readings, truth), len(truth), seed, n=score.num_defined(truth, readings)
    )
