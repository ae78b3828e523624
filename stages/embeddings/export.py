"""A tap of a table for other tools: Parquet, npy as clip-retrieval has it, a faiss index, AnnData, Embedding Atlas.

Rows without a vector are left out. Vectors go out as they are stored. Everything is written batch by batch, but for
faiss and AnnData, whose own formats hold all vectors in memory.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from stages.embeddings.chunks import Rows
from stages.embeddings.query import TapTable
from stages.errors import InputError
from stages.parquet import SETTINGS

if TYPE_CHECKING:
    import pyarrow as pa

Kind = Literal["parquet", "npy", "faiss", "anndata", "atlas"]
ENDINGS: Mapping[Kind, str] = {
    "parquet": ".parquet",
    "npy": "",
    "faiss": ".faiss",
    "anndata": ".h5ad",
    "atlas": ".atlas.parquet",
}
"""Of what is written; of npy it is a folder."""
THUMBNAIL = 96
"""Longer side of a thumbnail, pixels."""
BATCH_ROWS = 4096
CARD = "card"
"""Key in the metadata of a Parquet file under which the card stands, as JSON."""
Vectors = NDArray[Any]
More = Mapping[str, Callable[[Rows, Vectors], "pa.Array"]]


@dataclass(frozen=True)
class Selection:
    """What is exported: rows of a table in one view, what is the same in each of them, and a card."""

    table: TapTable
    rows: Rows
    view: str
    named: Mapping[str, str]
    """Columns that are the same in each row: study, step, encoder, tap."""
    card: Mapping[str, Any]

    def beside(self, rows: Rows) -> "pa.Table":
        """Keys, names and labels of some rows, after the columns that are the same in each."""
        import pyarrow as pa

        own = self.table.rows.take(pa.array(rows))
        codes = np.zeros(len(rows), dtype=np.int8)
        columns: dict[str, Any] = {
            name: pa.DictionaryArray.from_arrays(codes, pa.array([text])) for name, text in self.named.items()
        }
        columns |= {"file_name" if name == "name" else name: own.column(name) for name in own.column_names}
        return pa.table(columns).replace_schema_metadata({CARD: json.dumps(self.card)})

    def batches(self) -> Iterator[tuple[Rows, Vectors]]:
        """Rows and their vectors as they are stored, in order."""
        for first in range(0, len(self.rows), BATCH_ROWS):
            piece = self.rows[first : first + BATCH_ROWS]
            yield piece, self.table.numpy(piece, self.view).astype(self.table.dtype, copy=False)

    def pictures(self, rows: Rows, side: int | None) -> "pa.Array":
        """Images as {bytes, path}, the layout of Hugging Face: as they are stored, or with `side` as thumbnails."""
        import pyarrow as pa

        from stages.images.contact import thumbnail

        found = []
        for key, (ending, data) in zip(self._keys(rows), self.table.files(rows), strict=True):
            shown = (data, ending) if side is None else (thumbnail(data, side), "png")
            found.append({"bytes": shown[0], "path": f"{key}.{shown[1]}"})
        return pa.array(found, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))

    def save(self, rows: Rows, folder: Path) -> list[str]:
        """Writes images into a folder as they are stored; their names."""
        names = []
        for key, (ending, data) in zip(self._keys(rows), self.table.files(rows), strict=True):
            names.append(f"{key}.{ending}")
            (folder / names[-1]).write_bytes(data)
        return names

    def _keys(self, rows: Rows) -> list[str]:
        import pyarrow as pa

        keys: list[str] = self.table.rows.column("key").take(pa.array(rows)).to_pylist()
        return keys


def export(
    table: TapTable,
    to: Kind,
    out: Path,
    named: Mapping[str, str],
    card: Mapping[str, Any],
    view: str = "plain",
    where: str | None = None,
    images: bool = False,
) -> int:
    """Writes the vectors of a view, with keys and labels, to `out`; returns the number of rows.

    `named` are study, step, encoder and tap, `card` is what `card.json` says and more. `images` adds the bytes of each
    image as they stand in the tars; the atlas has thumbnails without it. InputError where no row meets the condition,
    or a library is not installed.
    """
    rows = table.where(where)
    if not len(rows):
        raise InputError("a row with a vector", f"none where {where}", "Widen the condition.")
    if images and to in ("faiss", "anndata"):
        raise InputError("images with parquet, npy or atlas", f"with {to}", "Leave them out.")
    try:
        WRITERS[to](Selection(table, rows, view, named, card), out, images)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        out.unlink(missing_ok=True)
        raise
    return len(rows)


def _write(chosen: Selection, out: Path, more: More) -> None:
    """Parquet with `embedding` and the columns of `more`: functions of rows and their vectors."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: Any = None
    try:
        for piece, vectors in chosen.batches():
            lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
            batch = chosen.beside(piece).append_column("embedding", lists)
            for name, column in more.items():
                batch = batch.append_column(name, column(piece, vectors))
            if writer is None:
                writer = pq.ParquetWriter(out, batch.schema, **SETTINGS)
            writer.write_table(batch)
    finally:
        if writer is not None:
            writer.close()


