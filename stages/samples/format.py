"""The layout of samples, and reading the conditions that they are painted from.

    images.zarr/pixels      Zarr v3, uint8 [conditions x per_source, H, W, 3]; sample = condition * per_source + k
    images.zarr/<column>    what of samples.parquet tells one sample from another, as coordinates
    samples.parquet         one record per sample, in order: what it was painted from and how

In format 1 `images.zarr` is the array itself, and samples have no keys.

Conditions are an ask's artifact: `conditions.parquet` (condition, encoder, tap, source_row, variant, …) and
`conditions.safetensors`, per `encoder:tap` float32 [n, D], and int64 [n] under `condition.<encoder:tap>`.

A key is of one thing in the world: those of samples and conditions begin with what they are and with digits of what
they were made from, so that no join takes one for the other, or for an image.
"""

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stages import coordinates
from stages.contract import Input, Inputs, Stage
from stages.errors import FormatError
from stages.images.sets import ARRAY, PIXELS
from stages.parquet import table_from
from stages.shards.format import key_of

if TYPE_CHECKING:
    import pyarrow as pa
    import zarr
    from zarr.core.buffer import Buffer

FORMAT, KIND = 2, "sample"
CONDITIONS, VECTORS = "conditions.parquet", "conditions.safetensors"
NUMBER = "condition."
COLUMNS = ("condition", "encoder", "tap", "source_row", "variant")
DIGITS = 8
DIMENSION = "sample"
COORDINATES = ("sample", "key", "condition", "painted_from", "source_key", "source_row", "variant", "k")
"""Columns of `samples.parquet` that stand beside the pixels too."""

Pixels = NDArray[np.uint8]


def digits(stage: Stage, inputs: Inputs) -> str:
    """Digits that the keys of rows begin with: of the settings and the inputs that the rows are made from."""
    made_from = [stage.name, stage.version, stage.model_dump(mode="json"), {n: i.key for n, i in inputs.items()}]
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:DIGITS]


def read_conditions(inp: Input) -> "pa.Table":
    """`conditions.parquet`, in the order of `condition`; FormatError where it is in another."""

    table = table_from(inp.read(CONDITIONS))
    if not np.array_equal(table.column("condition").to_numpy(), np.arange(table.num_rows)):
        raise FormatError(
            f"{CONDITIONS} in the order of `condition`", "another order", "Run again with --force for that ask step."
        )
    return table


def read_vectors(inp: Input, table: "pa.Table") -> list[NDArray[np.float32]]:
    """The vector of each condition, float32 [D] each; FormatError where one is missing."""
    from safetensors.numpy import load

    tensors = load(inp.read(VECTORS))
    found: dict[int, NDArray[np.float32]] = {}
    for name, vectors in tensors.items():
        if not name.startswith(NUMBER):
            found |= dict(zip(tensors[NUMBER + name].tolist(), vectors, strict=True))
    if found.keys() != set(range(table.num_rows)):
        raise FormatError(
            expected=f"{VECTORS} with a vector for each of {table.num_rows} conditions",
            found=f"{len(found)} vectors",
            remedy="Run again with --force for that ask step.",
        )
    return [found[number] for number in range(table.num_rows)]


def shard_name(part: int) -> str:
    """Object name of the shard of a part."""
    return f"{ARRAY}/{PIXELS}/c/{part}/0/0/0"


def encode_shard(images: Pixels, part_rows: int, inner: int) -> bytes:
    """uint8 [N, H, W, 3] with N <= `part_rows` as the bytes of one shard; equal pixels give equal bytes."""
    objects: dict[str, Buffer] = {}
    array = _create(objects, part_rows, images.shape[1], part_rows, inner)
    padded = np.zeros((part_rows, *images.shape[1:]), dtype=np.uint8)
    padded[: len(images)] = images
    array[:] = padded
    return objects["c/0/0/0/0"].to_bytes()


