"""Questions to one tap of a stored table: its rows with their labels, neighbours, means, joins, batches.

A row that has no image has no vector: it stands in `rows` with its status, and searches, means and batches pass it by.
Needs numpy and pyarrow; DuckDB where there is a condition, Zarr and xarray for `to_xarray`, torch for `torch`.
"""

import copy
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from stages import attributes
from stages.coordinates import LABEL
from stages.embeddings.chunks import Chunks, Rows, documents, widened
from stages.embeddings.format import OK, ROWS, STORE, Vectors, read_attributes
from stages.embeddings.neighbours import Metric, Space, confused, nearest
from stages.encoders.spec import require
from stages.errors import FormatError, InputError
from stages.parquet import table_from

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    import xarray as xr

    from stages.contract import Input

BATCH_ROWS = 8192
INSTALL = "Install it: pip install 'repscope[run]'."
SHOWN = ("row", "key", "name", "split", "status")
"""Columns of `rows` before the labels."""
NAME, KIND = "file_name", "kind"
"""Columns of `rows.parquet`: the first is `name` here, since nothing but pandas has another use for that word."""
INDEX, ATTRIBUTES = "index.parquet", "attributes.json"


class TapStudy(Protocol):
    """What a table needs of the study that it belongs to."""

    name: str

    def tap(self, name: str) -> "TapTable":
        """The table of another tap, by `encoder:tap`."""

    def encoder(self, name: str) -> "Input | None":
        """The artifact of an encoder by the study's name for it; None where settings alone make it."""


