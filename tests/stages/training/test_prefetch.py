"""Prefetching."""

import pytest
import torch

from stages.training.prefetch import Prefetch, sent


@pytest.mark.parametrize("depth", [0, 2])
def test_prefetched_batches_are_those_asked_for_in_any_order(depth: int) -> None:
    prefetch = Prefetch(lambda step: step * step, 10, depth)
    assert [prefetch.take(step) for step in (0, 1, 2, 3, 8, 9, 4)] == [0, 1, 4, 9, 64, 81, 16]
    prefetch.close()


def test_a_tensor_sent_to_where_it_is_stays_what_it_is() -> None:
    tensor = torch.arange(3.0)
    assert sent(tensor, "cpu") is tensor
    assert sent(tensor, "meta").shape == (3,)
