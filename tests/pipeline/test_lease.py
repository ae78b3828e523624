"""The lease: one owner at a time, judged by the server's clock, taken over when its owner is gone."""

import os
import threading
import time
from pathlib import Path

import pytest

from pipeline import lease as lease_module
from pipeline.errors import BusyError, exit_code
from pipeline.lease import TTL_SECONDS, Lease
from pipeline.store import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A local store, whose times a test can set."""
    return open_store(str(tmp_path / "store"))


def nobody(owner: str) -> None:
    """Nobody is waited for."""
    raise AssertionError(f"waits for {owner}")


def age(tmp_path: Path, seconds: float) -> None:
    """Makes every sign of life that much older."""
    for path in (tmp_path / "store" / "leases" / "numbers").rglob("*"):
        if path.is_file():
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - seconds))


def test_a_second_owner_learns_who_the_first_is(store: Store) -> None:
    first, second = Lease(store, "numbers/ab", "run-1"), Lease(store, "numbers/ab", "run-2")
    first.acquire("fail", nobody)
    with pytest.raises(BusyError, match=rf"run run-1 on .* \(process {os.getpid()}\).*--on-busy wait") as caught:
        second.acquire("fail", nobody)
    assert exit_code(caught.value) == 5


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_clock_that_is_hours_off_takes_no_lease_from_a_living_owner(
    store: Store, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    Lease(store, "numbers/ab", "run-1").acquire("fail", nobody)
    right = time.time
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: right() + 3600 * hours)
        with pytest.raises(BusyError, match="run run-1"):
            Lease(store, "numbers/ab", "run-2").acquire("fail", nobody)


def test_other_artifacts_are_free(store: Store) -> None:
    Lease(store, "numbers/ab", "run-1").acquire("fail", nobody)
    Lease(store, "numbers/cd", "run-2").acquire("fail", nobody)


def test_a_released_lease_is_free_at_once(store: Store) -> None:
    first, second = Lease(store, "numbers/ab", "run-1"), Lease(store, "numbers/ab", "run-2")
    first.acquire("fail", nobody)
    with first:
        first.check()
    second.acquire("fail", nobody)


def test_who_waits_gets_it_after_the_owner(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "POLL_SECONDS", 0.02)
    first, second = Lease(store, "numbers/ab", "run-1"), Lease(store, "numbers/ab", "run-2")
    first.acquire("fail", nobody)
    waited_for: list[str] = []
    thread = threading.Thread(target=second.acquire, args=("wait", waited_for.append))
    with first:
        thread.start()
        while not waited_for:
            time.sleep(0.01)
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert len(waited_for) == 1


def test_an_owner_without_a_sign_of_life_is_succeeded_and_stops(store: Store, tmp_path: Path) -> None:
    first, second = Lease(store, "numbers/ab", "run-1"), Lease(store, "numbers/ab", "run-2")
    first.acquire("fail", nobody)
    age(tmp_path, TTL_SECONDS - 5)
    with pytest.raises(BusyError):
        second.acquire("fail", nobody)
    age(tmp_path, 10)
    second.acquire("fail", nobody)
    first.check()
    first.beat()
    with pytest.raises(BusyError, match="another run took it"):
        first.check()
    second.beat()
    second.check()


def test_a_beat_is_a_sign_of_life_and_leaves_one_object(store: Store, tmp_path: Path) -> None:
    first, second = Lease(store, "numbers/ab", "run-1"), Lease(store, "numbers/ab", "run-2")
    first.acquire("fail", nobody)
    for _ in range(3):
        age(tmp_path, TTL_SECONDS + 5)
        first.beat()
    with pytest.raises(BusyError):
        second.acquire("fail", nobody)
    names = sorted(entry.name.rpartition("/")[2] for entry in store.entries("leases/numbers"))
    assert names == ["e0001.beat-000003", "e0001.json"]
    assert store.entries("probes") == []


def test_an_owner_beats_while_it_holds(store: Store) -> None:
    lease = Lease(store, "numbers/ab", "run-1", ttl_seconds=0.06)
    lease.acquire("fail", nobody)
    with lease:
        while not any("beat-000003" in entry.name for entry in store.entries("leases/numbers")):
            time.sleep(0.01)


def test_the_death_of_a_process_of_this_host_is_seen_at_once(store: Store) -> None:
    child = os.fork()
    if child == 0:
        try:
            Lease(store, "numbers/ab", "run-1").acquire("fail", nobody)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert store.entries("leases/numbers")
    Lease(store, "numbers/ab", "run-2").acquire("fail", nobody)
    assert [entry.name.rpartition("/")[2] for entry in store.entries("leases/numbers")] == ["e0001.json", "e0002.json"]


def test_a_run_of_this_process_that_could_not_release_it_is_not_waited_for(store: Store) -> None:
    first = Lease(store, "numbers/ab", "run-1")
    first.acquire("fail", nobody)
    with first, pytest.raises(BusyError):
        Lease(store, "numbers/ab", "run-2").acquire("fail", nobody)
    # As if the store had been out of reach at the end.
    store.delete("leases/numbers/ab/e0001.released")
    Lease(store, "numbers/ab", "run-2").acquire("fail", nobody)


def test_of_many_who_come_at_once_one_holds_it() -> None:
    store = open_store("memory://lease-race")
    held: list[str] = []

    def come(name: str) -> None:
        try:
            Lease(store, "numbers/ab", name).acquire("fail", nobody)
            held.append(name)
        except BusyError:
            pass

    threads = [threading.Thread(target=come, args=(f"run-{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1
