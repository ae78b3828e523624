"""The store's contract on a local folder and in memory."""

import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import UnansweredError
from pipeline.store import Store, open_store
from tests.contracts.store import StoreContract


class TestLocalFolder(StoreContract):
    """A folder of this machine."""

    examples = 8
    many = 200

    @pytest.fixture(autouse=True)
    def _folder(self) -> Iterator[None]:
        with tempfile.TemporaryDirectory() as folder:
            self.root = Path(folder)
            yield

    def open(self) -> Store:
        return open_store(str(self.root / secrets.token_hex(4)))

    def test_nothing_is_left_in_the_staging_folder(self) -> None:
        store = self.open()
        store.prepare()
        store.create("a/b", b"1")
        assert [path.name for path in self.root.rglob(".staging/*")] == []

    def test_a_range_of_a_file_that_something_has_shortened_is_an_error(self) -> None:
        store = self.open()
        store.create("a/b", b"12345")
        (path,) = self.root.rglob("a/b")
        path.write_bytes(b"123")
        with pytest.raises(UnansweredError, match=r"expected 3 bytes of a/b in .* found 1"):
            store.read_range("a/b", 2, 3)


class TestMemory(StoreContract):
    """A store that lives in this process."""

    def open(self) -> Store:
        return open_store(f"memory://{secrets.token_hex(4)}")
