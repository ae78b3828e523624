"""Real disks: one that fills in the middle of a run, and one without hard links."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path

import pytest

from pipeline.store import open_store
from tests.faults.driver import graph
from tests.faults.processes import finish, start
from tests.faults.truth import undisturbed
from tests.finished import MICRO, repscope
from tests.system.disks import exfat, ext4, fill, tmpfs
from tests.system.stored import stored_objects

pytestmark = pytest.mark.system

MIB = 1024**2
ROOM = (8, 30, 70, 130)
"""Kilobytes that are left before a run: it needs about 200 and stops each time at another step."""


@cache
def expected() -> dict[str, dict[str, bytes]]:
    """What an undisturbed run in memory makes."""
    return undisturbed(graph())[0]


@pytest.mark.parametrize("mount", [tmpfs, ext4])
def test_a_disk_that_fills_gives_one_message_and_with_room_the_same_command_goes_on(
    tmp_path: Path, mount: Callable[[Path, int], AbstractContextManager[Path]]
) -> None:
    stopped = []
    with mount(tmp_path / "disk", 8 * MIB) as disk:
        for room in ROOM:
            root = disk / f"store-{room}"
            ballast = fill(disk, room * 1024)
            code, _, errors = finish(start(root, "inline"))
            ballast.unlink()
            assert code == 3, errors
            assert errors.count("\n") == 1
            assert "No space left on device" in errors
            assert "Free some space, then run the same command again: what is complete is kept." in errors
            store = open_store(str(root))
            complete = stored_objects(store, graph())
            assert complete == {name: expected()[name] for name in complete}
            stopped.append(len(complete))
            assert finish(start(root, "inline"))[0] == 0
            assert stored_objects(store, graph()) == expected()
            assert list((root / ".staging").iterdir()) == []
    assert len(set(stopped)) > 1


def test_a_disk_that_fills_under_rays_workers_is_reported_as_well(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", 8 * MIB) as disk:
        ballast = fill(disk, 100 * 1024)
        code, _, errors = finish(start(disk / "store", "ray"))
        assert code == 3, errors
        assert "No space left on device" in errors
        assert "Free some space" in errors
        ballast.unlink()
        assert finish(start(disk / "store", "inline"))[0] == 0
        assert stored_objects(open_store(str(disk / "store")), graph()) == expected()


def test_the_command_line_says_the_same(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", 100 * 1024) as disk:
        errors = repscope("run", MICRO, "--store", disk / "store", "--executor", "inline", code=3).stderr
    assert "Free some space, then run the same command again" in errors
    assert "Traceback" not in errors


def test_a_disk_without_hard_links_is_refused_with_the_places_that_do(tmp_path: Path) -> None:
    with exfat(tmp_path / "stick", 4 * MIB) as stick:
        errors = repscope("run", MICRO, "--store", stick / "store", "--executor", "inline", code=2).stderr
        assert "expected hard links on the file system of" in errors
        assert "Put the store on a local disk (ext4, xfs, btrfs), on NFS, or into a bucket (s3://…)." in errors
        assert [path for path in (stick / "store").rglob("*") if path.is_file()] == []
