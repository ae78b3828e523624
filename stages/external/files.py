"""Files that a study names by URL: on the local disk while they are used, and known by their sha256.

What is on this machine already is used where it stands; anything else that fsspec opens is copied, and gone afterwards.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from stages.errors import InputError

BLOCK_BYTES = 1 << 20


@dataclass
class _Start:
    """What relative paths begin with, and what `~` stands for; empty: the working folder and this user's home."""

    folder: str = ""
    home: str = ""


_start = _Start()


@dataclass(frozen=True)
class Fetched:
    """Files from outside on the local disk, and the sha256 of each by its name."""

    path: Path
    sha256: dict[str, str]


@contextmanager
def fetched(url: str, pinned: str | None = None) -> Iterator[Fetched]:
    """A file by URL as a local one, while it is used. Raises InputError where it is missing or not `pinned`."""
    with tempfile.TemporaryDirectory(prefix="repscope-") as folder:
        path = local(url)
        if path is None:
            path = Path(folder) / (urlsplit(url).path.rpartition("/")[2] or "weights")
            _download(url, path)
        if not path.is_file():
            raise InputError(f"a file at {url}", "none" if not path.exists() else "a folder", "Check the URL.")
        found = sha256_of(path)
        if pinned is not None and found != pinned:
            raise InputError(
                f"{url} with sha256 {pinned}", found, "Bring back the file that was meant, or correct `sha256`."
            )
        yield Fetched(path, {path.name: found})


@contextmanager
def fetched_folder(url: str, wanted: tuple[str, ...]) -> Iterator[Fetched]:
    """The files in a folder whose names end in one of `wanted`. Raises InputError where there is no folder."""
    with tempfile.TemporaryDirectory(prefix="repscope-") as folder:
        path = local(url)
        if path is None:
            import fsspec

            path = Path(folder)
            try:
                files, root = fsspec.core.url_to_fs(url)
                names = [entry["name"] for entry in files.ls(root, detail=True) if entry["type"] == "file"]
                for name in names:
                    if name.endswith(wanted):
                        files.get_file(name, str(path / name.rpartition("/")[2]))
            # Every file system of fsspec has errors of its own, and some of them are no OSError.
            except Exception as error:
                raise InputError(
                    f"a folder at {url}", _reason(error, url), "Check the URL and the credentials."
                ) from error
        if not path.is_dir():
            raise InputError(f"a folder at {url}", "none", "Check the path: an id of the hub needs `pretrained: true`.")
        found = sorted(file for file in path.iterdir() if file.is_file() and file.name.endswith(wanted))
        yield Fetched(path, {file.name: sha256_of(file) for file in found})


def absolute(url: str) -> str:
    """A URL as it is, a local path as an absolute one, because workers may run in another folder.

    Raises ValueError for `pipe:`, which would run a command.
    """
    if url.startswith("pipe:"):
        raise ValueError("expected a path or a URL that fsspec opens; found pipe:, which runs a command")
    if "://" in url or "::" in url:
        return url
    if _start.home and (url == "~" or url.startswith("~/")):
        url = _start.home + url[1:]
    return os.path.abspath(os.path.join(_start.folder, os.path.expanduser(url)))


def resolve_from(folder: str, home: str) -> None:
    """Makes `absolute` give the paths that it gave where the run was submitted: in `folder`, by the owner of `home`."""
    _start.folder, _start.home = folder, home


def local(url: str) -> Path | None:
    """The path of a local URL; None for another."""
    if url.startswith("file://"):
        return Path(unquote(urlsplit(url).path))
    return None if "://" in url or "::" in url else Path(url)


def sha256_of(path: Path) -> str:
    """sha256 (hex) of a file."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            total.update(block)
    return total.hexdigest()


def _download(url: str, path: Path) -> None:
    import fsspec

    try:
        with fsspec.open(url, "rb") as remote, path.open("wb") as file:
            while block := remote.read(BLOCK_BYTES):
                file.write(block)
    # As above.
    except Exception as error:
        raise InputError(
            f"a file at {url}",
            _reason(error, url),
            "Check the URL, its credentials, and the space for temporary files here.",
        ) from error


def _reason(error: Exception, url: str) -> str:
    """Why nothing was read at a URL: the first error in the chain of causes that names more than the URL."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    for cause in causes:
        if (status := getattr(cause, "status", None)) is not None:
            return f"nothing that could be read: the server said {status} {getattr(cause, 'message', '')}".rstrip()
        text = " ".join(str(cause).split())[:300]
        if not (isinstance(cause, FileNotFoundError) and url.endswith(text)):
            return f"nothing that could be read: {text or type(cause).__name__}"
    return "nothing there"
