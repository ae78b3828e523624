"""Where images come from: the settings of each source, and how its images are named, counted, labelled and fetched.

Scenes, folders and collages are catalogued: they are asked for their `catalogue` (what is there, without decoding an
image), the `values` of the attributes of some rows, and the bytes of some rows (`fetch`). The others are files of many
images each (`stages.datasets.files`), of which nothing is known before they are read.
"""

import hashlib
import os
import unicodedata
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator

from stages.attributes import Attribute
from stages.contract import Added, External, Settings, Unkeyed
from stages.datasets.cifar import Cifar10Source
from stages.datasets.labels import LabelTable, TableLabels
from stages.datasets.parquet import ParquetSource
from stages.datasets.tars import WebdatasetSource
from stages.errors import InputError
from stages.external.files import absolute
from stages.external.passed_over import HIDDEN, PassedOver, hidden, kind_of
from stages.external.ranges import READERS, Unreadable, open_url, readable, remedy_for
from stages.images.image_file import ENDINGS, SIGNATURE_BYTES, has_signature

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from stages.datasets.collage import Collage

SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "eval"})
"""Folders of these names divide a dataset; they are no classes of it."""


@dataclass(frozen=True)
class Catalogue:
    """What a source holds, in the order of its rows."""

    names: Sequence[str]
    attributes: tuple[Attribute, ...]
    sizes: Sequence[int] = ()
    """Bytes of each file; empty where images are made and not read."""
    passed_over: PassedOver = field(default_factory=PassedOver)
    """Other files."""
    without_images: tuple[str, ...] = ()
    """Folders directly below the source of which no file is read."""
    labels: TableLabels | None = None
    """Attributes and split that do not follow from the images alone."""

    def digest(self, start: int, stop: int) -> str:
        """Short digest of what is known of rows start … stop - 1."""
        entries = [list(self.names[start:stop]), list(self.sizes[start:stop])]
        if self.labels is not None:
            entries += [values[start:stop].tolist() for _, values in sorted(self.labels.values.items())]
            entries += [] if self.labels.heldout is None else [self.labels.heldout[start:stop].tolist()]
        return hashlib.sha256(repr(entries).encode()).hexdigest()[:16]


