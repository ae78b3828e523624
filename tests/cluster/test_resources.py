"""How many workers, and how wide each."""

from pathlib import Path

import pytest
import torch

from cluster.errors import ResourceError
from cluster.resources import (
    Layout,
    Machine,
    available_cpus,
    layout_for_gang,
    layout_for_parts,
    this_machine,
    visible_gpus,
)

GB = 1024**3
LAPTOP = Machine(2, 0, 24 * GB)


@pytest.mark.parametrize(
    ("machines", "workers", "layout"),
    [
        ([LAPTOP], None, Layout(2, 1, 0)),
        ([LAPTOP], 1, Layout(1, 2, 0)),
        ([LAPTOP], 9, Layout(2, 1, 0)),
        ([Machine(1, 0, 2 * GB)], None, Layout(1, 1, 0)),
        # Memory for two workers on eight CPUs: two wide ones.
        ([Machine(8, 0, 4 * GB)], None, Layout(2, 4, 0)),
        ([Machine(8, 0, GB)], None, Layout(1, 8, 0)),
        ([Machine(4, 0, 16 * GB), Machine(2, 0, 8 * GB)], None, Layout(6, 1, 0)),
        # A head without CPUs works for nobody.
        ([Machine(0, 0, 8 * GB), LAPTOP], None, Layout(2, 1, 0)),
        # GPUs, and machines that have them, are machines with CPUs.
        ([Machine(16, 1, 128 * GB)], None, Layout(16, 1, 0)),
        ([Machine(16, 2, 128 * GB), Machine(8, 2, 64 * GB), LAPTOP], None, Layout(26, 1, 0)),
    ],
)
def test_parts_get_a_worker_for_each_cpu(machines: list[Machine], workers: int | None, layout: Layout) -> None:
    assert layout_for_parts(machines, workers) == layout


@pytest.mark.parametrize(
    ("machines", "workers", "layout"),
    [
        ([LAPTOP], None, Layout(2, 1, 0)),
        ([Machine(16, 2, 128 * GB)], None, Layout(2, 8, 1)),
        ([Machine(16, 2, 128 * GB), Machine(8, 2, 64 * GB), LAPTOP], None, Layout(4, 4, 1)),
        ([Machine(16, 2, 128 * GB)], 1, Layout(1, 8, 1)),
    ],
)
def test_parts_that_use_a_gpu_get_a_worker_for_each_where_there_are_any(
    machines: list[Machine], workers: int | None, layout: Layout
) -> None:
    assert layout_for_parts(machines, workers, gpu=True) == layout


@pytest.mark.parametrize(
    ("machines", "ranks", "layout"),
    [
        ([LAPTOP], 1, Layout(1, 2, 0)),
        ([LAPTOP], 2, Layout(2, 1, 0)),
        ([Machine(7, 0, 24 * GB)], 2, Layout(2, 3, 0)),
        ([Machine(4, 0, 24 * GB), Machine(3, 0, 24 * GB)], 2, Layout(2, 3, 0)),
        ([Machine(16, 2, 128 * GB)], 1, Layout(1, 16, 1)),
        ([Machine(16, 2, 128 * GB)], 2, Layout(2, 8, 1)),
    ],
)
def test_the_ranks_of_a_gang_are_as_wide_as_fits(machines: list[Machine], ranks: int, layout: Layout) -> None:
    assert layout_for_gang(machines, ranks) == layout


@pytest.mark.parametrize(
    ("machines", "ranks", "found"),
    [([LAPTOP], 3, "3 CPUs"), ([Machine(16, 2, GB)], 3, "3 GPUs"), ([], 1, "a machine"), ([LAPTOP], 0, "1 rank")],
)
def test_what_does_not_fit_is_refused(machines: list[Machine], ranks: int, found: str) -> None:
    with pytest.raises(ResourceError, match=found):
        layout_for_gang(machines, ranks)


def test_this_machine_has_what_its_settings_give_or_what_there_is() -> None:
    assert this_machine(cpus=3, gpus=1) == Machine(3, 1, this_machine().memory_bytes)
    assert this_machine().cpus == available_cpus() >= 1
    assert this_machine().memory_bytes > 2**28


@pytest.mark.parametrize(("cpus", "gpus"), [(0, None), (None, -1)])
def test_impossible_numbers_are_refused(cpus: int | None, gpus: int | None) -> None:
    with pytest.raises(ResourceError, match="Leave the number out"):
        this_machine(cpus, gpus)


@pytest.mark.parametrize(
    ("driver", "hidden", "found"),
    [
        ("/dev/nvidiactl", None, 3),
        ("/dev/dxg", None, 3),
        ("/dev/dxg", "0", 3),
        ("/dev/dxg", "", 0),
        ("/dev/nvidiactl", "-1", 0),
        ("/dev/null", None, 0),
    ],
)
def test_gpus_are_seen_where_a_driver_is_and_nobody_hides_them(
    driver: str, hidden: str | None, found: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: str(path) == driver)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert visible_gpus() == found
