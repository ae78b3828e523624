"""Reads whose answer breaks off."""

from types import SimpleNamespace
from typing import Any, NoReturn

import obstore
import pytest
from obstore.exceptions import GenericError
from obstore.store import MemoryStore

from pipeline.backends import ObjectBackend
from pipeline.errors import BrokenOffError, UnansweredError
from pipeline.store import TRIES, Store


def store(monkeypatch: pytest.MonkeyPatch, broken: int, error: str) -> tuple[Store, list[str]]:
    """A store with the object `a`, of which the first answers break off."""
    found = Store(ObjectBackend(MemoryStore(), "memory://"), "memory://")
    found.create("a", b"whole")
    asked: list[str] = []
    get = obstore.get

    def breaking(objects: Any, name: str) -> Any:
        asked.append(name)
        if len(asked) > broken:
            return get(objects, name)

        def bytes_of() -> NoReturn:
            raise GenericError(error)

        return SimpleNamespace(meta={"size": 5}, bytes=bytes_of)

    monkeypatch.setattr(obstore, "get", breaking)
    monkeypatch.setattr("pipeline.store.PAUSE_SECONDS", 0.0)
    return found, asked


def test_an_answer_that_breaks_off_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    found, asked = store(monkeypatch, TRIES - 1, "HTTP error: request or response body error")
    assert found.read("a") == b"whole"
    assert len(asked) == TRIES


def test_answers_that_always_break_off_and_other_errors_end_the_read(monkeypatch: pytest.MonkeyPatch) -> None:
    found, asked = store(monkeypatch, 100, "HTTP error: request or response body error")
    with pytest.raises(BrokenOffError, match="body error"):
        found.read("a")
    assert len(asked) == TRIES
    found, asked = store(monkeypatch, 100, "HTTP error: error sending request")
    with pytest.raises(UnansweredError, match="sending"):
        found.read("a")
    assert len(asked) == 1
