"""Files by URL: patterns with braces and stars expanded, and a file of any file system read by blocks.

`FileSet` finds the files that a source names. `Blocks` reads one of them from any offset: it asks the file system for a
few larger ranges instead of many small ones.
"""

import io
import re
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from stages.contract import External
from stages.errors import InputError
from stages.external.passed_over import PassedOver, hidden, kind_of

FILE_LIMIT_BYTES = 2**28
"""Size above which an image is not read."""

READERS = 16
"""Files of a remote folder that are read at the same time."""

NAMED_FILES = 100_000
"""How many files a pattern with braces may name."""

BLOCK_BYTES = 2**21
BLOCKS_KEPT = 3
"""A file is read by blocks of this size, of which so many are kept."""

COMPRESSED = (".tar.bz2", ".tar.gz", ".tar.xz", ".tar.zst", ".tgz")

_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")


@dataclass(frozen=True)
class Unreadable:
    """Takes the place of the bytes of an image that cannot be read, with the reason."""

    reason: str


@dataclass(frozen=True)
class FileInfo:
    """A file: its name below the source's folder, and its bytes."""

    name: str
    size: int


class Spans(Protocol):
    """Bytes of a file by ranges."""

    name: str
    size: int

    def span(self, start: int, length: int) -> bytes:
        """`length` bytes from `start`, fewer at the end of the file."""


def expand(url: str) -> list[str]:
    """`a-{08..10}.tar` as a-08.tar, a-09.tar, a-10.tar; `{train,test}.tar` as both. ValueError where it is too much."""
    found, done = [url], False
    while not done:
        done = True
        further: list[str] = []
        for entry in found:
            match = _BRACES.search(entry)
            done = done and match is None
            further += [entry] if match is None else _alternatives(entry, match)
            if len(further) > NAMED_FILES:
                raise ValueError(f"expected a pattern of at most {NAMED_FILES} files; found more in {url}")
        found = further
    return found


def _alternatives(entry: str, match: re.Match[str]) -> list[str]:
    first, last, words = match.groups()
    pieces = words.split(",") if words is not None else _numbers(first, last)
    return [entry[: match.start()] + piece + entry[match.end() :] for piece in pieces]


def _numbers(first: str, last: str) -> list[str]:
    if int(last) - int(first) >= NAMED_FILES:
        raise ValueError(f"expected a pattern of at most {NAMED_FILES} files; found {{{first}..{last}}}")
    return [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]


