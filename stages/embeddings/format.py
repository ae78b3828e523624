"""The layout of a table of embeddings, and reading one.

    embeddings.zarr/<tap>/<view>     Zarr v3, float16 or float32 [rows, features]; a row without an image is NaN
    embeddings.zarr/<tap>/<column>   the columns of rows.parquet, coordinates of the tap's group
    rows.parquet                     one record per row, in order: row, key, kind, status, and
                                       of images: file_name, split, labels
                                       of samples: source_key, painted_from, variant, k
    statistics.safetensors           <tap>/mean, <tap>/std [features] and <tap>/rms, from train rows of all views
    CARD.md, card.json               what the vectors are, for people and for programs

Rows of samples are counted in the column and dimension `sample`, not `row`: they are other things than images.

One part of the images is one shard of every array (two writers in one shard lose data silently). Inner chunks of
`CHUNK_ROWS` rows carry crc32c: a flipped byte is an error and never data. A shard is encoded by Zarr itself, in memory.

Attributes are flat, since netCDF and xarray have no others: `encoder` and `fingerprint` are JSON as text. Format 1 has
them nested, chunks of 64 rows, no coordinates, no card, and row, key, split and status alone.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stages import coordinates
from stages.contract import Input
from stages.encoders.spec import require
from stages.errors import FormatError, InputError
from stages.parquet import table_from

if TYPE_CHECKING:
    import pyarrow as pa
    import zarr
    from zarr.abc.store import Store
    from zarr.core.buffer import Buffer

FORMAT = 2
STORE, ROWS, STATISTICS = "embeddings.zarr", "rows.parquet", "statistics.safetensors"
IMAGE, SAMPLE = "image", "sample"
"""Kinds of rows."""
NUMBER = {IMAGE: "row", SAMPLE: "sample"}
"""The column that counts the rows of a kind, and the dimension of its arrays."""
CHUNK_ROWS = 128
"""Rows of an inner chunk, which is what a reader of one row reads, and what a scan decodes at a time."""
BLOCK_BYTES = 2**26
"""Of vectors that are asked for at once: what reading takes beside its answer is this, or a few times this."""
REPEATED = ("taps", "widths", "encoder", "fingerprint")
"""Attributes that stand at the root alone."""
SPARSE = 4
"""Of so many rows in a run one is wanted at least, or rows are picked one by one."""
OK = "ok"
"""Status of a row whose image could be read."""
FLOOR = 0.05
"""A feature is divided by no less than this share of its tap's RMS standard deviation."""

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of each feature of a tap over the train rows."""

    mean: Vectors
    std: Vectors
    rms: float
    """Root of the mean variance over features."""

    @property
    def scale(self) -> Vectors:
        """What features are divided by, float32 [D]: dead directions of a collapsed projector are not blown up."""
        return np.maximum(self.std, np.float32(max(FLOOR * self.rms, 1e-12)))

    def standardise(self, x: Vectors) -> Vectors:
        """Embeddings [N, D] to (x - mean) / scale."""
        return (x - self.mean) / self.scale


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations of each feature, float64 [D], over some rows."""

    n: int
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]

    @classmethod
    def of(cls, x: NDArray[Any]) -> "Moments":
        """Of the rows of [N, D]."""
        x = x.astype(np.float64)
        mean = x.mean(axis=0) if len(x) else np.zeros(x.shape[1])
        return cls(len(x), mean, np.square(x - mean).sum(axis=0))

    def __add__(self, other: "Moments") -> "Moments":
        """Of the rows of both (Chan, Golub & LeVeque 1979)."""
        n = self.n + other.n
        if n == 0:
            return self
        gap, share = other.mean - self.mean, other.n / n
        return Moments(n, self.mean + gap * share, self.m2 + other.m2 + gap**2 * self.n * share)


