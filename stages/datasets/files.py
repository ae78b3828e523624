"""Sources whose files hold many images each: the interface of such a source. One file is one part of a listing.

A file is read once from its beginning to its end (`FileReader.read`), which gives the position of each image in the
file. Later the bytes of an image are fetched again by its position (`FileReader.fetch`).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, field_validator

from stages.contract import External, Settings, Unkeyed
from stages.datasets.columns import Columns, Declared, Split
from stages.errors import InputError
from stages.external.files import absolute
from stages.external.passed_over import PassedOver
from stages.external.ranges import FileInfo, FileSet, Unreadable

Value: TypeAlias = str | float | None


@dataclass(frozen=True)
class Found:
    """An image in a file.

    `position` is how its file finds it again: the offset of its bytes in a tar, its row in a table. `values` are those
    of the file's attributes that are defined, by name. `split` is None where the image's own bytes decide.
    """

    position: int
    name: str
    data: bytes | Unreadable
    values: Mapping[str, Value] = field(default_factory=dict)
    split: Literal["train", "heldout"] | None = None


@dataclass(frozen=True)
class Wanted:
    """An image that was found before: its file, and where in it."""

    file: str
    position: int
    size: int


@dataclass
class Notes:
    """What a file holds besides: members that are no images, and names of columns that could be taken.

    `unread`: columns, or endings of the members of samples, that are not read, though not even a label is.
    """

    passed_over: PassedOver = field(default_factory=PassedOver)
    columns: set[str] = field(default_factory=set)
    unread: set[str] = field(default_factory=set)


class FileReader(ABC):
    """Reads the files of one source in one process; what it holds open may serve the next call."""

    def __init__(self, source: "FilesSource") -> None:
        self._infos = {info.name: info for info in source.files()}

    def info(self, name: str) -> FileInfo:
        """The file of that name as it stands today. Raises InputError where there is none."""
        if name not in self._infos:
            raise InputError("the source to stay as it was", f"no {name}", "Put it back, and run again.")
        return self._infos[name]

    @abstractmethod
    def declared(self, info: FileInfo) -> tuple[Declared, ...]:
        """The attributes of a file's images, sorted by name."""

    @abstractmethod
    def read(self, info: FileInfo, notes: Notes) -> Iterator[Found]:
        """Every image of a file, in its order. Raises InputError where the file is damaged; `notes` are filled in."""

    @abstractmethod
    def fetch(self, wanted: Sequence[Wanted]) -> Iterator[bytes | Unreadable]:
        """The bytes of images that were found before, in the order of the listing."""


class FilesSource(Settings, ABC):
    """Base of the sources whose files hold many images."""

    kind: Any
    fingerprint: Annotated[str, Unkeyed("it says how the digest is made; the digest is in the key")] = "listing"
    """What tells one state of the files from another: `listing` (paths and sizes), `content`, or your own string."""

    @abstractmethod
    def external(self) -> Mapping[str, External]:
        """The files."""

    @abstractmethod
    def files(self) -> list[FileInfo]:
        """The files, in the order of their images; lists and opens none. Raises InputError where there are none."""

    def passed_over(self) -> PassedOver:
        """Files beside those of `files`, which are not read; opens none."""
        return PassedOver()

    @abstractmethod
    def reader(self) -> FileReader:
        """What reads the files."""

    @abstractmethod
    def expected_rows(self) -> int:
        """About how many images there are, from one file at most."""


class TableSource(FilesSource):
    """Base of the sources that a URL names and whose columns are declared."""

    url: Annotated[str | tuple[str, ...], Field(min_length=1), Unkeyed("what stands there is known by its digest")]
    """A file, a folder, a pattern with `{000..009}`, `{a,b}` or `*`, or several of these, by path or fsspec URL."""
    image: str | None = None
    """Which column, or which ending of a tar's members, holds the images; None: the only one that does."""
    columns: Columns | None = None
    """Columns that become attributes. None: those that say of themselves that they are labels."""
    split: Split | None = None
    """Which images are held out; None: their own bytes decide, by `holdout`."""

    @field_validator("url")
    @classmethod
    def _absolute_url(cls, url: str | tuple[str, ...]) -> str | tuple[str, ...]:
        found = absolute(url) if isinstance(url, str) else tuple(map(absolute, url))
        FileSet((found,) if isinstance(found, str) else found, ())
        return found

    @cached_property
    def file_set(self) -> FileSet:
        """The files that `url` means."""
        return FileSet((self.url,) if isinstance(self.url, str) else self.url, self._endings())

    @abstractmethod
    def _endings(self) -> tuple[str, ...]:
        """Endings of the files that are taken from a folder."""

    def external(self) -> Mapping[str, External]:
        return {"files": self.file_set.external(self.fingerprint)}

    def files(self) -> list[FileInfo]:
        return self.file_set.find()

    def passed_over(self) -> PassedOver:
        return self.file_set.passed_over()


def damaged(where: str, expected: str, found: str) -> InputError:
    """A file that is not what its kind says."""
    return InputError(f"{expected} in {where}", found, "Copy or make that file anew.")
