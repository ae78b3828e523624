"""Storage backends: the interface (`Backend`), and the two kinds, buckets and local folders.

Reading goes through obstore everywhere, and so do creating and listing, but for local files. There the bytes must be on
the disk before the name is, which a hard link by obstore, made before any fsync, does not give; and one name that
obstore cannot read is the end of its listing.

Buckets take address and credentials from the environment: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
`AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL` (a server that is not Amazon's), or from the role of the machine.
"""

import errno
import os
import secrets
import socket
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
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

from pipeline.errors import (
    AccessError,
    BrokenOffError,
    ExistsError,
    FullError,
    LargeError,
    MissingError,
    RootError,
    StoreError,
    UnansweredError,
    UsageError,
)

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore

STAGING = ".staging"
STAGING_SECONDS = 86_400.0

MAX_OBJECT_BYTES = 1 << 30
"""No object is larger: one PUT must carry it, and one retry must be cheap."""

BROKEN_OFF = "response body error"
"""What obstore says of an answer that has begun and not ended."""

REQUEST_SECONDS = 300
"""How long one request to a bucket may take, body included: an object of 1 GiB must get through a slow line."""

COPIED_BYTES = 1 << 20
"""Larger objects of a bucket are copied by its server, where that refuses names that are taken; others through us."""

_METADATA = ("169.254.169.254", "169.254.170.2", "metadata.google.internal")
"""Whom a client asks for the credentials of the machine's role, where the environment has none."""

_REFUSED = ("401 Unauthorized", "403 Forbidden", "<Code>ExpiredToken<", "<Code>InvalidToken<")
"""What the client passes on as any other error where it refuses a listing, or credentials that have expired."""

_CREDENTIALS = {
    "s3": "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and AWS_ENDPOINT_URL for a server that is not Amazon's; "
    'files in ~/.aws are not read: `eval "$(aws configure export-credentials --format env)"` sets them from there.',
    "gs": "Set GOOGLE_APPLICATION_CREDENTIALS to the path of a key file.",
    "az": "Set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY.",
}

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LINKLESS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True)
class Entry:
    """An object in a listing: its full name, bytes, and the server's time of its creation in seconds since 1970."""

    name: str
    size: int
    modified: float


