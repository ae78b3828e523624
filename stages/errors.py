"""The science's errors, as one tree; the command line turns each into a message and an exit code.

    StageError
    ├── InputError       what the user gave cannot be used: a dataset, an image, an encoder, a setting
    ├── FormatError      an object in the store is not what its format says
    ├── ConflictError    two executions of one part disagree about bytes that must be equal
    └── RaceError        something changed while it was read: the same again may succeed

Every message says what was expected, what was found and what to do. None holds the credentials of a URL.
"""

import re
from typing import Any

_USER = re.compile(r"://[^/\s'\"]*@")
_VALUE = re.compile(r"([?&][A-Za-z][\w.~%-]*=)[^&\s'\"<>()\[\]{},;]+")


def without_credentials(found: Any) -> Any:
    """A text, or JSON of texts, with `***` for what URLs in it have before an `@` and as values after a `?`.

    A signed URL has its signature there, and a token may stand in either.
    """
    if isinstance(found, str):
        return _VALUE.sub(r"\1***", _USER.sub("://***@", found))
    if isinstance(found, dict):
        return {name: without_credentials(entry) for name, entry in found.items()}
    if isinstance(found, list | tuple):
        return [without_credentials(entry) for entry in found]
    return found


class StageError(Exception):
    """Base of all errors raised by `stages`; `str(error)` is the message for a person."""

    def __init__(self, expected: str, found: str, remedy: str) -> None:
        expected, found, remedy = map(without_credentials, (expected, found, remedy))
        super().__init__(expected, found, remedy)
        self.expected = expected
        self.found = found
        self.remedy = remedy

    def __str__(self) -> str:
        return f"expected {self.expected}; found {self.found}. {self.remedy}"


class InputError(StageError):
    """What the user gave cannot be used."""


class FormatError(StageError):
    """An object in the store is not what its format says."""


class ConflictError(StageError):
    """Two executions of one part disagree about bytes that must be equal."""


class RaceError(StageError):
    """Something changed while it was read. An executor tries the same again by itself."""

    transient = True