class ScenesSource(BaseModel):
    """Drawings made by `stages.datasets.scenes`, of which every attribute is known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["scenes"] = "scenes"
    count: PositiveInt = 12_000
    """Number of scenes."""
    seed: Annotated[int, Field(ge=0, lt=2**53)] = 0
    """Of the random attributes of the scenes."""
    size: Annotated[int, Field(ge=16, le=256)] = 32
    """Width and height in pixels."""

    def external(self) -> Mapping[str, External]:
        """Nothing outside the store."""
        return {}

    def rows(self) -> int:
        """Number of images."""
        return self.count

    def catalogue(self) -> Catalogue:
        """All scenes, named by their number."""
        from stages.datasets.scenes import ATTRIBUTES

        return Catalogue(_SceneNames(range(self.count)), ATTRIBUTES)

    def values(
        self, rows: Sequence[int], names: Sequence[str], attributes: Sequence[Attribute]
    ) -> "dict[str, NDArray[np.float64]]":
        """True values of the attributes: by name, float64 [N]."""
        from stages.datasets.scenes import sample

        return sample(self.seed, rows)

    def fetch(self, rows: Sequence[int], names: Sequence[str]) -> Iterator[bytes | Unreadable]:
        """The scenes as PNG."""
        from stages.datasets.scenes import render
        from stages.images.pixels import encode_png

        images, _ = render(self.seed, rows, self.size)
        for image in images:
            yield encode_png(image)


class FolderSource(Settings):
    """Image files under a folder; the folder in which an image stands is its class."""

    kind: Literal["folder"] = "folder"
    url: Annotated[str, Field(min_length=1), Unkeyed("what stands there is known by its digest")]
    """A local folder or any URL that fsspec opens, for example `s3://bucket/photos`."""
    labels: Literal["folders", "none"] = "folders"
    """`folders`: the first folder below `url` is the attribute `class`. `none`: the images have no class."""
    table: Annotated[LabelTable | None, Added(when_absent=None)] = None
    """A CSV or Parquet file that says more of the images than their folders do."""
    fingerprint: Annotated[str, Unkeyed("it says how the digest is made; the digest is in the key")] = "listing"
    """What tells one state of the folder from another: `listing` (paths and sizes), `content`, or your own string."""

    _absolute_url = field_validator("url")(absolute)

    def external(self) -> Mapping[str, External]:
        """The folder, and the table where there is one."""
        found = {"folder": External(self.url, self.fingerprint)}
        return found if self.table is None else found | {"table": External(self.table.url, "content")}

    def rows(self) -> int:
        """Number of images; lists the folder, and raises what `catalogue` raises."""
        return len(self.catalogue().names)

    def catalogue(self) -> Catalogue:
        """All images below the folder, sorted by relative path.

        An image is known by its ending; a file without any ending by its first bytes. All others are counted. Raises
        InputError where there is no such folder or no image, and where classes are asked for and the folders do not
        give them.
        """
        names, sizes, passed_over = _Names(), array("q"), PassedOver()
        with_images, without = set[str](), set[str]()
        for name, size, kind in self._files():
            top = readable(name.split("/")[0]) if "/" in name else ""
            if kind is None:
                names.append(name)
                sizes.append(size)
                with_images.add(top)
            else:
                passed_over.add(kind, readable(name))
                if kind != HIDDEN:
                    without.add(top)
        if not names:
            kinds = ", ".join(f"{count} x {ending}" for ending, count in passed_over.counts.most_common(5))
            raise InputError(
                f"images ({', '.join(ENDINGS)}) in {self.url}",
                f"none, and {passed_over.counts.total()} other files{f' ({kinds})' if kinds else ''}",
                remedy_for(passed_over.counts) or "Name the folder that holds the images.",
            )
        attributes: tuple[Attribute, ...] = (self._classes(names),) if self.labels == "folders" else ()
        labels = None
        if self.table is not None:
            labels = self.table.of(names, self.url)
            if any(attribute.name == "class" for attribute in labels.attributes) and attributes:
                raise InputError(
                    "one attribute `class`", "a column of that name and folders of classes", "Set `labels: none`."
                )
            attributes += labels.attributes
        lost = tuple(sorted(without - with_images - {""})) if self.labels == "folders" else ()
        return Catalogue(names, attributes, sizes, passed_over, lost, labels)

    def values(
        self, rows: Sequence[int], names: Sequence[str], attributes: Sequence[Attribute]
    ) -> "dict[str, NDArray[np.float64]]":
        """Index of each image's class by its folder: by name of the attribute, float64 [N]."""
        import numpy as np

        numbers = {
            attribute.name: {_composed(c): i for i, c in enumerate(attribute.classes)} for attribute in attributes
        }
        return {
            attribute: np.array([number[_composed(readable(name.split("/")[0]))] for name in names], dtype=np.float64)
            for attribute, number in numbers.items()
        }

    def fetch(self, rows: Sequence[int], names: Sequence[str]) -> Iterator[bytes | Unreadable]:
        """The files' bytes, in order. What may pass (a network's error, a missing permission) is raised."""
        from concurrent.futures import ThreadPoolExecutor

        files, root = open_url(self.url)

        def read(name: str) -> bytes | Unreadable:
            try:
                data = files.cat_file(f"{root}/{name}")
            except FileNotFoundError:
                return Unreadable("a link to nothing, or a file that is gone")
            except PermissionError as error:
                # Raised and not recorded: the listing would remember it when the permission has long been granted.
                raise InputError(
                    f"files that may be read in {self.url}",
                    f"no permission to read {readable(name)}",
                    "Grant it (or renew your credentials), or take the file away.",
                ) from error
            assert isinstance(data, bytes)
            return data

        if "file" in _protocols(files):
            yield from map(read, names)
            return
        with ThreadPoolExecutor(READERS) as pool:
            # Windows bound what is held in memory when the reader is slower than the network.
            for start in range(0, len(names), 4 * READERS):
                yield from pool.map(read, names[start : start + 4 * READERS])

    def _files(self) -> Iterator[tuple[str, int, str | None]]:
        """Relative path and bytes of every file, in the order of the paths, and its kind where it is no image."""
        from concurrent.futures import ThreadPoolExecutor

        files, root = open_url(self.url)
        try:
            if not files.isdir(root or "/"):
                found = "a file" if files.exists(root) else "nothing"
                raise InputError(f"a folder of images at {self.url}", found, "Correct `url` in the study's dataset.")
            if "file" in _protocols(files):
                for name, size in _walk(root or "/", "", frozenset()):
                    yield name, size, _no_image(name, lambda name: _first_bytes(f"{root}/{name}"))
                return
            sizes = {
                str(path)[len(root) :].lstrip("/"): int(info.get("size") or 0)
                for path, info in sorted(files.find(root, detail=True).items())
            }
            unnamed = [name for name in sizes if not hidden(name) and kind_of(name) == "no ending"]
            with ThreadPoolExecutor(READERS) as pool:
                starts = pool.map(lambda name: files.cat_file(f"{root}/{name}", start=0, end=SIGNATURE_BYTES), unnamed)
                first_bytes = dict(zip(unnamed, starts, strict=True))
            for name, size in sizes.items():
                yield name, size, _no_image(name, first_bytes.__getitem__)
        except PermissionError as error:
            raise InputError(
                f"a folder of images at {self.url}",
                f"no permission to list it ({error})",
                "Grant it, or copy the folder.",
            ) from error

    def _classes(self, names: Sequence[str]) -> Attribute:
        loose = [name for name in names if "/" not in name]
        if loose:
            raise InputError(
                f"every image in a folder named after its class, below {self.url}",
                f"{len(loose)} of {len(names)} images directly in it, such as {readable(loose[0])}",
                "Move them into class folders, or set `labels: none` to work without classes.",
            )
        classes = tuple(sorted(set(_spellings({readable(name.split("/")[0]) for name in names}).values())))
        divided = len(classes) > 1 or any(name.count("/") > 1 for name in names)
        if divided and {name.lower() for name in classes} <= SPLITS:
            raise InputError(
                f"a folder per class directly below {self.url}",
                f"the folders {', '.join(classes)}, which divide a dataset",
                "Name one of them as `url` (images are held out by Repscope itself), or set `labels: none`.",
            )
        return Attribute(name="class", kind="class", classes=classes)


