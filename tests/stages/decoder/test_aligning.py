"""Where projections start: taps with the same content are projected alike."""

import numpy as np
import torch
from torch import Tensor

from stages.decoder.aligning import align, projections
from stages.decoder.data import PairedSet
from stages.decoder.network import DecoderNetwork
from tests.stages.decoder.small import NETWORK, paired_set


def aligned(tables: list[Tensor], seed: int = 0) -> tuple[DecoderNetwork, PairedSet]:
    """A network for taps with these embeddings [N, D], aligned."""
    count = len(tables[0])
    train = paired_set(torch.zeros(count, 8, 8, 3, dtype=torch.uint8), [table.expand(2, -1, -1) for table in tables])
    torch.manual_seed(seed)
    network = DecoderNetwork(NETWORK, train.widths, train.size)
    align(network, train, seed)
    return network, train


def projected(network: DecoderNetwork, train: PairedSet, tap: int) -> list[Tensor]:
    """What both projections give for all embeddings of a tap, [N, width] each."""
    rows = np.arange(len(train))
    h, taps = train.conditions(rows, np.zeros(len(rows), dtype=np.bool_), np.full(len(rows), tap))
    with torch.no_grad():
        return [projection(h, taps) for projection in projections(network)]


def test_taps_that_tell_the_same_start_alike_and_one_that_tells_something_else_does_not() -> None:
    generator = torch.Generator().manual_seed(0)
    known, other = (torch.randn(500, 6, generator=generator) for _ in range(2))
    turned = known @ torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q
    network, train = aligned([known, turned, other])
    first, second, third = (projected(network, train, tap) for tap in range(3))
    for one, two, three in zip(first, second, third, strict=True):
        assert float(torch.cosine_similarity(one, two).min()) > 0.99
        assert float(torch.cosine_similarity(one, three).abs().mean()) < 0.5
        assert 0.1 < float(one.std()) < 3.0


def test_more_numbers_than_images_and_numbers_that_never_change_are_projected_to_something_finite() -> None:
    wide = torch.randn(20, 64, generator=torch.Generator().manual_seed(0))
    for tables in ([wide, torch.zeros(20, 3)], [torch.zeros(20, 3)]):
        network, train = aligned(tables)
        for tap in range(len(tables)):
            for given in projected(network, train, tap):
                assert given.isfinite().all()
                assert float(given.abs().max()) < 30.0


def test_a_seed_gives_one_start() -> None:
    known = torch.randn(100, 5, generator=torch.Generator().manual_seed(0))
    one, two, three = (projections(aligned([known], seed)[0])[0].weights[0] for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


def test_what_one_tap_alone_has_starts_at_the_scale_of_what_all_have() -> None:
    generator = torch.Generator().manual_seed(0)
    shared, own = (torch.randn(2_000, 4, generator=generator) for _ in range(2))
    network, _ = aligned([torch.cat([shared, own], dim=1), torch.cat([shared, shared], dim=1), shared])
    for projection in projections(network):
        scale = projection.weights[0].detach().square().mean(dim=0).sqrt()
        assert float(scale.max() / scale.min()) < 1.1