def _parquet(chosen: Selection, out: Path, images: bool) -> None:
    _write(chosen, out, {"image": lambda rows, _: chosen.pictures(rows, None)} if images else {})


def _atlas(chosen: Selection, out: Path, images: bool) -> None:
    """With a map: the two directions along which the vectors vary most."""
    import pyarrow as pa

    mean, axes = _principal(chosen)

    def along(axis: int) -> Callable[[Rows, Vectors], "pa.Array"]:
        return lambda _, vectors: pa.array(((vectors - mean) @ axes[:, axis]).astype(np.float32))

    side = None if images else THUMBNAIL
    more = {"map_x": along(0), "map_y": along(1), "image": lambda rows, _: chosen.pictures(rows, side)}
    _write(chosen, out, more)


def _principal(chosen: Selection) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean, float64 [D], and the first two principal axes, [D, 2]."""
    width = chosen.table.width
    total, products = np.zeros(width), np.zeros((width, width))
    for _, vectors in chosen.batches():
        wide = vectors.astype(np.float64)
        total += wide.sum(axis=0)
        products += wide.T @ wide
    mean = total / len(chosen.rows)
    _, axes = np.linalg.eigh(products / len(chosen.rows) - np.outer(mean, mean))
    first = axes[:, ::-1][:, :2]
    # A tap of one feature has one axis.
    return mean, np.pad(first, ((0, 0), (0, 2 - first.shape[1])))


def _npy(chosen: Selection, out: Path, images: bool) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for folder in ("img_emb", "metadata", *(("images",) if images else ())):
        (out / folder).mkdir(parents=True)
    beside = chosen.beside(chosen.rows)
    paths: Any = beside.column("file_name")
    if images:
        paths = pa.array([f"images/{name}" for name in chosen.save(chosen.rows, out / "images")])
    shape = (len(chosen.rows), chosen.table.width)
    stored = np.lib.format.open_memmap(
        out / "img_emb" / "img_emb_0.npy", mode="w+", dtype=np.dtype(chosen.table.dtype), shape=shape
    )
    first = 0
    for piece, vectors in chosen.batches():
        stored[first : first + len(piece)] = vectors
        first += len(piece)
    stored.flush()
    pq.write_table(beside.append_column("image_path", paths), out / "metadata" / "metadata_0.parquet", **SETTINGS)


def _faiss(chosen: Selection, out: Path, images: bool) -> None:
    """A flat L2 index whose ids are rows, and what they are beside it as Parquet."""
    import pyarrow.parquet as pq

    faiss = _library("faiss", "faiss-cpu")
    index = faiss.IndexIDMap(faiss.IndexFlatL2(chosen.table.width))
    for piece, vectors in chosen.batches():
        index.add_with_ids(vectors.astype(np.float32), piece)
    faiss.write_index(index, str(out))
    pq.write_table(chosen.beside(chosen.rows), out.with_suffix(".rows.parquet"), **SETTINGS)


def _anndata(chosen: Selection, out: Path, images: bool) -> None:
    """Vectors in `obsm`, named after the tap; what the rows are in `obs`, by key."""
    anndata = _library("anndata", "anndata")
    obs = chosen.beside(chosen.rows).to_pandas().set_index("key")
    vectors = np.concatenate([vectors for _, vectors in chosen.batches()])
    about = {CARD: json.dumps(chosen.card), "view": chosen.view}
    data = anndata.AnnData(obs=obs, obsm={chosen.named["tap"]: vectors}, uns=about)
    # Without it, text of pandas 3 is refused; versions before it have no such setting.
    name = "allow_write_nullable_strings"
    with anndata.settings.override(**{name: True}) if hasattr(anndata.settings, name) else nullcontext():
        data.write_h5ad(out)


WRITERS: Mapping[Kind, Callable[[Selection, Path, bool], None]] = {
    "parquet": _parquet,
    "npy": _npy,
    "faiss": _faiss,
    "anndata": _anndata,
    "atlas": _atlas,
}


def _library(name: str, package: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise InputError(f"the library {name}", str(error), f"Install it: pip install {package}.") from error