class FileSet:
    """The files that one URL or several name: one file, a folder, patterns with `{000..009}`, `{a,b}` or `*`.

    `endings`: of a folder, files with these endings are taken.
    """

    def __init__(self, urls: Sequence[str], endings: Sequence[str]) -> None:
        self._endings = tuple(endings)
        self._urls = urls[0] if len(urls) == 1 else f"{urls[0]} and {len(urls) - 1} more"
        self._only: tuple[str, ...]
        expanded = [entry for url in urls for entry in expand(url)]
        if len(expanded) == 1 and "*" not in expanded[0]:
            self._folder, self._only = expanded[0].rstrip("/") or "/", ()
        else:
            self._folder, self._only = _common(expanded)
        self._opened: tuple[Any, str] | None = None
        self._is_file = False
        self._passed_over: PassedOver | None = None

    def external(self, fingerprint: str) -> External:
        """What the key must know of these files."""
        return External(self._folder, fingerprint, self._only)

    def find(self) -> list[FileInfo]:
        """The files, sorted by name. Raises InputError where there are none, or one that is named is not there."""
        files, root = self._open()
        try:
            if self._only and not any("*" in entry for entry in self._only):
                return sorted(self._named(files, root), key=lambda info: info.name)
            if self._is_file:
                return [self._single(files, root)]
            found = [
                (str(path)[len(root) :].lstrip("/"), int(info.get("size") or 0))
                for path, info in files.find(root, detail=True).items()
            ]
        except PermissionError as error:
            raise InputError(
                f"files in {self._urls}", f"no permission to list them ({error})", "Grant it, or copy them."
            ) from error
        wanted = External(self._folder, only=self._only)
        meant = [(name, size) for name, size in found if wanted.covers(name) and not hidden(name)]
        infos = [FileInfo(n, s) for n, s in sorted(meant) if self._only or n.lower().endswith(self._endings)]
        self._passed_over = PassedOver()
        taken = {info.name for info in infos}
        for name, _ in sorted(found):
            if name not in taken and not self._only:
                self._passed_over.add(hidden(name) or kind_of(name), readable(name))
        if not infos:
            raise self._nothing([name for name, _ in (meant or found)])
        return infos

    def passed_over(self) -> PassedOver:
        """Files of a folder that `find` leaves out; none where the files are named."""
        if self._passed_over is None:
            self.find()
        return self._passed_over or PassedOver()

    def open(self, info: FileInfo) -> "Blocks":
        """A file to read. Raises InputError where it is not as it was found."""
        files, root = self._open()
        path = root if self._is_file else f"{root.rstrip('/')}/{info.name}"
        return Blocks(files, path, info)

    def _open(self) -> tuple[Any, str]:
        if self._opened is None:
            files, root = open_url(self._folder)
            self._opened = files, root
            self._is_file = not self._only and not files.isdir(root or "/")
        return self._opened

    def _single(self, files: Any, root: str) -> FileInfo:
        if not files.exists(root):
            raise InputError(f"a file or a folder at {self._folder}", "nothing", "Correct `url`.")
        # What a server is asked besides the file is no part of its name, and may be a signature.
        path = root.partition("?")[0] if root.startswith(("http://", "https://")) else root
        return FileInfo(path.rpartition("/")[2], int(files.info(root)["size"] or 0))

    def _named(self, files: Any, root: str) -> Iterable[FileInfo]:
        from concurrent.futures import ThreadPoolExecutor

        def size_of(name: str) -> FileInfo | None:
            try:
                return FileInfo(name, int(files.info(f"{root.rstrip('/')}/{name}")["size"] or 0))
            except FileNotFoundError:
                return None

        with ThreadPoolExecutor(READERS) as pool:
            found = list(pool.map(size_of, self._only))
        gone = [name for name, info in zip(self._only, found, strict=True) if info is None]
        if gone:
            raise InputError(
                f"{len(self._only)} files that {self._urls} names, in {self._folder}",
                f"no {gone[0]}{f', and {len(gone) - 1} more missing' if len(gone) > 1 else ''}",
                "Correct `url`; braces count from the first number to the last, both included.",
            )
        return [info for info in found if info is not None]

    def _nothing(self, names: Sequence[str]) -> InputError:
        kinds = Counter(sorted(kind_of(name) for name in names))
        others = ", ".join(f"{count} x {ending}" for ending, count in kinds.most_common(5))
        what = self._only[0] if len(self._only) == 1 else "/".join(self._endings)
        remedy = remedy_for(kinds) or "Correct `url`."
        if ".tar" in self._endings and any(name.endswith(COMPRESSED) for name in names):
            remedy = "Unpack them to plain .tar files: a compressed tar cannot be read from the middle."
        return InputError(f"{what} files in {self._folder}", f"none{f' among {others}' if others else ''}", remedy)


class Ranged(io.RawIOBase):
    """A file, read only, of `size` bytes that can be read from any offset; a subclass implements `readinto`."""

    size: int
    _at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence] + offset)
        return self._at


