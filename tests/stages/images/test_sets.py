"""A set of images reads alike from tars and from a Zarr array."""

import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from stages.datasets.scenes import render
from stages.datasets.sources import ScenesSource
from stages.errors import FormatError, InputError
from stages.images import image_file
from stages.images.decode_processes import DecodeProcesses, Encoded
from stages.images.framing import Framing, fit
from stages.images.sets import DECODE, RUN, Decoding, Images, decoding_for, open_images, seconds_to_decode
from stages.listing.stage import Listing
from stages.shards.stage import Shards
from tests.artifacts import FolderArtifact, MemoryArtifact, run_stage
from tests.tars import tar_artifact

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
    assert np.array_equal(decoded, np.stack([fit(image, 16) for image in SCENES[rows]]))


DECODINGS = [Decoding(), Decoding(1), Decoding(3), Decoding(2, prefetch=True), Decoding(5, prefetch=True)]


@pytest.fixture(scope="module")
def processes() -> Iterator[Decoding]:
    """Two processes for three threads."""
    with closing(Decoding(3, prefetch=True, processes=DecodeProcesses(2))) as decoding:
        yield decoding


@pytest.fixture(params=[*DECODINGS, None], ids=str)
def decoding(request: pytest.FixtureRequest, processes: Decoding) -> Decoding:
    """Every way to decode; None: by processes."""
    return request.param or processes


@pytest.mark.parametrize("batch", [1, 3, 8, 100])
def test_a_stream_has_the_same_pixels_whoever_decodes_them(images: Images, batch: int, decoding: Decoding) -> None:
    for part in range(images.parts):
        rows, expected = images.decode_part(part, 20)
        pieces = list(images.stream(part, Framing(20), batch, decoding))
        assert [len(own) for own, _ in pieces[:-1]] == [batch] * (len(pieces) - 1)
        assert np.concatenate([own for own, _ in pieces]).tolist() == rows.tolist()
        assert np.array_equal(np.concatenate([found for _, found in pieces]), expected)


def jpegs(count: int) -> list[bytes]:
    """Scenes as JPEG."""
    buffers = [io.BytesIO() for _ in range(count)]
    for buffer, scene in zip(buffers, render(0, range(count))[0], strict=True):
        Image.fromarray(scene).save(buffer, "JPEG", quality=95)
    return [buffer.getvalue() for buffer in buffers]


def test_decoding_ahead_is_bounded_and_ends_with_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    images = open_images(tar_artifact(jpegs(20) * 20, part_rows=400))
    decoded: list[int] = []
    decode_fit = image_file.decode_fit

    def counted(data: bytes, framing: int | Framing, pixel_limit: int, scaled: bool) -> NDArray[np.uint8]:
        decoded.append(len(data))
        return decode_fit(data, framing, pixel_limit, scaled)

    monkeypatch.setattr(image_file, "decode_fit", counted)
    stream = images.stream(0, 32, 32, Decoding(2, prefetch=True))
    next(stream)
    stream.close()
    assert 32 <= len(decoded) <= 3 * 32
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_shards_say_how_their_images_are_decoded_and_every_way_to_read_them_follows(processes: Decoding) -> None:
    large = [enlarged(scene) for scene in SCENES[:6]]
    found = {}
    for scaled in (False, True):
        images = open_images(tar_artifact(large, part_rows=6, scaled=scaled))
        expected = np.stack([image_file.decode_fit(data, 16, scaled=scaled) for data in large])
        for decoding in (*DECODINGS, processes):
            [(_, streamed)] = images.stream(0, 16, 6, decoding)
            assert np.array_equal(streamed, expected)
        assert np.array_equal(images.decode_part(0, 16)[1], expected)
        assert np.array_equal(images.decode(range(6), 16), expected)
        found[scaled] = expected
    assert not np.array_equal(found[False], found[True])


