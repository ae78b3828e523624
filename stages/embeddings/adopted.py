"""The `adopted` step: vectors that somebody has already, as a table of embeddings of a study's images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from stages.contract import Estimate, External, Inputs, Output, Part, Stage, Summary, Unkeyed
from stages.errors import InputError
from stages.external.files import absolute

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

NAMED = 3
"""Rows that a message names."""
KIND = "adopted"


class Adopted(Stage):
    """Vectors from a file, row by row those of images; input `images` (of `shards`).

    Writes what the embeddings step writes, with one tap and the view `plain`. Rows are found by key or by file name and
    never by their order alone.
    """

    name: ClassVar[str] = "adopted"
    version: ClassVar[int] = 1
    bitwise: ClassVar[bool] = True

    vectors: Annotated[str, Field(min_length=1), Unkeyed("its content is known by its digest")]
    """A `.npy` file [N, D], or a Parquet file with a column of lists, by path or fsspec URL."""
    rows: Annotated[str | None, Unkeyed("its content is known by its digest")] = None
    """A CSV or Parquet file with a row for each vector, in their order. None: the Parquet file of the vectors."""
    column: str = "embedding"
    """Column of the vectors in a Parquet file."""
    on: Literal["key", "file_name"] = "key"
    """The column that says whose vector a row is: the key of an image, or its file name."""
    missing: Literal["error", "null"] = "error"
    """Whether images without a vector are an error, or have none."""
    tap: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")] = "embedding"
    """What the tap is called."""

    @field_validator("vectors", "rows")
    @classmethod
    def _absolute(cls, url: str | None) -> str | None:
        return None if url is None else absolute(url)

    def external(self) -> Mapping[str, External]:
        """Both files."""
        files = {"vectors": self.vectors} | ({} if self.rows is None else {"rows": self.rows})
        return {name: External(url, digest="content") for name, url in files.items()}

    def estimate(self, upstream: Mapping[str, Estimate]) -> Estimate:
        """Copying; the width is not known before the file is read."""
        rows = upstream["images"].rows
        return Estimate(rows=rows, size_bytes=rows * 2000, cpu_seconds=2 + rows * 2e-5)

    def split(self, inputs: Inputs) -> list[Part]:
        """One part per tar, as for embeddings."""
        from stages.images.sets import open_images

        return [Part(index=part) for part in range(open_images(inputs["images"]).parts)]

    def setup(self, inputs: Inputs, device: str) -> "Given":
        """Reads both files and finds the vector of each image."""
        return Given.read(self, inputs)

    def work(self, part: Part, state: "Given", inputs: Inputs, out: Output) -> Summary:
        """Writes the shard of a part."""
        import numpy as np

        from stages.embeddings.format import encode_shard, shard_name

        first = part.index * state.part_rows
        sources = state.sources[first : first + state.part_rows]
        block = np.full((len(sources), state.vectors.shape[1]), np.nan, dtype=state.dtype)
        block[sources >= 0] = state.vectors[sources[sources >= 0]]
        if bad := int((~np.isfinite(block[sources >= 0])).any(axis=1).sum()):
            raise InputError("finite vectors", f"{bad} that are not, or not in {state.dtype}", "Mend or remove them.")
        out.put(shard_name(self.tap, "plain", part.index), encode_shard(block, state.part_rows))
        return {"rows": len(sources), "embedded": int((sources >= 0).sum())}

    def merge(self, summaries: Sequence[Summary], inputs: Inputs, out: Output) -> Summary:
        """Writes rows, statistics, the card and the store's metadata, its root last."""
        import json

        import numpy as np
        import pyarrow as pa

        from stages.embeddings import card
        from stages.embeddings.format import OK, ROWS, STATISTICS, Moments, dump_statistics, metadata
        from stages.embeddings.rows import rows_of
        from stages.images.sets import open_images
        from stages.parquet import table_bytes

        state, images = Given.read(self, inputs), open_images(inputs["images"])
        rows = rows_of(images, inputs["images"])
        there = state.sources >= 0
        status = [
            f"no vector in {self.vectors.rpartition('/')[2]}" if entry == OK and not held else entry
            for entry, held in zip(rows.column("status").to_pylist(), there.tolist(), strict=True)
        ]
        rows = rows.set_column(rows.column_names.index("status"), "status", pa.array(status, pa.string()))
        out.put(ROWS, table_bytes(rows))
        train = there & (np.array(rows.column("split").to_pylist()) == "train")
        if train.any():
            stored = state.vectors[state.sources[train]].astype(state.dtype)
            out.put(STATISTICS, dump_statistics({self.tap: Moments.of(stored)}))
        width = int(state.vectors.shape[1])
        found = card.Card(
            kind="image",
            rows=images.count,
            embedded=int(there.sum()),
            splits={split: rows.column("split").to_pylist().count(split) for split in ("heldout", "train")},
            taps={self.tap: width},
            views=("plain",),
            dtype=state.dtype,
            units="as they were given",
            preprocessing="not known: the vectors were adopted",
            encoder="adopted vectors, whose encoder is not known",
            weights_sha256="",
            precision="not known",
            images_key=inputs["images"].key,
            encoder_key=None,
        )
        out.put(card.JSON, found.json_bytes())
        out.put(card.MARKDOWN, found.markdown())
        about = found.flat() | {"encoder": json.dumps({"kind": KIND})}
        about |= {"fingerprint": json.dumps({"taps": {self.tap: width}})}
        for name, data in metadata({self.tap: width}, ("plain",), rows, images.part_rows, state.dtype, about).items():
            out.put(name, data)
        return {
            "rows": images.count,
            "embedded": int(there.sum()),
            "taps": {self.tap: width},
            "views": ["plain"],
            "dtype": state.dtype,
        }