def decode_shard(data: bytes, size: int, part_rows: int, inner: int) -> Pixels:
    """The bytes of a shard as uint8 [part_rows, size, size, 3]; FormatError where they are damaged."""
    from zarr.core.buffer import cpu

    objects: dict[str, Buffer] = {}
    array = _create(objects, part_rows, size, part_rows, inner)
    objects["c/0/0/0/0"] = cpu.Buffer.from_bytes(data)
    try:
        return np.asarray(array[:], dtype=np.uint8)
    except ValueError as error:
        raise FormatError(
            expected=f"a shard of {part_rows} samples of {size} px with its checksums",
            found=str(error),
            remedy="Its bytes have changed since: run again with --force for that samples step.",
        ) from error


def metadata(
    samples: "pa.Table", size: int, part_rows: int, inner: int, attributes: dict[str, Any]
) -> dict[str, bytes]:
    """Everything of `images.zarr` but its shards, by object name, the root last; `samples` is `samples.parquet`."""
    import zarr
    from zarr.storage import MemoryStore

    written: dict[str, Buffer] = {}
    beside = samples.select(COORDINATES)
    about = {"format": FORMAT, "kind": KIND, **attributes, **coordinates.attribute(beside)}
    zarr.create_group(MemoryStore(written), zarr_format=3, attributes=about)
    _create(written, samples.num_rows, size, part_rows, inner, attributes | coordinates.attribute(beside), PIXELS)
    objects = {name: value.to_bytes() for name, value in written.items()} | coordinates.objects(beside, DIMENSION)
    return {f"{ARRAY}/{name}": data for name, data in coordinates.consolidated(objects).items()}


def samples_of(conditions: "pa.Table", per_source: int, painted: dict[str, Any], prefix: str) -> "pa.Table":
    """The rows of `samples.parquet`: keys, the conditions' columns, k, and the columns of `painted`, equal for all.

    `prefix` is what `digits` gives.
    """
    import pyarrow as pa

    count = conditions.num_rows * per_source
    repeated = conditions.select(COLUMNS).take(np.arange(conditions.num_rows).repeat(per_source))
    taps = zip(repeated.column("encoder").to_pylist(), repeated.column("tap").to_pylist(), strict=True)
    columns: dict[str, Any] = {"sample": np.arange(count, dtype=np.int64)}
    columns["key"] = pa.array([f"{KIND}-{prefix}-{number:09d}" for number in range(count)])
    columns["kind"] = pa.DictionaryArray.from_arrays(np.zeros(count, dtype=np.int8), pa.array([KIND]))
    columns |= {name: repeated.column(name) for name in COLUMNS}
    columns["painted_from"] = pa.array([f"{encoder}:{tap}" for encoder, tap in taps], pa.string())
    columns["source_key"] = pa.array([key_of(row) for row in repeated.column("source_row").to_pylist()], pa.string())
    columns["k"] = np.tile(np.arange(per_source, dtype=np.int64), conditions.num_rows)
    columns |= {name: pa.array([value] * count) for name, value in painted.items()}
    return pa.table(columns)


def _create(
    objects: "dict[str, Buffer]",
    count: int,
    size: int,
    part_rows: int,
    inner: int,
    attributes: dict[str, Any] | None = None,
    name: str | None = None,
) -> "zarr.Array[Any]":
    import zarr
    from zarr.codecs import Crc32cCodec
    from zarr.storage import MemoryStore

    return zarr.create_array(
        MemoryStore(objects),
        name=name,
        shape=(count, size, size, 3),
        chunks=(inner, size, size, 3),
        shards=(part_rows, size, size, 3),
        dtype="uint8",
        compressors=Crc32cCodec(),
        filters=None,
        fill_value=0,
        dimension_names=(DIMENSION, "y", "x", "channel"),
        attributes=attributes,
        # Black samples are stored too: then an object that is absent is always damage.
        config={"write_empty_chunks": True},
        zarr_format=3,
    )
