"""The order of a training's rows: every row once an epoch, however it is cut."""

import numpy as np

from stages.training.shuffle import _shuffled, order


def test_every_epoch_shows_every_row_once_in_another_order() -> None:
    rows = order(3, 10, np.arange(30))
    epochs = rows.reshape(3, 10)
    assert (np.sort(epochs, axis=1) == np.arange(10)).all()
    assert not (epochs[0] == epochs[1]).all()
    assert (order(3, 10, np.arange(8, 23)) == rows[8:23]).all()
    assert not (order(4, 10, np.arange(30)) == rows).all()


def test_an_epoch_is_shuffled_once() -> None:
    _shuffled.cache_clear()
    found = np.concatenate([order(3, 50, np.arange(start, start + 10)) for start in range(0, 50, 10)])
    assert _shuffled.cache_info().misses == 1
    assert sorted(found) == list(range(50))