class CollageSource(Settings):
    """Cut-outs pasted on crops of photographs, both from folders of yours; every attribute is known."""

    kind: Literal["collage"] = "collage"
    cutouts: FolderSource
    """Images with transparency, in a folder for each class: `{url: ./cutouts}`."""
    backgrounds: FolderSource
    """Photographs: in folders, which are the attribute `background`, or with `labels: none` as they lie."""
    count: PositiveInt = 12_000
    """Number of images."""
    seed: Annotated[int, Field(ge=0, lt=2**53)] = 0
    """Of all that is drawn at random."""
    size: Annotated[int, Field(ge=16, le=512)] = 64
    """Width and height in pixels."""
    heldout: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    """Share of the images that are held out, and of the cut-outs of each class and of the backgrounds of each folder,
    one at least, of which held-out images are made and no others. `holdout` has no effect."""
    rotation: Annotated[float, Field(ge=0.0, le=0.5)] = 0.125
    """How far a cut-out is turned at most, clockwise or counter-clockwise, in turns."""
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.5
    """How far the hue of a cut-out is turned at most, either way, in turns; 0 keeps its colours."""

    @field_validator("cutouts", "backgrounds")
    @classmethod
    def _no_table(cls, folder: FolderSource) -> FolderSource:
        if folder.table is not None:
            raise ValueError("expected a folder without `table`, whose attributes a collage does not have; found one")
        return folder

    @field_validator("cutouts")
    @classmethod
    def _in_classes(cls, folder: FolderSource) -> FolderSource:
        if folder.labels == "none":
            raise ValueError("expected cut-outs in a folder for each class; found `labels: none`")
        return folder

    def external(self) -> Mapping[str, External]:
        """Both folders."""
        return {"cutouts": self.cutouts.external()["folder"], "backgrounds": self.backgrounds.external()["folder"]}

    def rows(self) -> int:
        """Number of images."""
        return self.count

    def catalogue(self) -> Catalogue:
        """All images, named by what they are made of. Raises InputError where the folders do not serve."""
        from stages.datasets.collage import ATTRIBUTES

        cutouts, backgrounds, collage = self._material
        passed_over = PassedOver()
        for found in (cutouts, backgrounds):
            passed_over.merge(found.passed_over.counts, found.passed_over.examples)
        classes = list(cutouts.attributes)
        classes += [attribute.model_copy(update={"name": "background"}) for attribute in backgrounds.attributes]
        return Catalogue(
            _CollageNames(range(self.count), collage, self._heldout),
            (*classes, *ATTRIBUTES),
            passed_over=passed_over,
            without_images=(*cutouts.without_images, *backgrounds.without_images),
            labels=TableLabels((), {}, self._heldout(range(self.count))),
        )

    def values(
        self, rows: Sequence[int], names: Sequence[str], attributes: Sequence[Attribute]
    ) -> "dict[str, NDArray[np.float64]]":
        """True values of the attributes: by name, float64 [N]."""
        import numpy as np

        _, _, collage = self._material
        found = [collage.values(row, held) for row, held in zip(rows, self._heldout(rows).tolist(), strict=True)]
        return {a.name: np.array([values[a.name] for values in found], dtype=np.float64) for a in attributes}

    def fetch(self, rows: Sequence[int], names: Sequence[str]) -> Iterator[bytes | Unreadable]:
        """The images as PNG. Raises InputError where a cut-out or a background cannot be used."""
        from stages.images.pixels import encode_png

        _, _, collage = self._material
        for row, held in zip(rows, self._heldout(rows).tolist(), strict=True):
            yield encode_png(collage.render(row, held))

    def _heldout(self, rows: Sequence[int]) -> "NDArray[np.bool_]":
        """Which images are held out: as many of any run of them as `heldout` says, to one: bool [N]."""
        import numpy as np

        numbers = np.asarray(rows, dtype=np.int64)
        found: NDArray[np.bool_] = np.floor((numbers + 1) * self.heldout) > np.floor(numbers * self.heldout)
        return found

    @cached_property
    def _material(self) -> "tuple[Catalogue, Catalogue, Collage]":
        """What is in the two folders, and what makes images of it; listed once, so that all rows agree.

        Raises InputError where two files have equal bytes, which may then be on both sides of the split.
        """
        import numpy as np

        from stages.datasets.collage import Collage, Files, hold_out

        found, files = [], []
        for folder in (self.cutouts, self.backgrounds):
            catalogue = folder.catalogue()
            _no_copies(folder, catalogue)
            classes = np.zeros(len(catalogue.names), dtype=np.int64)
            for column in folder.values((), catalogue.names, catalogue.attributes).values():
                classes = column.astype(np.int64)
            names = list(catalogue.names)
            heldout = hold_out([readable(name) for name in names], classes, self.heldout, folder.url)
            found.append(catalogue)
            files.append(Files(names, classes, heldout, partial(_read_one, folder)))
        return found[0], found[1], Collage(self.seed, self.size, files[0], files[1], self.rotation, self.hue)


