"""How good an encoder is: k-nearest-neighbour and linear-probe accuracy on held-out images."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from stages.attributes import Attribute
from stages.encoders.format import Quality

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEIGHBOURS = 20
DECAY = 1e-3
"""L2 penalty of the linear probe, on standardised embeddings."""


def score(
    embeddings: Mapping[str, Tensor],
    attributes: Sequence[Attribute],
    values: Mapping[str, "NDArray[np.float64]"],
    train: "NDArray[np.bool_]",
) -> tuple[Quality, ...]:
    """Scores every class attribute at every tap.

    `embeddings`: tap -> float32 [N, D]; `values`: attribute -> float64 [N], NaN where unknown; `train`: bool [N], the
    rows to fit on. The others are scored. Attributes without rows on both sides are left out.
    """
    found = []
    for attribute in attributes:
        if attribute.kind != "class":
            continue
        defined = ~np.isnan(values[attribute.name])
        fit, held = np.flatnonzero(defined & train), np.flatnonzero(defined & ~train)
        if not len(fit) or not len(held):
            continue
        labels = torch.from_numpy(np.nan_to_num(values[attribute.name]).astype(np.int64))
        wanted = labels[held]
        for tap, table in embeddings.items():
            arguments = (table[fit], labels[fit], table[held], len(attribute.classes))
            found.append(
                Quality(
                    attribute=attribute.name,
                    tap=tap,
                    knn=_share(knn(*arguments) == wanted),
                    linear=_share(linear(*arguments) == wanted),
                    chance=float(torch.bincount(wanted).max()) / len(held),
                    n=len(held),
                )
            )
    return tuple(found)


def knn(table: Tensor, labels: Tensor, queries: Tensor, classes: int) -> Tensor:
    """Majority class of the nearest rows of `table` by cosine, int64 [Q]; ties go to the lower class."""
    reference = torch.nn.functional.normalize(table, dim=1)
    votes = []
    for chunk in torch.split(torch.nn.functional.normalize(queries, dim=1), 1024):
        nearest = (chunk @ reference.T).topk(min(NEIGHBOURS, len(table)), dim=1).indices
        votes.append(torch.nn.functional.one_hot(labels[nearest], classes).sum(1).argmax(1))
    return torch.cat(votes)


def linear(table: Tensor, labels: Tensor, queries: Tensor, classes: int) -> Tensor:
    """Class by softmax regression on standardised embeddings, int64 [Q]; fitted by L-BFGS, so without a seed."""
    mean, std = table.mean(0), table.std(0).clamp_min(1e-6)
    x = (table - mean) / std
    weight = torch.zeros(x.shape[1], classes, device=x.device, requires_grad=True)
    bias = torch.zeros(classes, device=x.device, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimiser.zero_grad()
        value = torch.nn.functional.cross_entropy(x @ weight + bias, labels) + DECAY / 2 * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return ((queries - mean) / std @ weight + bias).argmax(1)


def _share(hits: Tensor) -> float:
    return round(float(hits.double().mean()), 6)
