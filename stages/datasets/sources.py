"""Where images come from: the settings of each source, and how its images are named, counted, labelled and fetched.

Scenes, folders and collages are catalogued: they are asked for their `catalogue` (what is there, without decoding an
image), the `values` of the attributes of some rows, and the bytes of some rows (`fetch`). The others are files of many
images each (`stages.datasets.files`), of which nothing is known before they are read.
"""

import hashlib
import os
import re
import unicodedata
from array import array
from collections import Counter
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
from stages.external.passed_over import PassedOver, hidden, kind_of
from stages.external.ranges import READERS, Unreadable, open_url, readable, remedy_for
from stages.images.image_file import ENDINGS, SIGNATURE_BYTES, has_signature

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from stages.datasets.collage import Collage

_PART = (
    "train|training|val|valid|validation|test|testing|eval|evaluation|dev|held ?out|hold ?out|unlabell?ed"
    "|entrenamiento|prueba|validacion|entrainement|apprentissage|treino|teste|validacao|validierung"
)
SPLITS = re.compile(f"({_PART})( ?(set|data|images?|imgs?|split))*")
"""Names of folders, as words (`_words`), that divide a dataset and are no classes of it."""

_PARTS = re.compile(rf"\b({_PART}|tr|ts)\b")
"""A part of a dataset among the words of a longer name, as in `imagesTr`."""

_WORD = re.compile(r"[a-z]+|[A-Z]+(?![a-z])|[A-Z][a-z]*")

NAMED_FOLDERS = 5
"""Folders that a message names."""


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
    notes: tuple[str, ...] = ()
    """Sentences on what the source leaves open."""

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
                if not hidden(top):
                    without.add(top)
        if not names:
            kinds = ", ".join(f"{count} x {ending}" for ending, count in passed_over.counts.most_common(5))
            raise InputError(
                f"images ({', '.join(ENDINGS)}) in {self.url}",
                f"none, and {passed_over.counts.total()} other files{f' ({kinds})' if kinds else ''}",
                remedy_for(passed_over.counts) or "Name the folder that holds the images.",
            )
        attributes: tuple[Attribute, ...] = ()
        notes: list[str] = []
        if self.labels == "folders":
            classes, notes = self._classes(names)
            attributes = (classes,)
        labels = None
        if self.table is not None:
            labels = self.table.of(names, self.url)
            if any(attribute.name == "class" for attribute in labels.attributes) and attributes:
                raise InputError(
                    "one attribute `class`", "a column of that name and folders of classes", "Set `labels: none`."
                )
            attributes += labels.attributes
            notes += labels.notes
        lost = tuple(sorted(without - with_images - {""})) if self.labels == "folders" else ()
        return Catalogue(names, attributes, sizes, passed_over, lost, labels, tuple(notes))

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
                for name, kind in _walk(root or "/", "", frozenset()):
                    if kind == "file":
                        yield (
                            name,
                            _size(f"{root}/{name}"),
                            _no_image(name, lambda name: _first_bytes(f"{root}/{name}")),
                        )
                    else:
                        yield name, 0, hidden(name) or kind
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

    def _classes(self, names: Sequence[str]) -> tuple[Attribute, list[str]]:
        """The attribute `class`, and sentences on what its folders may mean instead."""
        loose = [name for name in names if "/" not in name]
        if loose:
            raise InputError(
                f"every image in a folder named after its class, below {self.url}",
                f"{len(loose)} of {len(names)} images directly in it, such as {readable(loose[0])}",
                "Move them into class folders, or set `labels: none` to work without classes.",
            )
        inside: dict[str, set[str]] = {}
        flat = False
        for name in names:
            top, *deeper, _ = readable(name).split("/")
            inside.setdefault(top, set()).update(deeper[:1])
            flat = flat or not deeper
        classes = tuple(sorted(set(_spellings(inside.keys()).values())))
        expected = f"a folder per class directly below {self.url}"
        dividing = _dividing(inside.keys())
        if dividing and (len(inside) > 1 or any(inside.values())):
            often = Counter(name for found in inside.values() for name in found)
            often.update(inside.keys())
            repeated = [folder for folder in dividing if any(often[name] > 1 for name in inside[folder])]
            if len(dividing) == len(inside) or repeated:
                raise InputError(
                    expected,
                    f"the folders {', '.join(repeated or dividing)}, which divide a dataset",
                    "Name one of them as `url` (images are held out by Repscope itself), or set `labels: none`.",
                )
        above = os.path.commonpath([readable(name).rpartition("/")[0] for name in names]) if len(inside) == 1 else ""
        below = {readable(name)[len(above) + 1 :].partition("/")[0] for name in names} if above and not flat else set()
        if len(below) > 1 and not any(readable(name).rpartition("/")[0] == above for name in names):
            raise InputError(
                expected,
                f"the folder {above} alone, with {', '.join(sorted(below)[:NAMED_FOLDERS])} in it",
                f"Name {above} as `url`, or set `labels: none`.",
            )
        shared = sorted(set.intersection(*inside.values()))
        notes = []
        if dividing and len(inside) > 1:
            notes.append(f"{', '.join(dividing)} is taken for a class, as the other folders are")
        if len(inside) > 1 and not flat and len(shared) > 1:
            notes.append(
                f"the folders {', '.join(classes[:NAMED_FOLDERS])} are the classes, although all of them have the same "
                f"folders in them: {', '.join(shared[:NAMED_FOLDERS])}"
            )
        return Attribute(name="class", kind="class", classes=classes), notes


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

    def drawing_seconds(self) -> float:
        """Seconds of one CPU to draw one image, with its share of what it takes to read both folders once.

        Measured with the recipe `photos` (docs/results/photos.md) at 64, 112 and 224 pixels.
        """
        cutouts, backgrounds, _ = self._material
        read = sum(cutouts.sizes) + sum(backgrounds.sizes)
        return 8e-4 + 7.7e-7 * self.size**2 + 1.8e-7 * read / self.count

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
            notes=(*cutouts.notes, *backgrounds.notes),
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
    return unicodedata.normalize("NFC", name).strip()