def enlarged(scene: NDArray[np.uint8]) -> bytes:
    """A scene as JPEG, five times the side."""
    buffer = io.BytesIO()
    Image.fromarray(scene).resize((160, 160), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def test_the_stage_writes_down_how_images_are_decoded_and_an_unknown_way_is_refused() -> None:
    listing = run_stage(Listing(source=ScenesSource(count=COUNT)))
    exact, scaled = (
        run_stage(Shards(shard_rows=8, decode=how), {"listing": listing}).read("index.parquet")
        for how in ("exact", "scaled")
    )
    assert exact == tars().read("index.parquet")
    metadata = pq.read_schema(io.BytesIO(scaled)).metadata
    assert metadata[DECODE] == b"scaled"
    assert DECODE not in pq.read_schema(io.BytesIO(exact)).metadata
    sink = io.BytesIO()
    pq.write_table(pq.read_table(io.BytesIO(scaled)).replace_schema_metadata(metadata | {DECODE: b"other"}), sink)
    with pytest.raises(FormatError, match="how images are decoded; found other"):
        open_images(MemoryArtifact({"index.parquet": sink.getvalue()}))


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_changed_byte_in_a_tar_is_an_error_that_names_the_row(share: float, processes: Decoding) -> None:
    artifact = tar_artifact(jpegs(2 * RUN), part_rows=20)
    index = pq.read_table(io.BytesIO(artifact.objects["index.parquet"]))
    offset, size = (index.column(name)[27].as_py() for name in ("offset", "size"))
    tar = bytearray(artifact.objects["shard-00001.tar"])
    tar[offset + int(share * size)] ^= 4
    images = open_images(MemoryArtifact(artifact.objects | {"shard-00001.tar": bytes(tar)}))
    message = r"listed in row 27 \(27\.jpg\) of shard-00001\.tar"
    for decoding in (*DECODINGS, processes):
        with pytest.raises(FormatError, match=message):
            list(images.stream(1, 32, 5, decoding))
    with pytest.raises(FormatError, match=message):
        images.decode_part(1, 32)
    with pytest.raises(FormatError, match=message):
        images.decode([26, 27], 32)
    assert images.decode([26, 28], 32).shape == (2, 32, 32, 3)


def test_an_image_that_is_no_longer_readable_is_an_error_that_names_the_row(processes: Decoding) -> None:
    images = open_images(tar_artifact([*jpegs(3), jpegs(1)[0][:-100]], part_rows=4))
    for decoders in (None, processes.processes):
        with pytest.raises(FormatError, match=r"row 3 \(3\.jpg\).*damaged JPEG"):
            images.decode_part(0, 32, decoders)


def test_a_process_that_dies_is_an_error_and_the_others_end_with_their_owner() -> None:
    images = open_images(tar_artifact(jpegs(4), part_rows=4))
    others = set(psutil.Process().children())
    with closing(DecodeProcesses(1)) as processes:
        assert np.array_equal(images.decode_part(0, 32, processes)[1], images.decode_part(0, 32)[1])
        [child] = set(psutil.Process().children()) - others
        child.kill()
        # More threads than processes: none may wait for one that will never come.
        with ThreadPoolExecutor(3) as threads:
            failed = [threads.submit(images.decode_part, 0, 32, processes) for _ in range(3)]
        for one in failed:
            with pytest.raises(InputError, match="decodes images to go on; found its end, with exit code -9"):
                one.result()
    assert not child.is_running()


def test_a_process_that_was_left_in_the_middle_of_an_answer_is_not_asked_again() -> None:
    images = open_images(tar_artifact(jpegs(4), part_rows=4))
    with closing(DecodeProcesses(1)) as processes:
        encoded = [Encoded(data, b"") for data in jpegs(4)]
        unwritable = np.zeros((4, 32, 32, 3), np.uint8)
        unwritable.flags.writeable = False
        with pytest.raises(TypeError, match="read-write"):
            processes.fill(unwritable, encoded, 32, False)
        with pytest.raises(InputError, match="found its end"):
            images.decode_part(0, 32, processes)


def test_pixels_need_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.images.sets.seconds_to_decode", lambda images, size: 60.0)
    assert decoding_for(open_images(array()), 32, 4) == Decoding(1, prefetch=True)


def test_a_process_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    code = "from stages.images.decode_processes import DecodeProcesses; a = DecodeProcesses(1); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as parent:
        while not (children := psutil.Process(parent.pid).children()):
            assert parent.poll() is None
            time.sleep(0.05)
        parent.kill()
    psutil.wait_procs(children, timeout=60)
    assert not any(child.is_running() for child in children)


@pytest.mark.parametrize(("seconds", "cpus", "children"), [(0.1, 4, 0), (60.0, 1, 0), (60.0, 3, 3)])
def test_processes_decode_where_there_is_enough_to_do(
    seconds: float, cpus: int, children: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = open_images(tar_artifact(jpegs(4), part_rows=4))
    monkeypatch.setattr("stages.images.sets.seconds_to_decode", lambda images, size: seconds)
    others = len(psutil.Process().children())
    with closing(decoding_for(images, 32, cpus)) as decoding:
        assert (decoding.threads, decoding.prefetch) == (max(1, children), True)
        assert len(psutil.Process().children()) == others + children


def test_seconds_of_decoding_grow_with_the_images_and_nothing_takes_none() -> None:
    few, many = (open_images(tar_artifact(jpegs(40) * times, part_rows=40)) for times in (1, 20))
    assert 0 < seconds_to_decode(few, 32) < seconds_to_decode(many, 32)
    assert seconds_to_decode(open_images(tar_artifact([], part_rows=4)), 32) == 0


def test_the_committed_example_of_format_1_stays_readable() -> None:
    images = open_images(FolderArtifact(Path(__file__).parents[2] / "data/formats/v1/shards"))
    assert sum(len(images.decode_part(part, 32)[0]) for part in range(images.parts)) > 0


def test_a_table_has_the_columns_that_are_asked_for(images: Images) -> None:
    first = images.table().column_names[0]
    assert images.table([first, "no such column"]).column_names == [first]


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
