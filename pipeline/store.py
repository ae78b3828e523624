"""The store: a folder or bucket in which objects are created once and never overwritten.

    store = open_store("runs/store")
    store.prepare()                                  # makes the root, probes what the backend can do; before any write
    store.create("artifacts/…/shard-00000.tar", data)    # ExistsError where the name is taken
    stored, created = store.create_or_read(name, data)   # what exists is adopted; a lost answer is settled the same way

`Backend` is what a place must be able to do; `LocalBackend`, `ObjectBackend` do it. Reading and listing go through
obstore everywhere, and so does creating, but for local files: there the bytes must be on the disk before the name is,
which a hard link by obstore, made before any fsync, does not give.
"""

import errno
import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    InvalidPathError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnknownConfigurationKeyError,
)
from obstore.store import LocalStore, MemoryStore, from_url

from pipeline.errors import ExistsError, FullError, MissingError, RootError, StoreError, UnansweredError, UsageError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

FORMAT = 1
"""Major version of the store's layout, in `store.json`."""

MAX_OBJECT_BYTES = 1 << 30
"""No object is larger: one PUT must carry it, and one retry must be cheap."""

STAGING = ".staging"
STAGING_SECONDS = 86_400.0
CREATE_TRIES = 4

_NAME = re.compile(r"[A-Za-z0-9_.=+@:,-]+(/[A-Za-z0-9_.=+@:,-]+)*")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LINKLESS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True)
class Entry:
    """An object in a listing: its full name, bytes, and the server's time of its creation in seconds since 1970."""

    name: str
    size: int
    modified: float