@dataclass(frozen=True)
class Given:
    """The vectors [N, D], and for each image the number of its vector or -1."""

    vectors: "NDArray[Any]"
    sources: "NDArray[np.int64]"
    dtype: str
    part_rows: int

    @classmethod
    def read(cls, stage: Adopted, inputs: Inputs) -> "Given":
        """Raises InputError where the files do not fit each other, or the images."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        from stages.embeddings.format import OK
        from stages.embeddings.query import read_table
        from stages.images.sets import open_images

        images = open_images(inputs["images"])
        vectors = _vectors(stage)
        beside = read_table(stage.rows or stage.vectors)
        where = stage.rows or stage.vectors
        if stage.on not in beside.column_names:
            raise InputError(
                f"a column {stage.on} in {where}", f"the columns {', '.join(beside.column_names)}", "Correct --on."
            )
        if len(beside) != len(vectors):
            raise InputError(
                f"a row in {where} for each of {len(vectors)} vectors", f"{len(beside)}", "Name a table of them."
            )
        own = images.table((stage.on, "status"))
        theirs = beside.column(stage.on).cast(pa.string()).combine_chunks()
        if twice := [entry["values"] for entry in theirs.value_counts().to_pylist() if entry["counts"] > 1]:
            raise InputError(f"one row for each {stage.on} in {where}", f"{twice[0]} twice", "Take one of both away.")
        unknown = theirs.filter(pc.invert(pc.is_in(theirs, value_set=own.column(stage.on).combine_chunks())))
        if len(unknown):
            raise InputError(
                f"{stage.on} of images of the study in {where}",
                f"{len(unknown)} others: {', '.join(map(str, unknown.to_pylist()[:NAMED]))}",
                "Adopt vectors of this study's images, or correct --on.",
            )
        found = pc.fill_null(pc.index_in(own.column(stage.on), value_set=theirs), -1)
        sources = np.array(found.to_numpy(), dtype=np.int64)
        sound = np.array([status == OK for status in own.column("status").to_pylist()])
        sources[~sound] = -1
        lost = np.flatnonzero(sound & (sources < 0))
        if len(lost) and stage.missing == "error":
            first = own.column(stage.on)[int(lost[0])].as_py()
            raise InputError(
                f"a vector for each of {int(sound.sum())} images",
                f"none for {len(lost)}, the first {first}",
                "Add them, or say --missing null.",
            )
        dtype = "float16" if vectors.dtype == np.float16 else "float32"
        return cls(vectors, sources, dtype, images.part_rows)


def _vectors(stage: Adopted) -> "NDArray[Any]":
    import io

    import numpy as np

    from stages.embeddings.query import read_table
    from stages.external.ranges import open_url

    if stage.vectors.lower().endswith(".npy"):
        files, path = open_url(stage.vectors)
        try:
            found = np.load(io.BytesIO(files.cat_file(path)), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise InputError(
                f"an array of numbers in {stage.vectors}", str(error), "Write it by numpy.save."
            ) from error
        if found.ndim != 2 or found.dtype.kind != "f":
            raise InputError(
                f"vectors [N, D] of floats in {stage.vectors}",
                f"{found.dtype} {list(found.shape)}",
                "Correct the file.",
            )
        return np.asarray(found)
    column = _column(read_table(stage.vectors), stage)
    flat = column.flatten().to_numpy(zero_copy_only=False)
    if len(column) == 0 or len(flat) % len(column) or column.null_count:
        raise InputError(f"lists of one length in {stage.column}", "lists that differ, or none", "Correct the file.")
    return np.asarray(flat).reshape(len(column), -1)


def _column(table: "pa.Table", stage: Adopted) -> "pa.Array":
    import pyarrow as pa

    if stage.column not in table.column_names:
        raise InputError(
            f"a column {stage.column} in {stage.vectors}",
            f"the columns {', '.join(table.column_names)}",
            "Correct --column.",
        )
    column = table.column(stage.column).combine_chunks()
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(kind(column.type) for kind in kinds) or not pa.types.is_floating(column.type.value_type):
        raise InputError(f"lists of floats in {stage.column}", str(column.type), "Correct --column.")
    return column