class TapTable:
    """The vectors of one tap in all views, and the rows that they belong to.

    `name` is `encoder:tap`, `count` rows of `width` features are stored as `dtype` (float16 or float32) in `views`.
    """

    def __init__(
        self, name: str, table: "Input", images: "Input", generation: int = 0, study: "TapStudy | None" = None
    ) -> None:
        """`table` is the artifact of the embeddings, `images` that of the shards they were made of; `study` has both.

        InputError where the encoder has no such tap; FormatError where the two do not belong together.
        """
        self.name = name
        self._tap = name.partition(":")[2]
        self._table, self._images, self._generation, self._study = table, images, generation, study
        root = documents(table)
        self.attributes: dict[str, Any] = read_attributes(root["attributes"])
        """What the table says of itself: encoder, fingerprint, views, keys of what it was made from."""
        if self.attributes["images_key"] != images.key:
            raise FormatError(
                f"embeddings of the images with key {images.key[:16]}",
                f"embeddings of those with key {self.attributes['images_key'][:16]}",
                "Run the study again: its images have changed since.",
            )
        require(f"tap of {name.partition(':')[0]}", self._tap, self.attributes["fingerprint"]["taps"])
        self.views: tuple[str, ...] = tuple(self.attributes["views"])
        members = root["consolidated_metadata"]["metadata"]
        self._chunks = {
            view: Chunks(table, f"{self._tap}/{view}", members[f"{self._tap}/{view}"]) for view in self.views
        }
        first = self._chunks[self.views[0]]
        self.count: int = first.count
        self.width: int = first.width
        self.dtype: str = first.dtype.name

    def __len__(self) -> int:
        return self.count

    def __repr__(self) -> str:
        splits = self._own.column("split").to_pylist()
        lost = self.count - int(self._embedded.sum())
        unseen = splits.count("unseen")
        return (
            f"<{self.name}  {self.count} x {self.width} {self.dtype}, "
            f"view{'s' * (len(self.views) > 1)} {' and '.join(self.views)}, {splits.count('train')} train, "
            f"{splits.count('heldout')} held out{f', {unseen} unseen' if unseen else ''}"
            f"{f', {lost} without an image' if lost else ''}, L2, "
            f"generation {self._generation}>"
        )

    @cached_property
    def rows(self) -> "pa.Table":
        """One record per row, in order: row, key, name, split, status, and the labels as people write them.

        A class is its name, a number a float; what is undefined is null. A label called like another column of any
        table is `attribute_<name>`. FormatError where vectors and images are not in the same order.
        """
        import pyarrow as pa

        if self.attributes["format"] > 1:
            own = {name: self._own.column(name) for name in self._own.column_names if name != KIND}
            own["name"] = own.pop(NAME)
            return pa.table({name: own[name] for name in (*SHOWN, *(name for name in own if name not in SHOWN))})
        index = table_from(self._images.read(INDEX))
        for column in ("row", "key"):
            if not self._own.column(column).equals(index.column(column)):
                raise FormatError(
                    f"the same {column} in each row of {ROWS} and of {INDEX}",
                    f"{self._own.num_rows} and {index.num_rows} rows that differ",
                    "Run again with --force for that embeddings step.",
                )
        columns = {name: index.column(name) for name in SHOWN if name in index.column_names}
        columns["name"] = index.column("name" if "name" in index.column_names else NAME)
        known = attributes.load(self._images.read(ATTRIBUTES))
        return pa.table(
            {name: columns[name] for name in SHOWN} | attributes.labels(known, attributes.values(known, index))
        )

    def where(self, condition: str | None = None) -> Rows:
        """Rows int64 [N], rising, that have a vector and meet a condition of SQL over the columns of `rows`.

        InputError where the condition cannot be read; it names the columns.
        """
        if condition is None:
            return np.flatnonzero(self._embedded)
        import duckdb

        with duckdb.connect() as connection:
            connection.register("labelled", self.rows)
            try:
                # The line ends before the bracket closes, so that a comment may stand last.
                found = connection.execute(f"select row from labelled where ({condition}\n) order by row").fetchnumpy()
            except duckdb.Error as error:
                raise InputError(
                    f"a condition over the columns {', '.join(self.rows.column_names)}",
                    f"{condition!r} ({str(error).splitlines()[0]})",
                    "Write it as after WHERE in SQL: \"split = 'heldout' and hue < 0.5\".",
                ) from error
        rows = np.asarray(found["row"], dtype=np.int64)
        return rows[self._embedded[rows]]

    def numpy(self, rows: Sequence[int] | NDArray[np.integer[Any]] | None = None, view: str = "plain") -> Vectors:
        """Vectors of all rows or of `rows`, in their order, float32 [N, D]; NaN where a row has no image.

        InputError for rows or a view that do not exist, FormatError where the stored bytes are damaged.
        """
        wanted = np.arange(self.count) if rows is None else np.asarray(rows, dtype=np.int64).reshape(-1)
        return widened(self._stored(wanted, view))

    def _stored(self, wanted: Rows, view: str) -> NDArray[Any]:
        """Vectors as they are stored, [N, D]; NaN where a row has no image."""
        require("view", view, self.views)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < self.count:
            raise InputError(
                f"rows from 0 to {self.count - 1}",
                f"rows from {wanted.min()} to {wanted.max()}",
                "Take them from the column `row` of `rows`.",
            )
        vectors, any_missing = self._chunks[view].read(wanted)
        missing = np.flatnonzero(np.isnan(vectors).any(axis=1)) if any_missing else np.arange(0)
        if len(missing) and (lost := int(self._embedded[wanted[missing]].sum())):
            raise FormatError(
                f"a vector in each row of {self.name} that has an image",
                f"none in {lost} of them",
                "Its bytes have changed since: run again with --force for that embeddings step.",
            )
        return vectors

    def torch(
        self, rows: Sequence[int] | NDArray[np.integer[Any]] | None = None, view: str = "plain"
    ) -> "torch.Tensor":
        """The same as `numpy`, as a tensor on the CPU."""
        import torch

        return torch.from_numpy(self.numpy(rows, view))

    def batches(
        self, size: int = BATCH_ROWS, where: str | None = None, view: str = "plain"
    ) -> Iterator[tuple[Rows, Vectors]]:
        """Rows int64 [B] and their vectors float32 [B, D], `size` at a time and in order; the next is prefetched."""
        if size < 1:
            raise InputError("batches of 1 row or more", str(size), "Raise `size`.")
        return ((rows, widened(vectors)) for rows, vectors in self._batches(self.where(where), size, view))

    def _batches(self, rows: Rows, size: int, view: str) -> Iterator[tuple[Rows, NDArray[Any]]]:
        """The same as they are stored."""
        pieces = [rows[first : first + size] for first in range(0, len(rows), size)]
        with ThreadPoolExecutor(1, "batches") as reader:
            coming = reader.submit(self._stored, pieces[0], view) if pieces else None
            for number, piece in enumerate(pieces):
                assert coming is not None
                vectors = coming.result()
                coming = reader.submit(self._stored, pieces[number + 1], view) if number + 1 < len(pieces) else None
                yield piece, vectors

    def mean(self, where: str | None = None, view: str = "plain") -> Vectors:
        """The mean vector, float32 [D]. InputError where no row meets the condition."""
        rows = self.where(where)
        self._enough(rows, 1, where)
        total = np.zeros(self.width, dtype=np.float64)
        for _, vectors in self._batches(rows, BATCH_ROWS, view):
            total += widened(vectors).sum(axis=0, dtype=np.float64)
        return (total / len(rows)).astype(np.float32)

    def nearest(
        self,
        query: str | Path | Sequence[str] | NDArray[Any],
        k: int = 10,
        where: str | None = None,
        metric: Metric = "l2",
        view: str = "plain",
    ) -> "pa.Table":
        """The `k` nearest rows to each query: query, rank (from 0), distance, and the columns of `rows`. Exact.

        `query` is a key or several, whose own rows are left out, a photograph by its path, or vectors [D] or [Q, D]. A
        photograph is embedded by the study's own encoder, with its preprocessing, which needs what runs studies
        (`repscope[run]`). The distance is Euclidean or, by `cosine`, 1 - cosine. The table is read block by block, so
        memory does not grow with it. InputError where fewer than `k` rows meet the condition: it says how many.
        """
        import pyarrow as pa

        require("metric", metric, ("l2", "cosine"))
        if k < 1:
            raise InputError("k of 1 or more", str(k), "Raise it.")
        queries, own = self._queries(query, view)
        rows = self.where(where)
        self._enough(rows, k, where, int(np.isin(own, rows).any()))
        found = nearest(queries, self._batches(rows, BATCH_ROWS, view), k, metric, own)
        count = len(queries)
        columns: dict[str, Any] = {
            "query": np.repeat(np.arange(count), k),
            "rank": np.tile(np.arange(k), count),
            "distance": found.distances.reshape(-1),
        }
        taken = self.rows.take(pa.array(found.rows.reshape(-1)))
        return pa.table(columns | {name: taken.column(name) for name in taken.column_names})

    def random_pair(self, metric: Metric = "l2", view: str = "plain", where: str | None = None) -> float:
        """The mean distance of two rows drawn at random: the unit in which distances of several taps are compared."""
        rows = self.where(where)
        self._enough(rows, 2, where)
        return self._space(rows, metric, view).unit

    def _space(self, rows: Rows, metric: Metric, view: str) -> Space:
        return Space.of(rows, lambda some: self.numpy(some, view), metric)

    def confuses(
        self,
        against: "str | TapTable",
        n: int = 20,
        where: str | None = None,
        metric: Metric = "l2",
        view: str = "plain",
    ) -> "pa.Table":
        """The `n` pairs of rows that are near at this tap and far at another, by all pairs; the clearest first.

        `against` is a tap of the same study, as `encoder:tap`, or its table. Columns: pair (from 0), near and far (the
        distances here and there, in units of random pairs: what counts is far - near), the columns of `rows` of one
        image, and those of the other after `other_`. There are fewer than `n` where there are fewer pairs.

        Two blocks of 2048 rows are in memory at a time: 0.25 GB for two taps of 512 features, however large the table
        is. Time grows with the square of the rows: N rows of D and E features take N^2 (D + E) / 2 multiplications in
        float64. 8 192 rows of these taps took 5 s of CPU time, so say `where` for a large table.
        """
        import pyarrow as pa

        require("metric", metric, ("l2", "cosine"))
        if n < 1:
            raise InputError("n of 1 or more", str(n), "Raise it.")
        other = self._opened(against)
        require("view", view, other.views)
        if not self._own.column("key").equals(other._own.column("key")):
            raise InputError(
                f"a table of the images of {self.name}", f"{other.name} of others", "Name a tap of the same study."
            )
        rows = np.intersect1d(self.where(where), other.where())
        self._enough(rows, 2, where)
        found = confused(rows, self._space(rows, metric, view), other._space(rows, metric, view), n)
        columns: dict[str, Any] = {"pair": np.arange(len(found.near)), "near": found.near, "far": found.far}
        for side, prefix in enumerate(("", "other_")):
            taken = self.rows.take(pa.array(found.rows[:, side]))
            columns |= {prefix + name: taken.column(name) for name in taken.column_names}
        return pa.table(columns)

    def _opened(self, table: "str | TapTable") -> "TapTable":
        if isinstance(table, TapTable):
            return table
        if self._study is None:
            raise InputError("a table", repr(table), "Name a tap by its name where the table is one of a study.")
        return self._study.tap(table)

    def join(
        self, other: "str | Path | pa.Table", on: str = "name", missing: Literal["error", "null"] = "error"
    ) -> "TapTable":
        """The same table with the columns of `other` as further labels, in `rows` and in conditions.

        `other` is a CSV or Parquet file by path or URL, or an Arrow table; `on` is the column that both have. Rows of
        it that belong to no row here are left aside. InputError where it has one twice, shares other column names, or
        lacks one of ours (`missing="null"` leaves those undefined).
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        require("missing", missing, ("error", "null"))
        given = other if isinstance(other, pa.Table) else read_table(str(other))
        what = "the table" if isinstance(other, pa.Table) else str(other)
        for columns, whose in ((given.column_names, what), (self.rows.column_names, "rows")):
            if on not in columns:
                raise InputError(f"a column {on} in {whose}", f"the columns {', '.join(columns)}", "Correct `on`.")
        if shared := sorted(set(given.column_names) & set(self.rows.column_names) - {on}):
            raise InputError(f"columns in {what} that `rows` does not have", ", ".join(shared), "Rename them there.")
        keys = self.rows.column(on)
        try:
            theirs = given.column(on).cast(keys.type).combine_chunks()
        except pa.ArrowInvalid as error:
            raise InputError(f"{keys.type} in the column {on} of {what}", str(error), "Correct that column.") from error
        if twice := [e["values"] for e in theirs.value_counts().to_pylist() if e["counts"] > 1]:
            raise InputError(f"one row for each {on} in {what}", f"{twice[0]} twice", "Take one of both away.")
        indices = pc.index_in(keys, value_set=theirs)
        if lost := indices.null_count:
            first = keys.filter(pc.is_null(indices))[0].as_py()
            if missing == "error" or lost == len(keys):
                raise InputError(
                    f"a row in {what} for each of {len(keys)} rows, by {on}",
                    f"none for {lost}, the first of them {first!r}",
                    "Add them, correct `on`" + ("." if lost == len(keys) else ', or say missing="null".'),
                )
        labelled = self.rows
        for name in given.column_names:
            if name != on:
                labelled = labelled.append_column(name, given.column(name).take(indices))
        joined = copy.copy(self)
        joined.__dict__["rows"] = labelled
        return joined

    def to_xarray(self) -> "xr.Dataset":
        """Views as variables (row, feature), read when they are used, with the columns of `rows` as coordinates."""
        try:
            import xarray as xr
        except ImportError as error:
            raise InputError("the package xarray", str(error), "pip install xarray") from error
        found: xr.Dataset = xr.open_zarr(self._table.zarr(STORE), group=self._tap, consolidated=False, chunks=None)
        found = found.drop_vars(NAME, errors="ignore")
        found = found.rename({name: array.attrs[LABEL] for name, array in found.coords.items() if LABEL in array.attrs})
        columns = {
            name: ("row", _decoded(self.rows.column(name)).to_numpy())
            for name in self.rows.column_names
            if name not in found.coords
        }
        labelled: xr.Dataset = found.assign_coords(columns)
        if self._study is not None:
            encoder = self.name.partition(":")[0]
            labelled.attrs |= {"study": self._study.name, "step": f"embeddings.{encoder}", "encoder": encoder}
        for view in self.views:
            # Where a user asks for dask's chunks without a size, they are what was written as one object.
            chunks = dict(zip(labelled[view].dims, labelled[view].encoding["shards"], strict=True))
            labelled[view].encoding["preferred_chunks"] = chunks
        return labelled

    @cached_property
    def _own(self) -> "pa.Table":
        """`rows.parquet`: row, key, status, and the rest of what the table's format has."""

        return table_from(self._table.read(ROWS))

    @cached_property
    def _embedded(self) -> NDArray[np.bool_]:
        """bool [rows]: the image could be read, so there must be a vector."""
        import pyarrow.compute as pc

        return np.asarray(pc.equal(self._own.column("status"), OK))

    def embed(self, photograph: bytes, view: str = "plain") -> Vectors:
        """The vector of a photograph at this tap, float32 [D], rounded as the table's are.

        It is embedded by the encoder of the table, whose fingerprint is compared. InputError where the tap does not
        read pixels, the image cannot be read, or what runs studies is not installed.
        """
        if self._study is None:
            raise InputError("the table of a study, whose encoder embeds", "a table alone", "Open it by its study.")
        require("view", view, self.views)
        encoder = self._study.encoder(self.name.partition(":")[0])
        try:
            from stages.embeddings.photographs import embed, load_checked

            loaded = load_checked(self.attributes, self._images, encoder)
            vectors = embed(loaded, self._images, photograph, view)
        except ModuleNotFoundError as error:
            raise InputError("what runs studies, to embed a photograph", str(error), INSTALL) from error
        require("tap that reads pixels", self._tap, vectors)
        found: Vectors = vectors[self._tap].astype(self.dtype).astype(np.float32)
        return found

    def files(self, rows: "Rows | Sequence[int]") -> Iterator[tuple[str, bytes]]:
        """The images of `rows` as they stand in the tars: format (`png`, `jpg`) and bytes, in the order of the rows.

        FormatError where a row holds no image, or bytes that are not those that were listed.
        """
        from stages.images.sets import open_images

        yield from open_images(self._images).files(rows)

    def pictures(self, rows: "Rows | Sequence[int]", side: int) -> "NDArray[np.uint8]":
        """The centre squares of the images of `rows`, uint8 [N, side, side, 3]."""
        from stages.images.sets import open_images

        return open_images(self._images).decode(np.asarray(rows, dtype=np.int64), side)

    def _photograph(self, path: Path, view: str) -> Vectors:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"an image at {path}", str(error.strerror), "Correct the path.") from error
        return self.embed(data, view)

    def _queries(self, query: str | Path | Sequence[str] | NDArray[Any], view: str) -> tuple[Vectors, Rows]:
        """Vectors float32 [Q, D], and for each the row that it is, or -1."""
        if isinstance(query, np.ndarray):
            vectors = np.atleast_2d(query).astype(np.float32)
            if vectors.ndim != 2 or vectors.shape[1] != self.width or not np.isfinite(vectors).all():
                raise InputError(
                    f"finite vectors [Q, {self.width}]", f"an array {list(query.shape)}", "Take those of this tap."
                )
            return vectors, np.full(len(vectors), -1)
        known = {key: row for row, key in enumerate(self._own.column("key").to_pylist())}
        if isinstance(query, Path) or (isinstance(query, str) and query not in known and Path(query).is_file()):
            return self._photograph(Path(query), view)[None], np.array([-1])
        keys = [query] if isinstance(query, str) else list(query)
        rows = np.array([known.get(key, -1) for key in keys], dtype=np.int64)
        for key, row in zip(keys, rows, strict=True):
            if row < 0 or not self._embedded[row]:
                raise InputError(
                    f"keys of rows that have an image, such as {next(iter(known), '')}, or a photograph's path",
                    repr(key),
                    "Take them from the column `key` of `rows`, or correct the path.",
                )
        return self.numpy(rows, view), rows

    def _enough(self, rows: Rows, k: int, where: str | None, own: int = 0) -> None:
        if len(rows) - own < k:
            others = " besides the query itself" if own else ""
            raise InputError(
                f"{k} rows or more{f' where {where}' if where else ''}{others}",
                f"{len(rows) - own}",
                "Ask for no more than there are, or widen the condition.",
            )


def _decoded(column: "pa.ChunkedArray") -> "pa.ChunkedArray":
    """Text in place of dictionary-encoded text."""
    import pyarrow as pa

    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column


def read_table(url: str) -> "pa.Table":
    """A CSV or Parquet file by path or URL. InputError where there is none."""
    import pyarrow as pa
    import pyarrow.csv as csv

    from stages.external.ranges import open_url

    files, path = open_url(url)
    try:
        data = pa.BufferReader(files.cat_file(path))
    except FileNotFoundError as error:
        raise InputError(f"a CSV or Parquet file at {url}", "nothing", "Correct the path.") from error
    try:
        return table_from(data) if path.lower().endswith(".parquet") else csv.read_csv(data)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"a CSV or Parquet file at {url}", " ".join(str(error).split())[:200], "Write it anew."
        ) from error