class Backend(Protocol):
    """What a storage backend does. Names are relative to the root and already checked."""

    def create(self, name: str, data: bytes) -> None:
        """Creates a whole object, durably. Raises `ExistsError` where the name is taken; then nothing was written."""

    def copy(self, source: str, target: str) -> None:
        """Creates an object with the bytes of another. Raises `ExistsError` where the name is taken, `MissingError`."""

    def read(self, name: str, most_bytes: int = MAX_OBJECT_BYTES) -> bytes:
        """The whole object. Raises `MissingError`, and `LargeError` for one that is larger, before it is read."""

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`. Raises `MissingError`."""

    def head(self, name: str) -> Entry:
        """Size and time of an object. Raises `MissingError`."""

    def entries(self, folder: str) -> list[Entry]:
        """All objects below a folder, in any order; none where there is no such folder."""

    def folders(self, folder: str) -> list[str]:
        """The names of the folders that stand directly in a folder and hold any object."""

    def delete(self, name: str) -> None:
        """Deletes an object; one that is not there is deleted already."""


class ObjectBackend:
    """A backend over any obstore store: S3, GCS, Azure, memory."""

    _medium = "connection"
    """What may be at fault where there is no answer."""

    def __init__(self, objects: "ObjectStore", url: str) -> None:
        self._given = objects
        self._url = url
        self._server_copies: bool | None = None
        self._copying = threading.Lock()

    @property
    def _objects(self) -> "ObjectStore":
        return self._given

    def create(self, name: str, data: bytes) -> None:
        try:
            with self._our_errors(name):
                obstore.put(self._objects, name, data, mode="create", use_multipart=False)
        except MissingError as error:
            # Nothing but the bucket itself can be missing where an object is created.
            raise _no_bucket(self._url) from error

    def copy(self, source: str, target: str) -> None:
        if self.head(source).size >= COPIED_BYTES and self._copies():
            with self._our_errors(target):
                obstore.copy(self._objects, source, target, overwrite=False)
        else:
            # One at a time: objects may be large.
            with self._copying:
                self.create(target, self.read(source))

    def _copies(self) -> bool:
        """Whether the server copies, and refuses to copy to a name that is taken; found out once."""
        if self._server_copies is None:
            names = [f"probes/{secrets.token_hex(8)}" for _ in range(2)]
            self.create(names[0], b"probe")
            try:
                with self._our_errors(names[1]):
                    obstore.copy(self._objects, names[0], names[1], overwrite=False)
                    obstore.copy(self._objects, names[0], names[1], overwrite=False)
                self._server_copies = False
            except ExistsError:
                self._server_copies = True
            except StoreError:
                self._server_copies = False
            finally:
                for name in names:
                    self.delete(name)
        return self._server_copies

    def read(self, name: str, most_bytes: int = MAX_OBJECT_BYTES) -> bytes:
        with self._our_errors(name):
            # The size comes with the answer's head, before any byte of the object.
            answer = obstore.get(self._objects, name)
            if answer.meta["size"] > most_bytes:
                raise LargeError(
                    f"at most {most_bytes} bytes in {name}",
                    f"{answer.meta['size']} bytes",
                    "It was put there by something else: delete that object alone, then run the same command again.",
                )
            return bytes(answer.bytes())

    def read_range(self, name: str, start: int, length: int) -> bytes:
        if length == 0:
            return b""
        with self._our_errors(name):
            return bytes(obstore.get_range(self._objects, name, start=start, length=length))

    def head(self, name: str) -> Entry:
        with self._our_errors(name):
            meta = obstore.head(self._objects, name)
            return Entry(name, meta["size"], meta["last_modified"].timestamp())

    def entries(self, folder: str) -> list[Entry]:
        with self._our_errors(folder):
            return [
                Entry(meta["path"], meta["size"], meta["last_modified"].timestamp())
                for batch in obstore.list(self._objects, folder, chunk_size=1000)
                for meta in batch
            ]

    def folders(self, folder: str) -> list[str]:
        with self._our_errors(folder):
            found = obstore.list_with_delimiter(self._objects, folder)
            return [path.rstrip("/").rpartition("/")[2] for path in found["common_prefixes"]]

    def delete(self, name: str) -> None:
        with suppress(MissingError), self._our_errors(name):
            obstore.delete(self._objects, name)

    def _refused(self, error: BaseException) -> AccessError:
        return AccessError(
            f"to be allowed to use {self._url}",
            _first_line(error),
            "Renew the credentials, or check their rights; what is complete is kept.",
        )

    @contextmanager
    def _our_errors(self, name: str) -> Iterator[None]:
        """Turns obstore's errors into ours."""
        try:
            yield
        except AlreadyExistsError:
            raise _exists(name) from None
        except FileNotFoundError:
            raise MissingError(f"object {name} in {self._url}", "no such object", "See `repscope status`.") from None
        except (PermissionDeniedError, UnauthenticatedError, PermissionError) as error:
            raise self._refused(error) from error
        except (NotSupportedError, InvalidPathError, UnknownConfigurationKeyError, NotImplementedError) as error:
            raise StoreError(
                f"{self._url} to do what a store must", _first_line(error), "Use another store."
            ) from error
        except (BaseError, OSError) as error:
            if isinstance(error, OSError) and error.errno in _FULL:
                raise _full(self._url, error) from error
            if "NoSuchBucket" in str(error):
                raise _no_bucket(self._url) from error
            if any(said in str(error) for said in _REFUSED):
                raise self._refused(error) from error
            if any(asked in str(error) for asked in _METADATA):
                raise RootError(
                    f"credentials for {self._url} in the environment of this process on {socket.gethostname()}",
                    "none, and no role of this machine that would give any",
                    _CREDENTIALS.get(urlsplit(self._url).scheme, "Set the variables of that service."),
                ) from error
            # What had no answer at all, the client has repeated by itself.
            kind = BrokenOffError if BROKEN_OFF in str(error) else UnansweredError
            raise kind(
                f"an answer from {self._url} about {name}",
                _first_line(error),
                f"Check the {self._medium}, then run the same command again.",
            ) from error


class LocalBackend(ObjectBackend):
    """A backend over a folder. An object is on the disk, whole, before its name is: staged, fsynced, hard-linked."""

    _medium = "disk"

    def __init__(self, root: Path) -> None:
        self._root = root
        self._local: LocalStore | None = None
        super().__init__(MemoryStore(), root.as_uri())

    @property
    def _objects(self) -> "ObjectStore":
        """obstore wants the root to exist, which only a write may bring about: until then everything is missing."""
        if self._local is None and self._root.exists():
            if not self._root.is_dir():
                raise RootError(f"a folder at {self._root}", "a file", "Move it away or name another store.")
            self._local = LocalStore(self._root)
        return self._local or self._given

    def create(self, name: str, data: bytes) -> None:
        path = self._root / name
        staging = self._root / STAGING
        staged = staging / secrets.token_hex(8)
        try:
            self._make_folder(staging)
            descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                with open(descriptor, "wb", closefd=False) as file:
                    file.write(data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            self._make_folder(path.parent)
            self._link(staged, path, name)
            _sync_folder(path.parent)
        except OSError as error:
            raise self._meaning(error, name) from error
        finally:
            with suppress(OSError):
                staged.unlink(missing_ok=True)

    def copy(self, source: str, target: str) -> None:
        """A hard link: no byte is written, and each name is an object of its own."""
        path = self._root / target
        try:
            self._make_folder(path.parent)
            self._link(self._root / source, path, target)
            _sync_folder(path.parent)
        except FileNotFoundError as error:
            raise MissingError(f"object {source} in {self._url}", "no such object", "See `repscope status`.") from error
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise self._meaning(error, target) from error
            self.create(target, self.read(source))

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """By the system's own call: the store's client takes twice the CPU time for 100 kB of a file."""
        with self._our_errors(name):
            # Without waiting for a pipe.
            descriptor = os.open(self._root / name, os.O_RDONLY | os.O_NONBLOCK)
            try:
                # Linux reads at most 2 GiB at a time.
                data = os.pread(descriptor, length, start)
                while 0 < len(data) < length and (more := os.pread(descriptor, length - len(data), start + len(data))):
                    data += more
            finally:
                os.close(descriptor)
        if len(data) < length:
            raise UnansweredError(
                f"{length} bytes of {name} in {self._root} from byte {start}",
                f"{len(data)}",
                "Something else has shortened it: `repscope verify` names what is damaged.",
            )
        return data

    def read(self, name: str, most_bytes: int = MAX_OBJECT_BYTES) -> bytes:
        """As of any backend; a pipe or a device that somebody has put there would never end."""
        with suppress(OSError):
            mode = os.stat(self._root / name).st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise StoreError(
                    f"a file at {self._root / name}",
                    "a pipe or a device",
                    "It was put there by something else: delete it alone, then run the same command again.",
                )
        return super().read(name, most_bytes)

    def entries(self, folder: str) -> list[Entry]:
        """By the system's own call: the store's client gives a whole listing up where a name is no UTF-8, has a control
        character, or is that of a link that leads round.
        """
        with self._our_errors(folder):
            return list(self._walk(folder))

    def folders(self, folder: str) -> list[str]:
        """As in a bucket: a folder without any file, which a killed writer may have left, is none."""
        with self._our_errors(folder), suppress(FileNotFoundError, NotADirectoryError):
            names = [entry.name for entry in os.scandir(self._root / folder) if _is_folder(entry)]
            return [name for name in names if next(self._walk(f"{folder}/{name}"), None) is not None]
        return []

    def _walk(self, folder: str) -> Iterator[Entry]:
        """The files below a folder, without links that lead nowhere or to a folder in which they stand."""
        waiting = [(folder, frozenset[tuple[int, int]]())]
        while waiting:
            name, above = waiting.pop()
            # What is not there, or is deleted meanwhile, has no files.
            with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self._root / name) as inside:
                status = os.stat(self._root / name)
                here = above | {(status.st_dev, status.st_ino)}
                if len(here) == len(above):
                    continue
                for entry in inside:
                    below = f"{name}/{entry.name}"
                    if _is_folder(entry):
                        waiting.append((below, here))
                        continue
                    with suppress(OSError):
                        if entry.is_file():
                            found = entry.stat()
                            # To the microsecond, as `head` has it.
                            yield Entry(below, found.st_size, found.st_mtime_ns // 1000 / 1e6)

    def _link(self, staged: Path, path: Path, name: str) -> None:
        try:
            os.link(staged, path)
        except FileExistsError:
            raise _exists(name) from None
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise RootError(
                    f"all folders of the store {self._root} on one file system",
                    f"{path.parent} on another",
                    "Put the whole store there (a link to the store itself is fine).",
                ) from error
            if error.errno in _LINKLESS:
                raise RootError(
                    f"hard links on the file system of {self._root}, so that two writers cannot take one name",
                    f"{error.strerror} (links are not supported there)",
                    "Put the store on a local disk (ext4, xfs, btrfs), on NFS, or into a bucket (s3://…).",
                ) from error
            raise

    def _make_folder(self, folder: Path) -> None:
        """Makes a folder and its parents, each durable in its own parent."""
        if folder.is_dir():
            return
        if folder != self._root:
            self._make_folder(folder.parent)
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
                f"a folder for {name} in {self._root}" if self._root.is_dir() else f"a folder at {self._root}",
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


def backend_at(url: str) -> Backend:
    """The backend at a canonical URL. Raises `UsageError` for a URL of no known kind."""
    scheme = urlsplit(url).scheme
    if scheme == "file":
        return LocalBackend(Path(unquote(urlsplit(url).path)))
    if scheme == "memory":
        return ObjectBackend(MemoryStore(), url)
    plain = endpoint_of(url).startswith("http://")
    try:
        options: ClientConfig = {"allow_http": plain, "timeout": f"{REQUEST_SECONDS}s"}
        if scheme == "s3":
            objects = from_url(url, config={"copy_if_not_exists": "multipart"}, client_options=options)
        else:
            objects = from_url(url, client_options=options)
        return ObjectBackend(objects, url)
    except (BaseError, ValueError) as error:
        raise UsageError(
            "a folder or a URL of a store (file://, s3://, gs://, az://, memory://)",
            f"{url}: {_first_line(error)}",
            "Correct --store.",
        ) from error


def endpoint_of(url: str) -> str:
    """The address of the server behind the URL of a bucket, where the environment names one."""
    if urlsplit(url).scheme != "s3":
        return ""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link that leads to itself.
        return False


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exists(name: str) -> ExistsError:
    return ExistsError(f"the name {name} to be free", "an object of that name", "It is kept as it is.")


def _no_bucket(url: str) -> RootError:
    return RootError(f"a bucket at {url}", "that there is none of that name", "Create it, or correct --store.")


def _full(root: str, error: OSError) -> FullError:
    return FullError(
        f"room for another object in {root}",
        error.strerror or str(error),
        "Free some space, then run the same command again: what is complete is kept.",
    )


def _first_line(error: BaseException) -> str:
    lines: Sequence[str] = str(error).splitlines() or [type(error).__name__]
    return lines[0]