class Table:
    """A stored table of embeddings."""

    def __init__(self, inp: Input) -> None:
        import zarr

        self._input = inp
        self._group: Any = zarr.open_group(inp.zarr(STORE), mode="r", zarr_format=3)
        self.attributes: dict[str, Any] = read_attributes(dict(self._group.attrs))
        """What the store says of itself: encoder, fingerprint, views, keys of what it was made from."""
        self.taps: dict[str, int] = self.attributes["fingerprint"]["taps"]
        """Name -> width."""
        self.views: tuple[str, ...] = tuple(self.attributes["views"])
        first = self._array(next(iter(self.taps)), self.views[0])
        self.count = int(first.shape[0])
        self.dtype = str(first.dtype)
        """Of the stored vectors: float16 or float32."""

    def read(
        self, tap: str, view: str = "plain", rows: Sequence[int] | NDArray[np.integer[Any]] | None = None
    ) -> Vectors:
        """Embeddings of all rows or of `rows`, in their order, as float32 [N, D]; NaN where a row has no image.

        Raises InputError for an unknown tap or view, FormatError where the stored bytes are damaged.
        """
        array = self._array(tap, view)
        wanted = np.arange(self.count) if rows is None else np.asarray(rows, dtype=np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < self.count:
            raise InputError(
                expected=f"rows from 0 to {self.count - 1}",
                found=f"rows from {wanted.min()} to {wanted.max()}",
                remedy="Take rows of the images that this table was made of.",
            )
        vectors = np.empty((len(wanted), array.shape[1]), dtype=np.float32)
        # Zarr is asked for each row once and in order: the cheapest, whatever order they are wanted in.
        order = np.argsort(wanted, kind="stable")
        for start, stop in self._blocks(array, len(wanted)):
            indices = order[slice(*np.searchsorted(wanted, (start, stop), sorter=order))]
            unique, back = np.unique(wanted[indices], return_inverse=True)
            if len(unique):
                vectors[indices] = self._block(tap, view, unique)[back]
        return vectors

    def standardised(self, tap: str, rows: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """Plain embeddings of `rows`, standardised by the statistics of train images: float64 [N, D].

        Raises what `read` and `statistics` raise.
        """
        return self.statistics(tap).standardise(self.read(tap, rows=rows)).astype(np.float64)

    def _blocks(self, array: Any, count: int) -> list[tuple[int, int]]:
        """Runs of rows of which `count` are read, at most `BLOCK_BYTES` at once; longer ones are of whole shards."""
        row_bytes = array.shape[1] * array.dtype.itemsize
        if count * row_bytes <= BLOCK_BYTES:
            return [(0, self.count)]
        part_rows = int((array.shards or array.chunks)[0])
        step = max(1, BLOCK_BYTES // (part_rows * row_bytes)) * part_rows
        return [(start, min(start + step, self.count)) for start in range(0, self.count, step)]

    def _block(self, tap: str, view: str, rows: NDArray[np.int64]) -> Any:
        """Stored vectors [N, D] of `rows`, which rise; FormatError where they are damaged or gone."""
        array, first, last = self._array(tap, view), int(rows[0]), int(rows[-1])
        try:
            # Where most chunks are read anyhow, picking rows would cost more than reading all.
            if last + 1 - first <= SPARSE * len(rows):
                found = array[first : last + 1][rows - first]
            else:
                found = array.oindex[rows]
        except ValueError as error:
            raise _damaged(f"{tap}/{view}", error) from error
        # Zarr takes an object that is gone for missing values.
        missing = np.flatnonzero(np.isnan(found).any(axis=1))
        if len(missing) and (lost := int(self._embedded[rows[missing]].sum())):
            raise _damaged(f"{tap}/{view}", f"no vectors in {lost} rows that have an image")
        return found

    @cached_property
    def _embedded(self) -> NDArray[np.bool_]:
        """bool [rows]: the image could be read, so there must be a vector."""
        return np.array([status == OK for status in self.rows().column("status").to_pylist()], dtype=np.bool_)

    def rows(self) -> "pa.Table":
        """`rows.parquet`: row or sample int64, key, status, and what else the format has."""

        return table_from(self._input.read(ROWS))

    def statistics(self, tap: str) -> Statistics:
        """Statistics of a tap over the train rows; FormatError where there are none, as for samples."""
        from safetensors.numpy import load

        require("tap", tap, self.taps)
        if STATISTICS not in self._input.names():
            raise FormatError(
                expected=f"{STATISTICS}, which a table of images has",
                found="a table without train rows",
                remedy="Take the statistics from the table of the images the decoder was trained on.",
            )
        tensors = load(self._input.read(STATISTICS))
        return Statistics(tensors[f"{tap}/mean"], tensors[f"{tap}/std"], float(tensors[f"{tap}/rms"]))

    def _array(self, tap: str, view: str) -> Any:
        require("tap", tap, self.taps)
        require("view", view, self.views)
        return self._group[f"{tap}/{view}"]


def open_table(inp: Input) -> Table:
    """The table of an `embeddings` artifact; FormatError where its format is newer."""
    return Table(inp)


def shard_name(tap: str, view: str, part: int) -> str:
    """Object name of the shard of a part."""
    return f"{STORE}/{tap}/{view}/c/{part}/0"


def encode_shard(vectors: NDArray[Any], part_rows: int) -> bytes:
    """[N, D] with N <= `part_rows` as the bytes of one shard; equal vectors give equal bytes."""
    padded = np.full((part_rows, vectors.shape[1]), np.nan, dtype=vectors.dtype)
    padded[: len(vectors)] = vectors
    objects: dict[str, Buffer] = {}
    array = _create(_memory(objects), None, part_rows, vectors.shape[1], part_rows, str(vectors.dtype))
    array[:] = padded
    return objects["c/0/0"].to_bytes()


def decode_shard(data: bytes, part_rows: int, width: int, dtype: str) -> NDArray[Any]:
    """The bytes of one shard as [part_rows, width]; FormatError where they are damaged or of another shape."""
    from zarr.core.buffer import cpu

    objects: dict[str, Buffer] = {}
    array = _create(_memory(objects), None, part_rows, width, part_rows, dtype)
    objects["c/0/0"] = cpu.Buffer.from_bytes(data)
    try:
        return np.asarray(array[:])
    except ValueError as error:
        raise _damaged(f"a shard of {part_rows} x {width} {dtype}", error) from error


def metadata(
    taps: Mapping[str, int],
    views: Sequence[str],
    rows: "pa.Table",
    part_rows: int,
    dtype: str,
    attributes: Mapping[str, Any],
) -> dict[str, bytes]:
    """Everything of the store but its shards, by object name, the root's `zarr.json` last.

    `rows` are those of `rows.parquet`: the coordinates of each tap. `attributes` are flat, and each tap repeats them.
    """
    import zarr

    written: dict[str, Buffer] = {}
    store = _memory(written)
    names = coordinates.attribute(rows)
    dimension = NUMBER[attributes["kind"]]
    root = zarr.create_group(store, zarr_format=3, attributes={"format": FORMAT, **attributes})
    shared = coordinates.objects(rows, dimension)
    for tap, width in taps.items():
        own = {name: value for name, value in attributes.items() if name not in REPEATED}
        root.create_group(tap, attributes={"format": FORMAT, "tap": tap, "width": width, **own, **names})
        for view in views:
            about = {"tap": tap, "view": view, **{name: own[name] for name in ("kind", "units", "metric")}}
            _create(store, f"{tap}/{view}", rows.num_rows, width, part_rows, dtype, about | names, dimension)
    objects = {name: value.to_bytes() for name, value in written.items()}
    objects |= {f"{tap}/{name}": data for tap in taps for name, data in shared.items()}
    return {f"{STORE}/{name}": data for name, data in coordinates.consolidated(objects).items()}


def read_attributes(found: Mapping[str, Any]) -> dict[str, Any]:
    """What a store says of itself, alike for all formats: `encoder` and `fingerprint` nested, absent keys None.

    FormatError where the format is newer.
    """
    number = found.get("format")
    if number == 1:
        return {"kind": IMAGE, **found}
    if number != FORMAT:
        raise FormatError(
            f"{STORE} of format {FORMAT} or older",
            f"format {number!r}",
            "Read it with the version of Repscope that wrote it, or embed again.",
        )
    nested = {name: json.loads(found[name]) for name in ("encoder", "fingerprint")}
    return {"encoder_key": None, **found, **nested}


def dump_statistics(moments: Mapping[str, Moments]) -> bytes:
    """`statistics.safetensors` from the moments of each tap."""
    from safetensors.numpy import save

    tensors: dict[str, NDArray[np.float32]] = {}
    for tap, sums in moments.items():
        variance = sums.m2 / sums.n
        tensors[f"{tap}/mean"] = sums.mean.astype(np.float32)
        tensors[f"{tap}/std"] = np.sqrt(variance).astype(np.float32)
        tensors[f"{tap}/rms"] = np.array(np.sqrt(variance.mean()), dtype=np.float32)
    return save(tensors)


def _create(
    store: "Store",
    path: str | None,
    rows: int,
    width: int,
    part_rows: int,
    dtype: str,
    attributes: Mapping[str, Any] | None = None,
    dimension: str = NUMBER[IMAGE],
) -> "zarr.Array[Any]":
    import zarr
    from zarr.codecs import Crc32cCodec

    return zarr.create_array(
        store,
        name=path,
        shape=(rows, width),
        # The inner chunks must divide the shard.
        chunks=(max(n for n in range(1, min(part_rows, CHUNK_ROWS) + 1) if part_rows % n == 0), width),
        shards=(part_rows, width),
        dtype=dtype,
        compressors=Crc32cCodec(),
        filters=None,
        fill_value=float("nan"),
        dimension_names=(dimension, "feature"),
        attributes=dict(attributes or {}),
        # A shard of missing rows only is stored too: then an object that is absent is always damage.
        config={"write_empty_chunks": True},
        zarr_format=3,
    )


def _memory(objects: "dict[str, Buffer]") -> "Store":
    from zarr.storage import MemoryStore

    return MemoryStore(objects)


def _damaged(what: str, found: object) -> FormatError:
    return FormatError(
        expected=f"{what} with the checksums it was written with",
        found=str(found),
        remedy="Its bytes have changed since: run again with --force for that embeddings step.",
    )
