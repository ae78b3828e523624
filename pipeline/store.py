"""The store: a folder or bucket in which objects are created once and never overwritten.

    store = open_store("runs/store")
    store.prepare()                                  # makes the root, probes what the backend can do; before any write
    store.create("artifacts/…/shard-00000.tar", data)    # ExistsError where the name is taken
    stored, created = store.create_or_read(name, data)   # what exists is adopted; a lost answer is settled the same way

A `Store` holds what is the same for all backends (`pipeline.backends`).
"""

import hashlib
import json
import random
import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic_core import from_json

from pipeline.backends import MAX_OBJECT_BYTES, Backend, Entry, LocalBackend, backend_at, endpoint_of
from pipeline.errors import (
    BrokenOffError,
    ExistsError,
    LargeError,
    MissingError,
    RootError,
    StoreError,
    UnansweredError,
    UsageError,
)

FORMAT = 1
"""Major version of the store's layout, in `store.json`."""

RECORD_BYTES = 16 << 20
"""No record is larger, but for a manifest."""

RECORD_VALUES = 2_000_000
"""No record has more values: a byte of JSON can become a hundred bytes of memory."""

LAST_SECOND = 1e11
"""No time in a record (in seconds since 1970) is as late as this, and nothing has taken as long."""

TRIES = 4
PAUSE_SECONDS = 0.05
"""The first pause between two tries; the next are twice as long, and each is cut by up to half at random."""
BUDGET_SECONDS = 300.0
"""No further try begins later than this after the first."""

_Answer = TypeVar("_Answer")

_FOLDER = r"(?!\.\.?(?:/|\Z))[A-Za-z0-9_.=+@:,-]+"
_NAME = re.compile(f"{_FOLDER}(?:/{_FOLDER})*")


class Store:
    """Objects by name over a backend. See the module's docstring; `open_store` makes one."""

    def __init__(self, backend: Backend, url: str) -> None:
        self._backend = backend
        self.url = url
        self._prepared = False

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    @property
    def far(self) -> bool:
        """Whether every answer takes its time, so that asking many things at once is worth threads."""
        return not self.url.startswith(("file://", "memory://"))

    def prepare(self) -> None:
        """Readies the store for writing: reads `store.json` or creates it, and probes the backend.

        A bucket is probed once for each URL and endpoint, since a store may be copied to another server. A folder
        is probed in each process, which is cheap.

        Raises `RootError` where the root cannot be written, creating is not exclusive, or the layout is newer.
        """
        if self._prepared:
            return
        exists = self.recognise()
        identity = f"{self.url} {endpoint_of(self.url)}"
        record = f"probes/{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"
        if not exists or not self.far or not self._holds(record):
            self._probe()
            if self.far:
                self.create_or_read(record, _dump({"format": FORMAT, "create_only": True}))
        if not exists:
            self.create_or_read("store.json", _dump({"format": FORMAT, "create_only": True}))
            self.recognise()
        if isinstance(self._backend, LocalBackend):
            self._backend.sweep()
        self._prepared = True

    def recognise(self) -> bool:
        """Whether there is a store here already. Raises `RootError` where there is something else, or a newer one."""
        try:
            found = self.read_json("store.json")
        except MissingError:
            return False
        except ValueError as error:
            raise RootError(
                f"a store at {self.url}", f"a store.json that is not JSON: {error}", "Name another store."
            ) from error
        format_ = found.get("format") if isinstance(found, dict) else found
        if format_ != FORMAT:
            raise RootError(
                f"store format {FORMAT} at {self.url}", f"format {format_!r}", "Update repscope or name another store."
            )
        return True

    def _holds(self, name: str) -> bool:
        try:
            self.head(name)
        except MissingError:
            return False
        return True

    def _probe(self) -> None:
        """Creates an object twice: unless the second fails, two writers could take one name."""
        name = f"probes/{secrets.token_hex(8)}"
        self.create_or_read(name, b"first")
        try:
            self._backend.create(name, b"second")
        except ExistsError:
            return
        finally:
            self.delete(name)
        raise RootError(
            f"{self.url} to refuse to create an object twice",
            "that it overwrote it",
            "Use a store with conditional writes (AWS S3, GCS, Azure, MinIO, Ceph) or a local folder.",
        )

    def create(self, name: str, data: bytes) -> None:
        """Creates a whole object, durably. Raises `ExistsError` where the name is taken."""
        _check(name)
        if len(data) > MAX_OBJECT_BYTES:
            raise StoreError(
                f"objects of at most {MAX_OBJECT_BYTES} bytes", f"{name} of {len(data)} bytes", "Cut it into several."
            )
        self._backend.create(name, data)

    def create_or_read(self, name: str, data: bytes, most_bytes: int = MAX_OBJECT_BYTES) -> tuple[bytes, bool]:
        """Creates an object, or reads the one that is there; whether this call is known to have created it.

        Where an answer is lost, the request is sent again: if the name is taken by then, maybe by ourselves, the
        stored object counts. So does a server that says the name is taken and then has no such object: S3 answers 409
        while a rival's request is under way, which may fail.
        """
        deadline = time.monotonic() + BUDGET_SECONDS
        for attempt in range(1, TRIES + 1):
            try:
                self.create(name, data)
                return data, True
            except ExistsError:
                try:
                    return self.read(name, most_bytes), False
                except MissingError as error:
                    failure = UnansweredError(
                        f"object {name} in {self.url}, or its name to be free",
                        "neither: other requests for that name are under way",
                        "Run the same command again.",
                    )
                    failure.__cause__ = error
            except UnansweredError as error:
                failure = error
            if attempt == TRIES or time.monotonic() > deadline:
                raise failure
            _pause(attempt)
        raise AssertionError("unreachable")

    def copy(self, source: str, target: str) -> None:
        """Creates an object with the bytes of another, by a hard link or by the server where that is possible.

        Raises `ExistsError` where the name is taken, maybe by ourselves where an answer was lost, and `MissingError`.
        """
        _check(source)
        _check(target)
        _repeated(UnansweredError, lambda: self._backend.copy(source, target))

    def read(self, name: str, most_bytes: int = MAX_OBJECT_BYTES) -> bytes:
        """The whole object. Raises `MissingError`, and `LargeError` for one that is larger, before it is read."""
        _check(name)
        return _repeated(BrokenOffError, lambda: self._backend.read(name, most_bytes))

    def read_json(self, name: str, most_bytes: int = RECORD_BYTES) -> Any:
        """What a record holds. Raises `MissingError`, and `ValueError` for what is no record, in bounded memory."""
        try:
            return parse_json(self.read(name, most_bytes))
        except LargeError as error:
            raise ValueError(f"{error.found}, where {error.expected.partition(' in ')[0]} can be") from error

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """`length` bytes of an object from `start`. Raises `MissingError`."""
        _check(name)
        return _repeated(BrokenOffError, lambda: self._backend.read_range(name, start, length))

    def head(self, name: str) -> Entry:
        """Size and time of an object. Raises `MissingError`."""
        _check(name)
        return self._backend.head(name)

    def entries(self, folder: str) -> list[Entry]:
        """All objects below a folder, sorted by name. What has a name that no object of ours can have is left out."""
        _check(folder)
        found = (entry for entry in self._backend.entries(folder) if _is_name(entry.name))
        return sorted(found, key=lambda entry: entry.name)

    def folders(self, folder: str) -> list[str]:
        """The names of the folders directly in a folder that hold any object, sorted; see `entries`."""
        _check(folder)
        return sorted(filter(_is_name, self._backend.folders(folder)))

    def delete(self, name: str) -> None:
        """Deletes an object; one that is not there is deleted already."""
        _check(name)
        _repeated(UnansweredError, lambda: self._backend.delete(name))

    def address(self, name: str) -> str:
        """Where an object or folder is, for a person and for other tools: a path for local stores, else a URL."""
        if self.url.startswith("file://"):
            return str(Path(unquote(urlsplit(self.url).path)) / name)
        return f"{self.url}/{name}"


