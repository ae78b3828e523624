"""What questions store: conditions (an ask's artifact), rows and figures (an answer's artifact).

The layout of conditions is that of `stages.samples.format`, which reads them; here they are written.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stages.contract import Input, Output
from stages.errors import FormatError
from stages.images import pixels
from stages.parquet import table_bytes, table_from
from stages.readers.score import Interval
from stages.samples.format import CONDITIONS, NUMBER, VECTORS
from stages.samples.format import read_conditions as read_table
from stages.shards.format import key_of

if TYPE_CHECKING:
    pass

KIND = "condition"
RESULTS, RANKS = "results.parquet", "ranks.parquet"
BOTH = "backbone - projector"
"""Tap of rows that compare the two ends of an encoder."""
AUGMENTATION, DUPLICATE = "augmentation", "duplicate"
"""Metrics of rows without a number. Their subject is an augmentation that an encoder was trained with, or an attribute
that measures the same as an earlier one, which they name in `why`."""

Vectors: TypeAlias = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Condition:
    """What one condition is: the tap, the source image's row, and how the embedding was come by."""

    encoder: str
    tap: str
    source_row: int
    variant: str
    strength: float

    @property
    def tap_id(self) -> str:
        """The tap as a study writes it."""
        return f"{self.encoder}:{self.tap}"


@dataclass(frozen=True)
class Row:
    """One number of an answer; its fields are the columns of `results.parquet`."""

    question: str
    metric: str
    encoder: str
    tap: str
    subject: str
    value: float
    low: float
    high: float
    n: int
    unit: str
    verdict: str = ""
    why: str = ""


def split_tap(tap_id: str) -> tuple[str, str]:
    """`encoder:tap` as (encoder, tap)."""
    encoder, _, tap = tap_id.partition(":")
    return encoder, tap


