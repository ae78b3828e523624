"""How a condition enters the network: standardised, projected, and drawn as a sketch.

A batch may mix taps of different widths, so conditions travel as one float32 matrix `h` [B, widest], rows padded with
zeros, beside `tap` int64 [B], the number of each row's tap; `NULL` marks a row without a condition.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

NULL = -1
FULL = 256
"""Numbers in an embedding up to which its projection learns at the whole learning rate."""


class Projection(nn.Module):
    """One linear layer per tap into a common space of `width`, a vector per tap, and a learned null.

    `h` [B, widest] standardised, `tap` int64 [B] -> [B, width].
    """

    def __init__(self, widths: Sequence[int], width: int) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(width, tap_width) / tap_width**0.5) for tap_width in widths
        )
        # Row -1, the last, is the null.
        self.vectors = nn.Parameter(torch.zeros(len(widths) + 1, width))

    @property
    def shares(self) -> dict[Tensor, float]:
        """What each tap's weights take of the learning rate.

        AdamW moves every weight by as much, so what comes out of a layer moves the more the wider its input is (Yang et
        al. 2022, arXiv 2203.03466, take 1 / width; correlated inputs need less).
        """
        return {w: min(1.0, (FULL / wide) ** 0.5) for w, wide in zip(self.weights, self.widths, strict=True)}

    def forward(self, h: Tensor, tap: Tensor) -> Tensor:
        """[B, widest], int64 [B] -> [B, width]."""
        out = self.vectors[tap]
        add = with_its_rows if h.device.type == "cpu" else with_all_rows
        for number, (weight, wide) in enumerate(zip(self.weights, self.widths, strict=True)):
            out = add(out, h[:, :wide], weight, tap == number)
        return out


def with_its_rows(out: Tensor, h: Tensor, weight: Tensor, here: Tensor) -> Tensor:
    """out [B, width] plus the projections of h [B, D] in the rows that are `here`; only these are computed."""
    rows = here.nonzero().squeeze(1)
    if not len(rows):
        return out
    return out.index_add(0, rows, functional.linear(h[rows], weight).to(out.dtype))


def with_all_rows(out: Tensor, h: Tensor, weight: Tensor, here: Tensor) -> Tensor:
    """The same, computed for all rows: cheap on a GPU, which asking for the rows that are `here` would wait for."""
    return out + torch.where(here[:, None], functional.linear(h, weight), 0.0)


class Sketch(nn.Module):
    """E[x | h] by a small network without convolutions: nearly free on any machine, and right within seconds.

    `h` [B, widest] standardised, `tap` int64 [B] -> image [B, 3, size, size] in [-1, 1] (not clipped). The diffusion
    model works on what is left of the image when the sketch is taken away.
    """

    def __init__(self, widths: Sequence[int], hidden: Sequence[int], size: int) -> None:
        super().__init__()
        self.size = size
        self.projection = Projection(widths, hidden[0])
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(hidden))
        self.out = nn.Linear(hidden[-1], 3 * size * size)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, h: Tensor, tap: Tensor) -> Tensor:
        """[B, widest], int64 [B] -> float32 [B, 3, size, size]."""
        x = functional.silu(self.projection(h, tap))
        for layer in self.layers:
            x = functional.silu(layer(x))
        flat: Tensor = self.out(x)
        return flat.float().view(-1, 3, self.size, self.size)