def _repeated(failure: type[UnansweredError], request: Callable[[], _Answer]) -> _Answer:
    """The answer to a request. After such a failure it is sent again.

    The client itself repeats what only reads and had no answer. It repeats neither an answer that breaks off nor a
    POST, as which S3 takes deletions.
    """
    for attempt in range(1, TRIES):
        with suppress(failure):
            return request()
        _pause(attempt)
    return request()


def _pause(attempt: int) -> None:
    time.sleep(PAUSE_SECONDS * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))


def parse_json(data: bytes, finite: bool = True) -> Any:
    """JSON from its bytes. Raises `ValueError` where it is none, is nested too deeply or has too many values.

    With `finite` also where a number is none or infinite, which Python writes as NaN and Infinity.
    """
    values = sum(data.count(sign) for sign in (b",", b"[", b"{"))
    if values > RECORD_VALUES:
        raise ValueError(f"about {values} values, where at most {RECORD_VALUES} can be")
    return from_json(data, allow_inf_nan=not finite)


def number_in(name: str, pattern: str) -> int | None:
    """The number in the name of an object, where the name is just what `pattern` makes of it (`g{:04d}`); else None."""
    before, _, after = pattern.partition("{")
    digits = name.removeprefix(before).removesuffix(after.partition("}")[2])
    number = int(digits) if digits.isascii() and digits.isdigit() else None
    return number if number is not None and pattern.format(number) == name else None


_open: dict[str, Store] = {}


def open_store(url: str) -> Store:
    """The store at a folder path or URL (`file://`, `s3://`, `gs://`, `az://`, `memory://`); writes nothing.

    One store per URL and process. `memory://` stores live in this process only. Buckets take their credentials and
    endpoint from the usual environment variables (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, …). Raises `UsageError`.
    """
    url = canonical_url(url)
    if url not in _open:
        _open[url] = Store(backend_at(url), url)
    return _open[url]


def share(store: Store) -> None:
    """Makes `open_store(store.url)` return this very store in this process."""
    _open[store.url] = store


def canonical_url(url: str) -> str:
    """One spelling per store: absolute `file://` URLs for folders, no slash at the end.

    Raises `UsageError` for credentials in it: it stands in commands to copy, in tables and in logs.
    """
    if not url:
        raise UsageError("a folder or a URL of a store", "an empty text", "Correct --store.")
    if "://" not in url:
        return Path(url).expanduser().resolve().as_uri()
    if url.startswith("file://"):
        return Path(unquote(urlsplit(url).path)).resolve().as_uri()
    found = urlsplit(url)
    # In `abfs://container@account…` the container stands before the `@`.
    user = found.netloc.rpartition("@")[0]
    if found.query or (user and (":" in user or not found.scheme.startswith("abfs"))):
        raise UsageError(
            "a URL of a store without credentials and without `?`",
            url,
            "Set the credentials in the environment (docs/guide/stores.md).",
        )
    return url if url == "memory://" else url.rstrip("/")


def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def _check(name: str) -> None:
    if not _is_name(name):
        raise UsageError(
            "object names of letters, digits and `_.=+@:,-`, with / between folders and no folder . or ..",
            repr(name),
            "Rename what it is called after: an encoder, a tap or a study.",
        )


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=1).encode()
