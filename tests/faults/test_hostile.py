"""A store that somebody has tampered with leads nobody out of it, and what was put there is no hit."""

import json
from pathlib import Path

import pytest

from cluster.inline import Inline
from pipeline.artifact import StoredInput
from pipeline.errors import UsageError
from pipeline.manifest import Manifest, Ref
from pipeline.plan import plan
from pipeline.run import run
from pipeline.store import open_store
from stages.errors import FormatError
from tests.faults.arithmetic import graph

GRAPH = graph(parts=2)[:1]
SECRET = b"[1, 2, 3, 4]"
"""Of the same bytes as the first numbers are, so that it differs from them by its folder alone."""


def made(folder: Path) -> Path:
    """The folder of numbers in a local store, beside a file that is no part of the store."""
    (folder / "secret").write_bytes(SECRET)
    return Path(run(GRAPH, open_store(str(folder / "store")), Inline).url("numbers"))


def opened(numbers: Path) -> StoredInput:
    """The numbers as another step would read them."""
    manifest = Manifest.model_validate_json((numbers / "manifest.json").read_bytes())
    store = open_store(str(numbers.parents[3]))
    ref = Ref(store=store.url, stage="numbers", key=manifest.key, generation=0, digest=manifest.digest)
    return StoredInput(ref, store)


@pytest.mark.parametrize("name", ["../../../../../secret", "/etc/hostname", "a/../../b"])
def test_names_in_a_manifest_that_lead_out_of_the_store_are_refused(tmp_path: Path, name: str) -> None:
    numbers = made(tmp_path)
    document = json.loads((numbers / "manifest.json").read_text())
    document["objects"][name] = document["objects"]["numbers-00000.json"]
    (numbers / "manifest.json").write_text(json.dumps(document))
    found = opened(numbers)
    assert name in found.names()
    with pytest.raises(UsageError, match="object names of letters"):
        found.read(name)


def test_a_link_in_the_place_of_an_object_is_read_as_damage_and_made_again(tmp_path: Path) -> None:
    numbers = made(tmp_path)
    (tmp_path / "secret").write_bytes(SECRET + b" ")
    (numbers / "numbers-00000.json").unlink()
    (numbers / "numbers-00000.json").symlink_to(tmp_path / "secret")
    with pytest.raises(FormatError, match="It is damaged"):
        opened(numbers).read("numbers-00000.json")
    store = open_store(str(tmp_path / "store"))
    assert plan(GRAPH, store)[0].state == "BROKEN"
    again = Path(run(GRAPH, store, Inline).url("numbers"), "numbers-00000.json")
    assert again.read_bytes() == SECRET
    assert not again.is_symlink()
    assert (tmp_path / "secret").read_bytes() == SECRET + b" "