class Backend(Protocol):
    """What a place for objects must be able to do. Names are relative to the root and already checked."""

    def create(self, name: str, data: bytes) -> None:
        """Creates a whole object, durably. Raises `ExistsError` where the name is taken; then nothing was written."""

    def read(self, name: str) -> bytes:
        """The whole object. Raises `MissingError`."""

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`. Raises `MissingError`."""

    def head(self, name: str) -> Entry:
        """Size and time of an object. Raises `MissingError`."""

    def entries(self, folder: str) -> list[Entry]:
        """All objects below a folder, in any order; none where there is no such folder."""

    def folders(self, folder: str) -> list[str]:
        """The names of the folders that stand directly in a folder."""

    def delete(self, name: str) -> None:
        """Deletes an object; one that is not there is deleted already."""


class ObjectBackend:
    """A backend over any obstore store: S3, GCS, Azure, memory."""

    def __init__(self, objects: "ObjectStore", url: str) -> None:
        self._given = objects
        self._url = url

    @property
    def _objects(self) -> "ObjectStore":
        return self._given

    def create(self, name: str, data: bytes) -> None:
        with self._asking(name):
            obstore.put(self._objects, name, data, mode="create", use_multipart=False)

    def read(self, name: str) -> bytes:
        with self._asking(name):
            return bytes(obstore.get(self._objects, name).bytes())

    def read_range(self, name: str, start: int, length: int) -> bytes:
        if length == 0:
            return b""
        with self._asking(name):
            return bytes(obstore.get_range(self._objects, name, start=start, length=length))

    def head(self, name: str) -> Entry:
        with self._asking(name):
            meta = obstore.head(self._objects, name)
            return Entry(name, meta["size"], meta["last_modified"].timestamp())

    def entries(self, folder: str) -> list[Entry]:
        with self._asking(folder):
            return [
                Entry(meta["path"], meta["size"], meta["last_modified"].timestamp())
                for batch in obstore.list(self._objects, folder, chunk_size=1000)
                for meta in batch
            ]

    def folders(self, folder: str) -> list[str]:
        with self._asking(folder):
            found = obstore.list_with_delimiter(self._objects, folder)
            return [path.rstrip("/").rpartition("/")[2] for path in found["common_prefixes"]]

    def delete(self, name: str) -> None:
        with suppress(MissingError), self._asking(name):
            obstore.delete(self._objects, name)

    @contextmanager
    def _asking(self, name: str) -> Iterator[None]:
        """Turns obstore's errors into ours."""
        try:
            yield
        except AlreadyExistsError:
            raise _exists(name) from None
        except FileNotFoundError:
            raise MissingError(f"object {name} in {self._url}", "no such object", "See `repscope status`.") from None
        except (PermissionDeniedError, UnauthenticatedError, PermissionError) as error:
            raise RootError(
                f"to be allowed to use {self._url}", _first_line(error), "Check the credentials and their rights."
            ) from error
        except (NotSupportedError, InvalidPathError, UnknownConfigurationKeyError, NotImplementedError) as error:
            raise StoreError(
                f"{self._url} to do what a store must", _first_line(error), "Use another store."
            ) from error
        except (BaseError, OSError) as error:
            if isinstance(error, OSError) and error.errno in _FULL:
                raise _full(self._url, error) from error
            raise UnansweredError(
                f"an answer from {self._url} about {name}",
                _first_line(error),
                "Check the connection, then run the same command again.",
            ) from error


class LocalBackend(ObjectBackend):
    """A backend over a folder. An object is on the disk, whole, before its name is: staged, fsynced, hard-linked."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._local: LocalStore | None = None
        super().__init__(MemoryStore(), root.as_uri())

    @property
    def _objects(self) -> "ObjectStore":
        """obstore wants the root to exist, which only a write may bring about: until then everything is missing."""
        if self._local is None and self._root.is_dir():
            self._local = LocalStore(self._root)
        return self._local or self._given

    def create(self, name: str, data: bytes) -> None:
        path = self._root / name
        staging = self._root / STAGING
        staged = staging / secrets.token_hex(8)
        try:
            self._make(staging)
            descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                with open(descriptor, "wb", closefd=False) as file:
                    file.write(data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            self._make(path.parent)
            self._link(staged, path, name)
            _sync_folder(path.parent)
        except OSError as error:
            raise self._meaning(error, name) from error
        finally:
            with suppress(OSError):
                staged.unlink(missing_ok=True)

    def _link(self, staged: Path, path: Path, name: str) -> None:
        try:
            os.link(staged, path)
        except FileExistsError:
            raise _exists(name) from None
        except OSError as error:
            if error.errno in _LINKLESS:
                raise RootError(
                    f"hard links on the file system of {self._root}, so that two writers cannot take one name",
                    f"{error.strerror} (links are not supported there)",
                    "Put the store on a local disk (ext4, xfs, btrfs), on NFS, or into a bucket (s3://…).",
                ) from error
            raise

    def _make(self, folder: Path) -> None:
        """Makes a folder and its parents, each durable in its own parent."""
        if folder.is_dir():
            return
        if folder != self._root:
            self._make(folder.parent)
            with suppress(FileExistsError):
                folder.mkdir()
            _sync_folder(folder.parent)
        else:
            folder.mkdir(parents=True, exist_ok=True)

    def _meaning(self, error: OSError, name: str) -> StoreError | RootError:
        if error.errno in _FULL:
            return _full(str(self._root), error)
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            return RootError(
                f"a writable store at {self._root}",
                error.strerror or str(error),
                "Change the folder's rights or name another store.",
            )
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG):
            return RootError(
                f"a folder for {name} in {self._root}",
                error.strerror or str(error),
                "Move away what stands there or name another store.",
            )
        return UnansweredError(
            f"to write {name} in {self._root}",
            error.strerror or str(error),
            "Check the disk, then run the same command again.",
        )

    def sweep(self) -> None:
        """Deletes what killed writers left in the staging folder a day or longer ago."""
        with suppress(OSError):
            for entry in os.scandir(self._root / STAGING):
                with suppress(OSError):
                    if time.time() - entry.stat().st_mtime > STAGING_SECONDS:
                        os.unlink(entry.path)


class Store:
    """Objects by name over a backend. See the module's docstring; `open_store` makes one."""

    def __init__(self, backend: Backend, url: str) -> None:
        self._backend = backend
        self.url = url
        self._prepared = False

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def prepare(self) -> None:
        """Readies the store for writing: reads `store.json`, or probes the backend once and creates it.

        Raises `RootError` where the root cannot be written, creating is not exclusive, or the layout is newer.
        """
        if self._prepared:
            return
        try:
            found = json.loads(self._backend.read("store.json"))
        except MissingError:
            self._probe()
            found = json.loads(self.create_or_read("store.json", _dump({"format": FORMAT, "create_only": True}))[0])
        except ValueError as error:
            raise RootError(
                f"a store at {self.url}", f"a store.json that is not JSON: {error}", "Name another store."
            ) from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            format_ = found.get("format") if isinstance(found, dict) else found
            raise RootError(
                f"store format {FORMAT} at {self.url}", f"format {format_!r}", "Update repscope or name another store."
            )
        if isinstance(self._backend, LocalBackend):
            self._backend.sweep()
        self._prepared = True

    def _probe(self) -> None:
        """Creates an object twice: unless the second fails, two writers could take one name."""
        name = f"probes/{secrets.token_hex(8)}"
        self.create_or_read(name, b"first")
        try:
            self._backend.create(name, b"second")
        except ExistsError:
            return
        finally:
            self._backend.delete(name)
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

    def create_or_read(self, name: str, data: bytes) -> tuple[bytes, bool]:
        """Creates an object, or reads the one that is there; whether this call is known to have created it.

        Where an answer is lost, asking again tells: the name is then taken, maybe by ourselves, and what is there is
        what counts.
        """
        for attempt in range(1, CREATE_TRIES + 1):
            try:
                self.create(name, data)
                return data, True
            except ExistsError:
                return self.read(name), False
            except UnansweredError:
                if attempt == CREATE_TRIES:
                    raise
        raise AssertionError("unreachable")

    def read(self, name: str) -> bytes:
        """The whole object. Raises `MissingError`."""
        _check(name)
        return self._backend.read(name)

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """`length` bytes of an object from `start`. Raises `MissingError`."""
        _check(name)
        return self._backend.read_range(name, start, length)

    def head(self, name: str) -> Entry:
        """Size and time of an object. Raises `MissingError`."""
        _check(name)
        return self._backend.head(name)

    def entries(self, folder: str) -> list[Entry]:
        """All objects below a folder, sorted by name."""
        _check(folder)
        return sorted(self._backend.entries(folder), key=lambda entry: entry.name)

    def folders(self, folder: str) -> list[str]:
        """The names of the folders directly in a folder, sorted."""
        _check(folder)
        return sorted(self._backend.folders(folder))

    def delete(self, name: str) -> None:
        """Deletes an object; one that is not there is deleted already."""
        _check(name)
        self._backend.delete(name)

    def address(self, name: str) -> str:
        """Where an object or folder is, for a person and for other tools: a path for local stores, else a URL."""
        if self.url.startswith("file://"):
            return str(Path(unquote(urlsplit(self.url).path)) / name)
        return f"{self.url}/{name}"


_open: dict[str, Store] = {}


def open_store(url: str) -> Store:
    """The store at a folder path or URL (`file://`, `s3://`, `gs://`, `az://`, `memory://`); writes nothing.

    One store per URL and process. `memory://` stores live in this process only. Buckets take their credentials and
    endpoint from the usual environment variables (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, …). Raises `UsageError`.
    """
    url = canonical_url(url)
    if url not in _open:
        _open[url] = Store(_backend(url), url)
    return _open[url]


def share(store: Store) -> None:
    """Makes `open_store(store.url)` return this very store in this process."""
    _open[store.url] = store


def canonical_url(url: str) -> str:
    """One spelling per place: absolute `file://` URLs for folders, no slash at the end."""
    if "://" not in url:
        return Path(url).expanduser().resolve().as_uri()
    if url.startswith("file://"):
        return Path(unquote(urlsplit(url).path)).resolve().as_uri()
    return url if url == "memory://" else url.rstrip("/")


def _backend(url: str) -> Backend:
    scheme = urlsplit(url).scheme
    if scheme == "file":
        return LocalBackend(Path(unquote(urlsplit(url).path)))
    if scheme == "memory":
        return ObjectBackend(MemoryStore(), url)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    plain = scheme == "s3" and endpoint.startswith("http://")
    try:
        return ObjectBackend(from_url(url, client_options={"allow_http": True} if plain else None), url)
    except (BaseError, ValueError) as error:
        raise UsageError(
            "a folder or a URL of a store (file://, s3://, gs://, az://, memory://)",
            f"{url}: {_first_line(error)}",
            "Correct --store.",
        ) from error


def _check(name: str) -> None:
    assert _NAME.fullmatch(name), f"not an object name: {name!r}"
    assert not {".", ".."} & set(name.split("/")), f"not an object name: {name!r}"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=1).encode()


def _exists(name: str) -> ExistsError:
    return ExistsError(f"the name {name} to be free", "an object of that name", "It is kept as it is.")


def _full(place: str, error: OSError) -> FullError:
    return FullError(
        f"room for another object in {place}",
        error.strerror or str(error),
        "Free some space, then run the same command again: what is complete is kept.",
    )


def _first_line(error: BaseException) -> str:
    lines: Sequence[str] = str(error).splitlines() or [type(error).__name__]
    return lines[0]