def joined(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def row(question: str, metric: str, tap_id: str, subject: str, found: Interval, unit: str) -> Row:
    """A row from an interval at the tap `encoder:tap`."""
    encoder, tap = split_tap(tap_id)
    return Row(question, metric, encoder, tap, subject, found.value, found.low, found.high, found.n, unit)


def note(question: str, metric: str, tap_id: str, why: str, subject: str = "") -> Row:
    """A row that holds words and no number."""
    nothing = float("nan")
    return Row(question, metric, *split_tap(tap_id), subject, nothing, nothing, nothing, 0, "", why=why)


def put_conditions(out: Output, conditions: Sequence[Condition], vectors: Vectors, prefix: str) -> None:
    """Writes an ask's conditions; `vectors`: per `encoder:tap` float32 [n, D], in the order of its conditions.

    Their keys begin with `prefix`, which is what `stages.samples.format.digits` gives.
    """
    import pyarrow as pa
    from safetensors.numpy import save

    columns = {field.name: [getattr(c, field.name) for c in conditions] for field in fields(Condition)}
    count = len(conditions)
    identity = {
        "condition": pa.array(range(count), pa.int64()),
        "key": pa.array([f"{KIND}-{prefix}-{number:09d}" for number in range(count)], pa.string()),
        "kind": pa.DictionaryArray.from_arrays(np.zeros(count, dtype=np.int8), pa.array([KIND])),
        "source_key": pa.array([key_of(c.source_row) for c in conditions], pa.string()),
    }
    table = pa.table(identity | columns)
    tensors: dict[str, NDArray[np.float32] | NDArray[np.int64]] = {}
    for tap_id, values in sorted(vectors.items()):
        numbers = [i for i, c in enumerate(conditions) if c.tap_id == tap_id]
        assert len(numbers) == len(values), f"{tap_id}: {len(numbers)} conditions for {len(values)} vectors"
        tensors[tap_id] = np.ascontiguousarray(values, dtype=np.float32)
        tensors[NUMBER + tap_id] = np.array(numbers, dtype=np.int64)
    out.put(CONDITIONS, table_bytes(table))
    out.put(VECTORS, save(tensors), check=lambda found: _same_shapes(found, tensors))


def read_conditions(artifact: Input) -> list[Condition]:
    """The conditions of an ask's artifact; the position in the list is the number of the condition."""
    table = read_table(artifact).select([field.name for field in fields(Condition)])
    return [Condition(**record) for record in table.to_pylist()]


def dump_rows(rows: Iterable[Row]) -> bytes:
    """Rows as the bytes of `results.parquet`."""
    import pyarrow as pa

    kinds = {str: pa.string(), float: pa.float64(), int: pa.int64()}
    schema = pa.schema([(field.name, kinds[field.type]) for field in fields(Row)])  # type: ignore[index]
    return table_bytes(pa.Table.from_pylist([asdict(r) for r in rows], schema=schema))


def put_rows(out: Output, rows: Sequence[Row]) -> list[Row]:
    """Writes `results.parquet`; returns the rows that are in the store, which an earlier attempt may have written."""
    wanted = [(r.metric, r.encoder, r.tap, r.subject) for r in rows]

    def check(stored: bytes) -> None:
        if [(r.metric, r.encoder, r.tap, r.subject) for r in load_rows(stored)] != wanted:
            raise FormatError(f"{RESULTS} of {len(wanted)} rows", "other rows", "Run again with --force for its step.")

    return load_rows(out.put(RESULTS, dump_rows(rows), check))


def load_rows(data: bytes) -> list[Row]:
    """Rows from the bytes of `results.parquet`."""

    return [Row(**record) for record in table_from(data).to_pylist()]


@dataclass(frozen=True, eq=False)
class Ranks:
    """Where the sources come when all held-out images are sorted by their distance to a query at one tap.

    `subject` is what was ranked (`samples`, or a control), `gallery` the number of images sorted.
    """

    tap_id: str
    subject: str
    gallery: int
    sources: NDArray[np.int64]
    """Rows of the sources, [N]."""
    ranks: NDArray[np.float64]
    """[N, K], 1 is best; images at equal distance share their mean rank."""


def put_ranks(out: Output, found: Sequence[Ranks]) -> None:
    """Writes `ranks.parquet`, a line for each query."""
    import pyarrow as pa

    kinds = {"encoder": pa.string(), "tap": pa.string(), "subject": pa.string(), "gallery": pa.int64()}
    kinds |= {"source_row": pa.int64(), "k": pa.int64(), "rank": pa.float64()}
    lines = [
        (*split_tap(entry.tap_id), entry.subject, entry.gallery, row, k, rank)
        for entry in found
        for row, ranks in zip(entry.sources.tolist(), entry.ranks.tolist(), strict=True)
        for k, rank in enumerate(ranks)
    ]
    columns = list(zip(*lines, strict=True)) or [()] * len(kinds)
    out.put(RANKS, table_bytes(pa.table(columns, schema=pa.schema(kinds))))


def load_ranks(data: bytes) -> list[Ranks]:
    """What `put_ranks` wrote, from the bytes of `ranks.parquet`."""

    found: dict[tuple[str, str, int], dict[int, list[float]]] = {}
    for line in table_from(data).to_pylist():
        queries = found.setdefault((f"{line['encoder']}:{line['tap']}", line["subject"], line["gallery"]), {})
        queries.setdefault(line["source_row"], []).append(line["rank"])
    return [
        Ranks(*query, np.array(list(ranks), dtype=np.int64), np.array(list(ranks.values()), dtype=np.float64))
        for query, ranks in found.items()
    ]


@dataclass(frozen=True)
class Figure:
    """A picture of square tiles without gaps, at native pixels, and its description.

    `order`: figures of one answer are shown in ascending order. `seeds`: what to paint it again from.
    """

    name: str
    kind: str
    title: str
    caption: str
    tiles: NDArray[np.uint8]
    """uint8 [rows, columns, size, size, 3]."""
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    order: int
    seeds: Mapping[str, int]
    encoder: str = ""
    tap: str = ""

    def put(self, out: Output) -> None:
        """Writes `figures/<name>.png`, lossless, and `figures/<name>.json`."""
        r, c, size = self.tiles.shape[:3]
        assert (r, c) == (len(self.rows), len(self.columns)), f"{self.name}: {(r, c)} tiles have other labels"
        about = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "tiles"}
        about |= {"tile_px": size, "seeds": dict(self.seeds)}
        picture = self.tiles.transpose(0, 2, 1, 3, 4).reshape(r * size, c * size, 3)
        out.put(f"figures/{self.name}.png", pixels.encode_png(np.ascontiguousarray(picture)))
        out.put(f"figures/{self.name}.json", json.dumps(about, indent=1, sort_keys=True).encode())


def _same_shapes(found: bytes, tensors: Mapping[str, NDArray[np.float32] | NDArray[np.int64]]) -> None:
    from safetensors.numpy import load

    there = {name: (array.shape, str(array.dtype)) for name, array in load(found).items()}
    here = {name: (array.shape, str(array.dtype)) for name, array in tensors.items()}
    if there != here:
        raise FormatError(f"{VECTORS} of {here}", str(there), "Run again with --force for the ask's step.")
