"""A set of images reads alike from tars and from a Zarr array."""

import io
import json
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages import pixels
from stages.errors import FormatError
from stages.images import Images, open_images
from stages.shards.scenes import render
from stages.shards.sources import ScenesSource
from stages.shards.stage import Listing, Shards
from tests.artifacts import MemoryArtifact, run_stage

COUNT = 20
SCENES, _ = render(0, range(COUNT))


def tars() -> MemoryArtifact:
    listing = run_stage(Listing(source=ScenesSource(count=COUNT)))
    return run_stage(Shards(shard_rows=8), {"listing": listing})


def array() -> MemoryArtifact:
    import zarr
    from zarr.storage import MemoryStore

    store = MemoryStore()
    images = zarr.create_array(store, shape=SCENES.shape, shards=(8, 32, 32, 3), chunks=(4, 32, 32, 3), dtype="uint8")
    images[:] = SCENES
    sink = io.BytesIO()
    pq.write_table(pa.table({"sample": np.arange(COUNT)}), sink)
    objects = {f"images.zarr/{name}": buffer.to_bytes() for name, buffer in store._store_dict.items()}
    return MemoryArtifact({**objects, "samples.parquet": sink.getvalue()})


@pytest.fixture(params=[tars, array], ids=["tars", "array"])
def images(request: pytest.FixtureRequest) -> Images:
    make: Callable[[], MemoryArtifact] = request.param
    return open_images(make())


def test_parts_cover_all_rows_once_and_in_order(images: Images) -> None:
    assert (images.count, images.part_rows, images.parts) == (COUNT, 8, 3)
    rows = [images.read_part(part)[0] for part in range(images.parts)]
    assert np.concatenate(rows).tolist() == list(range(COUNT))
    assert [len(entry) for entry in rows] == [8, 8, 4]
    assert all(entry.dtype == np.int64 for entry in rows)


def test_decoded_parts_are_the_images(images: Images) -> None:
    for part in range(images.parts):
        rows, decoded = images.decode_part(part, 32)
        assert decoded.dtype == np.uint8
        assert np.array_equal(decoded, SCENES[rows])


def test_another_size_is_a_resized_centre_square(images: Images) -> None:
    rows, decoded = images.decode_part(1, 16)
    assert np.array_equal(decoded, np.stack([pixels.fit(image, 16) for image in SCENES[rows]]))


def test_single_rows_come_in_the_order_asked_for(images: Images) -> None:
    assert np.array_equal(images.decode([17, 0, 9, 9], 32), SCENES[[17, 0, 9, 9]])
    assert images.decode([], 32).shape == (0, 32, 32, 3)


def test_the_table_has_a_record_per_row(images: Images) -> None:
    assert images.table().num_rows == COUNT


def test_rows_of_bad_images_are_left_out() -> None:
    artifact = tars()
    table = pq.read_table(io.BytesIO(artifact.read("index.parquet")))
    offsets = table.column("offset").to_pylist()
    for row in (2, *range(8, 16)):
        offsets[row] = -1
    sink = io.BytesIO()
    pq.write_table(table.set_column(table.schema.get_field_index("offset"), "offset", pa.array(offsets)), sink)
    images = open_images(MemoryArtifact({**artifact.objects, "index.parquet": sink.getvalue()}))
    assert images.read_part(0)[0].tolist() == [0, 1, 3, 4, 5, 6, 7]
    assert images.decode_part(1, 32)[1].shape == (0, 32, 32, 3)
    with pytest.raises(FormatError, match="row 2"):
        images.decode([2], 32)


def test_a_part_of_tars_costs_one_read_and_a_row_only_its_bytes() -> None:
    artifact = tars()
    images = open_images(artifact)
    artifact.reads.clear()
    images.decode_part(0, 32)
    assert artifact.reads == ["shard-00000.tar"]


def test_other_artifacts_are_refused() -> None:
    with pytest.raises(FormatError, match=r"index\.parquet or images\.zarr"):
        open_images(MemoryArtifact({"report.html": b""}))


def test_an_array_of_another_layout_is_refused() -> None:
    artifact = array()
    document = json.loads(artifact.objects["images.zarr/zarr.json"])
    document["data_type"] = "int8"
    changed = {**artifact.objects, "images.zarr/zarr.json": json.dumps(document).encode()}
    with pytest.raises(FormatError, match="int8"):
        open_images(MemoryArtifact(changed))
