"""What a dataset's own columns say of its images: attributes by declaration, and which images are held out."""

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveFloat, model_validator

from stages.attributes import Attribute
from stages.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

CLASS_LIMIT = 30_000
"""Different values above which a column is taken for an id or a text and for no class."""

UNDEFINED = frozenset({"", "#n/a", "#na", "<na>", "n/a", "na", "nan", "nat", "null"})
"""Texts, in lower case, that are no class but say that there is none."""

TEXT_LIMIT = 200
"""Letters of the name of a class."""

_NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]")
"""Letters that no text has: control characters, as where the bytes of a number are read as one, and surrogates."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


class Column(BaseModel):
    """How a column becomes an attribute; where only its kind is said, the word alone will do: `{hue: circle}`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["auto", "class", "scalar", "circle"] = "auto"
    """`auto`: by the column's type: texts, booleans and named numbers are classes, fractions scalars."""
    period: PositiveFloat = 1.0
    """Of a circle: the value at which it is where it was at 0, for example 360."""
    mirror: Literal["same", "complement", "negate", "unknown"] = "same"
    """What becomes of the value when the image is mirrored left to right; `complement`: 1 - value, `negate`: -value."""

    @model_validator(mode="before")
    @classmethod
    def _by_its_kind(cls, value: Any) -> Any:
        if value is None:
            return {}
        return {"kind": value} if isinstance(value, str) else value


def _by_name(columns: Any) -> Any:
    return dict.fromkeys(columns) if isinstance(columns, list | tuple) else columns


Columns: TypeAlias = Annotated[dict[str, Column], BeforeValidator(_by_name)]
"""Columns that become attributes; a list of names takes each for what it is."""


