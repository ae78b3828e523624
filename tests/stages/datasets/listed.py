"""What `listing` and `shards` make of files that a test puts somewhere."""

import hashlib
import io
from collections.abc import Mapping
from typing import Any

import fsspec
import pandas as pd
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter

from stages import attributes
from stages.datasets.sources import DatasetSource
from stages.errors import InputError
from stages.images.sets import open_images
from stages.listing.stage import Listing
from stages.shards.stage import Shards
from tests.artifacts import MemoryArtifact, run_stage
from tests.stages.datasets.written import (
    picture,
)

SOURCE: TypeAdapter[Any] = TypeAdapter(DatasetSource)


def fill(root: str, files: Mapping[str, bytes]) -> str:
    system, path = fsspec.core.url_to_fs(root)
    for name, data in files.items():
        system.makedirs(f"{path}/{name}".rpartition("/")[0], exist_ok=True)
        system.pipe_file(f"{path}/{name}", data)
    return root


def listed(holdout: float = 0.4, max_bad: float = 0.001, **source: Any) -> MemoryArtifact:
    return run_stage(Listing(source=SOURCE.validate_python(source), holdout=holdout, max_bad=max_bad))


def table(artifact: MemoryArtifact, name: str = "index.parquet") -> pd.DataFrame:
    """A table as it is stored; beside the labels of an index stand their values, as `attribute.<name>`."""
    found: pd.DataFrame = pq.read_table(io.BytesIO(artifact.objects[name])).to_pandas()
    if name != "index.parquet":
        return found
    values = open_images(artifact).values()
    return found.assign(**{attributes.PREFIX + name: column for name, column in values.items()})


def both(rows: int = 7, **settings: Any) -> tuple[MemoryArtifact, MemoryArtifact, list[bytes]]:
    """Listing, shards, and the encoded images of all sound rows as `open_images` gives them."""
    listing = listed(**settings)
    shards = run_stage(Shards(shard_rows=rows), {"listing": listing})
    images = open_images(shards)
    found: dict[int, bytes] = {}
    for part in range(images.parts):
        numbers, data = images.read_part(part)
        assert isinstance(data, list)
        found |= dict(zip(map(int, numbers), data, strict=True))
    index = table(shards)
    assert index.row.tolist() == list(range(len(index)))
    for entry in index[index.status == "ok"].itertuples():
        assert hashlib.sha256(found[entry.row]).hexdigest() == entry.sha256
    return listing, shards, [found[row] for row in sorted(found)]


def declared(shards: MemoryArtifact) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {a.name: (a.kind, a.classes) for a in attributes.load(shards.objects["attributes.json"])}


def refusal(**source: Any) -> str:
    with pytest.raises(InputError) as caught:
        both(**{"holdout": 0.0} | source)
    return str(caught.value)


def samples(count: int, first: int = 0, **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "__key__": f"{first + n:06d}",
            ("jpg" if n % 3 else "png"): picture(first + n, "jpg" if n % 3 else "png"),
            "cls": (first + n) % 11,
            "json": {"shape": "disc" if n % 2 else "bar", "pose": {"angle": 45 * n}, "weight": n / 4},
            "txt": f"caption {n}",
            **more,
        }
        for n in range(count)
    ]
