"""Files damaged anywhere end in bad rows or in one message, never in another error, and never in a made-up image."""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from stages.datasets.sources import DatasetSource
from stages.errors import InputError
from stages.images.sets import open_images
from stages.listing.stage import Listing
from stages.shards.stage import Shards
from tests.artifacts import run_stage
from tests.stages.datasets.written import cifar_archive, cifar_files, hf_parquet, picture, wds_tar

SOURCE: TypeAdapter[Any] = TypeAdapter(DatasetSource)

LABEL = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
TAR = wds_tar(
    {"__key__": f"{n}", "png": picture(n, side=4), "cls": n % 2, "json": {"angle": n, "name": "x" * n}}
    for n in range(4)
)
LABELS = {"label": pa.array([0, 1, 0, 1, 0], pa.int64()), "angle": [0.5, 1.5, None, 2.5, 3.0]}
PARQUET = hf_parquet([picture(n, side=4) for n in range(5)], LABELS, LABEL, group_rows=2)
BATCHES = cifar_files(rows=1)
WITHOUT_THREADS = settings(
    max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

ARCHIVE = cifar_archive(BATCHES)

flips = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 7)), max_size=4)


def cuts(data: bytes) -> st.SearchStrategy[int | None]:
    """Where a file ends too early, or None."""
    return st.none() | st.integers(0, len(data) - 1)


def damage(data: bytes, cut: int | None, flipped: list[tuple[int, int]]) -> bytes:
    """The first `cut` bytes, some bits of them turned."""
    left = bytearray(data[:cut])
    for at, bit in flipped:
        if left:
            left[at % len(left)] ^= 1 << bit
    return bytes(left)


def outcome(folder: Path, files: Mapping[str, bytes], **source: Any) -> list[str]:
    """What is found of each image; one message where the source is refused. Anything else is raised."""
    for name, data in files.items():
        (folder / name).write_bytes(data)
    try:
        stage = Listing(source=SOURCE.validate_python({"url": str(folder)} | source), holdout=0.0, max_bad=1.0)
        listing = run_stage(stage)
        shards = run_stage(Shards(shard_rows=3), {"listing": listing})
    except InputError as error:
        return [str(error)]
    index = pq.read_table(io.BytesIO(shards.objects["index.parquet"])).to_pydict()
    images = open_images(shards)
    for part in range(images.parts):
        rows, found = images.read_part(part)
        for row, image in zip(rows, found, strict=True):
            assert hashlib.sha256(bytes(image)).hexdigest() == index["sha256"][row]
    return [str(status) for status in index["status"]]


@WITHOUT_THREADS
@given(cut=cuts(TAR), flipped=flips)
@example(cut=None, flipped=[])
def test_a_damaged_tar(tmp_path: Path, cut: int | None, flipped: list[tuple[int, int]]) -> None:
    columns = {"cls": "class", "json.angle": "scalar"}
    found = outcome(tmp_path, {"a.tar": damage(TAR, cut, flipped)}, kind="webdataset", columns=columns)
    if cut is None and not flipped:
        assert found == ["ok"] * 4
    if cut is not None and not any(TAR[cut : cut + 512]):
        return
    if cut is not None:
        assert "a.tar" in found[0]


@WITHOUT_THREADS
@given(cut=cuts(PARQUET), flipped=flips)
@example(cut=None, flipped=[])
def test_a_damaged_parquet_file(tmp_path: Path, cut: int | None, flipped: list[tuple[int, int]]) -> None:
    files = {"a.parquet": damage(PARQUET, cut, flipped)}
    found = outcome(tmp_path, files, kind="parquet", columns=["label", "angle"])
    if cut is None and not flipped:
        assert found == ["ok"] * 5
    if cut is not None:
        assert "a.parquet" in found[0]


@WITHOUT_THREADS
@given(name=st.sampled_from(sorted(BATCHES)), cut=cuts(BATCHES["test_batch.bin"]), flipped=flips)
def test_a_damaged_batch_of_cifar(tmp_path: Path, name: str, cut: int | None, flipped: list[tuple[int, int]]) -> None:
    data = damage(BATCHES[name], cut, flipped)
    found = outcome(tmp_path, BATCHES | {name: data}, kind="cifar10")
    if name.endswith(".bin") and len(data) < 3073:
        assert f"records of 3073 bytes (the published files have 10 000) in {name}" in found[0]


@settings(WITHOUT_THREADS, max_examples=30)
@given(cut=cuts(ARCHIVE), flipped=flips)
@example(cut=None, flipped=[])
def test_a_damaged_archive_of_cifar(tmp_path: Path, cut: int | None, flipped: list[tuple[int, int]]) -> None:
    url = str(tmp_path / "cifar.tar.gz")
    found = outcome(tmp_path, {"cifar.tar.gz": damage(ARCHIVE, cut, flipped)}, kind="cifar10", url=url)
    if cut is None and not flipped:
        assert found == ["ok"] * 6
    if cut is not None:
        assert "cifar.tar.gz" in found[0]


@pytest.mark.parametrize("size", [2**33 - 1, 2**62])
def test_a_header_that_claims_more_than_there_is_costs_nothing(tmp_path: Path, size: int) -> None:
    import tarfile

    info = tarfile.TarInfo("1.png")
    info.size = size
    found = outcome(tmp_path, {"a.tar": info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)}, kind="webdataset")
    assert f"within 1.png of {size} bytes" in found[0]
