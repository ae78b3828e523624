"""Attacks in L-inf on pixels in [0, 1], and the linear probe that one of them is made against.

Whatever an attack maximises is a function of each image alone, so images are attacked in batches without a difference.
FGSM: Goodfellow et al. 2015 (arXiv 1412.6572); PGD: Madry et al. 2018 (arXiv 1706.06083).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from stages.diffusion.noise import mix
from stages.readers.score import Numbers

Objective: TypeAlias = Callable[[Tensor], Tensor]
"""From pixels float32 [B, 3, H, W] to what is maximised, [B]."""

STRIDE = 2.5
"""A step of PGD is this x eps / steps: every point of the cube can be reached from every start (Madry et al.)."""
DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)
"""L2 penalties of the linear probe that are tried."""
VALIDATION = 0.2
"""Share of the train rows that chooses among them."""
ITERATIONS = 60
"""Of L-BFGS."""
SIGNS = -1
"""Number of the stream of the random signs; starts have 0, 1, …"""


def uniform(shape: Sequence[int], rows: Numbers, seed: int, stream: int) -> Tensor:
    """Uniform numbers in [-1, 1], a function of (seed, row, stream): float32 [len(rows), *shape] on the CPU."""
    generator = torch.Generator()
    drawn = [torch.rand(tuple(shape), generator=generator.manual_seed(mix(seed, int(r), stream))) for r in rows]
    return 2.0 * torch.stack(drawn) - 1.0


def bounded(images: Tensor, attacked: Tensor, eps: float) -> Tensor:
    """The nearest pixels that differ from `images` by at most eps and lie in [0, 1]."""
    return (images + (attacked - images).clamp(-eps, eps)).clamp(0.0, 1.0)


def signs(images: Tensor, directions: Tensor, eps: float) -> Tensor:
    """Every pixel changed by eps, up or down as the sign of `directions` says: the control of every attack."""
    return bounded(images, images + eps * torch.where(directions < 0, -1.0, 1.0), eps)


def fgsm(objective: Objective, images: Tensor, start: Tensor, eps: float) -> Tensor:
    """The corner of the cube that the gradient at a random point of it points to. `start`: in units of eps."""
    found = gradient(objective, bounded(images, images + eps * start, eps))
    return bounded(images, images + eps * found.sign(), eps)


def pgd(objective: Objective, images: Tensor, starts: Sequence[Tensor], eps: float, steps: int) -> Tensor:
    """Ascends from each start (in units of eps) by signs of the gradient; of each image the best end counts."""
    best, reached = images, torch.full((len(images),), -torch.inf, device=images.device)
    for start in starts:
        attacked = bounded(images, images + eps * start, eps)
        for _ in range(steps):
            ascent = gradient(objective, attacked).sign()
            attacked = bounded(images, attacked + STRIDE * eps / steps * ascent, eps)
        with torch.no_grad():
            value = objective(attacked)
        better = value > reached
        best = torch.where(better[:, None, None, None], attacked, best)
        reached = torch.where(better, value, reached)
    return best


def gradient(objective: Objective, images: Tensor) -> Tensor:
    """Of the objective at `images`, for each image."""
    with torch.enable_grad():
        leaf = images.detach().requires_grad_(True)
        (found,) = torch.autograd.grad(objective(leaf).sum(), leaf)
    return found


@dataclass(frozen=True)
class LinearProbe:
    """Softmax regression on standardised embeddings [B, D]: `weight` [D, C], `bias` [C]."""

    weight: Tensor
    bias: Tensor
    decay: float
    """The penalty that was chosen."""

    def scores(self, embeddings: Tensor) -> Tensor:
        """[B, C]."""
        return embeddings @ self.weight + self.bias

    def lead(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The highest score of a wrong class minus that of the right one, [B]: above 0 the probe is wrong.

        An attack maximises it, and not the cross-entropy, whose gradient rounds to 0 where the probe is sure.
        """
        scores = self.scores(embeddings)
        right = torch.nn.functional.one_hot(labels, scores.shape[1]).bool()
        return scores.masked_fill(right, -torch.inf).amax(1) - scores[right]


def fit(x: Tensor, labels: Tensor, classes: int, seed: int) -> LinearProbe:
    """The probe of train rows x [N, D] and labels int64 [N].

    The penalty is that with the best accuracy on a fifth of the rows, of equal ones the strongest; with it the probe is
    fitted to all rows.
    """
    order = np.random.Generator(np.random.Philox(key=[seed, len(x)])).permutation(len(x))
    number = max(1, round(VALIDATION * len(x)))
    checked, fitted = torch.from_numpy(order[:number]).to(x.device), torch.from_numpy(order[number:]).to(x.device)

    def accuracy(decay: float) -> float:
        probe = _fit(x[fitted], labels[fitted], classes, decay)
        return float((probe.scores(x[checked]).argmax(1) == labels[checked]).double().mean())

    return _fit(x, labels, classes, max(DECAYS, key=lambda decay: (accuracy(decay), decay)))


def _fit(x: Tensor, labels: Tensor, classes: int, decay: float) -> LinearProbe:
    with torch.enable_grad():
        weight = torch.zeros(x.shape[1], classes, device=x.device, requires_grad=True)
        bias = torch.zeros(classes, device=x.device, requires_grad=True)
        optimiser = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

        def loss() -> float:
            optimiser.zero_grad()
            value = torch.nn.functional.cross_entropy(x @ weight + bias, labels) + decay / 2 * weight.square().sum()
            value.backward()  # type: ignore[no-untyped-call]
            return float(value.detach())

        optimiser.step(loss)  # type: ignore[no-untyped-call]
    return LinearProbe(weight.detach(), bias.detach(), decay)
