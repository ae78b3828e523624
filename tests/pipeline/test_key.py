"""The key: literal digests that no change of ours may move, and what is in it and what is not."""

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from pipeline.errors import UsageError
from pipeline.key import canonical, fields_of, key_of
from stages.contract import Added, Stage, Unkeyed


class Inner(BaseModel):
    """A setting inside a setting."""

    kind: Literal["inner"] = "inner"
    width: int = 8
    threads: Annotated[int, Unkeyed("speed")] = 1


class Other(BaseModel):
    """Another one, told apart by `kind`."""

    kind: Literal["other"] = "other"
    height: float = 2.0


class Example(Stage):
    """A stage with every kind of field."""

    name = "example"
    version = 3
    bitwise = True

    rate: float = 1e-4
    taps: tuple[str, ...] = ("a", "b")
    inner: Annotated[Inner | Other, Field(discriminator="kind")] = Inner()
    many: tuple[Inner, ...] = ()
    named: dict[str, Inner] = Field(default_factory=dict)
    choices: frozenset[str] = frozenset({"x", "y"})
    batch: Annotated[int, Unkeyed("only speed")] = 64
    later: Annotated[int, Added(when_absent=0)] = 0
    note: str | None = None


def digest(**fields: object) -> str:
    """The key of an example without inputs."""
    return key_of(Example.model_validate(fields), {}, {}).digest


def test_digests_are_what_they_have_always_been() -> None:
    with_inputs = key_of(Example(rate=0.5), {"shards": "ab" * 32}, {"images": "cd"}).digest
    nested = digest(inner={"kind": "other"}, many=[{"width": 3}], later=5)
    assert digest() == "3704ecd086cbec41de8e5d4cb6ebc2750fdbefd54e097e1e8183141b11af4cda"
    assert with_inputs == "c46d662130e3f1cf9b34122d8722b83e8809f10aeb1586bff7b8e8d8c3945a69"
    assert nested == "28b24398a921c914d6394c556e38f9c03286389bf9e148d72cac7d4982f257f8"


def test_the_document_is_the_documented_one() -> None:
    document = key_of(Example(note="é"), {"b": "2", "a": "1"}, {"images": "cd"}).document
    assert document == {
        "format": 1,
        "stage": "example",
        "version": 3,
        "fields": {
            "rate": 1e-4,
            "taps": ["a", "b"],
            "inner": {"kind": "inner", "width": 8},
            "many": [],
            "named": {},
            "choices": ["x", "y"],
            "note": "é",
        },
        "inputs": {"a": "1", "b": "2"},
        "external": {"images": "cd"},
    }
    assert canonical({"b": 1.0, "a": 1e-4, "c": "é"}) == '{"a":0.0001,"b":1,"c":"é"}'.encode()


def test_one_number_written_in_two_ways_is_one_key() -> None:
    assert digest(rate=1e-4) == digest(rate=0.0001) == digest(rate="0.0001") == digest()


def test_a_field_that_cannot_change_the_answer_is_not_in_the_key() -> None:
    assert digest(batch=1) == digest(batch=2)
    assert digest(inner={"kind": "inner", "threads": 7}) == digest()
    assert digest(many=[{"threads": 7}]) == digest(many=[{"threads": 1}])
    assert digest(named={"a": {"threads": 7}}) == digest(named={"a": {"threads": 1}})


@pytest.mark.parametrize(
    "changed",
    [
        {"rate": 2e-4},
        {"taps": ("b", "a")},
        {"inner": {"kind": "inner", "width": 9}},
        {"inner": {"kind": "other"}},
        {"many": [{"width": 8}]},
        {"named": {"a": {}}},
        {"choices": ["x"]},
        {"later": 1},
        {"note": ""},
    ],
)
def test_every_other_field_is_in_the_key(changed: dict[str, object]) -> None:
    assert digest(**changed) != digest()


def test_a_field_added_later_leaves_old_keys_as_they_were() -> None:
    class Before(Stage):
        name = "same"
        version = 1
        bitwise = True
        a: int = 1

    class After(Stage):
        name = "same"
        version = 1
        bitwise = True
        a: int = 1
        b: Annotated[int | None, Added(when_absent=None)] = None

    class ChangedDefault(Stage):
        name = "same"
        version = 1
        bitwise = True
        a: int = 1
        b: Annotated[int | None, Added(when_absent=None)] = 5

    assert key_of(Before(), {}, {}).digest == key_of(After(), {}, {}).digest
    assert key_of(Before(), {}, {}).digest != key_of(ChangedDefault(), {}, {}).digest
    assert "b" in fields_of(After(b=0))


def test_inputs_sources_and_version_are_in_the_key() -> None:
    plain = key_of(Example(), {}, {}).digest
    assert key_of(Example(), {"a": "1"}, {}).digest != plain
    assert key_of(Example(), {}, {"a": "1"}).digest != plain
    assert key_of(Example(), {"a": "1"}, {}).digest != key_of(Example(), {"b": "1"}, {}).digest

    class Newer(Example):
        version = 4

    assert key_of(Newer(), {}, {}).digest != plain


@pytest.mark.parametrize("rate", [float("nan"), float("inf")])
def test_a_number_that_json_cannot_carry_is_refused_with_a_message(rate: float) -> None:
    with pytest.raises(UsageError, match="finite"):
        digest(rate=rate)
