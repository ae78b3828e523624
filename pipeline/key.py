"""The key: what an artifact is made from, as a document, and the sha256 of its canonical JSON (RFC 8785).

The document is `{format, stage, version, fields, inputs: {name: key}, external: {name: digest}}`. It is taken from the
validated model, so `1e-4` and `0.0001` are one. Fields marked `Unkeyed` stay out; fields marked `Added` stay out where
they equal the value that old keys meant; of fields marked `Function` that name a file, the function's name alone is in.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import rfc8785
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from pipeline.errors import UsageError
from stages.contract import Added, Function, Stage, Unkeyed

FORMAT = 1
"""Raised when the document's layout changes: every key changes with it."""

SHORT = 16
"""Hex digits of a key that name a folder."""

Document: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Key:
    """The key document of an artifact and its digest. `former`: it has the paths of files of code, as keys once did."""

    document: Document
    digest: str
    former: bool = False

    @property
    def short(self) -> str:
        """The digits that name the artifact's folder."""
        return self.digest[:SHORT]


def key_of(stage: Stage, inputs: Mapping[str, str], external: Mapping[str, str], former: bool = False) -> Key:
    """The key of a stage with these inputs (name -> full key) and this outside world (name -> digest).

    `former`: the key that a stage with a file of code had while that file's path was in it.
    """
    document: Document = {
        "format": FORMAT,
        "stage": stage.name,
        "version": stage.version,
        "fields": fields_of(stage, former),
        "inputs": dict(inputs),
        "external": dict(external),
    }
    return Key(document, digest_of(document), former)


def digest_of(document: Mapping[str, Any]) -> str:
    """sha256 (hex) of the canonical JSON. Raises `UsageError` for numbers that JSON cannot carry exactly."""
    return hashlib.sha256(canonical(document)).hexdigest()


def canonical(document: Mapping[str, Any]) -> bytes:
    """Canonical JSON (RFC 8785)."""
    try:
        return rfc8785.dumps(dict(document))
    except rfc8785.CanonicalizationError as error:
        raise UsageError(
            "numbers that JSON carries exactly: finite, integers below 2**53",
            str(error),
            "Change that field of the study.",
        ) from error


def fields_of(model: BaseModel, former: bool = False) -> Document:
    """The keyed fields of a model as JSON, nested models included, all defaults expanded.

    `former`: with the paths of files of code.
    """
    found = _keyed(model, model.model_dump(mode="json"), former)
    assert isinstance(found, dict)
    return found


def _keyed(value: Any, dumped: Any, former: bool) -> Any:
    """Walks a value beside its JSON form, because only the value knows which fields are keyed."""
    if isinstance(value, BaseModel):
        assert isinstance(dumped, dict), f"{type(value).__name__} must dump to an object to have a key"
        kept = {}
        for name, field in type(value).model_fields.items():
            if any(isinstance(mark, Unkeyed) for mark in field.metadata):
                continue
            entry = _keyed(getattr(value, name), dumped[name], former)
            if not former and any(isinstance(mark, Function) for mark in field.metadata):
                location, _, function = entry.rpartition(":")
                entry = function if location.endswith(".py") else entry
            added = [mark for mark in field.metadata if isinstance(mark, Added)]
            if any(_same(entry, to_jsonable_python(mark.when_absent)) for mark in added):
                continue
            kept[name] = entry
        return kept
    if isinstance(value, Mapping):
        pairs = zip(value.values(), dumped.items(), strict=True)
        return {name: _keyed(inner, entry, former) for inner, (name, entry) in pairs}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_keyed(inner, entry, former) for inner, entry in zip(value, dumped, strict=True)]
    if isinstance(value, set | frozenset):
        return sorted(dumped, key=lambda entry: json.dumps(entry, sort_keys=True))
    return dumped


def _same(a: Any, b: Any) -> bool:
    """Equality in JSON: 1 and 1.0 are one number, 1 and true are not."""
    return rfc8785.dumps(a) == rfc8785.dumps(b)
