"""Combinations of attributes that no encoder and no decoder is trained on."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Field

from stages.attributes import Attribute
from stages.datasets.columns import Declared
from stages.errors import InputError

UNSEEN = "unseen"
"""The split of images that have such a combination."""

NAMED = 10
"""Classes that a message names."""

Values: TypeAlias = Annotated[
    tuple[str | float, ...],
    BeforeValidator(lambda value: value if isinstance(value, list | tuple) else (value,)),
    Field(min_length=1),
]
"""Names of classes, or of a number its lower end and its upper end, which is not included."""
Combination: TypeAlias = Annotated[dict[str, Values], Field(min_length=1)]
"""By attribute the values of an image that has it. An image must meet all of them."""
Combinations: TypeAlias = Annotated[
    tuple[Combination, ...], BeforeValidator(lambda value: (value,) if isinstance(value, dict) else value)
]


def check(combinations: Sequence[Combination], known: Sequence[Attribute | Declared], where: str) -> None:
    """Raises InputError where a combination names an attribute that images of `where` do not have, or no range of
    it."""
    kinds = {attribute.name: attribute.kind for attribute in known}
    classes = {attribute.name: attribute.classes for attribute in known if attribute.classes}
    for name, values in (entry for combination in combinations for entry in combination.items()):
        if name not in kinds:
            found = ", ".join(sorted(kinds)) or "none"
            raise InputError(f"the attribute {name}, which `unseen` names, in {where}", found, "Correct `unseen`.")
        there = {_plain(entry) for entry in classes.get(name, ())}
        if kinds[name] == "class" and there and (none := [word(e) for e in values if _plain(word(e)) not in there]):
            some = ", ".join(classes[name][:NAMED]) + (", …" if len(classes[name]) > NAMED else "")
            raise InputError(f"classes of {name} under `unseen`", f"{none[0]}, of {some}", "Correct `unseen`.")
        if kinds[name] != "class" and _range(values) is None:
            raise InputError(
                f"two numbers under `unseen` for {name}, a {kinds[name]}",
                ", ".join(map(str, values)),
                "Write its lower and its upper end, as `[0.0, 0.25]`; those of a circle may pass through 0.",
            )


def first_met(
    combinations: Sequence[Combination], known: Sequence[Attribute | Declared], values: Mapping[str, Any]
) -> int | None:
    """Index of the first combination that an image has; None: it has none.

    `values`: by attribute the name of a class or a number; what is undefined is None or absent.
    """
    kinds = {attribute.name: attribute.kind for attribute in known}
    for index, combination in enumerate(combinations):
        if all(_meets(kinds[name], wanted, values.get(name)) for name, wanted in combination.items()):
            return index
    return None


def named(attributes: Sequence[Attribute], values: Mapping[str, Any], row: int) -> dict[str, str | float | None]:
    """The values of an image for `first_met`, from columns of numbers in which a class is its index."""
    found: dict[str, str | float | None] = {}
    for attribute in attributes:
        value = float(values[attribute.name][row])
        undefined = value != value
        if attribute.kind == "class":
            found[attribute.name] = None if undefined else attribute.classes[int(value)]
        else:
            found[attribute.name] = None if undefined else value
    return found


def word(entry: str | float) -> str:
    """A class as it is written: YAML reads the class `3` as a number."""
    return entry if isinstance(entry, str) else f"{entry:.0f}" if entry == entry // 1 else str(entry)


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip()


def _range(values: Values) -> tuple[float, float] | None:
    numbers = [float(value) for value in values if not isinstance(value, str)]
    return (numbers[0], numbers[1]) if len(numbers) == len(values) == 2 else None


def _meets(kind: str, wanted: Values, value: Any) -> bool:
    if value is None:
        return False
    if kind == "class":
        return _plain(value) in {_plain(word(entry)) for entry in wanted}
    ends = _range(wanted)
    assert ends is not None, f"{wanted} was not checked"
    low, high = ends
    if kind == "circle" and low > high:
        return bool(value >= low or value < high)
    return bool(low <= value < high)