class Split(BaseModel):
    """Which images are held out, by a column of the dataset or by the names of its files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str | None = None
    """None: the name of the file in which the image stands decides, and values are patterns such as `test-*`."""
    heldout: tuple[str, ...] = Field(min_length=1)
    """Values of held-out images."""
    train: tuple[str, ...] = ()
    """Values of train images; none: all others."""

    def of(self, value: str | None, where: str) -> Literal["train", "heldout"]:
        """Train or held out, by the column's value or the file's name; blanks around a value do not count.

        Raises InputError for a value nobody named, and for one that differs in case alone from one of a held-out image.
        """
        if self.column is not None and value is not None:
            value = value.strip()
        if self._names(self.heldout, value):
            return "heldout"
        alike = self.column is not None and value is not None and value.casefold() in map(str.casefold, self.heldout)
        if self._names(self.train, value) or not (self.train or alike):
            return "train"
        kind = "the file" if self.column is None else f"{self.column}:"
        value = None if value is None else value.encode("utf-8", "backslashreplace").decode()
        if alike:
            raise InputError(
                f"one spelling of {', '.join(self.heldout)}", f"{kind} {value} in {where}", "Name it in `heldout`, too."
            )
        raise InputError(
            f"`split` to say where every image belongs, by {', '.join((*self.train, *self.heldout))}",
            f"{kind} {value} in {where}",
            "Name it in `train` or `heldout`, or leave `train` out: then all others are train images.",
        )

    def nothing_held_out(self, where: str, values: Sequence[str]) -> InputError:
        """Where no image is held out. `values`: those that there are instead, sorted, as many as a message names."""
        what = f"the column {self.column}" if self.column is not None else "the names of the files"
        return InputError(
            f"images that `split` holds out, by {', '.join(self.heldout)} in {what} of {where}",
            f"none; values there are: {', '.join(values)}" if values else "none",
            "Correct `heldout`.",
        )

    def _names(self, entries: tuple[str, ...], value: str | None) -> bool:
        if value is None:
            return False
        if self.column is not None:
            return value in entries
        # A pattern without a folder is one of the file's own name.
        return any(fnmatchcase(value if "/" in e else value.rpartition("/")[2], e) for e in entries)


@dataclass(frozen=True)
class Declared:
    """An attribute of a file of images, before the classes of all files are known.

    `classes`: their names in order, where the file itself says so. `asked`: a person named it in the study.
    """

    column: str
    name: str
    kind: Literal["class", "scalar", "circle"]
    period: float = 1.0
    mirror: Literal["same", "complement", "negate", "unknown"] = "same"
    classes: tuple[str, ...] | None = None
    asked: bool = True

    def attribute(self, classes: tuple[str, ...] = ()) -> Attribute:
        """The attribute, with the classes that all files have together."""
        return Attribute(
            name=self.name, kind=self.kind, mirror=self.mirror, classes=classes if self.kind == "class" else ()
        )

    def value(self, found: Any) -> str | float | None:
        """A column's value as the attribute's: the name of a class, or a number. None: undefined.

        Raises ValueError, with what is wrong in words.
        """
        if found is None or (isinstance(found, float) and math.isnan(found)):
            return None
        if self.kind == "class":
            return self._class_of(found)
        if isinstance(found, str) and class_name(found) is None:
            return None
        number = _number(found)
        if number is None:
            raise ValueError(f"{self.column} is no number but {_shown(found)}")
        if not math.isfinite(number):
            raise ValueError(f"{self.column} is infinite")
        if self.kind == "scalar":
            return number
        turn = (number / self.period) % 1.0
        return turn if turn < 1.0 else 0.0

    def _class_of(self, found: Any) -> str | None:
        if isinstance(found, bool):
            return "true" if found else "false"
        if isinstance(found, str) and self.classes is not None and found in self.classes:
            return found
        # A column of whole numbers of which some are missing is often stored as fractions.
        whole = isinstance(found, int) or (isinstance(found, float | Decimal) and found == found // 1)
        text = str(int(found)) if whole else found
        if isinstance(text, str) and len(text) <= TEXT_LIMIT and not _NO_TEXT.search(text):
            return class_name(text)
        raise ValueError(f"{self.column} is no class but {_shown(found)}")


def class_name(text: str) -> str | None:
    """The name of a class from a cell: without blanks around it and composed (NFC); None where it is undefined."""
    text = unicodedata.normalize("NFC", text.strip())
    return None if text.lower() in UNDEFINED else text


def _number(found: Any) -> float | None:
    """A number, or a text that is one, as a float; None for anything else."""
    text = isinstance(found, str) and _NUMBER.fullmatch(found.strip()) is not None
    if not text and not isinstance(found, int | float | Decimal):
        return None
    try:
        return float(found)
    except OverflowError:
        return math.inf


def kind_of(column: str, found: "pa.DataType") -> Literal["class", "scalar"]:
    """What a column of this type is. Raises InputError where the type does not say."""
    import pyarrow.types as types

    kind = found.value_type if types.is_dictionary(found) else found
    if types.is_boolean(kind) or types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "class"
    if types.is_floating(kind) or types.is_decimal(kind):
        return "scalar"
    remedy = "Leave it out of `columns`."
    if types.is_integer(kind):
        remedy = f"Say which of both they are: `{column}: class` or `{column}: scalar`."
    raise InputError(f"texts, fractions or named numbers in the column {column}", f"{kind}", remedy)


def in_order(classes: set[str]) -> tuple[str, ...]:
    """Classes as a person counts them: whole numbers by their value, all else by letters."""
    if all(name.isascii() and name.removeprefix("-").isdigit() for name in classes):
        return tuple(sorted(classes, key=lambda name: (int(name), name)))
    return tuple(sorted(classes))


def _shown(found: Any) -> str:
    if isinstance(found, str):
        found = found.encode("utf-8", "backslashreplace").decode()
        return f"a text of {len(found)} letters" if len(found) > 40 else repr(found)
    return {"dict": "a record", "list": "a list", "float": f"the fraction {found}"}.get(
        type(found).__name__, type(found).__name__
    )
