"""What every store must do, whatever it stands on: subclass `StoreContract` and say where.

class TestMyStore(StoreContract):
    def open(self) -> Store:
        return open_store("…a root that nobody has used…")
"""

import threading
from abc import ABC, abstractmethod
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from pipeline.backends import COPIED_BYTES
from pipeline.errors import ExistsError, MissingError
from pipeline.store import Store

NAMES = st.builds(
    lambda folders, name: "/".join([*folders, name]),
    st.lists(st.sampled_from(["a", "b", "g0000"]), min_size=1, max_size=2),
    st.sampled_from(["c.json", "x=1", "00000"]),
)
"""Names whose folders are never objects: a real file system has no room for both."""


class StoreContract(ABC):
    """The suite. `examples` random histories are compared with a dict, and `many` objects are listed at once.

    `clock_seconds` is the resolution of the times that the backend gives objects.
    """

    examples = 30
    many = 1200
    clock_seconds = 0.0

    @abstractmethod
    def open(self) -> Store:
        """A store at a root that nobody has used."""

    def test_what_is_created_is_read_back(self) -> None:
        store = self.open()
        store.create("a/b.bin", b"\x00\xff" * 1000)
        assert store.read("a/b.bin") == b"\x00\xff" * 1000
        assert store.head("a/b.bin").size == 2000

    def test_an_empty_object_is_an_object(self) -> None:
        store = self.open()
        store.create("a/empty", b"")
        assert store.read("a/empty") == b""
        assert [entry.size for entry in store.entries("a")] == [0]

    def test_a_name_is_taken_once_and_what_is_there_stays(self) -> None:
        store = self.open()
        store.create("a/b", b"first")
        with pytest.raises(ExistsError):
            store.create("a/b", b"second")
        assert store.read("a/b") == b"first"

    @pytest.mark.parametrize("size", [0, 1000, COPIED_BYTES + 1])
    def test_a_copy_is_an_object_of_its_own_and_takes_no_name_that_is_taken(self, size: int) -> None:
        store = self.open()
        store.create("a/b", b"\x01" * size)
        store.copy("a/b", "c/d/e")
        with pytest.raises(ExistsError):
            store.copy("a/b", "c/d/e")
        store.create("taken", b"other")
        with pytest.raises(ExistsError):
            store.copy("a/b", "taken")
        assert store.read("taken") == b"other"
        store.delete("a/b")
        assert store.read("c/d/e") == b"\x01" * size
        with pytest.raises(MissingError):
            store.copy("a/b", "c/f")
        assert [entry.name for entry in store.entries("probes")] == []

    def test_of_many_who_create_one_name_one_succeeds(self) -> None:
        store = self.open()
        won: list[int] = []

        def create(number: int) -> None:
            try:
                store.create("race/x", str(number).encode() * 1000)
                won.append(number)
            except ExistsError:
                pass

        threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert store.read("race/x") == str(won[0]).encode() * 1000

    def test_create_or_read_tells_what_is_in_the_store(self) -> None:
        store = self.open()
        assert store.create_or_read("a/b", b"first") == (b"first", True)
        assert store.create_or_read("a/b", b"second") == (b"first", False)

    def test_a_range_is_read(self) -> None:
        store = self.open()
        store.create("a/b", bytes(range(100)))
        assert store.read_range("a/b", 10, 5) == bytes(range(10, 15))
        assert store.read_range("a/b", 99, 1) == b"\x63"
        assert store.read_range("a/b", 50, 0) == b""

    def test_reading_what_is_missing_is_an_error_of_its_own(self) -> None:
        store = self.open()
        for ask in (store.read, store.head, lambda name: store.read_range(name, 0, 1)):
            with pytest.raises(MissingError, match="no such object"):
                ask("a/nothing")
        assert store.entries("a") == []
        assert store.folders("a") == []

    def test_a_listing_is_of_a_folder_and_sorted(self) -> None:
        store = self.open()
        for name in ("a/2", "a/10", "a/b/c", "ab/1", "b"):
            store.create(name, b"12345")
        assert [(entry.name, entry.size) for entry in store.entries("a")] == [("a/10", 5), ("a/2", 5), ("a/b/c", 5)]
        assert store.folders("a") == ["b"]

    def test_a_listing_is_whole_however_long(self) -> None:
        store = self.open()
        names = [f"many/{number:05d}" for number in range(self.many)]
        for name in names:
            store.create(name, b"")
        assert [entry.name for entry in store.entries("many")] == names

    def test_deleting_frees_the_name_and_is_idempotent(self) -> None:
        store = self.open()
        store.create("a/b", b"first")
        store.delete("a/b")
        store.delete("a/b")
        assert store.entries("a") == []
        store.create("a/b", b"second")
        assert store.read("a/b") == b"second"

    def test_names_that_formats_use_are_kept_as_they_are(self) -> None:
        store = self.open()
        names = ["a/embeddings.zarr/projector.0/plain/c/0/0", "a/figures/simclr:backbone_k=8.png", "a/x@1,2+3-4.json"]
        for name in names:
            store.create(name, name.encode())
        assert [entry.name for entry in store.entries("a")] == sorted(names)
        assert all(store.read(name) == name.encode() for name in names)

    def test_time_does_not_run_backwards(self) -> None:
        store = self.open()
        store.create("a/1", b"")
        store.create("a/2", b"")
        assert store.head("a/1").modified <= store.head("a/2").modified
        listed = {entry.name: entry.modified for entry in store.entries("a")}["a/1"]
        assert abs(listed - store.head("a/1").modified) <= self.clock_seconds

    def test_preparing_leaves_the_format_and_for_a_bucket_a_record_of_its_probe(self) -> None:
        store = self.open()
        store.prepare()
        store.prepare()
        # What a bucket can do is probed once for each URL, of a folder in each process.
        records = [store.read(entry.name) for entry in store.entries("probes")]
        assert len(records) == (1 if store.far else 0)
        # A store that is moved or copied says nothing of where it was.
        assert not any(store.url.encode() in record for record in records)
        assert b'"format": 1' in store.read("store.json")

    def test_any_history_is_that_of_a_dict(self) -> None:
        contract = self

        class Machine(RuleBasedStateMachine):
            """A store beside a dict; whatever is done to one is done to the other."""

            def __init__(self) -> None:
                super().__init__()
                self.store = contract.open()
                self.model: dict[str, bytes] = {}

            @rule(name=NAMES, data=st.binary(max_size=64))
            def create(self, name: str, data: bytes) -> None:
                if name in self.model:
                    with pytest.raises(ExistsError):
                        self.store.create(name, data)
                else:
                    self.store.create(name, data)
                    self.model[name] = data

            @rule(name=NAMES)
            def delete(self, name: str) -> None:
                self.store.delete(name)
                self.model.pop(name, None)

            @rule(name=NAMES)
            def read(self, name: str) -> None:
                if name in self.model:
                    assert self.store.read(name) == self.model[name]
                else:
                    with pytest.raises(MissingError):
                        self.store.read(name)

            @invariant()
            def listings_agree(self) -> None:
                for folder in ("a", "b", "g0000"):
                    below = {name: len(data) for name, data in self.model.items() if name.startswith(f"{folder}/")}
                    assert {entry.name: entry.size for entry in self.store.entries(folder)} == below

        machine: Any = Machine
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=self.examples,
                stateful_step_count=30,
                suppress_health_check=list(HealthCheck),
                derandomize=True,
                database=None,
            ),
        )