CataloguedSource: TypeAlias = ScenesSource | FolderSource | CollageSource
DatasetSource: TypeAlias = Annotated[
    CataloguedSource | WebdatasetSource | ParquetSource | Cifar10Source, Field(discriminator="kind")
]


@dataclass(frozen=True)
class _SceneNames(Sequence[str]):
    """Names of scenes, made when asked for."""

    numbers: range

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [f"scene-{number}" for number in self.numbers[index]]
        return f"scene-{self.numbers[index]}"


@dataclass(frozen=True)
class _CollageNames(Sequence[str]):
    """Names of collages, made when asked for: the number, the cut-out and the background."""

    numbers: range
    collage: "Collage"
    heldout: "Callable[[Sequence[int]], NDArray[np.bool_]]"

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, slice):
            return self[index : index + 1 or None][0]
        numbers = self.numbers[index]
        names = []
        for number, held in zip(numbers, self.heldout(numbers).tolist(), strict=True):
            cutout, background = self.collage.files(number, held)
            names.append(
                f"{number}: {readable(self.collage.cutouts.names[cutout])} on "
                f"{readable(self.collage.backgrounds.names[background])}"
            )
        return names


class _Names(Sequence[str]):
    """Names in little more memory than their letters, for there may be millions."""

    def __init__(self) -> None:
        self._letters = bytearray()
        self._ends = array("q", [0])

    def append(self, name: str) -> None:
        """One more."""
        self._letters += name.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._letters))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        return self._letters[self._ends[number] : self._ends[number + 1]].decode("utf-8", "surrogateescape")


