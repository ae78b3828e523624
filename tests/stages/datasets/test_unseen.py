"""Combinations that a listing keeps from encoders and the decoder: which images have one, and what is refused."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import TypeAdapter

from stages.attributes import Attribute
from stages.datasets import scenes
from stages.datasets.sources import ScenesSource
from stages.errors import InputError
from stages.listing.stage import Listing
from stages.listing.unseen import Combinations, check, first_met
from stages.readers.data import rows_of, unseen_rows
from stages.shards.stage import Shards
from tests.artifacts import MemoryArtifact, run_stage
from tests.stages.datasets.listed import SOURCE, fill, table
from tests.stages.datasets.written import hf_parquet, picture

KNOWN = (
    Attribute(name="digit", kind="class", classes=("3", "7", "1234567")),
    Attribute(name="place", kind="class", classes=("cafe\u0301",)),
    Attribute(name="angle", kind="circle"),
    Attribute(name="size", kind="scalar"),
)
WRITTEN: TypeAdapter[Any] = TypeAdapter(Combinations)


@pytest.mark.parametrize(
    ("written", "values", "met"),
    [
        ({"digit": 3}, {"digit": "3"}, 0),
        ({"digit": "3"}, {"digit": "7"}, None),
        ({"digit": " 3 "}, {"digit": "3"}, 0),
        ({"digit": 1234567}, {"digit": "1234567"}, 0),
        ({"place": "caf\u00e9"}, {"place": "cafe\u0301"}, 0),
        ({"digit": [3, 7], "size": [0, 1]}, {"digit": "7", "size": 0.0}, 0),
        ({"digit": [3, 7], "size": [0, 1]}, {"digit": "7", "size": 1.0}, None),
        ({"digit": [3, 7], "size": [0, 1]}, {"digit": "7"}, None),
        ({"angle": [0.9, 0.1]}, {"angle": 0.95}, 0),
        ({"angle": [0.9, 0.1]}, {"angle": 0.05}, 0),
        ({"angle": [0.9, 0.1]}, {"angle": 0.5}, None),
        ([{"digit": 3}, {"size": [0, 1]}], {"digit": "7", "size": 0.5}, 1),
    ],
)
def test_an_image_has_a_combination_where_it_meets_all_of_its_values(
    written: object, values: dict[str, str | float], met: int | None
) -> None:
    combinations = WRITTEN.validate_python(written)
    check(combinations, KNOWN, "the source")
    assert first_met(combinations, KNOWN, values) == met


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"colour": "red"}, "attribute colour.*angle, digit, place, size"),
        ({"digit": [3, 8]}, "classes of digit under `unseen`; found 8, of 3, 7, 1234567"),
        ({"size": 3}, "two numbers under `unseen` for size, a scalar"),
        ({"angle": ["a", "b"]}, "two numbers under `unseen` for angle, a circle"),
    ],
)
def test_an_attribute_that_is_not_there_and_a_number_without_ends_are_refused(written: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check(WRITTEN.validate_python(written), KNOWN, "the source")


def listed(**settings: Any) -> MemoryArtifact:
    source = ScenesSource(kind="scenes", count=120, seed=3)
    return run_stage(Listing.model_validate({"source": source, "holdout": 0.3, **settings}))


def test_unseen_images_are_neither_train_images_nor_held_out_and_all_others_stay_where_they_were() -> None:
    listing = listed(unseen={"shape": ["disc", "star"], "hue": [0.8, 0.3]})
    values = scenes.sample(3, range(120))
    hue, shape = values["hue"], values["shape"]
    wanted = ((hue >= 0.8) | (hue < 0.3)) & np.isin(shape, [scenes.SHAPES.index(name) for name in ("disc", "star")])
    found, before = (table(each, "listing.parquet").split for each in (listing, listed()))
    assert wanted.sum() > 5
    assert ((found == "unseen") == wanted).all()
    assert (found[~wanted] == before[~wanted]).all()
    assert listing.summary["unseen"] == wanted.sum()
    shards = run_stage(Shards(shard_rows=50), {"listing": listing})
    counted = {name: shards.summary[name] for name in ("ok", "unseen")}
    assert counted == {"ok": 120, "unseen": wanted.sum()}
    both = np.concatenate(unseen_rows(shards))
    assert np.array_equal(np.sort(both), np.flatnonzero(wanted))
    assert not np.isin(both, np.concatenate([rows_of(shards, "train"), rows_of(shards, "heldout")])).any()


def test_a_combination_that_no_image_has_is_refused() -> None:
    with pytest.raises(InputError, match=r"`unseen` names by shape disc, hue 0\.5 0\.5; found none"):
        listed(unseen=[{"hue": [0.0, 0.5]}, {"shape": "disc", "hue": [0.5, 0.5]}])


def test_a_split_of_the_source_yields_to_what_is_unseen(root: str) -> None:
    columns = {"kind": pa.array(["a", "b", "c", "a", "b", "c"]), "part": pa.array(["test", "train"] * 3)}
    data = [picture(number, "jpg") for number in range(6)]
    texts = {name: {"dtype": "string"} for name in columns}
    fill(root, {"x.parquet": hf_parquet(data, columns, texts, group_rows=4)})
    split = {"column": "part", "heldout": ["test"]}
    source = SOURCE.validate_python({"kind": "parquet", "url": root, "columns": {"kind": "class"}, "split": split})
    listing = run_stage(Listing(source=source, unseen=({"kind": ("c",)},)))
    splits = table(listing, "listing.parquet").split.tolist()
    assert splits == ["heldout", "train", "unseen", "train", "heldout", "unseen"]
