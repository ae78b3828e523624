"""The science's errors, as one tree; the command line turns each into a message and an exit code.

    StageError
    ├── InputError       what the user gave cannot be used: a dataset, an image, an encoder, a setting
    ├── FormatError      an object in the store is not what its format says
    ├── ConflictError    two executions of one part disagree about bytes that must be equal
    └── RaceError        something changed while it was read: the same again may succeed

Every message says what was expected, what was found and what to do. None holds credentials.
"""

import re
from typing import Any

_USER = re.compile(r"://[^/\s\"]*@")
_WEB_QUERY = re.compile(r"(https?://[^\s?'\"<>]*\?)([^\s'\"<>]+)")
_VALUE = re.compile(r"([?&#][A-Za-z_$%][\w.~%$-]*=)[^&\s'\"<>]*[^&\s'\"<>()\[\]{},;.]")
_LABELLED = re.compile(
    r"((?:password|passwd|secret|secret_?key|token|signature|credentials?|access_?key(?:_?id)?|account_?key|api_?key)"
    r"(?:=|['\"]\s*[:=]\s*)['\"]?)[^\s'\"&;,()<>*]{6,}",
    re.IGNORECASE,
)
_HEADER = re.compile(r"(authorization['\"]?\s*[:=]\s*['\"]?(?:basic\s+|bearer\s+)?)[^\s'\",*]{6,}", re.IGNORECASE)


def without_credentials(found: Any) -> Any:
    """A text, or JSON of texts, with `***` for what it has of credentials.

    These are what URLs have before an `@` and as values after a `?`, where a signed URL has its signature, and what
    stands behind a name such as `password=`, `'token': ` or `Authorization: `, as libraries print their settings.
    """
    if isinstance(found, str):
        if "=" not in found and ":" not in found:
            return found
        text = _WEB_QUERY.sub(_without_values, _USER.sub("://***@", found))
        text = _VALUE.sub(r"\1***", text)
        return _HEADER.sub(r"\1***", _LABELLED.sub(r"\1***", text))
    if isinstance(found, dict):
        return {name: without_credentials(entry) for name, entry in found.items()}
    if isinstance(found, list | tuple):
        return [without_credentials(entry) for entry in found]
    return found


def _without_values(url: re.Match[str]) -> str:
    """A URL of the web with the names of its query alone: a token may also stand there without a name."""
    query = url[2].rstrip(".,;:)]}")
    if not query:
        return url[0]
    pairs = [piece.partition("=") for piece in query.split("&")]
    shown = "&".join(f"{name}=***" if equals else "***" for name, equals, _ in pairs)
    return url[1] + shown + url[2][len(query) :]


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