def _no_copies(folder: FolderSource, catalogue: Catalogue) -> None:
    """Raises InputError where two files have equal bytes. Only files of equal size are read."""
    of_size: dict[int, list[str]] = {}
    for name, size in zip(catalogue.names, catalogue.sizes, strict=True):
        of_size.setdefault(size, []).append(name)
    for names in of_size.values():
        seen: dict[str, str] = {}
        for name, data in zip(names, folder.fetch((), names) if len(names) > 1 else [], strict=False):
            digest = hashlib.sha256(data).hexdigest() if isinstance(data, bytes) else name
            if digest in seen:
                raise InputError(
                    f"every image once in {folder.url}",
                    f"{readable(seen[digest])} and {readable(name)} of equal bytes, which could be held out and not",
                    "Take one of them away.",
                )
            seen[digest] = name


def _read_one(folder: FolderSource, name: str) -> bytes:
    """The bytes of one file. Raises InputError where there are none."""
    (data,) = folder.fetch((), (name,))
    if isinstance(data, Unreadable):
        raise InputError(f"a file that can be read in {folder.url}", f"{readable(name)}: {data.reason}", "Put it back.")
    return data


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _spellings(folders: Set[str]) -> dict[str, str]:
    """The class of each composed name (NFC): folders whose names differ only in how accents are encoded are one class.

    It is spelled as its folder is; where there are several, as the first of them.
    """
    return {_composed(name): name for name in sorted(folders, reverse=True)}


def _protocols(files: Any) -> tuple[str, ...]:
    return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)


def _walk(folder: str, inside: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, int]]:
    """Files below a local folder in the order of their paths; links are followed, but never into a folder that they
    stand in.
    """
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            # A hidden folder is named and not entered.
            kind = _kind(entry) if not hidden(entry.name) else "file"
            if kind != "other":
                # The order of paths is that of the names, where a folder's ends in a slash.
                names.append(f"{entry.name}/" if kind == "folder" else entry.name)
    names.sort()
    for name in names:
        if name.endswith("/"):
            yield from _walk(f"{folder}/{name[:-1]}", f"{inside}{name}", above | {here})
        else:
            yield f"{inside}{name}", _size(f"{folder}/{name}")


def _no_image(name: str, first_bytes: Callable[[str], bytes]) -> str | None:
    """The kind of a file that is no image by its name, or without an ending by its first bytes; None for an image."""
    if hidden(name):
        return HIDDEN
    kind = kind_of(name)
    if kind in ENDINGS or (kind == "no ending" and has_signature(first_bytes(name))):
        return None
    return kind


def _first_bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(SIGNATURE_BYTES)
    except OSError:
        return b""


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _kind(entry: "os.DirEntry[str]") -> Literal["folder", "file", "broken link", "other"]:
    """What stands there, or what a link leads to. Pipes and devices are `other`: reading one may never end."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
    except OSError:
        return "broken link"
    return "broken link" if entry.is_symlink() else "other"