class Blocks(Ranged):
    """A file, read only, by blocks of `BLOCK_BYTES`; errors of its file system are raised as they are and kept.

    Blocks that nobody asks for are not read, so that skipping over a large member of a tar costs nothing.
    """

    def __init__(self, files: Any, path: str, info: FileInfo) -> None:
        self.name = info.name
        self.size = info.size
        self.failure: BaseException | None = None
        """What went wrong in reading: a library on top of this may have turned it into an error of its own."""
        self._files = files
        self._path = path
        self._kept: OrderedDict[int, bytes] = OrderedDict()

    def span(self, start: int, length: int) -> bytes:
        """`length` bytes from `start`, fewer at the end of the file."""
        stop = min(start + length, self.size)
        if start >= stop:
            return b""
        first, last = start // BLOCK_BYTES, (stop - 1) // BLOCK_BYTES
        if first == last:
            return self._block(first)[start - first * BLOCK_BYTES : stop - first * BLOCK_BYTES]
        pieces = [self._block(number) for number in range(first, last + 1)]
        pieces[0] = pieces[0][start - first * BLOCK_BYTES :]
        pieces[-1] = pieces[-1][: stop - last * BLOCK_BYTES]
        return b"".join(pieces)

    def readinto(self, buffer: Any) -> int:
        data = self.span(self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _block(self, number: int) -> bytes:
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        start = number * BLOCK_BYTES
        stop = min(start + BLOCK_BYTES, self.size)
        try:
            data = bytes(self._files.cat_file(self._path, start=start, end=stop))
            if len(data) != stop - start:
                raise InputError(
                    f"{self.size} bytes in {self.name}",
                    f"{len(data)} bytes where {stop - start} were asked for",
                    "The file changed, or its server gives no ranges: let nobody change it, or copy it.",
                )
        except FileNotFoundError as error:
            self.failure = InputError("the source to stay as it was", f"no {self.name}", "Put it back, and run again.")
            raise self.failure from error
        except PermissionError as error:
            self.failure = InputError(
                f"files that may be read, such as {self.name}",
                f"no permission ({error})",
                "Grant it (or renew your credentials).",
            )
            raise self.failure from error
        except BaseException as error:
            self.failure = error
            raise
        self._kept[number] = data
        while len(self._kept) > BLOCKS_KEPT:
            self._kept.popitem(last=False)
        return data


def open_url(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path in it, without a `/` at its end. Raises InputError where there is none."""
    from fsspec.core import url_to_fs

    try:
        files, root = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise InputError(
            "a folder or a URL that fsspec opens",
            f"{url} ({error})",
            "Correct `url`, or install the package named.",
        ) from error
    return files, str(root).rstrip("/")


def remedy_for(endings: Iterable[str]) -> str:
    """How files with one of these endings are read; empty where nothing is known of any."""
    kinds = {".tar": "webdataset", ".parquet": "parquet", ".pq": "parquet"}
    for ending in endings:
        if ending in kinds:
            return f"Files of {ending} are read by `kind: {kinds[ending]}`."
        if ending in (*COMPRESSED, ".7z", ".gz", ".rar", ".zip"):
            return f"Unpack the {ending}."
        if ending in (".arrow", ".feather"):
            return f"Write the {ending} as Parquet (with `datasets`: `to_parquet`)."
        if ending in (".heic", ".heif", ".jxl", ".svg", ".psd", ".pdf", ".dng", ".cr2", ".nef", ".arw"):
            return f"Convert the {ending} to JPEG or PNG."
        if ending in (".jpg", ".jpeg", ".png"):
            return "Images as files are read by `kind: folder`."
        if ending in (".h5", ".hdf5", ".mat", ".npy", ".npz", ".pkl", ".tfrecord"):
            return f"Write the images of the {ending} as image files."
    return ""


def readable(name: str) -> str:
    """A name as text that any format can hold: bytes that are no UTF-8 are written as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _common(urls: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The folder in which all of these stand, and their names below it. ValueError where there is none."""
    pieces = [url.split("/") for url in urls]
    fixed = min(next((i for i, piece in enumerate(path) if "*" in piece), len(path) - 1) for path in pieces)
    depth = 0
    while depth < fixed and len({path[depth] for path in pieces}) == 1:
        depth += 1
    folder = "/".join(pieces[0][:depth])
    # `s3:` and the empty piece after it are no folder.
    if not folder.strip("/") or folder.endswith((":", ":/")):
        raise ValueError(f"expected files that stand below one folder; found {urls[0]} and {urls[-1]}")
    return folder, tuple(sorted({"/".join(path[depth:]) for path in pieces}))
