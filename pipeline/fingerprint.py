"""The digest of what a stage reads outside the store: `External` -> digest.

"listing" digests the relative paths and sizes below a URL, "content" the bytes too, "code" the bytes of one local file
and neither its name nor its path, and any other word is the user's own digest. A source is listed by `run` always, by
`plan` and `status` only where its digest is not cached or with `--refresh`: what was found is kept in a cache of this
user, the sha256 of each file by its size and mtime or etag.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import rfc8785

from pipeline import cache
from stages.contract import External
from stages.errors import InputError, without_credentials
from stages.external import code
from stages.external.files import sha256_of

CACHE = "fingerprints-1.json"
BLOCK_BYTES = 1 << 20

ASKED_AT_ONCE = 16
"""Files that are asked for their size at the same time."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a source: path relative to the source's URL, bytes, and what changes when it is written anew."""

    path: str
    size: int
    stamp: str


class Fingerprints:
    """Digests of outside sources. With `refresh` each is listed once; without, a known digest is taken as it is."""

    def __init__(self, refresh: bool) -> None:
        self._refresh = refresh
        self._known: dict[str, Any] = cache.load(CACHE)
        self._fresh: dict[str, str] = {}
        self._changed = False

    def digests(self, external: Mapping[str, External]) -> dict[str, str]:
        """The digests by name. Raises `InputError` where a source is missing or empty."""
        return {name: self._digest(source) for name, source in external.items()}

    def former(self, external: Mapping[str, External]) -> dict[str, str]:
        """The digests that stood in keys when a file of code was digested with its name, as "content"."""
        found = self.digests(external)
        for name, source in external.items():
            if source.digest == "code":
                path = code.here(source.url)
                digest = _digest_of("content", [[path.name, path.stat().st_size, found[name]]])
                assert digest is not None
                found[name] = digest
        return found

    def save(self) -> None:
        """Keeps what was found for the next process."""
        if self._changed:
            cache.save(CACHE, self._known)
            self._changed = False

    def _digest(self, source: External) -> str:
        if source.digest == "code":
            # Read each time: it is small, and what runs must be what the key says.
            return sha256_of(code.here(source.url))
        if source.digest not in ("listing", "content"):
            return f"given:{source.digest}"
        name = self._name(source)
        known = self._known.get(name, {})
        if name not in self._fresh:
            if known and not self._refresh:
                return str(known["digest"])
            if source.digest == "content":
                files = sorted(list_files(source.url, source.only), key=lambda file: file.path)
                hashes = self._hashes(source.url, files, known.get("files", {}))
                digest = _digest_of("content", ([file.path, file.size, hashes[file.path][2]] for file in files))
                self._known[name] = {"files": hashes}
            else:
                # One short text for each file, for there may be millions; the separator sorts below all letters.
                lines = sorted(f"{file.path}\0{file.size}" for file in list_files(source.url, source.only))
                pairs = (line.split("\0") for line in lines)
                digest = _digest_of("listing", ([path, int(size)] for path, size in pairs))
                self._known[name] = {}
            if digest is None:
                raise InputError(f"files in {source.url}", "none", "Check the source's URL.")
            self._fresh[name] = digest
            self._known[name]["digest"] = digest
            self._changed = self._changed or self._known[name] != known
        return self._fresh[name]

    def _name(self, source: External) -> str:
        """Under what the digest of a source is kept: without the credentials of its URL, and no other source's."""
        name = " ".join([source.digest, _absolute(source.url), *source.only])
        if (shown := without_credentials(name)) == name:
            return name
        hidden = f"{shown} {hashlib.sha256(name.encode()).hexdigest()}"
        if name in self._known:
            # From before, when the file held them.
            self._known[hidden] = self._known.pop(name)
            self._changed = True
        return hidden

    def _hashes(self, url: str, files: list[SourceFile], known: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """path -> [size, stamp, sha256], reading only files whose size or stamp is new."""
        found = {}
        for file in files:
            before = known.get(file.path)
            if before is not None and before[:2] == [file.size, file.stamp]:
                found[file.path] = before
            else:
                found[file.path] = [file.size, file.stamp, _sha256(url, file.path)]
        return found


def _digest_of(kind: str, entries: Iterable[list[Any]]) -> str | None:
    """sha256 of the canonical JSON of `{"files": entries, "kind": kind}`, entry by entry; None where there are none."""
    total = hashlib.sha256()
    before = b'{"files":['
    for entry in entries:
        # A name that is no UTF-8 has no JSON; its escapes are as good to tell it from others.
        name = str(entry[0]).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        total.update(before + rfc8785.dumps([name, *entry[1:]]))
        before = b","
    total.update(b'],"kind":' + rfc8785.dumps(kind) + b"}")
    return None if before == b'{"files":[' else total.hexdigest()


def list_files(url: str, only: Sequence[str] = ()) -> Iterator[SourceFile]:
    """The files below a URL, or the one file it names, in any order; of them those that `External.only` means.

    Where `only` names files and no patterns, they are asked for one by one: a folder may be large, or have no listing.
    Raises `InputError` where there is nothing.
    """
    if only and not any("*" in entry for entry in only):
        yield from _named_files(url, only)
        return
    wanted = External(url, only=tuple(only))
    yield from (file for file in _list_all(url) if wanted.covers(file.path))


def _named_files(url: str, names: Sequence[str]) -> Iterator[SourceFile]:
    import fsspec

    try:
        files, root = fsspec.core.url_to_fs(url)
        with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
            details = list(pool.map(lambda name: files.info(f"{root.rstrip('/')}/{name}"), names))
    # Every file system of fsspec has errors of its own, and some of them are no OSError.
    except Exception as error:
        raise InputError(
            f"{len(names)} files in {url}", _one_line(error), "Check their names and the credentials."
        ) from error
    for name, detail in zip(names, details, strict=True):
        yield SourceFile(name, int(detail["size"] or 0), _stamp(detail))


def _list_all(url: str) -> Iterator[SourceFile]:
    local = _local(url)
    if local is not None:
        yield from _list_local(local, url)
        return
    import fsspec

    try:
        files, root = fsspec.core.url_to_fs(url)
        if "http" in files.protocol and not root.endswith("/") and _is_no_page(single := files.info(root)):
            # Searched for files, it would be downloaded and read as a page of links.
            details = {root: single}
        else:
            details = files.find(root, detail=True)
    # As above.
    except Exception as error:
        raise InputError(f"to list {url}", _one_line(error), "Check the source's URL and the credentials.") from error
    for path, detail in details.items():
        name = path[len(root) :].lstrip("/") or path.rpartition("/")[2]
        yield SourceFile(name, int(detail.get("size") or 0), _stamp(detail))


def _is_no_page(detail: Mapping[str, Any]) -> bool:
    """Whether a URL of HTTP is a file, and not a page that may list some."""
    return str(detail.get("mimetype", "")) != "text/html"


def _one_line(error: Exception) -> str:
    """An error of a file system in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _stamp(detail: Mapping[str, Any]) -> str:
    """What a file system says of a file that changes when it is written anew."""
    return next(
        (str(detail[name]) for name in ("ETag", "etag", "mtime", "LastModified", "Last-Modified") if name in detail), ""
    )


def _list_local(root: Path, url: str) -> Iterator[SourceFile]:
    if root.is_file():
        status = root.stat()
        yield SourceFile(root.name, status.st_size, str(status.st_mtime_ns))
        return
    if not root.is_dir():
        raise InputError(f"a file or folder at {url}", "nothing of that name", "Check the source's URL.")
    start = len(str(root).rstrip("/")) + 1
    folders: list[tuple[str, frozenset[tuple[int, int]]]] = [(str(root), frozenset())]
    while folders:
        folder, above = folders.pop()
        try:
            status = os.stat(folder)
            here = (status.st_dev, status.st_ino)
            # A link to a folder in which it stands leads round and round.
            if here in above:
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir():
                        folders.append((entry.path, above | {here}))
                    elif entry.is_file():
                        status = entry.stat()
                        path = entry.path[start:].replace(os.sep, "/")
                        yield SourceFile(path, status.st_size, str(status.st_mtime_ns))
        except OSError as error:
            raise InputError(f"to list {url}", str(error), "Change the rights of that folder.") from error


def _sha256(url: str, path: str) -> str:
    total = hashlib.sha256()
    local = _local(url)
    if local is not None:
        with open(local if local.is_file() else local / path, "rb") as file:
            while block := file.read(BLOCK_BYTES):
                total.update(block)
        return total.hexdigest()
    import fsspec

    files, root = fsspec.core.url_to_fs(url)
    name = root if files.isfile(root) else f"{root.rstrip('/')}/{path}"
    with files.open(name, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            total.update(block)
    return total.hexdigest()


def _local(url: str) -> Path | None:
    """The path of a local URL; None for another."""
    if url.startswith("file://"):
        return Path(unquote(urlsplit(url).path))
    return None if "://" in url or "::" in url else Path(url).expanduser()


def _absolute(url: str) -> str:
    local = _local(url)
    return url if local is None else str(local.resolve())
