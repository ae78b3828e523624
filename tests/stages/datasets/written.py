"""Datasets as others write them: webdataset's tars, Hugging Face's Parquet, CIFAR-10's binary version."""

import gzip
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset as wds
from PIL import Image

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR_BATCHES = (*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin")


def picture(number: int, ending: str = "png", side: int = 8) -> bytes:
    """A small image of noise, different for each number."""
    image = Image.fromarray(np.random.default_rng(number).integers(0, 256, (side, side + 1, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, format={"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[ending])
    return buffer.getvalue()


def wds_tar(samples: Iterable[Mapping[str, Any]]) -> bytes:
    """A tar by webdataset's own writer, with its encoders: numbers, texts and records as their endings say."""
    buffer = io.BytesIO()
    with wds.TarWriter(buffer) as writer:
        for sample in samples:
            writer.write(dict(sample))
    return buffer.getvalue()


def plain_tar(members: Iterable[tuple[tarfile.TarInfo | str, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar by the standard library, whose members may be anything."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for member, data in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def hf_parquet(
    images: Sequence[Mapping[str, Any] | bytes | None],
    columns: Mapping[str, Any],
    features: Mapping[str, Any] | None = None,
    group_rows: int = 100,
    image: str = "image",
) -> bytes:
    """Parquet as `datasets` writes it: records of bytes and path, and what the columns are in the schema's metadata."""
    records = [{"bytes": entry, "path": None} if isinstance(entry, bytes) else entry for entry in images]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({image: pa.array(records, kind), **columns})
    if features is not None:
        info = {"info": {"features": {image: {"_type": "Image"}, **features}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=group_rows)
    return sink.getvalue()


def cifar_files(rows: int = 6) -> dict[str, bytes]:
    """The files of `cifar-10-batches-bin`, with `rows` images in each batch."""
    drawn = np.random.default_rng(0)
    files = {"batches.meta.txt": "\n".join((*CIFAR_CLASSES, "")).encode()}
    for name in CIFAR_BATCHES:
        records = drawn.integers(0, 256, (rows, 3073), dtype=np.uint8)
        records[:, 0] = drawn.integers(0, 10, rows)
        files[name] = records.tobytes()
    return files


def cifar_archive(files: Mapping[str, bytes]) -> bytes:
    """`cifar-10-binary.tar.gz`."""
    folder = tarfile.TarInfo("cifar-10-batches-bin/")
    folder.type = tarfile.DIRTYPE
    inside = [(f"cifar-10-batches-bin/{name}", data) for name, data in files.items()]
    return gzip.compress(plain_tar([(folder, b""), *inside], tarfile.GNU_FORMAT))


def datasets(root: Path) -> None:
    """The datasets of which the documentation speaks, of 16 images each (CIFAR-10: 12)."""
    rows = ["file_name,age,breed,part"]
    for n in range(16):
        name = f"{'cat' if n % 2 else 'dog'}/{n:02d}.png"
        (root / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "photos" / name).write_bytes(picture(n))
        rows.append(f"{name},{n},{'ab'[n % 2]},{'train' if n < 12 else 'test'}")
    (root / "photos.csv").write_text("\n".join(rows))
    (root / "backgrounds").mkdir()
    for n in range(4):
        cutout = np.random.default_rng(n).integers(0, 256, (9, 9, 4), dtype=np.uint8)
        cutout[:, :, 3] = np.eye(9) * 255
        (root / "cutouts" / "ab"[n % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(cutout).save(root / "cutouts" / "ab"[n % 2] / f"{n}.png")
        (root / "backgrounds" / f"{n}.png").write_bytes(picture(n, side=70))
    for folder in ("tars", "animals"):
        (root / folder).mkdir()
    for n in range(2):
        some = [
            {
                "__key__": f"{i:06d}",
                "jpg": picture(i, "jpg"),
                "cls": i % 2,
                "json": {"age": i, "pose": {"angle": 9 * i}},
            }
            for i in range(8 * n, 8 * n + 8)
        ]
        (root / "tars" / f"train-{n:03d}.tar").write_bytes(wds_tar(some))
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    for n, name in enumerate(("train-00000-of-00001", "test-00000-of-00001")):
        columns = {"label": pa.array([0, 1] * 4, pa.int64()), "weight": [i / 2 for i in range(8)]}
        data = hf_parquet([picture(8 * n + i) for i in range(8)], columns, features)
        (root / "animals" / f"{name}.parquet").write_bytes(data)
    (root / "cifar-10-binary.tar.gz").write_bytes(cifar_archive(cifar_files(rows=2)))