def _dividing(folders: Set[str]) -> list[str]:
    """Those folders, sorted, that divide a dataset by their names. All of them, where each has a word for a part of a
    dataset in its name and they have different ones, as `seg_train` and `seg_test`.
    """
    words = {folder: _words(folder) for folder in folders}
    parts = [set(_PARTS.findall(" ".join(found))) for found in words.values()]
    if all(parts) and len(set().union(*parts)) > 1:
        return sorted(folders)
    return sorted(folder for folder, found in words.items() if SPLITS.fullmatch(" ".join(found)))


def _words(name: str) -> list[str]:
    """The words of a name, in lower case and without accents or numbers: `trainA-2017` has `train` and `a`."""
    plain = "".join(letter for letter in unicodedata.normalize("NFD", name) if not unicodedata.combining(letter))
    return [word.lower() for word in _WORD.findall(plain)]


def _spellings(folders: Set[str]) -> dict[str, str]:
    """The class of each composed name (NFC): folders whose names differ only in how accents are encoded, or in blanks
    around them, are one class.

    It is spelled as its folder is; where there are several, as the first of them without such blanks.
    """
    found: dict[str, str] = {}
    for name in sorted(folders, key=lambda name: (name != name.strip(), name)):
        found.setdefault(_composed(name), name)
    return found


def _protocols(files: Any) -> tuple[str, ...]:
    return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)


def _walk(folder: str, inside: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, str]]:
    """Files below a local folder and their kind, in the order of their paths; links are followed, but never into a
    folder that they stand in. Kinds other than `file` are not to be opened; a folder's name ends in a slash.
    """
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    names = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            # A hidden folder is named and not entered.
            kind = _kind(entry) if not hidden(entry.name) else "file"
            # The order of paths is that of the names, where a folder's ends in a slash.
            names[f"{entry.name}/" if kind == "folder" else entry.name] = kind
    if not names and inside:
        yield inside, "empty folder"
    for name, kind in sorted(names.items()):
        if kind == "folder":
            yield from _walk(f"{folder}/{name[:-1]}", f"{inside}{name}", above | {here})
        else:
            yield f"{inside}{name}", kind


def _no_image(name: str, first_bytes: Callable[[str], bytes]) -> str | None:
    """The kind of a file that is no image by its name, or without an ending by its first bytes; None for an image."""
    kind = hidden(name) or kind_of(name)
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


def _kind(entry: "os.DirEntry[str]") -> Literal["folder", "file", "no plain file"]:
    """What stands there, or what a link leads to; a link to nothing is a file, which cannot be read.

    Reading a pipe or a device, which are no plain files, may never end.
    """
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
    except OSError:
        return "file"
    return "file" if entry.is_symlink() else "no plain file"
