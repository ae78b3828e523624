"""The key: what an artifact is made from, as a document, and the sha256 of its canonical JSON (RFC 8785).

The document is `{format, stage, version, fields, inputs: {name: key}, external: {name: digest}}`. It is taken from the
validated model, so `1e-4` and `0.0001` are one. Fields marked `Unkeyed` stay out; fields marked `Added` stay out where
they equal the value that old keys meant.
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
from stages.contract import Added, Stage, Unkeyed

FORMAT = 1
"""Raised when the document's layout changes: every key changes with it."""

SHORT = 16
"""Hex digits of a key that name a folder."""

Document: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Key:
    """The key document of an artifact and its digest."""

    document: Document
    digest: str

    @property
    def short(self) -> str:
        """The digits that name the artifact's folder."""
        return self.digest[:SHORT]


def key_of(stage: Stage, inputs: Mapping[str, str], external: Mapping[str, str]) -> Key:
    """The key of a stage with these inputs (name -> full key) and this outside world (name -> digest)."""
    document: Document = {
        "format": FORMAT,
        "stage": stage.name,
        "version": stage.version,
        "fields": fields_of(stage),
        "inputs": dict(inputs),
        "external": dict(external),
    }
    return Key(document=document, digest=digest_of(document))


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


def fields_of(model: BaseModel) -> Document:
    """The keyed fields of a model as JSON, nested models included, all defaults expanded."""
    found = _keyed(model, model.model_dump(mode="json"))
    assert isinstance(found, dict)
    return found


def _keyed(value: Any, dumped: Any) -> Any:
    """Walks a value beside its JSON form, because only the value knows which fields are keyed."""
    if isinstance(value, BaseModel):
        assert isinstance(dumped, dict), f"{type(value).__name__} must dump to an object to have a key"
        kept = {}
        for name, field in type(value).model_fields.items():
            if any(isinstance(mark, Unkeyed) for mark in field.metadata):
                continue
            entry = _keyed(getattr(value, name), dumped[name])
            added = [mark for mark in field.metadata if isinstance(mark, Added)]
            if any(_same(entry, to_jsonable_python(mark.when_absent)) for mark in added):
                continue
            kept[name] = entry
        return kept
    if isinstance(value, Mapping):
        return {name: _keyed(inner, entry) for inner, (name, entry) in zip(value.values(), dumped.items(), strict=True)}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_keyed(inner, entry) for inner, entry in zip(value, dumped, strict=True)]
    if isinstance(value, set | frozenset):
        return sorted(dumped, key=lambda entry: json.dumps(entry, sort_keys=True))
    return dumped


def _same(a: Any, b: Any) -> bool:
    """Equality in JSON: 1 and 1.0 are one number, 1 and true are not."""
    return rfc8785.dumps(a) == rfc8785.dumps(b)
